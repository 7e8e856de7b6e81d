"""Fusion: a partition of the live nodes into groups; each group becomes one kernel.

A group is an anchor (a convolution, a matrix product, a reduction, or nothing) followed by elementwise nodes, its
epilogue, which are computed on the anchor's result while it is in registers. It has one result, the only value that
others read. A node joins the group of an operand when nobody else needs that operand and the shapes are equal; where
several operands would do, the one that is computed last. Since the operand has one user, no path leaves the group and
comes back: groups are convex by construction (and the verifier asks again).

Small matrix products behind a mean join as well: the two of a squeeze-excite are computed where their input is, since
starting another parallel region would take longer than the product itself.

A kernel writes an epilogue as one expression, in which `x * sigmoid(x)` names x several times; a chain of such
operators would grow with the power of its length, so a group ends where its expression would become too long.

A concat whose operands can be written where its result is read costs nothing as long as it is alone: nothing joins it.

What turns integers of 8 bits into numbers makes four times the bytes that it reads: it is computed where it is read, in
the group of its one user, rather than behind what made the integers.

A depthwise convolution joins the 1x1 convolution in front of it where the tensor between them would leave the cache, or
blocks of threads share memory (`expansion`). So does a 1x1 convolution the depthwise one in front of it (`separable`),
and on a processor a 1x1 convolution another one (`perceptron`), and a linear layer another one, with the norm in front
of the two (`perceptron_linear`).

Where both operands of an addition are made by 1x1 convolutions, one kernel takes the products of both (`addends`).

Views (reshape) cost nothing and stand in no group but for those between a permute and the slices behind it, which are
one (`moves`). Attention is a group of its own (`attention`).

What a group saves is traffic: each value inside of it that is neither written nor read again. `KINDS` says as data how
a node may stand behind what makes its operand: the pattern, and the reason for which no kernel takes both. Of several
places, a node takes the one that saves most, then the one computed last. The journal has every group and every refusal
with its bytes.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from specc.ir.cost import macs_of, nominal_bytes
from specc.ir.dtypes import DTYPES
from specc.ir.graph import Graph, Node, Value
from specc.ir.placement import joined
from specc.passes import addends, expansion, perceptron, perceptron_linear, scaled, separable, squeezed
from specc.passes.attention import attentions, rounds
from specc.passes.moves import chains
from specc.passes.rewrite import Event, Journal

SMALL_MACS = 1 << 17
"""Up to this many multiplications, a product behind another node of a group does not pay for a kernel of its own."""


MAX_NAMES = 500
"""How often the expression of an epilogue may name what it begins with: two functions such as tanh in a row, or eight
operators that name their operand twice. A chain of three tanh took TVM 4 s to compile, one of four 54 s."""

MAX_NODES = 64
"""The nodes of a group behind its first one."""


class _Names:
    """Stands for an expression, and knows how often it names its operands (see `KernelMath`)."""

    POLYNOMIAL = 16
    """What exp, erf, tanh and the like come to: a polynomial names its argument with every coefficient."""

    dtype = "float32"

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def _joined(self, *others: Any) -> _Names:
        return _Names(self.count + sum(other.count for other in others if isinstance(other, _Names)))

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _joined
    __floordiv__ = __mod__ = __lt__ = __le__ = __gt__ = __ge__ = __and__ = __or__ = _joined

    def __neg__(self) -> _Names:
        return self

    __invert__ = __neg__

    def __getattr__(self, function: str) -> Any:
        """The functions of `KernelMath`: `max(a, b)` names what its operands name."""
        if function in ("exp", "erf", "normal", "tanh", "sigmoid", "silu"):
            return lambda x: _Names(self.POLYNOMIAL * x.count)
        if function == "const":
            return lambda value, dtype: _Names()
        return lambda *operands: _Names()._joined(*operands)


def _names(graph: Graph, identity: int) -> int:
    """How often the expression of an elementwise node names an operand; 1 for any other node: its result is stored."""
    node = graph.node(identity)
    if node.record.scalar is None:
        return 1
    operands = [_Names(1) for _ in graph.operands(identity)]
    named: _Names = node.record.scalar(_Names(), *operands, **node.attrs)
    return max(1, named.count - len(operands) + 1)


@dataclass(frozen=True)
class Joint:
    """A node behind the node that makes one of its operands, and the group that this one is in."""

    graph: Graph
    node: int
    operand: Value
    anchor: str
    length: int
    """How often the expression of the group would name what it begins with."""
    size: int
    """The nodes that the group has behind its first one."""
    cache: int
    """The bytes of the second-level cache; 0 where kernels do not go by them."""
    blocks: bool
    """Whether blocks of threads have memory that they share."""
    members: Sequence[int]
    """The nodes of the group, in order."""

    @property
    def host(self) -> Node:
        return self.graph.node(self.operand.node)

    @property
    def user(self) -> Node:
        return self.graph.node(self.node)

    @property
    def bytes(self) -> int:
        """What need not be moved if both are one kernel: the operand, written and read."""
        return 2 * nominal_bytes(self.graph, self.operand)


@dataclass(frozen=True)
class Kind:
    """A way in which a kernel computes a node behind another one: `matches` is the pattern, `refusal` why not here."""

    name: str
    matches: Callable[[Joint], bool]
    refusal: Callable[[Joint], str | None]


def _sole(joint: Joint) -> str | None:
    uses = sum(joint.graph.uses(Value(joint.operand.node, result)) for result in range(len(joint.host.types)))
    if uses > 1:
        return f"what `{joint.host.op}` makes is used {uses} times, and a kernel keeps what it goes on with"
    if "body" in joint.host.record.traits:
        return f"`{joint.host.op}` runs a graph of its own"
    if written_in_place(joint.graph, joint.operand.node):
        return "the operands of `concat` are written where it is read: it moves nothing"
    return "the group has as many nodes as a kernel takes" if joint.size >= MAX_NODES else None


CONVERSIONS = frozenset({"quantize", "dequantize"})
"""Elementwise operators that make elements of another type, in the epilogue of a kernel too."""


CONVOLUTIONS = frozenset({"conv2d", "conv2d_integer"})
"""Operators whose kernels write any layout."""


def _same_shape(joint: Joint) -> str | None:
    made, needed = joint.graph.type(joint.operand), joint.user.types[0]
    converts = joint.user.op in CONVERSIONS or rounds(joint.graph, joint.node)
    if made.shape != needed.shape or (made.dtype != needed.dtype and not converts):
        return f"`{joint.host.op}` makes {made}, and this is {needed}"
    if joint.user.op == "convert_layout" and not (joint.host.record.elementwise or joint.host.op in CONVOLUTIONS):
        return f"the kernel of `{joint.host.op}` writes one layout"
    if joint.length > MAX_NAMES:
        return f"the expression would name what it begins with {joint.length} times, and compile too long"
    return _sole(joint)


def _unlike(joint: Joint) -> str | None:
    """Why a depthwise convolution does not join the 1x1 convolution that it reads."""
    return _sole(joint) or expansion.refusal(joint.graph, joint.members, joint.node, joint.cache)


def _is_separable(joint: Joint) -> bool:
    """Whether a node is a 1x1 convolution of what a depthwise convolution makes."""
    data, *_ = joint.graph.operands(joint.node)
    return data == joint.operand and separable.matches(joint.graph, joint.members, joint.node)


def _inseparable(joint: Joint) -> str | None:
    """Why a 1x1 convolution does not join the depthwise convolution that it reads."""
    return _sole(joint) or separable.refusal(joint.graph, joint.members, joint.node, joint.cache)


def _narrow(joint: Joint) -> str | None:
    """Why a 1x1 convolution does not join the 1x1 convolution that it reads."""
    return _sole(joint) or perceptron.refusal(joint.graph, joint.members, joint.node, joint.cache)


def _layers(joint: Joint) -> str | None:
    """Why a linear layer does not join the linear layer that it reads."""
    return _sole(joint) or perceptron_linear.refusal(joint.graph, joint.members, joint.node, joint.cache)


LAYERS = Kind(
    "perceptron",
    lambda joint: (
        bool(joint.cache) and perceptron_linear.matches(joint.graph, joint.members, joint.node, joint.operand)
    ),
    _layers,
)
"""Linear layers, to which a norm in front joins (`_join_norm`)."""


KINDS = (
    Kind("squeeze-excite", lambda joint: _has_mean(joint) and _is_small_product(joint), _sole),
    Kind(
        "mean",
        lambda joint: bool(joint.cache) and squeezed.matches(joint.graph, joint.members, joint.node),
        lambda joint: squeezed.refusal(joint.graph, joint.members, joint.node, joint.cache),
    ),
    Kind(
        "expansion",
        lambda joint: bool(joint.cache or joint.blocks) and expansion.matches(joint.graph, joint.anchor, joint.node),
        _unlike,
    ),
    Kind(
        "depthwise-separable convolution",
        lambda joint: bool(joint.cache or joint.blocks) and joint.anchor == "conv2d" and _is_separable(joint),
        _inseparable,
    ),
    Kind(
        "scaled convolution",
        lambda joint: bool(joint.cache) and scaled.matches(joint.graph, joint.members, joint.node),
        lambda joint: _sole(joint) or scaled.refusal(joint.graph, joint.members, joint.node, joint.cache),
    ),
    Kind(
        "perceptron",
        lambda joint: bool(joint.cache) and perceptron.matches(joint.graph, joint.members, joint.node, joint.operand),
        _narrow,
    ),
    LAYERS,
    Kind("conversion of layout", lambda joint: joint.user.op == "convert_layout", _same_shape),
    Kind("epilogue", lambda joint: joint.user.record.elementwise, _same_shape),
)
"""The first kind that matches decides."""


ADDENDS = Kind("sum of 1x1 convolutions", lambda joint: False, lambda joint: None)
"""How an addition's second operand is noted that is computed in the same kernel (`addends`)."""


