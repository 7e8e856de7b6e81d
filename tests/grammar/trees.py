"""Strategies for hypothesis: syntax trees of whole files, as text may say them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from specc.grammar import syntax as s

RESERVED = {"if", "elif", "else", "for", "in", "and", "or", "not", "true", "false", "none", "return"}
WORDS = (
    "a",
    "b",
    "x",
    "conv1",
    "dims",
    "block",
    "use",
    "check",
    "into",
    "merges",
    "variants",
    "Mixer",
    "with_",
    "_y",
    "n2",
)

names = st.one_of(
    st.sampled_from(WORDS),
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True).filter(lambda n: n not in RESERVED),
)
# `require`, `ensure`, `param` and `buffer` begin statements of their own, so no line begins with them as a name
line_names = names.filter(lambda n: n not in {"require", "ensure", "param", "buffer"})
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=8)
escaped_texts = st.one_of(texts, st.sampled_from(('a "b"', "back\\slash", "two\nlines", "tab\t", "{brace}", "")))
numbers = st.one_of(
    st.integers(0, 10**6).map(str),
    st.sampled_from(("8.8M", "1.36G", "3k", "1e-5", "0.5", "1.0", "2.5e3", "12T", "1_000")),
).map(s.Number)


def lists(element: st.SearchStrategy[Any], least: int = 0, most: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(element, min_size=least, max_size=most).map(tuple)


name_patterns = names.map(s.NamePattern)
inner_patterns: st.SearchStrategy[Any] = st.recursive(
    name_patterns, lambda inner: lists(inner, 2).map(s.TuplePattern), max_leaves=4
)


def _expressions(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arguments = lists(inner | inner.map(s.Spread))
    calls = st.builds(s.Call, names.map(s.Name) | inner, arguments, lists(st.builds(s.Keyword, names, inner)))
    arithmetic, logic = ("+", "-", "*", "/", "//", "%", "**"), ("==", "!=", "<", ">=", "in", "not in", "and", "or")
    operators = st.sampled_from(arithmetic + logic)
    clauses = st.builds(s.Clause, inner_patterns, inner, st.none() | inner)
    return st.one_of(
        lists(inner).map(s.ListOf),
        lists(inner, 2).map(s.TupleOf),
        st.builds(s.Comprehension, inner, lists(clauses, 1)),
        st.builds(s.Unary, st.sampled_from(("-", "not")), inner),
        st.builds(s.Binary, operators, inner, inner),
        st.builds(s.Conditional, inner, inner, inner),
        calls,
        st.builds(s.Index, inner, inner),
        st.builds(s.Slice, inner, st.none() | inner, st.none() | inner, st.none() | inner),
        st.builds(s.Pipe, inner, lists(names.map(s.Name) | calls | st.builds(s.Index, inner, inner), 1)),
    )


expressions: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        names.map(s.Name), numbers, escaped_texts.map(s.String), st.sampled_from((True, False, None)).map(s.Constant)
    ),
    _expressions,
    max_leaves=8,
)

dimensions = st.one_of(
    st.builds(s.Dimension, expressions), st.builds(s.Dimension, names.map(s.Name), st.none() | expressions)
)
tensors = st.builds(s.Tensor, lists(dimensions, 0, 4), st.none() | st.builds(s.Element, names))


def _types(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    single = inner.filter(lambda type_: not isinstance(type_, (s.OptionalType, s.ChoiceType)))
    return st.one_of(
        inner.map(s.ListType),
        lists(inner, 1).map(s.TupleType),
        inner.map(s.OptionalType),
        lists(escaped_texts | single, 2).map(s.ChoiceType),
    )


types: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(("int", "float", "bool", "str", "block")).map(s.PlainType) | tensors, _types, max_leaves=3
)
parameters = st.one_of(
    st.builds(s.Parameter, names, types, st.none() | expressions),
    st.builds(s.Parameter, names, types, variadic=st.just(True)),
)


def _joined(parts: tuple[Any, ...]) -> s.Template:
    result: list[Any] = []
    for part in parts:
        if isinstance(part, str) and (not part or (result and isinstance(result[-1], str))):
            continue
        result.append(part)
    return s.Template(tuple(result))


# an expression in a message stands inside quotes, so it has no text and no line end of its own
templates = lists(escaped_texts | names.map(s.Name) | numbers, 0, 4).map(_joined)
targets = st.builds(s.Target, line_names, lists(expressions, 0, 2))
subjects: st.SearchStrategy[Any] = st.recursive(
    names.map(s.Name), lambda inner: st.builds(s.Index, inner, expressions), max_leaves=2
)
simple_statements = st.one_of(
    st.builds(s.Assign, lists(targets, 1, 2), expressions),
    st.builds(
        s.Param,
        st.sampled_from(("param", "buffer")),
        targets,
        tensors,
        st.none() | st.builds(s.Initializer, names, st.none() | expressions),
        st.none() | templates,
    ),
    st.builds(s.Require, expressions, st.none() | templates),
    st.builds(s.Ensure, expressions, st.none() | templates),
    st.builds(s.EnsureMerge, subjects, names),
    st.builds(s.Return, lists(expressions, 1, 2)),
)


def _statements(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    bodies = lists(inner, 1, 2)
    return st.one_of(
        st.builds(s.If, lists(st.tuples(expressions, bodies), 1, 2), st.just(()) | bodies),
        st.builds(s.For, inner_patterns, expressions, bodies),
    )


statements: st.SearchStrategy[Any] = st.recursive(simple_statements, _statements, max_leaves=4)
docstrings = st.none() | st.sampled_from(("One line.", "Two\nlines.", 'with "quotes"', "", "a \\ b"))
heads = st.sampled_from(("block", "network")), names, lists(parameters)
definitions = st.one_of(
    st.builds(s.Definition, *heads, lists(tensors, 0, 2), docstrings, lists(statements, 1)),
    st.builds(s.Definition, *heads, lists(tensors, 1, 1), docstrings, lists(statements, 1), variadic=st.just(True)),
)
bindings = lists(st.builds(s.Keyword, names, expressions), 0, 2)
variants = st.builds(s.Variants, names.map(s.Name), lists(st.builds(s.Variant, names, bindings), 1, 2))
renames = st.builds(s.Rename, names.map(s.Name), lists(st.builds(s.Renaming, escaped_texts, escaped_texts), 1, 2))
comparisons = st.sampled_from(("==", "!=", "<", "<=", ">", ">="))
checks = st.builds(
    s.Check,
    st.just("") | names,
    names.map(s.Name),
    bindings,
    lists(st.builds(s.Expectation, names.map(s.Name), comparisons, expressions), 1, 2),
)
uses = st.builds(s.Use, lists(names, 1, 2), lists(names.map(s.Name), 1, 2))
files = st.builds(s.File, st.just(1), docstrings, lists(uses, 0, 2), lists(definitions | variants | renames | checks))
