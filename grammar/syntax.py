"""The syntax tree: one frozen dataclass a construct, with an example of its text.

Every node has a `span`, its place in the text, which takes no part in comparisons: two trees are equal when they say
the same, wherever it stands. `build.py` makes these from text, `printer.py` text from these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from specc.diagnostics import Span

NOWHERE = Span("", 0, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Node:
    """What all nodes share."""

    span: Span = field(default=NOWHERE, compare=False, repr=False)


# ---- expressions


@dataclass(frozen=True)
class Name(Node):
    """`stem`."""

    name: str


# 64    1e-5    8.8M
@dataclass(frozen=True)
class Number(Node):
    """The text is kept: a checked number holds at the precision in which it is written."""

    text: str


@dataclass(frozen=True)
class String(Node):
    """`"same"`."""

    value: str


@dataclass(frozen=True)
class Constant(Node):
    """`true`, `false`, `none`."""

    value: bool | None


@dataclass(frozen=True)
class ListOf(Node):
    """`[48, 96]`."""

    items: tuple[Expression, ...]


@dataclass(frozen=True)
class TupleOf(Node):
    """`(3, 1)`."""

    items: tuple[Expression, ...]


@dataclass(frozen=True)
class Clause(Node):
    """`for k in kernels if k > 1` in a comprehension."""

    pattern: Pattern
    source: Expression
    condition: Expression | None = None


@dataclass(frozen=True)
class Comprehension(Node):
    """`[ConvBN(x, c, k=k) for k in kernels if k > 1]`; of several clauses, the last one goes round fastest."""

    element: Expression
    clauses: tuple[Clause, ...]


@dataclass(frozen=True)
class Unary(Node):
    """`-x`, `not x`."""

    operator: str
    operand: Expression


@dataclass(frozen=True)
class Binary(Node):
    """`a + b`, `a == b`, `a and b`, `k in [3, 5]`."""

    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Conditional(Node):
    """`a if c else b`."""

    value: Expression
    condition: Expression
    otherwise: Expression


@dataclass(frozen=True)
class Keyword(Node):
    """`k=3` in a call, in a variant, in `with`."""

    name: str
    value: Expression


@dataclass(frozen=True)
class Spread(Node):
    """`*branches` in a call: the elements of a list as arguments."""

    value: Expression


# conv2d(x, 64, k=3)    acts[i](x)    leaky_relu(_, slope=0.1)
@dataclass(frozen=True)
class Call(Node):
    """An argument `_` is left open: the call is then a block that waits for it."""

    callee: Expression
    arguments: tuple[Expression | Spread, ...]
    keywords: tuple[Keyword, ...] = ()


@dataclass(frozen=True)
class Index(Node):
    """`stages[i]`."""

    value: Expression
    index: Expression


@dataclass(frozen=True)
class Slice(Node):
    """`dims[1:]`, `dims[:-1]`."""

    value: Expression
    start: Expression | None = None
    stop: Expression | None = None


@dataclass(frozen=True)
class Pipe(Node):
    """`x |> conv2d(64, k=3) |> batch_norm`."""

    source: Expression
    stages: tuple[Name | Index | Call, ...]


Expression: TypeAlias = (
    Name
    | Number
    | String
    | Constant
    | ListOf
    | TupleOf
    | Comprehension
    | Unary
    | Binary
    | Conditional
    | Call
    | Index
    | Slice
    | Pipe
)


# ---- patterns: what `for` binds


@dataclass(frozen=True)
class NamePattern(Node):
    """`i`."""

    name: str


@dataclass(frozen=True)
class TuplePattern(Node):
    """`i, (dim, depth)`."""

    items: tuple[Pattern, ...]


Pattern: TypeAlias = NamePattern | TuplePattern


# ---- types


@dataclass(frozen=True)
class Dimension(Node):
    """`n`, `2 * c`, `_`; in the inputs of a network also `h = 224`."""

    size: Expression
    default: Expression | None = None


@dataclass(frozen=True)
class Element(Node):
    """`int64` behind the shape of a tensor."""

    name: str


@dataclass(frozen=True)
class Tensor(Node):
    """`[n, c, h, w]`, `[n, l] int64`; without an element type it is float32."""

    dimensions: tuple[Dimension, ...]
    element: Element | None = None

    @property
    def dtype(self) -> str:
        return self.element.name if self.element else "float32"


@dataclass(frozen=True)
class PlainType(Node):
    """`int`, `float`, `bool`, `str`, `block`."""

    name: str


@dataclass(frozen=True)
class ListType(Node):
    """`list[int]`."""

    element: Type


@dataclass(frozen=True)
class TupleType(Node):
    """`tuple[int, float, str]`: a list of these kinds, one each."""

    elements: tuple[Type, ...]


@dataclass(frozen=True)
class OptionalType(Node):
    """`int?`, `[n, l]?`."""

    inner: Type


@dataclass(frozen=True)
class ChoiceType(Node):
    """`"relu" | "gelu"`, `int | list[int]`: one of these texts, or a value of one of these types."""

    options: tuple[str | Type, ...]


Type: TypeAlias = Tensor | PlainType | ListType | TupleType | OptionalType | ChoiceType


# ---- statements


@dataclass(frozen=True)
class Target(Node):
    """`stages[i]` on the left of `=`."""

    name: str
    indices: tuple[Expression, ...] = ()


@dataclass(frozen=True)
class Assign(Node):
    """`conv1 = ConvBN(x, c)`, `a, b = pair`."""

    targets: tuple[Target, ...]
    value: Expression


@dataclass(frozen=True)
class Initializer(Node):
    """`normal(0.02)`, `zeros`."""

    name: str
    argument: Expression | None = None


# "{len(dims)} dims"
@dataclass(frozen=True)
class Template(Node):
    """Text and expressions in turn; the expressions are evaluated when it is needed."""

    parts: tuple[str | Expression, ...]


@dataclass(frozen=True)
class Param(Node):
    """`param pos: [1, l, c] init normal(0.02)`; a `buffer` is not trained. `key` is its name in the checkpoint."""

    kind: str
    target: Target
    type: Tensor
    init: Initializer | None = None
    key: Template | None = None


@dataclass(frozen=True)
class Require(Node):
    """`require len(dims) == len(depths), "{len(dims)} dims for {len(depths)} depths"`."""

    condition: Expression
    message: Template | None = None


@dataclass(frozen=True)
class Ensure(Node):
    """`ensure k % 2 == 1, "k is {k}"`: what a block claims of itself, where `require` asks it of its caller."""

    condition: Expression
    message: Template | None = None


@dataclass(frozen=True)
class EnsureMerge(Node):
    """`ensure bn merges into conv2d`."""

    subject: Expression
    into: str


@dataclass(frozen=True)
class Return(Node):
    """`return x`, `return a, b`."""

    values: tuple[Expression, ...]


@dataclass(frozen=True)
class If(Node):
    """`if k > 1: ... elif ...: ... else: ...`."""

    branches: tuple[tuple[Expression, tuple[Statement, ...]], ...]
    otherwise: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class For(Node):
    """`for i, dim in enumerate(dims): ...`."""

    pattern: Pattern
    source: Expression
    body: tuple[Statement, ...]


Statement: TypeAlias = Assign | Param | Require | Ensure | EnsureMerge | Return | If | For


# ---- the file


# x: [n, c, h, w]    k: int = 3    mask: [n, l]? = none    *branches: [n, c, h, w]
@dataclass(frozen=True)
class Parameter(Node):
    """A variadic one is the list of all further arguments without a name."""

    name: str
    type: Type
    default: Expression | None = None
    variadic: bool = False

    @property
    def tensor(self) -> Tensor | None:
        """The type of the tensor that is given here, or of each where there are several; None: no tensor."""
        inner = self.type.inner if isinstance(self.type, OptionalType) else self.type
        return inner if isinstance(inner, Tensor) else None


# block Mixer(x: [n, c, h, w], expand: int = 2) -> [n, c, h, w]: ...
@dataclass(frozen=True)
class Definition(Node):
    """A block, or a network, which is a block that a file offers to be compiled. No result: whatever is returned.

    With `variadic`, the one result stands for a list of any length: `-> *[n, c, _, _]`.
    """

    kind: str
    name: str
    parameters: tuple[Parameter, ...]
    results: tuple[Tensor, ...]
    docstring: str | None
    body: tuple[Statement, ...]
    variadic: bool = False
    name_span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True)
class Variant(Node):
    """`m0_9: dims = [48, 96, 192, 384], depths = [2, 2, 14, 2]`."""

    name: str
    bindings: tuple[Keyword, ...]


@dataclass(frozen=True)
class Variants(Node):
    """`variants RepViT: ...`."""

    network: Name
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Renaming(Node):
    """`"backbone.*" -> "*"`."""

    old: str
    new: str


@dataclass(frozen=True)
class Rename(Node):
    """`rename RepViT: ...`: what a checkpoint calls a weight, and what the network calls it."""

    network: Name
    table: tuple[Renaming, ...]


@dataclass(frozen=True)
class Expectation(Node):
    """`params == 8.8M`."""

    quantity: Name
    comparison: str
    value: Expression


# check m1_1 with image = [1, 3, 224, 224]: ...    check RepViT.m1_1: ...
@dataclass(frozen=True)
class Check(Node):
    """`network` is empty where the text names a variant (or a network) alone."""

    network: str
    variant: Name
    bindings: tuple[Keyword, ...]
    expectations: tuple[Expectation, ...]


@dataclass(frozen=True)
class Use(Node):
    """`use std.conv: ConvBN, SqueezeExcite`."""

    module: tuple[str, ...]
    names: tuple[Name, ...]
    module_span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


Item: TypeAlias = Definition | Variants | Rename | Check


@dataclass(frozen=True)
class File(Node):
    """`specc 1`."""

    version: int
    docstring: str | None
    uses: tuple[Use, ...]
    items: tuple[Item, ...]

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """The blocks and networks, in order."""
        return tuple(item for item in self.items if isinstance(item, Definition))


def assigned_names(statements: tuple[Statement, ...]) -> frozenset[str]:
    """Every name that the statements may bind, in all branches and loops."""
    names: set[str] = set()
    for statement in statements:
        match statement:
            case Assign(targets):
                names |= {target.name for target in targets}
            case Param(target=target):
                names.add(target.name)
            case If(branches, otherwise):
                names |= assigned_names(otherwise).union(*(assigned_names(body) for _, body in branches))
            case For(pattern, _, body):
                names |= pattern_names(pattern) | assigned_names(body)
    return frozenset(names)


def pattern_names(pattern: Pattern) -> frozenset[str]:
    """The names that a pattern binds."""
    if isinstance(pattern, NamePattern):
        return frozenset({pattern.name})
    return frozenset().union(*map(pattern_names, pattern.items))
