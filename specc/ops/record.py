"""What an operator record holds: everything that the compiler, the documents and the tests know of an operator.

An operator has two faces. In a *graph*, a node has operands (tensors, the weights among them) and attributes
(whatever cannot be read off the operands' types). In the *language*, a call has operands and arguments, from which
`spell` makes the attributes and the weights: `conv2d(x, 64, k=3, bias=true)` becomes a node
`conv2d(x, weight, bias) {stride=(1, 1), ...}` with two new parameters.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from specc.ir.dims import Dim
from specc.ir.dtypes import DTYPES
from specc.ir.types import TensorType

Attributes = Mapping[str, Any]
Types = Sequence[TensorType]
Interval = tuple[Dim | float, Dim | float]
"""The least and the greatest value of an element; `math.inf` where there is none."""
REQUIRED: Any = object()
"""The default of an argument that has none."""


OPEN_EXTENT = "a number in the type of the network's input fixes it: `[n, 64, h, w]`"
"""What to write where an extent has to be known and is open."""


class Illegal(Exception):
    """A call that the operator does not take, with the reason, and the operand or argument at fault.

    `note` says what to write instead, in the words of the language.
    """

    def __init__(
        self, reason: str, *, operand: int | None = None, argument: str | None = None, note: str | None = None
    ) -> None:
        super().__init__(reason)
        self.reason, self.operand, self.argument, self.note = reason, operand, argument, note


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a call in the language, or an attribute of a node.

    `kind` is one of "int", "float", "bool", "str", "dim", "ints" (a list of dimensions), "axes" (a list of
    integers), "pair" (one int, or two for
    height and width; in a node always two), "padding" (one int, two for height and width, or four for top, left, bottom
    and right; in a node always four), "type" and "graph" (a `specc.ir.body.Body`). "single" and "padding1" are "pair"
    and "padding" for one dimension, "triple" and "padding3" for three (depth, height, width; all in front, then all
    behind). A trailing "?" admits none.
    """

    name: str
    kind: str
    default: Any = REQUIRED


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that a call brings with it: its role is the last part of its checkpoint key.

    `init` names how it begins: "kaiming", "fan_in_bias", "ones", "zeros", "constant(0.1)", "normal(0.02)". A weight
    that is not trainable is a buffer in PyTorch's words.
    """

    role: str
    type: TensorType
    init: str
    trainable: bool = True


@dataclass(frozen=True, slots=True)
class Spelling:
    """What a call in the language comes to: a node's attributes and weights, these in the order of the operands."""

    attrs: Attributes = field(default_factory=dict)
    weights: tuple[Weight, ...] = ()


class Access(Protocol):
    """A tensor as seen by a kernel: the expression of its element at a logical index."""

    def __call__(self, *index: Any) -> Any: ...


class KernelMath(Protocol):
    """What a record's `scalar` and `compute` may use; a backend supplies it over its own expressions.

    Scalars: `const(value, dtype)`, `cast(a, dtype)`, `max` and `min` (NaN where one of both is), `bounded(a, least,
    greatest)` (a number between these, of NaN too), `is_number(a)` (not NaN), `exp`, `log`, `erf`, `normal` (the normal
    distribution's function), `tanh`, `sigmoid`, `silu`, `sin`, `cos`, `pow`, `sqrt`, `rsqrt`, `abs`, `floor`, `ceil`,
    `round`, `nearest` (as `round`, an int32, of a float32 below 2^22), `equal`, `select(condition, a, b)`,
    `all(*conditions)`; between them `+ - * /`, comparisons, `//` and `%` of integers, and `& | ~` of truth values.
    Indices: `index(a, extent)` makes one of an element, `number(index, dtype)` an element of one, `clip(i, 0, 7)`;
    `wide(i)` has 64 bits, and `narrow` of what is computed with it is an index again.
    Tensors: `stage(shape, element)` computes a tensor of the first operand's type and gives access to it
    (one of int32 for operands of 8 bits); `sum(extents, term)`, `max_over(extents, term)` reduce
    `term(*reduced indices)` and may stand only outermost in the `element` of a stage.
    """

    def __getattr__(self, name: str) -> Any: ...


