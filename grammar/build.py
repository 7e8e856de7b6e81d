"""lark's tree --> syntax tree: the classes of `syntax.py`, rule by rule of `specc.lark`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from lark import Token, Transformer, Tree
from lark.tree import Meta

from specc.diagnostics import Label, Span, error
from specc.grammar import syntax as s
from specc.grammar.values import number

MOST_DIGITS = 100
"""In a number as it is written; what it stands for is bounded where it is used."""

_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def _given(children: list[Any]) -> list[Any]:
    return [child for child in children if child is not None]


class Build(Transformer[Token, Any]):
    """One method a rule of the grammar; children are already syntax trees.

    `expression` parses what stands in the braces of a message. Raises `SpeccError`, which lark wraps in a `VisitError`.
    """

    def __init__(self, file: str, expression: Callable[[str, str], s.Expression]) -> None:
        super().__init__(visit_tokens=False)
        self.file, self._expression = file, expression

    def _call_userfunc(self, tree: Tree[Token], new_children: list[Any] | None = None) -> Any:
        children = tree.children if new_children is None else new_children
        return getattr(self, tree.data)(self._span(tree.meta), children)

    def _span(self, meta: Meta | Token) -> Span:
        if isinstance(meta, Meta) and meta.empty:
            return s.NOWHERE
        return Span(self.file, meta.line or 0, meta.column or 0, meta.end_line or 0, meta.end_column or 0)

    # ---- the file

    def start(self, span: Span, children: list[Any]) -> s.File:
        children = [child for child in _given(children) if not (isinstance(child, Token) and child.type == "_NL")]
        header, *rest = children
        docstring = rest.pop(0) if rest and isinstance(rest[0], str) else None
        uses = tuple(child for child in rest if isinstance(child, s.Use))
        items = tuple(child for child in rest if not isinstance(child, s.Use))
        return s.File(int(header), docstring, uses, items, span=self._span(header))

    def header(self, span: Span, children: list[Any]) -> Token:
        version: Token = children[0]
        if not version.isdigit() or len(version) > MOST_DIGITS:
            raise error("S0104", "the version of the language is a whole number", Label(self._span(version)))
        return version

    def docstring(self, span: Span, children: list[Any]) -> str:
        (token,) = children
        lines = [line.strip() for line in self._unescape(token, str(token)[3:-3]).strip().split("\n")]
        return "\n".join(lines)

    file_docstring = docstring

    def use(self, span: Span, children: list[Any]) -> s.Use:
        module, *names = children
        found = tuple(self._name(name) for name in names)
        parts, module_span = module
        return s.Use(parts, found, module_span=module_span, span=module_span.to(found[-1].span))

    def module(self, span: Span, children: list[Any]) -> tuple[tuple[str, ...], Span]:
        return tuple(str(child) for child in children), span

    # ---- definitions

    def block(self, span: Span, children: list[Any]) -> s.Definition:
        return self._definition("block", children)

    def network(self, span: Span, children: list[Any]) -> s.Definition:
        return self._definition("network", children)

    def signature(self, span: Span, children: list[Any]) -> list[Any]:
        return children

    def _definition(self, kind: str, children: list[Any]) -> s.Definition:
        ((name, *rest),) = children
        rest = _given(rest)
        parameters = tuple(child for child in rest if isinstance(child, s.Parameter))
        results, variadic = next((child for child in rest if isinstance(child, tuple)), ((), False))
        docstring = next((child for child in rest if isinstance(child, str)), None)
        body = tuple(child for child in rest if isinstance(child, s.Statement))
        where = self._span(name)
        signature = str(name), parameters, results
        return s.Definition(kind, *signature, docstring, body, variadic, name_span=where, span=where)

    def single_result(self, span: Span, children: list[Any]) -> tuple[tuple[s.Tensor, ...], bool]:
        return tuple(children), False

    tuple_result = single_result

    def list_result(self, span: Span, children: list[Any]) -> tuple[tuple[s.Tensor, ...], bool]:
        return (children[1],), True

    def parameter(self, span: Span, children: list[Any]) -> s.Parameter:
        name, type_, default = children
        return s.Parameter(str(name), type_, default, span=span)

    def variadic_parameter(self, span: Span, children: list[Any]) -> s.Parameter:
        _, name, type_ = children
        return s.Parameter(str(name), type_, variadic=True, span=span)

    def plain_type(self, span: Span, children: list[Any]) -> s.PlainType:
        return s.PlainType(str(children[0]), span=span)

    def generic_type(self, span: Span, children: list[Any]) -> s.ListType | s.TupleType:
        generic, *elements = children
        if generic == "tuple":
            return s.TupleType(tuple(elements), span=span)
        if generic != "list":
            note = "list[int], list[str], tuple[int, float] ... are the types with brackets"
            raise error("S0105", f"there is no type `{generic}[...]`", Label(self._span(generic)), notes=[note])
        if len(elements) > 1:
            note = "tuple[int, str] has one element of each of its types"
            raise error("S0105", "the elements of a list have one type", Label(elements[1].span), notes=[note])
        return s.ListType(elements[0], span=span)

    def optional_type(self, span: Span, children: list[Any]) -> s.OptionalType:
        return s.OptionalType(children[0], span=span)

    def text_type(self, span: Span, children: list[Any]) -> s.ChoiceType:
        return s.ChoiceType((self._unescape(children[0], str(children[0])[1:-1]),), span=span)

    def choice_type(self, span: Span, children: list[Any]) -> s.ChoiceType:
        options = [child.options[0] if isinstance(child, s.ChoiceType) else child for child in children]
        return s.ChoiceType(tuple(options), span=span)

    def tensor(self, span: Span, children: list[Any]) -> s.Tensor:
        *dimensions, element = children
        return s.Tensor(tuple(_given(dimensions)), element, span=span)

    def element(self, span: Span, children: list[Any]) -> s.Element:
        return s.Element(str(children[0]), span=span)

    def dimension(self, span: Span, children: list[Any]) -> s.Dimension:
        return s.Dimension(children[0], span=span)

    def default_dimension(self, span: Span, children: list[Any]) -> s.Dimension:
        name, default = children
        return s.Dimension(self._name(name), default, span=span)

    # ---- statements

    def assign(self, span: Span, children: list[Any]) -> s.Assign:
        *targets, value = children
        return s.Assign(tuple(targets), value, span=span)

    def target(self, span: Span, children: list[Any]) -> s.Target:
        name, *indices = children
        return s.Target(str(name), tuple(indices), span=span)

    def param(self, span: Span, children: list[Any]) -> s.Param:
        word, target, key, type_, init = children
        return s.Param(str(word), target, type_, init, None if key is None else self._template(key), span=span)

    def initializer(self, span: Span, children: list[Any]) -> s.Initializer:
        name, argument = children
        return s.Initializer(str(name), argument, span=span)

    def require(self, span: Span, children: list[Any]) -> s.Require:
        condition, message = children
        return s.Require(condition, None if message is None else self._template(message), span=span)

    def ensure(self, span: Span, children: list[Any]) -> s.Ensure:
        condition, message = children
        return s.Ensure(condition, None if message is None else self._template(message), span=span)

    def ensure_merge(self, span: Span, children: list[Any]) -> s.EnsureMerge:
        subject, into = children
        inner = subject
        while isinstance(inner, s.Index):
            inner = inner.value
        if not isinstance(inner, s.Name):
            note = "give the tensor a line of its own: `name = ...`"
            raise error("S0101", "`ensure ... merges into` speaks of a name", Label(subject.span), notes=[note])
        return s.EnsureMerge(subject, str(into), span=span)

    def return_statement(self, span: Span, children: list[Any]) -> s.Return:
        return s.Return(tuple(children), span=span)

    def if_statement(self, span: Span, children: list[Any]) -> s.If:
        condition, body, *rest = children
        branches = [(condition, body), *(child for child in rest if isinstance(child, tuple) and child[0] is not None)]
        otherwise = next((child[1] for child in rest if isinstance(child, tuple) and child[0] is None), ())
        return s.If(tuple(branches), otherwise, span=condition.span)

    def elif_suite(self, span: Span, children: list[Any]) -> tuple[s.Expression, tuple[s.Statement, ...]]:
        condition, body = children
        return condition, body

    def else_suite(self, span: Span, children: list[Any]) -> tuple[None, tuple[s.Statement, ...]]:
        return None, children[0]

    def for_statement(self, span: Span, children: list[Any]) -> s.For:
        pattern, source, body = children
        return s.For(pattern, source, body, span=pattern.span.to(source.span))

    def loop_target(self, span: Span, children: list[Any]) -> s.Pattern:
        return children[0] if len(children) == 1 else s.TuplePattern(tuple(children), span=span)

    def name_pattern(self, span: Span, children: list[Any]) -> s.NamePattern:
        return s.NamePattern(str(children[0]), span=span)

    def tuple_pattern(self, span: Span, children: list[Any]) -> s.TuplePattern:
        return s.TuplePattern(tuple(children), span=span)

    def suite(self, span: Span, children: list[Any]) -> tuple[s.Statement, ...]:
        return tuple(children)

    # ---- variants and checks

    def variants(self, span: Span, children: list[Any]) -> s.Variants:
        network, *variants = children
        return s.Variants(self._name(network), tuple(variants), span=self._span(network))

    def variant(self, span: Span, children: list[Any]) -> s.Variant:
        name, *bindings = _given(children)
        return s.Variant(str(name), tuple(bindings), span=self._span(name))

    def binding(self, span: Span, children: list[Any]) -> s.Keyword:
        name, value = children
        return s.Keyword(str(name), value, span=span)

    def bindings(self, span: Span, children: list[Any]) -> tuple[s.Keyword, ...]:
        return tuple(children)

    def rename(self, span: Span, children: list[Any]) -> s.Rename:
        network, *table = children
        return s.Rename(self._name(network), tuple(table), span=self._span(network))

    def renaming(self, span: Span, children: list[Any]) -> s.Renaming:
        old, new = (self._unescape(token, str(token)[1:-1]) for token in children)
        return s.Renaming(old, new, span=self._span(children[0]).to(self._span(children[1])))

    def check(self, span: Span, children: list[Any]) -> s.Check:
        first, second, bindings, *expectations = children
        variant = second or first
        where = self._span(first) if second is None else self._span(first).to(self._span(second))
        network = str(first) if second is not None else ""
        return s.Check(network, self._name(variant), bindings or (), tuple(expectations), span=where)

    def expectation(self, span: Span, children: list[Any]) -> s.Expectation:
        quantity, comparison, value = children
        return s.Expectation(self._name(quantity), str(comparison), value, span=self._span(quantity).to(value.span))

    # ---- expressions

    def _name(self, token: Token) -> s.Name:
        return s.Name(str(token), span=self._span(token))

    def name(self, span: Span, children: list[Any]) -> s.Name:
        return s.Name(str(children[0]), span=span)

    def number(self, span: Span, children: list[Any]) -> s.Number:
        if len(children[0]) > MOST_DIGITS:
            raise error("S0406", f"a number has at most {MOST_DIGITS} digits", Label(span))
        exponent = re.search(r"[eE][+-]?0*(\d+)", children[0])
        if exponent and len(exponent[1]) > 3:
            raise error("S0406", "the exponent of a number has at most three digits", Label(span))
        if math.isinf(number(children[0])):
            note = "a mask of numbers takes one that is far below the others: `where(mask, x, -1e9)`"
            raise error("S0406", "this number is too large", Label(span), notes=[note])
        return s.Number(str(children[0]), span=span)

    def string(self, span: Span, children: list[Any]) -> s.String:
        return s.String(self._unescape(children[0], str(children[0])[1:-1]), span=span)

    def true(self, span: Span, children: list[Any]) -> s.Constant:
        return s.Constant(True, span=span)

    def false(self, span: Span, children: list[Any]) -> s.Constant:
        return s.Constant(False, span=span)

    def none(self, span: Span, children: list[Any]) -> s.Constant:
        return s.Constant(None, span=span)

    def group(self, span: Span, children: list[Any]) -> s.Expression:
        expression: s.Expression = children[0]
        return expression

    def tuple_literal(self, span: Span, children: list[Any]) -> s.TupleOf:
        return s.TupleOf(tuple(_given(children)), span=span)

    def list_literal(self, span: Span, children: list[Any]) -> s.ListOf:
        return s.ListOf(tuple(_given(children)), span=span)

    def comprehension(self, span: Span, children: list[Any]) -> s.Comprehension:
        element, *clauses = children
        return s.Comprehension(element, tuple(clauses), span=span)

    def clause(self, span: Span, children: list[Any]) -> s.Clause:
        return s.Clause(*children, span=span)

    def unary(self, span: Span, children: list[Any]) -> s.Unary:
        operator, operand = children
        return s.Unary(str(operator), operand, span=span)

    def binary(self, span: Span, children: list[Any]) -> s.Binary:
        left, operator, right = children
        return s.Binary(str(operator), left, right, span=span)

    logical = binary

    def not_in(self, span: Span, children: list[Any]) -> s.Binary:
        left, _, _, right = children
        return s.Binary("not in", left, right, span=span)

    def conditional(self, span: Span, children: list[Any]) -> s.Conditional:
        return s.Conditional(*children, span=span)

    def call(self, span: Span, children: list[Any]) -> s.Call:
        callee, *rest = children
        rest = _given(rest)
        keywords = [child for child in rest if isinstance(child, s.Keyword)]
        first_keyword = next((i for i, child in enumerate(rest) if isinstance(child, s.Keyword)), len(rest))
        late = next((child for child in rest[first_keyword:] if not isinstance(child, s.Keyword)), None)
        if late is not None:
            raise error("S0107", "an argument without a name stands behind one with a name", Label(late.span))
        return s.Call(callee, tuple(rest[:first_keyword]), tuple(keywords), span=span)

    def spread(self, span: Span, children: list[Any]) -> s.Spread:
        return s.Spread(children[1], span=span)

    def keyword_argument(self, span: Span, children: list[Any]) -> s.Keyword:
        return self.binding(span, children)

    def index(self, span: Span, children: list[Any]) -> s.Index:
        value, index = children
        return s.Index(value, index, span=span)

    def slice(self, span: Span, children: list[Any]) -> list[s.Expression | None]:
        return children

    def sliced(self, span: Span, children: list[Any]) -> s.Slice:
        value, bounds = children
        return s.Slice(value, *bounds, span=span)

    def pipe(self, span: Span, children: list[Any]) -> s.Pipe:
        source, *stages = children
        for stage in stages:
            if not isinstance(stage, (s.Name, s.Index, s.Call)):
                note = "for example `x |> conv2d(64, k=3) |> relu`"
                message = "only a block or an operator can stand behind `|>`"
                raise error("S0108", message, Label(stage.span), notes=[note])
        return s.Pipe(source, tuple(stages), span=span)

    # ---- strings

    def _template(self, token: Token) -> s.Template:
        """The interpolated message: text and the expressions in braces."""
        raw, at = str(token)[1:-1], 0
        parts: list[str | s.Expression] = []
        for match in _BRACES.finditer(raw):
            if match.start() > at:
                parts.append(self._unescape(token, raw[at : match.start()]))
            at = match.end()
            inside = match[1]
            if inside is not None:
                column = (token.column or 1) + 1 + match.start(1)
                padded = "\n" * ((token.line or 1) - 1) + " " * (column - 1) + inside
                if not inside.strip():
                    note = "a brace itself is written `{{`"
                    raise error("S0109", "the braces hold no expression", Label(self._span(token)), notes=[note])
                parts.append(self._expression(padded, self.file))
            elif len(match[0]) == 2:
                parts.append(match[0][0])
            else:
                note = f"a brace itself is written `{match[0] * 2}`"
                raise error("S0109", f"a single `{match[0]}` in a message", Label(self._span(token)), notes=[note])
        if at < len(raw):
            parts.append(self._unescape(token, raw[at:]))
        return s.Template(_joined(parts), span=self._span(token))

    def _unescape(self, token: Token, raw: str) -> str:
        def replacement(match: re.Match[str]) -> str:
            if match[1] not in _ESCAPES:
                note = f"there are {', '.join(f'`{chr(92)}{letter}`' for letter in _ESCAPES)}"
                raise error("S0109", f"there is no escape `\\{match[1]}`", Label(self._span(token)), notes=[note])
            return _ESCAPES[match[1]]

        return re.sub(r"\\([\s\S])", replacement, raw)


def _joined(parts: list[str | s.Expression]) -> tuple[str | s.Expression, ...]:
    """Neighbouring texts become one."""
    result: list[str | s.Expression] = []
    for part in parts:
        if isinstance(part, str) and result and isinstance(result[-1], str):
            result[-1] += part
        else:
            result.append(part)
    return tuple(result)