def fuse(
    graph: Graph, epilogues: bool = True, journal: Journal | None = None, cache: int = 0, blocks: bool = False
) -> Graph:
    """`graph` with `group` set on every live node that computes; without `epilogues`, each in a group of its own.

    cache   bytes of the second-level cache: what is larger between two convolutions may make them one kernel
    blocks  kernels run in blocks of threads with memory that they share, as on a GPU: it may hold what is between two
    """
    graph = graph.copy()
    journal = journal if journal is not None else Journal()
    order = graph.order()
    place = {identity: position for position, identity in enumerate(order)}
    live = graph.live()
    lengths = {identity: _names(graph, identity) for identity in live}
    sizes: Counter[int] = Counter()
    anchors: dict[int, str] = {}
    grouped: dict[int, list[int]] = {}
    joint = attentions(graph, journal) if epilogues else []
    closed = {identity for members in joint for identity in members}
    moved = chains(graph, journal, closed) if epilogues and not blocks else []
    within = {identity for members in moved for identity in members}
    single = [i for i in live if i not in closed | within and "view" not in graph.node(i).record.traits]
    fronts = {i for i in single if _stands_in_front(graph, i)} if epilogues else set[int]()
    for group, members in enumerate([*([identity] for identity in single), *joint, *moved]):
        for identity in members:
            graph.update(identity, group=group)
        anchors[group], grouped[group] = graph.node(members[0]).op, list(members)
    for identity in single if epilogues else []:
        found: list[tuple[Joint, Kind]] = []
        for operand in dict.fromkeys(graph.operands(identity)):
            host = graph.node(operand.node).group
            if host is None or operand.node in closed or operand.node in fronts:
                continue
            elementwise = graph.node(identity).record.elementwise
            length = lengths[operand.node] * lengths[identity] if elementwise else 1
            candidate = Joint(
                graph, identity, operand, anchors[host], length, sizes[host], cache, blocks, grouped[host]
            )
            kind = next((kind for kind in KINDS if kind.matches(candidate)), None)
            reason = kind.refusal(candidate) if kind else None
            if kind and reason is None:
                found.append((candidate, kind))
            elif kind and reason:
                _note(journal, candidate, kind, reason)
        if found:
            taken, kind = max(found, key=lambda each: (each[0].bytes, place[each[0].operand.node]))
            joined = taken.host.group
            assert joined is not None
            for other, its in found:
                if other is not taken and _join_addends(journal, taken, other):
                    grouped[joined] = sorted([*grouped[joined], *other.members], key=place.__getitem__)
                    sizes[joined] += len(other.members)
                elif other is not taken:
                    _note(journal, other, its, f"it stands behind `{taken.host.op}`, which is computed later")
            _note(journal, taken, kind, None)
            lengths[identity] = taken.length
            sizes[joined] += 1
            grouped[joined].append(identity)
            graph.update(identity, group=joined)
            if kind is LAYERS:
                _join_norm(journal, graph, grouped[joined])
        if identity not in fronts:
            for front in fronts & {operand.node for operand in graph.operands(identity)}:
                _note_front(journal, graph, front)
                behind = graph.node(identity).group
                assert behind is not None
                insort(grouped[behind], front, key=place.__getitem__)
                graph.update(front, group=behind)
    return renumber(graph)


