"""Syntax tree --> text in canonical form; `parse(print_file(tree)) == tree`.

Indentation is four spaces, one blank line stands between items, brackets stand only where precedence needs them, and
lines that are longer than `wrap.WIDTH` are opened at their brackets. `format.py` puts comments around these lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from specc.diagnostics import Span
from specc.grammar import syntax as s
from specc.grammar.wrap import STEP, Doc, Group, Item, flat, wrap

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})

# How tightly an expression binds; an operand that binds less tightly than its place demands is put in brackets.
_CONDITIONAL, _PIPE, _OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _NEGATIVE, _POWER, _POSTFIX = range(11)
_BINARY = {
    "or": _OR,
    "and": _AND,
    **dict.fromkeys(("==", "!=", "<", ">", "<=", ">=", "in", "not in"), _COMPARISON),
    **dict.fromkeys("+-", _SUM),
    **dict.fromkeys(("*", "/", "//", "%"), _PRODUCT),
    "**": _POWER,
}


class Gap(Enum):
    """The blank lines above a line: none, exactly one, or one where the author has left some."""

    NONE = 0
    ONE = 1
    FREE = 2


@dataclass(frozen=True)
class Line:
    """A logical line: a statement, or the head of something. A docstring's `doc` has its line ends."""

    doc: Doc
    level: int = 0
    gap: Gap = Gap.FREE

    @property
    def physical(self) -> list[str]:
        """The line as the text has it, broken where it is too long."""
        if isinstance(self.doc[0], str) and self.doc[0].startswith('"""'):
            return [STEP * self.level + row if row else "" for row in self.doc[0].split("\n")]
        return wrap(self.doc, STEP * self.level)


def print_file(file: s.File) -> str:
    """The whole file as text."""
    rows: list[str] = []
    for line in file_lines(file):
        rows += [""] * (line.gap is Gap.ONE) + line.physical
    return "\n".join(rows) + "\n"


def file_lines(file: s.File) -> Iterator[Line]:
    """The logical lines of the file, in order."""
    yield Line((f"specc {file.version}",), gap=Gap.NONE)
    if file.docstring is not None:
        yield Line(_docstring(file.docstring), gap=Gap.NONE)
    for number, use in enumerate(file.uses):
        names = [Item((name.name,), name.span) for name in use.names]
        listed = ", ".join(flat(item.doc) for item in names)
        yield Line((f"use {'.'.join(use.module)}: {listed}",), gap=Gap.NONE if number else Gap.ONE)
    for item in file.items:
        yield from _item(item)


def _item(item: s.Item) -> Iterator[Line]:
    match item:
        case s.Definition(kind, name, docstring=docstring, body=body):
            yield Line((f"{kind} {name}", *_signature(item), ":"), gap=Gap.ONE)
            if docstring is not None:
                yield Line(_docstring(docstring), 1, Gap.NONE)
            yield from _body(body, 1)
        case s.Variants(network, variants):
            yield Line((f"variants {network.name}:",), gap=Gap.ONE)
            yield from _rows((f"{v.name}:", *_bindings(v.bindings)) for v in variants)
        case s.Rename(network, table):
            yield Line((f"rename {network.name}:",), gap=Gap.ONE)
            yield from _rows((f"{_string(rule.old)} -> {_string(rule.new)}",) for rule in table)
        case s.Check(network, variant, bindings, expectations):
            target = f"{network}.{variant.name}" if network else variant.name
            given = (" with", *_bindings(bindings)) if bindings else ()
            yield Line((f"check {target}", *given, ":"), gap=Gap.ONE)
            yield from _rows((f"{e.quantity.name} {e.comparison} ", *_expression(e.value)) for e in expectations)


def _rows(docs: Iterator[Doc]) -> Iterator[Line]:
    for number, doc in enumerate(docs):
        yield Line(doc, 1, Gap.FREE if number else Gap.NONE)


def print_signature(definition: s.Definition) -> str:
    """How the block is called and what it gives, as lines."""
    return "\n".join(wrap((definition.name, *_signature(definition)), ""))


def _signature(definition: s.Definition) -> Doc:
    parameters = [Item(_parameter(parameter), parameter.span) for parameter in definition.parameters]
    many = (" -> *",) if definition.variadic else (" -> ",)
    return (Group("(", parameters, ")", _signature_span(definition)), *_results(definition.results, many))


def _signature_span(definition: s.Definition) -> Span:
    """From the name to the results: no node of the tree is the brackets of the parameters."""
    name = definition.name_span
    if definition.results:
        end = definition.results[0].span
        return Span(name.file, name.line, name.column, end.line, end.column)
    return Span(name.file, name.line, name.column, 2**31, 1)


def _docstring(text: str) -> Doc:
    """Quotes are escaped where they would end it; several lines have the closing quotes on a line of their own."""
    escaped = re.sub(r'^"|"$|""+', lambda match: '\\"' * len(match[0]), text.replace("\\", "\\\\"))
    return (f'"""{escaped}\n"""' if "\n" in escaped else f'"""{escaped}"""',)


