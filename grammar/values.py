"""The values of elaboration: what a name of a spec can stand for.

Numbers, texts, `true`, `false` and `none` are Python's own; a dimension is an `int` or a `Symbolic`; lists and tuples
are Python tuples. The classes here are the rest: tensors, families (`stages[i] = ...`), blocks and operators as values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias, TypeGuard, Union

from specc import ops
from specc.diagnostics import Span, did_you_mean
from specc.grammar import syntax as s
from specc.grammar.printer import print_type
from specc.ir.dims import Symbolic
from specc.ir.graph import Value as GraphValue
from specc.ir.types import TensorType
from specc.ops.record import Operator


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph, and the place in the spec that made it."""

    value: GraphValue
    type: TensorType
    span: Span


@dataclass
class Family:
    """What `stages[i] = ...` fills; used whole, it is the list of its members in the order of their indices."""

    members: dict[int | str, Value] = field(default_factory=dict)

    def listed(self) -> tuple[Value, ...]:
        """The members in order; raises `Poisoned` if one of them failed."""
        if any(isinstance(member, Poison) for member in self.members.values()):
            raise Poisoned
        return tuple(self.members[i] for i in sorted(self.members, key=lambda i: (isinstance(i, str), i)))


@dataclass(frozen=True)
class Block:
    """A block or network of a file; `module` is the name of that file."""

    definition: s.Definition
    module: str

    @property
    def name(self) -> str:
        return self.definition.name


@dataclass(frozen=True)
class Builtin:
    """A compile-time function."""

    name: str


@dataclass(frozen=True, eq=False)
class Partial:
    """A call that leaves arguments open, `leaky_relu(_, 0.1)`: a block that waits for them.

    `positional` has None for those that are open; `text` is the call as it is written.
    """

    callee: Value
    positional: tuple[Argument | None, ...]
    keywords: dict[str, Argument]
    text: str


class Poison:
    """Stands for a value whose computation failed and was reported; whatever uses it fails silently."""


Value: TypeAlias = Union[  # noqa: UP007 - a forward reference does not take `|`
    bool,
    int,
    float,
    str,
    Symbolic,
    tuple["Value", ...],
    Tensor,
    Family,
    Block,
    Operator,
    Builtin,
    Partial,
    Poison,
    None,
]


@dataclass(frozen=True)
class Argument:
    """An evaluated argument and its place in the text."""

    value: Value
    span: Span


class Poisoned(Exception):
    """A statement met a poisoned value: the cause is reported already."""


class Unfit(Exception):
    """A compile-time operation that these values do not allow; becomes a located diagnostic."""

    def __init__(self, code: str, message: str, *notes: str) -> None:
        super().__init__(message)
        self.code, self.message, self.notes = code, message, notes


SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def number(text: str) -> int | float:
    """The value of a numeral: `8.8M` is 8800000, `1e-5` a float, `64` an int."""
    digits, suffix = (text[:-1], text[-1]) if text[-1] in SUFFIXES else (text, "")
    exact = Decimal(digits.replace("_", "")) * SUFFIXES.get(suffix, 1)
    whole = exact == exact.to_integral_value() and (suffix != "" or digits.replace("_", "").isdigit())
    return int(exact) if whole else float(exact)


def precision(text: str) -> Decimal:
    """Half a unit of the last written digit: `8.8M` is 8.8 million, give or take 0.05 million."""
    digits, suffix = (text[:-1], text[-1]) if text[-1] in SUFFIXES else (text, "")
    exponent = Decimal(digits.replace("_", "")).as_tuple().exponent
    assert isinstance(exponent, int)
    return Decimal(5).scaleb(exponent - 1) * SUFFIXES.get(suffix, 1)