def _join_addends(journal: Journal, taken: Joint, other: Joint) -> bool:
    """Lets what makes an addition's `other` operand join the group that the addition is to stand in, if both operands
    are made by 1x1 convolutions, and one kernel takes both; whether it does."""
    graph, hosts = taken.graph, (taken.members, other.members)
    if not addends.matches(graph, hosts, taken.node):
        return False
    reason = addends.refusal(graph, hosts, taken.cache)
    _note(journal, other, ADDENDS, reason)
    if reason is None:
        for identity in other.members:
            graph.update(identity, group=taken.host.group)
    return reason is None


def _join_norm(journal: Journal, graph: Graph, members: list[int]) -> None:
    """Lets the norm join the linear layers `members` that they alone read, if there is one."""
    norm = perceptron_linear.norm_of(graph, members)
    if norm is not None:
        _note_front(journal, graph, norm)
        graph.update(norm, group=graph.node(members[0]).group)
        members.insert(0, norm)


def _stands_in_front(graph: Graph, identity: int) -> bool:
    """Whether a node is computed where its only user reads it, and not where its operand is made: it makes more bytes
    than it reads, and its operand is stored for others as well."""
    node = graph.node(identity)
    if node.op not in CONVERSIONS or graph.uses(Value(identity)) != 1 or Value(identity) in graph.outputs:
        return False
    ((user, _),) = graph.users(Value(identity))
    source = graph.operands(identity)[0]
    wider = DTYPES[node.types[0].dtype] > DTYPES[graph.type(source).dtype]
    return wider and graph.node(user).record.elementwise and graph.type(Value(user)).shape == node.types[0].shape


