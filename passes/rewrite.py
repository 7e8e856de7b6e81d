"""The matching engine: rules are data, and a rule that does not fire says why.

A rule is an equation, a pattern for its left side, and a function that builds the right side:

    def rewrite(m: Match) -> Value | None:
        if ...:
            raise Refused("the factor differs within a channel")
        return m.apply("conv2d", m["x"], m.apply("mul", m["w"], m["s"]), **m.node("conv").attrs)

    pattern = Op("mul", Op("conv2d", Var("x"), Frozen("w"), name="conv"), Frozen("s"))
    Rule("conv(x, w) * s => conv(x, w * s)", pattern, rewrite)

`rewrite_graph` applies rules to every node until none fires. Every match and every refusal goes into the journal, with
the reason, the place in the spec and the path, so that they can be shown to the author.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from specc.diagnostics import Span
from specc.ir.graph import Graph, Node, Value
from specc.ir.types import TensorType

COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum"})


@dataclass(frozen=True, slots=True)
class Event:
    """One match of a rule: it fired, or it was refused for `reason`.

    `bytes` is what need not be moved because of it, or would not have to be; None where a rule is not about traffic.
    """

    rule: str
    op: str
    path: str
    span: Span | None
    reason: str | None = None
    bytes: int | None = None

    @property
    def fired(self) -> bool:
        return self.reason is None

    def to_json(self) -> dict[str, object]:
        """A plain dictionary for `--json`."""
        place = str(self.span) if self.span else None
        about: dict[str, object] = {
            "rule": self.rule,
            "op": self.op,
            "path": self.path,
            "place": place,
            "refused": self.reason,
        }
        return about if self.bytes is None else {**about, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Computation:
    """A weight that the network computes from others: one thing, which the compiler does once, at no cost later.

    `op`, `path` and `span` are those of the node that gives the result, `operators` counts all nodes that take part,
    and `weights` are the checkpoint's keys that it reads.
    """

    op: str
    path: str
    span: Span | None
    operators: int
    weights: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """A plain dictionary for `--json`."""
        place = str(self.span) if self.span else None
        counts = {"operators": self.operators, "weights": list(self.weights)}
        return {"computed": self.op, "path": self.path, "place": place, **counts}


def computations(graph: Graph) -> list[Computation]:
    """The computed weights that live nodes and outputs take, in the order of the graph."""
    frozen = graph.frozen()
    taken = [operand for identity in graph.live() for operand in graph.operands(identity) if operand.node in frozen]
    taken += [value for value in graph.outputs if value.node in frozen]
    found = []
    for value in dict.fromkeys(taken):
        nodes = [graph.node(i) for i in sorted({value.node, *nx.ancestors(graph.structure, value.node)})]
        operators = sum("source" not in node.record.traits for node in nodes)
        keys = tuple(sorted(node.attrs["key"] for node in nodes if node.op == "param"))
        node = graph.node(value.node)
        if operators:
            found.append(Computation(node.op, node.path, node.span, operators, keys))
    return found


@dataclass
class Journal:
    """What a pass did, in order, and what it refused to do with the graph that came out."""

    events: list[Event] = field(default_factory=list)
    computed: list[Computation] = field(default_factory=list)
    """What it left to be computed once: it looked no further into these."""

    @property
    def fired(self) -> list[Event]:
        return [event for event in self.events if event.fired]

    @property
    def refused(self) -> list[Event]:
        return [event for event in self.events if not event.fired]


@dataclass(frozen=True, slots=True)
class Var:
    """Matches any value and binds it to `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Frozen:
    """Matches a value that depends on no input, and binds it to `name`."""

    name: str


@dataclass(frozen=True)
class Op:
    """Matches a result of an operator whose operands match `operands`; binds its node number to `name`.

    With `rest`, further operands are bound, as a tuple, to that name; without it there must be none. The operands of a
    commutative operator match in either order.
    """

    op: str | tuple[str, ...]
    operands: tuple[Pattern, ...]
    name: str
    rest: str | None = None

    def __init__(self, op: str | tuple[str, ...], *operands: Pattern, name: str = "", rest: str | None = None) -> None:
        for key, value in (("op", op), ("operands", operands), ("name", name), ("rest", rest)):
            object.__setattr__(self, key, value)


Pattern = Var | Frozen | Op


class Match(Mapping[str, Any]):
    """What a pattern bound, with shorthands to look at the graph and to build the right side of an equation.

    New nodes take the path and the span of the root, unless another node is named with `like`.
    """

    def __init__(self, graph: Graph, root: int, bound: dict[str, Any], frozen: set[int]) -> None:
        self.graph, self.root, self._bound, self._frozen = graph, root, bound, frozen
        self.times = 1
        """How often a rewrite applied its equation at this root; the journal has as many events."""

    def __getitem__(self, name: str) -> Any:
        return self._bound[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._bound)

    def __len__(self) -> int:
        return len(self._bound)

    def node(self, name: str) -> Node:
        return self.graph.node(self._bound[name])

    def type(self, value: Value) -> TensorType:
        return self.graph.type(value)

    def is_frozen(self, value: Value) -> bool:
        return value.node in self._frozen

    def apply(self, op: str, *operands: Value, like: int | None = None, **attrs: Any) -> Value:
        """A new node with the path and the span of node `like` (the root, where it is not said)."""
        origin = self.graph.node(self.root if like is None else like)
        value = self.graph.apply(op, operands, attrs, origin.path, origin.span)
        if all(operand.node in self._frozen for operand in operands):
            self._frozen.add(value.node)
        return value

    def constant(self, value: float, shape: tuple[Any, ...] = ()) -> Value:
        """A frozen number of the root's element type, repeated over `shape`."""
        dtype = self.graph.node(self.root).types[0].dtype
        return self.apply("constant", value=value, shape=shape, dtype=dtype)


class Refused(Exception):
    """Raised by a rewrite: the left side is there, and the equation does not hold or does not pay, for `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Rule:
    """`equation` names the rule; `rewrite` gives the value that takes the place of the root's result.

    It returns None where what the pattern could not express is not there either, and raises `Refused` where the left
    side is there and may not be replaced. What it built before is removed.
    """

    equation: str
    pattern: Op
    rewrite: Callable[[Match], Value | None]