def _parameter(parameter: s.Parameter) -> Doc:
    default: Doc = () if parameter.default is None else (" = ", *_expression(parameter.default))
    return (f"{'*' * parameter.variadic}{parameter.name}: ", *_type(parameter.type), *default)


def _results(results: tuple[s.Tensor, ...], arrow: Doc) -> Doc:
    if len(results) < 2:
        return (*arrow, *_tensor(results[0])) if results else ()
    items = [Item(_tensor(result), result.span) for result in results]
    return (*arrow, Group("(", items, ")", results[0].span.to(results[-1].span), trailing=False))


def _bindings(bindings: tuple[s.Keyword, ...]) -> Iterator[str | Group]:
    for number, binding in enumerate(bindings):
        yield f"{',' if number else ''} {binding.name} = "
        yield from _expression(binding.value)


def print_type(type_: s.Type) -> str:
    """A type as text: `[n, c, h, w]`, `list[int]?`."""
    return flat(_type(type_))


def _type(type_: s.Type) -> Doc:
    match type_:
        case s.Tensor():
            return _tensor(type_)
        case s.PlainType(name):
            return (name,)
        case s.ListType(element):
            return ("list[", *_type(element), "]")
        case s.TupleType(elements):
            return (f"tuple[{', '.join(map(print_type, elements))}]",)
        case s.OptionalType(inner):
            return (*_type(inner), "?")
        case s.ChoiceType(options):
            return (" | ".join(_string(o) if isinstance(o, str) else print_type(o) for o in options),)


def _tensor(tensor: s.Tensor) -> Doc:
    shape = Group("[", [Item(_dimension(d), d.span) for d in tensor.dimensions], "]", tensor.span)
    return (shape, f" {tensor.element.name}") if tensor.element else (shape,)


def _dimension(dimension: s.Dimension) -> Doc:
    default: Doc = () if dimension.default is None else (" = ", *_expression(dimension.default))
    return (*_expression(dimension.size), *default)


# ---- statements


def _body(statements: tuple[s.Statement, ...], level: int) -> Iterator[Line]:
    for number, statement in enumerate(statements):
        yield from _statement(statement, level, Gap.FREE if number else Gap.NONE)


def _statement(statement: s.Statement, level: int, gap: Gap) -> Iterator[Line]:
    match statement:
        case s.If(branches, otherwise):
            for number, (condition, body) in enumerate(branches):
                word = "elif" if number else "if"
                yield Line((f"{word} ", *_expression(condition), ":"), level, Gap.NONE if number else gap)
                yield from _body(body, level + 1)
            if otherwise:
                yield Line(("else:",), level, Gap.NONE)
                yield from _body(otherwise, level + 1)
        case s.For(pattern, source, body):
            yield Line((f"for {_loop_target(pattern)} in ", *_expression(source), ":"), level, gap)
            yield from _body(body, level + 1)
        case _:
            yield Line(tuple(_simple(statement)), level, gap)


def _simple(statement: s.Assign | s.Param | s.Require | s.Ensure | s.EnsureMerge | s.Return) -> Iterator[str | Group]:
    match statement:
        case s.Assign(targets, value):
            yield f"{', '.join(map(print_target, targets))} = "
            yield from _expression(value)
        case s.Param(word, target, type_, init, key):
            yield f"{word} {print_target(target)}{'' if key is None else f' as {_template(key)}'}: "
            yield from _tensor(type_)
            if init is not None:
                yield f" init {init.name}"
                yield "" if init.argument is None else f"({print_expression(init.argument)})"
        case s.Require(condition, message) | s.Ensure(condition, message):
            yield "require " if isinstance(statement, s.Require) else "ensure "
            yield from _expression(condition)
            yield "" if message is None else f", {_template(message)}"
        case s.EnsureMerge(subject, into):
            yield f"ensure {print_expression(subject)} merges into {into}"
        case s.Return(values):
            for number, value in enumerate(values):
                yield ", " if number else "return "
                yield from _expression(value)


def print_target(target: s.Target) -> str:
    """The name that is bound, as text."""
    return target.name + "".join(f"[{print_expression(index)}]" for index in target.indices)


def _loop_target(pattern: s.Pattern) -> str:
    if isinstance(pattern, s.TuplePattern):
        return ", ".join(map(_pattern, pattern.items))
    return pattern.name


def _pattern(pattern: s.Pattern) -> str:
    return f"({_loop_target(pattern)})" if isinstance(pattern, s.TuplePattern) else pattern.name


def _template(template: s.Template) -> str:
    text = ""
    for part in template.parts:
        if isinstance(part, str):
            text += part.translate(_ESCAPES).replace("{", "{{").replace("}", "}}")
        else:
            text += f"{{{print_expression(part)}}}"
    return f'"{text}"'


# ---- expressions


def print_expression(expression: s.Expression, place: int = _CONDITIONAL) -> str:
    """The expression as text, in brackets if it binds less tightly than `place` demands."""
    return flat(_expression(expression, place))