def show(value: Value) -> str:
    """The value as a message shows it."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}..."'
        case tuple():
            shown = [show(item) for item in value[:12]]
            return f"[{', '.join(shown + ['...'] * (len(value) > 12))}]"
        case Tensor():
            return f"a tensor {show_shape(value.type)}"
        case Family():
            return f"a family of {len(value.members)}"
        case Block() | Operator() | Builtin():
            return f"`{value.name}`"
        case Partial(text=text):
            return f"`{text}`"
        case Poison():
            return "?"
    return str(value)


def kind(value: Value) -> str:
    """What sort of value it is, with its article."""
    match value:
        case None:
            return "none"
        case bool():
            return "a truth value"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str():
            return "a text"
        case Symbolic():
            return "a dimension"
        case tuple() | Family():
            return "a list"
        case Tensor():
            return "a tensor"
        case Block(definition):
            return f"a {definition.kind}"
        case Operator():
            return "an operator"
        case Partial():
            return "a block"
        case Builtin():
            return "a function"
        case Poison():
            return "unknown"


def described(value: Value) -> str:
    """The value and what sort it is: `3, an integer`; a tensor says so itself."""
    return show(value) if isinstance(value, Tensor) else f"{show(value)}, {kind(value)}"


def show_shape(type_: TensorType) -> str:
    """`[n, 64, h, w]`, with the element type behind it where it is not float32: as the language writes it."""
    shape = f"[{', '.join(map(str, type_.shape))}]"
    return shape if type_.dtype == "float32" else f"{shape} {type_.dtype}"


def is_integer(value: Value) -> TypeGuard[int]:
    """Whether the value is an integer of Python; `true` and `false` are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def tensors_in(value: Value) -> Iterator[Tensor]:
    """All tensors in a value, through lists and families."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Family):
        for member in value.listed():
            yield from tensors_in(member)
    elif isinstance(value, tuple):
        for item in value:
            yield from tensors_in(item)


PLAIN_TYPES = ("int", "float", "bool", "str", "block")


def fit(value: Value, type_: s.Type) -> Value:
    """`value` as a parameter of the compile-time type `type_` takes it; raises `Unfit` with S0401."""
    fitted = _fit(value, type_)
    if fitted is NotImplemented:
        notes = []
        if isinstance(value, float) and value.is_integer() and type_ == s.PlainType("int"):
            notes.append("`/` gives a number with a fraction; `//` divides integers, `int(...)` cuts the fraction off")
        if isinstance(value, str) and isinstance(type_, s.ChoiceType):
            notes += did_you_mean(value, [option for option in type_.options if isinstance(option, str)])
        if isinstance(value, str) and type_ == s.PlainType("block") and value.isidentifier():
            notes.append(f"a block or an operator is given by its name, without quotes: `{value}`")
        if isinstance(value, Tensor) and type_ == s.PlainType("block"):
            notes.append("a block or an operator is given by its name alone, without the tensors: `relu`")
        raise Unfit("S0401", f"this is {described(value)}; it must be {print_type(type_)}", *notes)
    result: Value = fitted
    return result


def _fit(value: Value, type_: s.Type) -> Any:
    match type_:
        case s.OptionalType(inner):
            return None if value is None else _fit(value, inner)
        case s.ListType(element):
            if isinstance(value, Family):
                value = value.listed()
            if not isinstance(value, tuple):
                return NotImplemented
            items = [_fit(item, element) for item in value]
            return NotImplemented if any(item is NotImplemented for item in items) else tuple(items)
        case s.TupleType(elements):
            if isinstance(value, Family):
                value = value.listed()
            if not isinstance(value, tuple) or len(value) != len(elements):
                return NotImplemented
            items = [_fit(item, element) for item, element in zip(value, elements, strict=True)]
            return NotImplemented if any(item is NotImplemented for item in items) else tuple(items)
        case s.ChoiceType(options):
            if isinstance(value, str) and value in options:
                return value
            fitted = (_fit(value, option) for option in options if not isinstance(option, str))
            return next((item for item in fitted if item is not NotImplemented), NotImplemented)
        case s.PlainType("int") if is_integer(value) or isinstance(value, Symbolic):
            return value
        case s.PlainType("float") if isinstance(value, float) or is_integer(value):
            return float(value)
        case s.PlainType("bool") if isinstance(value, bool):
            return value
        case s.PlainType("str") if isinstance(value, str):
            return value
        case s.PlainType("block") if isinstance(value, (Block, Operator, Partial)):
            return value
        case s.PlainType("block") if isinstance(value, Builtin) and value.name in ops.OPERATORS:
            return value
        case s.PlainType(name) if name not in PLAIN_TYPES:
            return value  # the type is reported where it is declared
    return NotImplemented