@dataclass(frozen=True)
class Operator:
    """One operator.

    operands   names in order; a trailing "?" marks one that may be absent (only at the end), "*xs" takes one or more
    weights    how many of the last operands are parameters in a call of the language (their roles are these names)
    infer      result types from operand types and attributes; raises `Illegal` when the call is not legal
    spell      attributes and weights from operand types and the arguments of a call in the language
    torch      the reference: tensors and attributes to a tensor (or a tuple of them)
    training   as `torch`, for training mode, where it differs; may update buffers in place
    scalar     elementwise operators: `scalar(k, *elements of the operands, **attributes)` is the result's element
    compute    all others: `compute(k, types, *operands' accesses, **attributes)` is the access of the result, or a
               tuple of accesses where there are several results
    macs       multiply-accumulate operations, counted for convolutions and matrix products
    example    a random legal call: operand types and attributes
    elements   the element types that it takes, a key of `ELEMENTS`, for all operands or for each one (the last one
               serves those that follow); operands under the same key have the same type
    domain     the intervals, by operand, from which samples draw elements where not every number makes sense: an
               index lies inside its table, a root is taken of what is above 0
    traits     what the passes may rely on, see `TRAITS`
    """

    name: str
    summary: str
    operands: tuple[str, ...]
    infer: Callable[[Types, Attributes], tuple[TensorType, ...]]
    torch: Callable[..., Any]
    example: Callable[[random.Random], tuple[list[TensorType], dict[str, Any]]]
    attributes: tuple[Argument, ...] = ()
    arguments: tuple[Argument, ...] | None = None
    spell: Callable[[Types, dict[str, Any]], Spelling] | None = None
    weights: int = 0
    training: Callable[..., Any] | None = None
    training_state: tuple[Weight, ...] = ()
    scalar: Callable[..., Any] | None = None
    compute: Callable[..., Access] | None = None
    macs: Callable[[Types, Attributes], Dim] | None = None
    elements: str | tuple[str, ...] = "float"
    domain: Callable[[Types, Attributes], Mapping[int, Interval]] | None = None
    traits: frozenset[str] = frozenset()

    @cached_property
    def inferred(self) -> dict[tuple[object, ...], tuple[TensorType, ...]]:
        """Result types that were inferred already, by operand types and attributes; see `specc.ops.infer`."""
        return {}

    @property
    def elementwise(self) -> bool:
        """Whether an element of the result depends on the operands' elements at the same (broadcast) index alone."""
        return self.scalar is not None

    @property
    def variadic(self) -> bool:
        return self.operands[-1:] != () and self.operands[-1].startswith("*")

    @property
    def arity(self) -> tuple[int, int | None]:
        """The least and the greatest number of operands (None: any)."""
        least = sum(not name.endswith("?") for name in self.operands)
        return least, None if self.variadic else len(self.operands)

    def classes(self, count: int) -> list[str]:
        """The key of `ELEMENTS` for each of `count` operands."""
        keys = [self.elements] if isinstance(self.elements, str) else list(self.elements)
        return [keys[min(position, len(keys) - 1)] for position in range(count)]

    @property
    def signature(self) -> tuple[Argument, ...]:
        """The arguments of a call in the language, behind the operands."""
        return self.attributes if self.arguments is None else self.arguments

    @property
    def call_operands(self) -> tuple[str, ...]:
        """The operands that a call in the language is given: those that are not weights."""
        return self.operands[: len(self.operands) - self.weights]


ELEMENTS: dict[str, tuple[str, ...]] = {
    "float": ("float64", "float32"),
    "float or uint8": ("float64", "float32", "uint8"),
    "number": ("float64", "float32", "int64", "int32"),
    "any": tuple(DTYPES),
    "integer": ("int64", "int32"),
    "bool": ("bool",),
    "quantized": ("uint8", "int8", "int32"),
    "uint8": ("uint8",),
    "int8": ("int8",),
    "int32": ("int32",),
}
"""Element types by the names under which a record says which it takes."""

TRAITS: dict[str, str] = {
    "movement": "an element of the result is one of the operand's, at an index that follows from its own",
    "view": "the result holds the operand's elements in the same row-major order",
    "choice": "every element of the result is one of the operands under the key `any`, or a constant",
    "heavy": "an element of it takes some twenty instructions, or a division",
    "jumps": "a small change of an operand can change the result by much, as rounding and comparison do",
    "scaled": "its second operand is the scale of integers, which is another one for every layer",
    "source": "a node without operands",
    "typed": "an attribute names the type of the result; a floating type stands for that in which all is computed",
    "blocks": "it takes activations in blocks of channels where `infer` does; elementwise operators always do",
    "open": "its `compute` takes extents that are expressions: of dimensions whose value is known when a kernel runs",
    "body": "it runs the graph in its attribute `body`, and has a kernel of its own",
}
