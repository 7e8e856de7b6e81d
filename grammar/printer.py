"""Syntax tree --> text in canonical form; `parse(print_file(tree)) == tree`.

Indentation is four spaces, one blank line stands between items, brackets stand only where precedence needs them.
"""

from __future__ import annotations

from specc.grammar import syntax as s

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})

# How tightly an expression binds; an operand that binds less tightly than its place demands is put in brackets.
_CONDITIONAL, _PIPE, _OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _NEGATIVE, _POWER, _POSTFIX = range(11)
_BINARY = {
    "or": _OR,
    "and": _AND,
    **dict.fromkeys(("==", "!=", "<", ">", "<=", ">=", "in"), _COMPARISON),
    **dict.fromkeys("+-", _SUM),
    **dict.fromkeys(("*", "/", "//", "%"), _PRODUCT),
    "**": _POWER,
}


def print_file(file: s.File) -> str:
    """The whole file as text."""
    head = [f"specc {file.version}"]
    if file.docstring is not None:
        head += _docstring(file.docstring, "")
    parts = ["\n".join(head)]
    if file.uses:
        parts.append("\n".join(f"use {'.'.join(u.module)}: {', '.join(n.name for n in u.names)}" for u in file.uses))
    parts += ["\n".join(_item(item)) for item in file.items]
    return "\n\n".join(parts) + "\n"


def _item(item: s.Item) -> list[str]:
    match item:
        case s.Definition(kind, name, parameters, results, docstring, body):
            listed = ", ".join(map(_parameter, parameters))
            lines = [f"{kind} {name}({listed}){_results(results)}:"]
            return lines + (_docstring(docstring, "    ") if docstring is not None else []) + _body(body)
        case s.Variants(network, variants):
            return [f"variants {network.name}:", *(f"    {v.name}:{_bindings(v.bindings)}" for v in variants)]
        case s.Check(network, variant, bindings, expectations):
            target = f"{network}.{variant.name}" if network else variant.name
            given = f" with{_bindings(bindings)}" if bindings else ""
            rows = [f"    {e.quantity.name} {e.comparison} {print_expression(e.value)}" for e in expectations]
            return [f"check {target}{given}:", *rows]


def _docstring(text: str, indentation: str) -> list[str]:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return [indentation + line if line else "" for line in f'"""{escaped}"""'.split("\n")]


def _parameter(parameter: s.Parameter) -> str:
    default = "" if parameter.default is None else f" = {print_expression(parameter.default)}"
    return f"{parameter.name}: {print_type(parameter.type)}{default}"


def _results(results: tuple[s.Tensor, ...]) -> str:
    if not results:
        return ""
    listed = ", ".join(map(print_type, results))
    return f" -> {listed}" if len(results) == 1 else f" -> ({listed})"


def _bindings(bindings: tuple[s.Keyword, ...]) -> str:
    listed = ", ".join(f"{binding.name} = {print_expression(binding.value)}" for binding in bindings)
    return f" {listed}" if listed else ""


def print_type(type_: s.Type) -> str:
    """A type as text: `[n, c, h, w]`, `list[int]?`."""
    match type_:
        case s.Tensor(dimensions):
            return f"[{', '.join(map(_dimension, dimensions))}]"
        case s.PlainType(name):
            return name
        case s.ListType(element):
            return f"list[{print_type(element)}]"
        case s.OptionalType(inner):
            return f"{print_type(inner)}?"


def _dimension(dimension: s.Dimension) -> str:
    default = "" if dimension.default is None else f" = {print_expression(dimension.default)}"
    return print_expression(dimension.size) + default


# ---- statements


def _body(statements: tuple[s.Statement, ...]) -> list[str]:
    return [f"    {line}" for statement in statements for line in _statement(statement)]


def _statement(statement: s.Statement) -> list[str]:
    match statement:
        case s.Assign(targets, value):
            return [f"{', '.join(map(_target, targets))} = {print_expression(value)}"]
        case s.Require(condition, message):
            shown = "" if message is None else f", {_template(message)}"
            return [f"require {print_expression(condition)}{shown}"]
        case s.Ensure(subject, into):
            return [f"ensure {_target(subject)} merges into {into}"]
        case s.Return(values):
            return [f"return {', '.join(map(print_expression, values))}"]
        case s.If(branches, otherwise):
            lines = []
            for word, (condition, body) in zip(["if", *["elif"] * len(branches)], branches, strict=False):
                lines += [f"{word} {print_expression(condition)}:", *_body(body)]
            return lines + (["else:", *_body(otherwise)] if otherwise else [])
        case s.For(pattern, source, body):
            return [f"for {_loop_target(pattern)} in {print_expression(source)}:", *_body(body)]


def _target(target: s.Target) -> str:
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
    text, tightness = _expression(expression)
    return f"({text})" if tightness < place else text


def _expression(expression: s.Expression) -> tuple[str, int]:
    match expression:
        case s.Name(name):
            return name, _POSTFIX
        case s.Number(text):
            return text, _POSTFIX
        case s.String(value):
            return f'"{value.translate(_ESCAPES)}"', _POSTFIX
        case s.Constant(value):
            return {True: "true", False: "false", None: "none"}[value], _POSTFIX
        case s.ListOf(items):
            return f"[{', '.join(map(print_expression, items))}]", _POSTFIX
        case s.TupleOf(items):
            return f"({', '.join(map(print_expression, items))})", _POSTFIX
        case s.Comprehension(element, pattern, source, condition):
            kept = "" if condition is None else f" if {print_expression(condition, _OR)}"
            each = f"for {_loop_target(pattern)} in {print_expression(source, _OR)}"
            return f"[{print_expression(element)} {each}{kept}]", _POSTFIX
        case s.Unary("not", operand):
            return f"not {print_expression(operand, _NOT)}", _NOT
        case s.Unary(operator, operand):
            return f"{operator}{print_expression(operand, _NEGATIVE)}", _NEGATIVE
        case s.Binary("**", left, right):
            return f"{print_expression(left, _POSTFIX)} ** {print_expression(right, _NEGATIVE)}", _POWER
        case s.Binary(operator, left, right):
            level = _BINARY[operator]
            return f"{print_expression(left, level)} {operator} {print_expression(right, level + 1)}", level
        case s.Conditional(value, condition, otherwise):
            ends = print_expression(value, _PIPE), print_expression(condition, _PIPE), print_expression(otherwise)
            return "{} if {} else {}".format(*ends), _CONDITIONAL
        case s.Call(callee, arguments, keywords):
            listed = [*map(print_expression, arguments), *(f"{k.name}={print_expression(k.value)}" for k in keywords)]
            return f"{callee.name}({', '.join(listed)})", _POSTFIX
        case s.Index(value, index):
            return f"{print_expression(value, _POSTFIX)}[{print_expression(index)}]", _POSTFIX
        case s.Pipe(source, stages):
            parts = [print_expression(source, _OR), *(print_expression(stage, _POSTFIX) for stage in stages)]
            return " |> ".join(parts), _PIPE
