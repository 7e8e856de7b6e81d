"""Numbers of 16 bits: the factors of convolutions and matrix products are rounded, and sums stay float32.

    conv2d(x, w, b)  ->  conv2d(cast(x) {dtype=bfloat16}, cast(w) {dtype=bfloat16}, b)

So are those of attention's two products. Whatever reads a tensor of 16 bits computes in float32: sums of products,
norms, softmax, activations and residual sums do not round. (Some cores add up products of float16 in
float16, a run at a time: `specc.ir.sums`.) A bfloat16 has the range of a float32 and 8 bits of it, a float16 11 bits
and a range up to 65504.

A value is rounded where it is computed, in the kernel that computes it: what only moves elements on the way to a layer
moves those of 16 bits. And it is stored so for everyone: others read the same 16 bits. So half of the bytes move, and
residual sums read rounded values. Where another one needs the float32 (a result of the network, a concatenation with
others that are not rounded), both are stored.

The greatest element of a window is one of its elements, and rounding keeps their order: what a `max_pool2d` reads is
rounded in place of what it gives, which comes to the same, and it reads 16 bits.

A layer stays as it is where it does not compute in float32, and where it reads less than four channels, as the first of
a network does: its operand is an input, in float32. Where the machine is faster in 16 bits (`pictures`), a dense
convolution of so few channels is a layer like any other if it has enough weights. Small layers stay, too: fusion
computes them where they are read. The journal has the reason of each.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import partial

from specc.ir.cost import nominal
from specc.ir.dtypes import HALVES
from specc.ir.graph import Graph, Node, Value
from specc.passes import narrow
from specc.passes.narrow import Narrowing
from specc.passes.rewrite import Journal

LAYERS = ("conv2d", "linear", "matmul")
"""The operators whose first two operands are rounded."""

LEAST_CHANNELS = 4
"""An operand of fewer channels is a picture, mostly: an input of the network, in float32."""


def _refusal(graph: Graph, identity: int, macs: int | None = None) -> str | None:
    x, weight = graph.operands(identity)[:2]
    kinds = {graph.type(value).dtype for value in (x, weight)}
    if "float32" not in kinds:
        return f"it computes with {' and '.join(sorted(kinds))}"
    if kinds - {"float32", *HALVES}:
        return f"it computes in {' and '.join(sorted(kinds))}"
    node = graph.node(identity)
    channels = graph.type(x).shape[1] if node.op == "conv2d" else graph.type(x).shape[-1]
    dense = node.op == "conv2d" and node.attrs["groups"] == 1
    if macs is not None and dense and nominal(graph.type(weight).elements, graph.defaults) > macs:
        return None
    return narrow.channels(channels) if channels in range(LEAST_CHANNELS) else None


HALVING = Narrowing("layer of float32 => layer of 16 bits", LAYERS, _refusal)


def pictures(macs: int) -> Narrowing:
    """`HALVING` where convolutions of fewer than four channels are faster in 16 bits if all channels of a pixel of the
    result take more than `macs` products."""
    return replace(HALVING, refusal=partial(_refusal, macs=macs))


def halve(
    graph: Graph,
    dtype: str,
    layers: Collection[int] | None = None,
    journal: Journal | None = None,
    narrowing: Narrowing = HALVING,
) -> Graph:
    """The graph with the factors of `layers` (all candidates where they are not named) rounded to `dtype`."""
    journal = journal if journal is not None else Journal()
    rewriting = _Halving(graph.copy(), dtype)
    for identity in narrowing.candidates(graph, journal):
        if layers is None or identity in layers:
            node = graph.node(identity)
            rewriting.layer(identity)
            narrowing.note(journal, node)
    rewriting.share()
    rewriting.graph.prune()
    return rewriting.graph


@dataclass
class _Halving:
    graph: Graph
    dtype: str
    rounded: dict[Value, Value] = field(default_factory=dict)
    """By value, the same of 16 bits."""

    def layer(self, identity: int) -> None:
        """Lets a layer read factors of 16 bits."""
        for position, value in enumerate(self.graph.operands(identity)[:2]):
            self.graph.set_operand(identity, position, self._round(value))

    def _known(self, value: Value) -> Value | None:
        return value if self.graph.type(value).dtype in HALVES else self.rounded.get(value)

    def _round(self, value: Value) -> Value:
        """`value` of 16 bits, behind all that it is moved from: those are stacked, as nothing bounds their number."""
        graph, waiting = self.graph, [value]
        while waiting:
            each = waiting[-1]
            node, moves = graph.node(each.node), _moves(graph, each.node) or self._picks(each)
            operands = graph.operands(each.node) if moves and self._known(each) is None else ()
            missing = [operand for operand in operands if self._known(operand) is None]
            waiting += reversed(missing)
            if missing:
                continue
            waiting.pop()
            if self._known(each) is not None:
                continue
            if moves:
                halves = [self._known(operand) or operand for operand in operands]
                made = graph.apply(node.op, halves, dict(node.attrs), node.path, node.span)
                made = Value(made.node, each.result)
                self.rounded[each] = made if graph.type(made).dtype in HALVES else self._cast(made, node)
            else:
                self.rounded[each] = self._cast(each, node)
        return self._known(value) or value

    def _cast(self, value: Value, node: Node) -> Value:
        return self.graph.apply("cast", [value], {"dtype": self.dtype}, node.path, node.span)

    def _picks(self, value: Value) -> bool:
        """Whether a value has the greatest elements of windows of another one, which nobody else reads."""
        graph = self.graph
        if graph.op(value) != "max_pool2d" or value in graph.outputs:
            return False
        (operand,) = graph.operands(value.node)
        others = {Value(user) for user, _ in graph.users(operand)} - {value, self.rounded.get(operand)}
        return operand not in graph.outputs and not others

    def share(self) -> None:
        """Lets everyone read the 16 bits of a value where they exist, if nobody needs more of it."""
        graph = self.graph
        graph.prune()  # nobody needs most of what only moved what layers read
        own = {value.node for value in self.rounded.values()}
        for value, half in reversed(self.rounded.items()):  # what moves elements stands behind what it moves
            if not {value.node, half.node} <= graph.structure.nodes.keys():
                continue
            if graph.is_frozen(value.node) or graph.op(value) == "input" or not self._serves(value, own):
                continue
            for user, position in graph.users(value):
                if user not in own:
                    graph.set_operand(user, position, half)
        graph.prune()
        graph.infer()

    def _serves(self, value: Value, own: Collection[int]) -> bool:
        """Whether all who read a value could read it rounded to 16 bits."""
        graph = self.graph
        seen, waiting = {value}, [value]
        while waiting:
            each = waiting.pop()
            if each in graph.outputs:
                return False
            for user, _ in graph.users(each):
                node = graph.node(user)
                if user in own or self._idle(user) or "any" not in node.record.classes(len(graph.operands(user))):
                    continue
                if not _moves(graph, user) or len(graph.operands(user)) > 1:
                    return False
                behind = {Value(user, result) for result in range(len(node.types))} - seen
                seen |= behind
                waiting += behind
        return True

    def _idle(self, identity: int) -> bool:
        """Whether nobody needs what a node makes any more."""
        seen, waiting = {identity}, [identity]
        while waiting:
            node = waiting.pop()
            for value in (Value(node, result) for result in range(len(self.graph.node(node).types))):
                if value in self.graph.outputs:
                    return False
                behind = {user for user, _ in self.graph.users(value)} - seen
                seen |= behind
                waiting += behind
        return True


def _moves(graph: Graph, identity: int) -> bool:
    """Whether a node only moves elements, so that it moves those of 16 bits as well."""
    node = graph.node(identity)
    joins = node.op == "concat" or (node.op == "pad" and not node.attrs["value"])
    return joins or "movement" in node.record.traits