def _note_front(journal: Journal, graph: Graph, identity: int) -> None:
    (user, _), node = graph.users(Value(identity))[0], graph.node(identity)
    rule = f"prologue of {graph.node(user).op}"
    journal.events.append(Event(rule, node.op, node.path, node.span, bytes=2 * nominal_bytes(graph, Value(identity))))


def _note(journal: Journal, joint: Joint, kind: Kind, reason: str | None) -> None:
    node = joint.user
    journal.events.append(Event(f"{kind.name} of {joint.host.op}", node.op, node.path, node.span, reason, joint.bytes))


def written_in_place(graph: Graph, identity: int) -> bool:
    """Whether a node is a concat of values that are made for it, and lie one behind the other in its result."""
    node, operands = graph.node(identity), graph.operands(identity)
    if node.op != "concat":
        return False
    frozen, made = graph.frozen(), [_stored(graph, operand) for operand in operands]
    free = all(graph.op(v) not in ("input", "slice") and v.node not in frozen and _joined_once(graph, v) for v in made)
    types = [graph.type(operand) for operand in operands]
    return free and joined(types, node.types[0], node.attrs["axis"]) is not None


def _stored(graph: Graph, value: Value) -> Value:
    """The value whose bytes a view shows."""
    while "view" in graph.node(value.node).record.traits:
        value = graph.operands(value.node)[0]
    return value


def _joined_once(graph: Graph, value: Value) -> bool:
    """Whether a value is no output, and operand of no more than one concat."""
    concats = [user for user, _ in graph.users(value) if graph.node(user).op == "concat"]
    return value not in graph.outputs and len(concats) <= 1


def _has_mean(joint: Joint) -> bool:
    """Whether a group begins with a mean, or has one of the picture that it makes."""
    return joint.anchor == "mean" or any(joint.graph.node(member).op == "mean" for member in joint.members)


def _is_small_product(joint: Joint) -> bool:
    """Whether a node is a small product of weights with a tensor that has neither height nor width."""
    graph, node, operands = joint.graph, joint.user, joint.graph.operands(joint.node)
    shape = graph.type(joint.operand).shape
    if node.record.macs is None or operands[0] != joint.operand or any(extent != 1 for extent in shape[2:]):
        return False
    if not all(o.node in graph.frozen() for o in operands[1:]):
        return False
    macs = macs_of(graph, joint.node)
    return isinstance(macs, int) and macs <= SMALL_MACS


def renumber(graph: Graph) -> Graph:
    """The groups numbered 0, 1, ... in the order of their first nodes."""
    numbers: dict[int, int] = {}
    for identity in graph.order():
        group = graph.node(identity).group
        if group is not None:
            graph.update(identity, group=numbers.setdefault(group, len(numbers)))
    return graph
