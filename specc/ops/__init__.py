"""The operators: one record each, found by name. Adding an operator is adding one record to a module here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from specc.ir.dims import Symbolic
from specc.ir.dtypes import DECLARED, HALVES
from specc.ir.types import TensorType
from specc.ops import (
    activations,
    conv,
    deform,
    elementwise,
    index,
    linear,
    logic,
    norm,
    pool,
    quantized,
    reduce,
    resample,
    scan,
    shape,
    source,
    statistics,
    transposed,
    windows,
)
from specc.ops.record import ELEMENTS, REQUIRED, Argument, Illegal, Operator, Spelling, Types

MODULES = (
    source,
    elementwise,
    activations,
    logic,
    conv,
    transposed,
    linear,
    norm,
    statistics,
    pool,
    reduce,
    resample,
    deform,
    index,
    shape,
    windows,
    quantized,
    scan,
)
"""The modules of records, in the order in which the documents list them."""

OPERATORS: dict[str, Operator] = {record.name: record for module in MODULES for record in module.RECORDS}
"""Every operator record, by name."""


def get(name: str) -> Operator:
    """The record of `name`; `KeyError` where there is none."""
    return OPERATORS[name]


def complete(record: Operator, attrs: dict[str, Any]) -> dict[str, Any]:
    """`attrs` with defaults filled in and every value in its normal form; raises `Illegal`."""
    return _complete(record.attributes, attrs)


MOST_KNOWN = 10_000
"""Result types that are kept for one operator."""


def infer(record: Operator, types: Types, attrs: dict[str, Any]) -> tuple[TensorType, ...]:
    """The result types of a node; raises `Illegal` with the reason when the call is not legal.

    They follow from the types and attributes alone, and networks repeat their blocks: what was found is kept.
    """
    if "body" in record.traits:
        return _infer(record, types, attrs)  # to compare two bodies takes longer
    key = (*types, *attrs.items())
    found = record.inferred.get(key)
    if found is None:
        found = _infer(record, types, attrs)
        if len(record.inferred) >= MOST_KNOWN:
            record.inferred.clear()
        record.inferred[key] = found
    return found


def _infer(record: Operator, types: Types, attrs: dict[str, Any]) -> tuple[TensorType, ...]:
    least, most = record.arity
    if len(types) < least or (most is not None and len(types) > most):
        expected = f"{least} or more" if most is None else str(least) if least == most else f"{least} to {most}"
        raise Illegal(f"`{record.name}` takes {expected} operands ({', '.join(record.operands)}), not {len(types)}")
    found: dict[str, str] = {}
    classes = record.classes(len(types))
    types = [_widened(t) if "float32" in ELEMENTS[key] and key != "any" else t for t, key in zip(types, classes)]
    for position, (t, key) in enumerate(zip(types, classes)):
        if t.dtype not in ELEMENTS[key]:
            taken = " or ".join(ELEMENTS[key])
            message = f"`{record.name}` takes elements of type {taken}, not {t.dtype}"
            raise Illegal(message, operand=position, note=f'`cast(x, "{_preferred(ELEMENTS[key])}")` converts them')
        if t.dtype != found.setdefault(key, t.dtype) and "body" not in record.traits:
            both = " and ".join(sorted((t.dtype, found[key])))
            note = f'`cast(x, "{_preferred((t.dtype, found[key]))}")` converts one of them'
            raise Illegal(f"the operands are of different element types: {both}", note=note)
    if not (record.elementwise or "blocks" in record.traits):
        for position, t in enumerate(types):
            if t.layout:
                raise Illegal(f"`{record.name}` takes the plain layout, not {t.layout}", operand=position)
    return record.infer(types, attrs)


def _preferred(dtypes: tuple[str, ...]) -> str:
    """The element type among these that a cast is advised to: float32, or the widest."""
    return next(name for name in ("float32", *DECLARED) if name in dtypes)


def _widened(t: TensorType) -> TensorType:
    """What an operator computes in that reads numbers of 16 bits."""
    return replace(t, dtype="float32") if t.dtype in HALVES else t


def spell(record: Operator, types: Types, arguments: dict[str, Any]) -> Spelling:
    """The attributes and weights of a call in the language; raises `Illegal`."""
    completed = _complete(record.signature, arguments)
    return record.spell(types, completed) if record.spell else Spelling(completed)


def _complete(declared: tuple[Argument, ...], given: dict[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in declared]
    for name in given:
        if name not in names:
            raise Illegal(f"there is no argument `{name}`; there are {', '.join(names) or 'none'}", argument=name)
    result: dict[str, Any] = {}
    for argument in declared:
        value = given.get(argument.name, argument.default)
        if value is REQUIRED:
            raise Illegal(f"the argument `{argument.name}` is missing", argument=argument.name)
        result[argument.name] = normal_form(argument, value)
    return result


def normal_form(argument: Argument, value: Any) -> Any:
    """`value` as an attribute of kind `argument.kind` holds it; raises `Illegal` for another type of value."""
    kind = argument.kind.removesuffix("?")
    if value is None and kind != argument.kind:
        return None
    sequence = isinstance(value, (list, tuple))
    match kind:
        case "int" if _is_int(value):
            return value
        case "float" if _is_int(value) or isinstance(value, float):
            return float(value)
        case "bool" if isinstance(value, bool):
            return value
        case "str" if isinstance(value, str):
            return value
        case "type" if isinstance(value, TensorType):
            return value
        case "graph" if _is_body(value):
            return value
        case "dim" if _is_int(value) or isinstance(value, Symbolic):
            return value
        case "ints" if sequence and all(_is_int(v) or isinstance(v, Symbolic) for v in value):
            return tuple(value)
        case "axes" if sequence and all(map(_is_int, value)):
            return tuple(value)
        case "single" | "pair" | "triple" if _is_int(value):
            return (value,) * _COUNTS[kind]
        case "single" | "pair" | "triple" if sequence and len(value) == _COUNTS[kind] and all(map(_is_int, value)):
            return tuple(value)
        case "padding1" | "padding" | "padding3" if _is_int(value):
            return (value,) * 2 * _COUNTS[kind]
        case "padding1" | "padding" | "padding3" if sequence and all(map(_is_int, value)):
            if len(value) in (_COUNTS[kind], 2 * _COUNTS[kind]):
                return tuple(value) * (2 * _COUNTS[kind] // len(value))
    note = None
    if kind in ("ints", "axes") and (_is_int(value) or isinstance(value, Symbolic)):
        note = f"a list of one is written `[{value}]`"
    elif isinstance(value, float) and kind != "bool":
        note = "`//` divides integers, and `int(...)` cuts a fraction off"
    elif kind == "str" and isinstance(getattr(value, "name", None), str):
        note = f'a text stands in quotation marks: `{argument.name}="{value.name}"`'
    raise Illegal(f"`{argument.name}` is {KINDS[kind]}, not {_shown(value)}", argument=argument.name, note=note)


def _shown(value: Any) -> str:
    """A value as a spec has it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, str):
        return f'"{value}"'
    name = getattr(value, "name", None)  # an operator or a block of the language
    return f"`{name}`" if isinstance(name, str) else str(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_body(value: Any) -> bool:
    from specc.ir.body import Body

    return isinstance(value, Body)


_COUNTS = {"single": 1, "pair": 2, "triple": 3, "padding1": 1, "padding": 2, "padding3": 3}

KINDS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "dim": "a dimension",
    "pair": "an integer, or a list of two (height, width)",
    "ints": "a list of dimensions",
    "axes": "a list of integers",
    "single": "an integer, or a list of one",
    "triple": "an integer, or a list of three (depth, height, width)",
    "padding1": "an integer, or a list of two (before, after)",
    "padding3": "an integer, a list of three (depth, height, width) or of six (before each, then after each)",
    "padding": "an integer, a list of two (height, width) or of four (top, left, bottom, right)",
    "type": "a tensor type",
    "graph": "a graph",
}
"""What each kind of argument is, in words (see `Argument`)."""