def matches(graph: Graph, pattern: Op, root: int, frozen: set[int]) -> Match | None:
    """The first match of `pattern` whose root is the node `root`."""
    for bound in _match(graph, pattern, Value(root), frozen, {}):
        return Match(graph, root, bound, frozen)
    return None


def _match(
    graph: Graph, pattern: Pattern, value: Value, frozen: set[int], bound: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    if isinstance(pattern, (Var, Frozen)):
        if isinstance(pattern, Frozen) and value.node not in frozen:
            return
        if bound.get(pattern.name, value) == value:  # a name that stands twice means the same value
            yield {**bound, pattern.name: value}
        return
    wanted = (pattern.op,) if isinstance(pattern.op, str) else pattern.op
    if graph.op(value) not in wanted:
        return
    operands = graph.operands(value.node)
    if len(operands) < len(pattern.operands) or (len(operands) > len(pattern.operands) and not pattern.rest):
        return
    bound = {**bound, pattern.name: value.node} if pattern.name else bound
    if pattern.rest:
        bound = {**bound, pattern.rest: operands[len(pattern.operands) :]}
    orders = [operands]
    if graph.op(value) in COMMUTATIVE and len(operands) == 2:
        orders.append(operands[::-1])
    for order in orders:
        yield from _match_all(graph, pattern.operands, order, frozen, bound)


def _match_all(
    graph: Graph, patterns: Sequence[Pattern], values: Sequence[Value], frozen: set[int], bound: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    if not patterns:
        yield bound
        return
    for extended in _match(graph, patterns[0], values[0], frozen, bound):
        yield from _match_all(graph, patterns[1:], values[1:], frozen, extended)


def rewrite_graph(graph: Graph, rules: Sequence[Rule], journal: Journal | None = None) -> Graph:
    """A copy of `graph` in which no rule fires any more; nodes that became useless are gone.

    Frozen nodes are left alone: they cost nothing at run time. Terminates when every rule makes some measure of the
    graph smaller (its live nodes, or the depth at which scales and shifts stand), which each rule module argues for;
    rules that undo each other are an `AssertionError` after as many sweeps as the graph has nodes, and some more.
    """
    graph = graph.copy()
    graph.prune()  # a use in dead code is no use
    journal = journal if journal is not None else Journal()
    by_op: dict[str, list[Rule]] = {}
    for rule in rules:
        for op in (rule.pattern.op,) if isinstance(rule.pattern.op, str) else rule.pattern.op:
            by_op.setdefault(op, []).append(rule)
    changed = True
    refusals: list[Event] = []
    sweeps, most = 0, len(graph) + 100
    while changed:
        sweeps += 1
        latest = [event.rule for event in journal.events[-8:]]
        assert sweeps < most, f"rules undo each other: {', '.join(dict.fromkeys(latest))}"
        changed, refusals = False, []  # a refusal counts if it still stands in the last sweep
        frozen = set(graph.frozen())
        for identity in graph.order():
            if identity not in graph.structure or identity in frozen:
                continue
            for event in _fire(graph, by_op.get(graph.node(identity).op, []), identity, frozen):
                changed |= event.fired
                (journal.events if event.fired else refusals).append(event)
        graph.prune()
    journal.events += refusals
    return graph


def _fire(graph: Graph, rules: list[Rule], identity: int, frozen: set[int]) -> Iterator[Event]:
    """Tries `rules` on a node in order, until one fires."""
    node = graph.node(identity)
    for rule in rules if graph.uses(Value(identity)) else []:
        match = matches(graph, rule.pattern, identity, frozen)
        if match is None:
            continue
        try:
            result = rule.rewrite(match)
        except Refused as refusal:
            yield Event(rule.equation, node.op, node.path, node.span, refusal.reason)
            continue
        if result is None:
            continue
        made, needed = graph.type(result), node.types[0]
        assert made == needed, f"the rule `{rule.equation}` makes {made} where {needed} is needed"
        graph.replace(Value(identity), result)
        yield from itertools.repeat(Event(rule.equation, node.op, node.path, node.span), match.times)
        return
