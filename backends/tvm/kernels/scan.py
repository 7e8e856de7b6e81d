"""A scan in one kernel: a loop over the places of the sequences, inside of it the body, step by step.

    states = initial states
    for t in length (or from the end):
        slices of the sequences are copied out, the pieces of the body run one behind the other,
        results of the step are copied to their place, new states to the states
    last states

A piece of the body is what a kernel would be: a group of the fusion pass or a single node, written by the template that
takes it into the function that is here. What lies between the pieces are buffers of one step, small enough to stay in
the cache; weights are packed as the templates want them. What no step changes is computed once, in front of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Template, Tensor
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group, extract, pieces
from specc.backends.tvm.kernels import general
from specc.backends.tvm.packing import Packing
from specc.ir.body import Body
from specc.ir.graph import Value
from specc.ir.types import TensorType
from specc.targets import Target

Select = Callable[[Group, Target, Choices], Template]


@dataclass(frozen=True)
class _Piece:
    """A part of the body: its program, the values that it reads and makes, and how it is written."""

    group: Group
    operands: list[Value]
    results: list[Value]
    template: Template
    repeated: bool
    """Whether it runs at every step, and not once in front of the loop."""


def lower(
    group: Group, target: Target, choices: Choices, select: Select, writer: type[Scan] | None = None
) -> Template | None:
    """The template of a group that is a scan; None for another group.

    `select` chooses those of the body's pieces, `writer` writes the kernel.
    """
    steps = [step for step in group.steps if step.op != "constant"]
    if len(steps) != 1 or "body" not in steps[0].record.traits:
        return None
    (scan,) = steps
    body: Body = scan.attrs["body"]
    changing = scan.attrs["sequences"] + scan.attrs["states"]
    frozen = {
        source.node: operand
        for source, operand in zip(body.sources, scan.operands, strict=True)
        if operand < len(group.inputs) and group.inputs[operand].frozen and source.node in body.parameters.values()
    }
    parts = _parts(body, changing, frozenset(frozen), target, choices, select)
    packings: dict[int, Packing] = {}
    for part in parts:
        for number, packing in part.template.packings.items():
            packings[frozen[part.operands[number].node]] = packing
    made = writer or Scan
    return Template(lambda emitter: made(emitter, body, scan.operands, scan.attrs, parts).emit(), packings)


def _parts(
    body: Body, changing: int, frozen: frozenset[int], target: Target, choices: Choices, select: Select
) -> list[_Piece]:
    """The pieces of the body in an order in which they can run, those that run once first.

    A weight can be packed in one way alone: where two pieces want it in different forms, both read it as it is.
    """
    graph = body.graph
    varying = graph.dependents(body.sources[:changing])
    outputs = {value.node for value in graph.outputs}
    nodes = [
        i
        for i in graph.order()
        if graph.node(i).op not in ("input", "param") and (graph.node(i).op != "constant" or i in outputs)
    ]
    found: list[_Piece] = []
    for members in pieces(graph, nodes):
        group, operands, results = extract(graph, members, frozen)
        if results:
            repeated = any(member in varying for member in members)
            template = select(group, target, choices.part(f"piece{len(found)}"))
            found.append(_Piece(group, operands, results, template, repeated))
    plain: set[int] = set()
    while True:
        forms: dict[Value, set[Packing | None]] = {}
        for part in found:
            for number, operand in enumerate(part.operands):
                forms.setdefault(operand, set()).add(part.template.packings.get(number))
        clashing = {value for value, wanted in forms.items() if len(wanted) > 1}
        worse = {n for n, part in enumerate(found) if part.template.packings and clashing & {*part.operands}} - plain
        if not worse:
            return sorted(found, key=lambda part: part.repeated)
        plain |= worse
        found = [
            replace(p, template=general.lower(p.group, target, choices.part(f"piece{n}"))) if n in worse else p
            for n, p in enumerate(found)
        ]


class Scan:
    """Writes the kernel."""

    def __init__(
        self, emitter: Emitter, body: Body, operands: Sequence[int], attrs: dict[str, Any], parts: list[_Piece]
    ) -> None:
        self.emitter, self.body, self.graph, self.parts = emitter, body, body.graph, parts
        self.operands, self.attrs = operands, attrs
        self.sequences, self.states = attrs["sequences"], attrs["states"]
        self.buffers: dict[Value, Any] = {}

    def emit(self) -> None:
        emitter, group, sources = self.emitter, self.emitter.group, self.body.sources
        known = {number: self._operand(number) for number in dict.fromkeys(self.operands)}
        changing = self.sequences + self.states
        for source, number in zip(sources[changing:], self.operands[changing:], strict=True):
            if number < len(group.inputs):
                self.buffers[source] = emitter.buffers[number]
            else:
                self._copy(self._buffer(source), known[number])
        for source in sources[:changing]:
            self._buffer(source)
        for part in self.parts:
            for value in part.results:
                self._buffer(value)
        states = sources[self.sequences : changing]
        for source, number in zip(states, self.operands[self.sequences : changing], strict=True):
            self._copy(self._tensor(source), known[number])
        for part in self.parts:
            if not part.repeated:
                self._write(part)
        with emitter.serial(self._length()) as step:
            place = self._length() - 1 - step if self.attrs["reverse"] else step
            for source, number in zip(sources[: self.sequences], self.operands[: self.sequences], strict=True):
                axis = self.attrs["axis"] % group.type(number).rank
                self._copy(self._tensor(source), _at(known[number], axis, place))
            for part in self.parts:
                if part.repeated:
                    self._write(part)
            self._finish(place, states)
        carried = dict(enumerate(states, len(self.graph.outputs) - self.states))
        first = group.last - len(self.graph.outputs) + 1
        for position, number in enumerate(group.results):
            if number - first in carried:
                self._copy(emitter.result(position), self._tensor(carried[number - first]))

    def _length(self) -> int:
        axis: int = self.attrs["axis"]
        return self.emitter.group.type(self.operands[0]).concrete[axis]

    def _operand(self, number: int) -> Callable[..., Scalar]:
        """An operand of the scan: an input of the kernel, or a constant."""
        group = self.emitter.group
        if number < len(group.inputs):
            return self.emitter.input(number)
        attrs = group.step(number).attrs
        return lambda *index: self.emitter.math.const(attrs["value"], attrs["dtype"])

    def _buffer(self, value: Value) -> Tensor:
        type = self.graph.type(value)
        self.buffers[value] = self.allocate(type)
        return self._tensor(value)

    def allocate(self, type: TensorType) -> Any:
        """Memory for a tensor of one step."""
        return T.alloc_buffer(type.concrete, type.dtype)

    def _tensor(self, value: Value) -> Tensor:
        return Tensor(self.buffers[value], self.graph.type(value), self.emitter.simplify)

    def _write(self, part: _Piece) -> None:
        """The statements of a piece."""
        inner = Emitter(part.group, part.template.packings)
        inner.threads = False
        inner.buffers = [self.buffers[value] for value in part.operands]
        inner.outputs = [self.buffers[value] for value in part.results]
        part.template.write(inner)

    def _finish(self, place: Any, states: Sequence[Value]) -> None:
        """The results of a step go to their places, the new states take the place of the old ones."""
        group, graph = self.emitter.group, self.graph
        first = group.last - len(graph.outputs) + 1
        stacked, new = graph.outputs[: -self.states or None], graph.outputs[len(graph.outputs) - self.states :]
        for position, number in enumerate(group.results):
            if number - first < len(stacked):
                result = self.emitter.result(position)
                axis = self.attrs["axis"] % result.type.rank
                value = stacked[number - first]
                self._copy(_Row(result, axis, place, graph.type(value)), self._tensor(value))
        moved: dict[Value, Tensor] = {}
        for value, state in zip(new, states, strict=True):
            if value in states and value != state:  # it is about to be written over
                moved[value] = self._copied(value)
        for value, state in zip(new, states, strict=True):
            if value != state:
                self._copy(self._tensor(state), moved.get(value) or self._tensor(value))

    def _copied(self, value: Value) -> Tensor:
        type = self.graph.type(value)
        tensor = Tensor(self.allocate(type), type, self.emitter.simplify)
        self._copy(tensor, self._tensor(value))
        return tensor

    def _copy(self, target: Any, source: Callable[..., Scalar]) -> None:
        """All elements of `target`, vectors along the last dimension."""
        emitter, shape = self.emitter, target.type.concrete
        lanes = 16
        outer, last = shape[:-1], shape[-1] if shape else 1
        with emitter.serial(prod(outer)) as row:
            index: list[Any] = []
            rest: Any = row
            for extent in reversed(outer):
                rest, part = emitter.divmod(rest, extent)
                index.insert(0, part)
            for first, count, width in ((0, last // lanes, lanes), (last - last % lanes, 1, last % lanes)):
                if count and width:
                    with emitter.serial(count) as number, emitter.lanes(width) as lane:
                        point = (*index, first + number * lanes + lane) if shape else ()
                        emitter.store(target.buffer, source(*point), target.position(point))


@dataclass(frozen=True)
class _Row:
    """A place along one dimension of a tensor, written to."""

    tensor: Tensor
    axis: int
    place: Any
    type: TensorType

    @property
    def buffer(self) -> Any:
        return self.tensor.buffer

    def position(self, index: Index) -> list[Any]:
        return self.tensor.position((*index[: self.axis], self.place, *index[self.axis :]))


def _at(access: Callable[..., Scalar], axis: int, place: Any) -> Callable[..., Scalar]:
    """A tensor at a place along one dimension."""
    return lambda *index: access(*index[:axis], place, *index[axis:])
