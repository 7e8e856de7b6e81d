"""Several graphs on the same weights and inputs: what they have in common is computed once.

Forms of one network that are tried one against another differ in few of their layers. Their values are numbered: two
have the same number where the same operator with the same attributes makes them of values with the same numbers
(hash-consing), in whichever of the graphs they stand. A frozen value is computed once for each number, and a run of one
graph can begin with what a run of another has found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from specc.backends.torch.judge import as_array, as_tensor, freeze, run, taken
from specc.ir.array import Array
from specc.ir.graph import Graph, Value

Item = TypeVar("Item")
Result = TypeVar("Result")

Key = tuple[int, int]
"""The number of a node, and which of its results: the same for equal values of all graphs."""


@dataclass(frozen=True)
class Form:
    """A graph that is ready to run."""

    graph: Graph
    numbers: Mapping[int, int]
    frozen: Mapping[Value, Any]
    dtype: str
    half_sums: bool = False

    def key(self, value: Value) -> Key:
        """What `value` has in common with equal ones of other forms."""
        return self.numbers[value.node], value.result

    def values(self) -> list[Value]:
        """All that is computed with every run, in order."""
        live = [*self.graph.inputs, *self.graph.live()]
        return [Value(identity, result) for identity in live for result in range(len(self.graph.node(identity).types))]

    def observe(
        self,
        inputs: Mapping[str, Array],
        wanted: Collection[Value],
        known: Mapping[Key, Array] = MappingProxyType({}),
    ) -> Iterator[tuple[Value, Array]]:
        """The values `wanted`, one after the other; those that are `known` are not computed."""
        given = dict(self.frozen)
        for value in self.border(known):
            given[value] = torch.from_numpy(known[self.key(value)])
        for value, tensor in run(self.graph, {}, inputs, self.dtype, wanted, given, self.half_sums):
            yield value, as_array(tensor)

    def outputs(self, inputs: Mapping[str, Array], known: Mapping[Key, Array] = MappingProxyType({})) -> list[Array]:
        """The outputs of the graph."""
        found = dict(self.observe(inputs, set(self.graph.outputs), known))
        return [found[value] for value in self.graph.outputs]

    def border(self, known: Collection[Key]) -> list[Value]:
        """Those of the values `known` from which on the outputs have to be computed."""
        found: dict[Value, None] = {}
        seen: set[Value] = set()
        pending = list(self.graph.outputs)
        while pending:
            value = pending.pop()
            if value in seen or value in self.frozen:
                continue
            seen.add(value)
            if self.key(value) in known:
                found[value] = None
            else:
                pending += self.graph.operands(value.node)
        return list(found)


class Shared:
    """Graphs that take the same `weights`, computed in `dtype`, and with `half_sums` as `judge` says."""

    def __init__(self, weights: Mapping[str, Array], dtype: str = "float32", half_sums: bool = False) -> None:
        self._weights, self._dtype, self._half_sums = weights, dtype, half_sums
        self._numbers: dict[Any, int] = {}
        self._frozen: dict[Key, Any] = {}

    def form(self, graph: Graph) -> Form:
        """The graph, ready to run; what it freezes as graphs before it do is not computed again."""
        numbers = self._number(graph)
        values = taken(graph)
        missing = [value for value in values if (numbers[value.node], value.result) not in self._frozen]
        for value, array in freeze(graph, self._weights, missing).items():
            self._frozen[numbers[value.node], value.result] = as_tensor(array, self._dtype)
        frozen = {value: self._frozen[numbers[value.node], value.result] for value in values}
        return Form(graph, numbers, frozen, self._dtype, self._half_sums)

    def _number(self, graph: Graph) -> dict[int, int]:
        found: dict[int, int] = {}
        for identity in graph.order():
            node = graph.node(identity)
            operands = tuple((found[operand.node], operand.result) for operand in graph.operands(identity))
            key = (node.op, tuple(sorted(node.attrs.items(), key=lambda item: item[0])), operands)
            found[identity] = self._numbers.setdefault(key, len(self._numbers))
        return found


def side_by_side(call: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`call` of each of the items, in their order: as many of them at once as PyTorch has threads.

    Threads that share one operator wait for one another at its end, spinning. Where another program has one of the
    cores they all wait for that one, operator after operator; runs side by side do not.
    """
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(items)))
    own = threads // workers
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(own,)) as pool:
            yield from pool.map(call, items)
    finally:
        torch.set_num_threads(threads)