def _expression(expression: s.Expression, place: int = _CONDITIONAL) -> Doc:
    doc, tightness = _bare(expression)
    if tightness >= place:
        return doc
    if len(doc) == 1 and isinstance(doc[0], Group):  # loose, as nothing else binds so loosely
        doc[0].loose = False
        return doc
    return ("(", *doc, ")")


def _items(items: tuple[s.Expression, ...]) -> list[Item]:
    return [Item(_expression(item), item.span) for item in items]


def _chain(span: Span, *parts: tuple[str, s.Expression, int]) -> Doc:
    """Operands with what stands before each: opened, it has one of them on each line."""
    items = [Item((word, *_expression(operand, place)), operand.span) for word, operand, place in parts]
    return (Group("(", items, ")", span, comma="", trailing=False, loose=True),)


def _bare(expression: s.Expression) -> tuple[Doc, int]:
    match expression:
        case s.Name(name):
            return (name,), _POSTFIX
        case s.Number(text):
            return (text,), _POSTFIX
        case s.String(value):
            return (_string(value),), _POSTFIX
        case s.Constant(value):
            return ({True: "true", False: "false", None: "none"}[value],), _POSTFIX
        case s.ListOf(items):
            plain = all(isinstance(item, (s.Number, s.String, s.Constant)) for item in items)
            return (Group("[", _items(items), "]", expression.span, fill=plain),), _POSTFIX
        case s.TupleOf(items):
            return (Group("(", _items(items), ")", expression.span),), _POSTFIX
        case s.Comprehension():
            return (_comprehension(expression),), _POSTFIX
        case s.Unary("not", operand):
            return ("not ", *_expression(operand, _NOT)), _NOT
        case s.Unary(operator, operand):
            return (operator, *_expression(operand, _NEGATIVE)), _NEGATIVE
        case s.Binary("**", left, right):
            return (*_expression(left, _POSTFIX), " ** ", *_expression(right, _NEGATIVE)), _POWER
        case s.Binary(operator):
            level = _BINARY[operator]
            return _chain(expression.span, *_operands(expression, level)), level
        case s.Conditional(value, condition, otherwise):
            parts = (("", value, _PIPE), ("if ", condition, _PIPE), ("else ", otherwise, _CONDITIONAL))
            return _chain(expression.span, *parts), _CONDITIONAL
        case s.Call(callee):
            return (*_expression(callee, _POSTFIX), _arguments(expression)), _POSTFIX
        case s.Slice(value, start, stop):
            bounds = [() if bound is None else _expression(bound) for bound in (start, stop)]
            return (*_expression(value, _POSTFIX), "[", *bounds[0], ":", *bounds[1], "]"), _POSTFIX
        case s.Index(value, index):
            return (*_expression(value, _POSTFIX), "[", *_expression(index), "]"), _POSTFIX
        case s.Pipe(source, stages):
            return _chain(expression.span, ("", source, _OR), *(("|> ", stage, _POSTFIX) for stage in stages)), _PIPE


def _operands(expression: s.Expression, level: int) -> list[tuple[str, s.Expression, int]]:
    """The operands of a chain of operators that bind alike: `a - b + c`. Comparisons make no chains."""
    if level == _COMPARISON:
        assert isinstance(expression, s.Binary)
        return [("", expression.left, level + 1), (f"{expression.operator} ", expression.right, level + 1)]
    if isinstance(expression, s.Binary) and _BINARY[expression.operator] == level:
        return [*_operands(expression.left, level), (f"{expression.operator} ", expression.right, level + 1)]
    return [("", expression, level)]


def _arguments(call: s.Call) -> Group:
    given = [
        Item(("*", *_expression(argument.value)), argument.span)
        if isinstance(argument, s.Spread)
        else Item(_expression(argument), argument.span)
        for argument in call.arguments
    ]
    named = [Item(_keyword(keyword), keyword.span) for keyword in call.keywords]
    return Group("(", [*given, *named], ")", call.span)


def _keyword(keyword: s.Keyword) -> Doc:
    """`k=3`, `k=2 * n`; with spaces where the value is a condition or a choice: `k = 3 if i > 0 else 1`."""
    value, tightness = _bare(keyword.value)
    return (f"{keyword.name}{'=' if tightness > _COMPARISON else ' = '}", *value)


def _string(value: str) -> str:
    return f'"{value.translate(_ESCAPES)}"'


def _comprehension(expression: s.Comprehension) -> Group:
    items = [Item(_expression(expression.element), expression.element.span)]
    for clause in expression.clauses:
        each = (f"for {_loop_target(clause.pattern)} in ", *_expression(clause.source, _OR))
        items.append(Item(each, clause.pattern.span.to(clause.source.span)))
        if clause.condition is not None:
            items.append(Item(("if ", *_expression(clause.condition, _OR)), clause.condition.span))
    return Group("[", items, "]", expression.span, comma="", trailing=False)
