"""Sizes with open dimensions: what is known of them only when they are run, as a plan and as functions in C.

The kernels take the values of open dimensions as arguments. What remains is where tensors lie, and how large they are:
the arena is a row of *lanes*, each as long as the longest of the tensors that lie in it one after the other, and which
these are follows from the order of the calls alone. The driver computes lengths, and the shapes of inputs and outputs,
when it is given the inputs' shapes. It refuses values at which a tensor would be empty or too large, or a slice would
read beyond its operand: what `infer` cannot know of an open dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from specc.backends.tvm.memory import Place, Plan, live, outside, plan
from specc.backends.tvm.program import Program, Storage
from specc.diagnostics import Diagnostic, Label, SpeccError, error
from specc.ir.body import symbols_of
from specc.ir.congruence import named
from specc.ir.dims import Dim, FloorDiv, floordiv, product
from specc.ir.dtypes import DTYPES
from specc.ir.graph import Graph, Node
from specc.ir.placement import aligned
from specc.ir.types import TensorType, block_of
from specc.targets import Target

MOST_ELEMENTS = 2**31 - 1
"""What a kernel can count."""

_TAKEN = ("reshape", "expand", "slice", "resize")
"""The operators whose attributes may hold open dimensions."""


@dataclass(frozen=True)
class Opening:
    """What a size leaves open.

    `at` has a value for each open dimension: those of the sample, with which a model begins. `most` is the greatest
    value that any of them may have. `where` says for each which axis of which input it is. `lanes` are the types of the
    tensors in each lane, `positive` what is at least 1 whenever it runs, `types` all tensors that there are.
    """

    at: Mapping[str, int]
    most: int
    where: tuple[tuple[int, int], ...]
    lanes: tuple[tuple[TensorType, ...], ...]
    positive: tuple[Dim, ...]
    types: tuple[TensorType, ...]

    @property
    def extents(self) -> int:
        """How many open dimensions there are."""
        return len(self.at)


def check(graph: Graph, target: Target, at: Mapping[str, int]) -> None:
    """Raises S0807 where the graph's dimensions in `at` cannot stay open on `target`."""
    if target.gpu:
        name = next(iter(at))
        inputs = [node for node in map(graph.node, graph.order()) if node.op == "input" and name in _open(node)]
        raise error(
            *("S0807", f"`{name}` cannot stay open for {target.name}: its kernels have fixed dimensions"),
            *(Label(node.span) for node in inputs[:1] if node.span),
            notes=(
                f"give it the numbers that it is to have, as `--shapes {name}=1 --shapes {name}=8`: they share weights",
            ),
        )
    found: dict[str, Node] = {}
    for node in map(graph.node, graph.order()):
        inside = [symbols_of(part) for part in (*node.types, *node.attrs.values())]
        if not any(inside) or node.op in ("input", "param"):
            continue
        attributes = any(map(symbols_of, node.attrs.values()))
        taken = node.record.elementwise or "open" in node.record.traits or node.op in ("constant", "convert_layout")
        if not taken or (attributes and node.op not in (*_TAKEN, "arange", "constant")):
            found.setdefault(node.op, node)
    if found:
        raise SpeccError(*(_refusal(graph, node) for node in found.values()))


def _open(node: Node) -> set[str]:
    """The open dimensions of a node's results."""
    return {name for type in node.types for name in symbols_of(type)}


def _refusal(graph: Graph, node: Node) -> Diagnostic:
    """What is said of an operator that takes no open dimension."""
    where = f" at `{node.path}`" if node.path else ""
    labels = [Label(node.span)] if node.span else []
    return error("S0807", f"`{node.op}`{where} of `{graph.name}` takes fixed dimensions alone", *labels).diagnostics[0]


def opened(
    program: Program, graph: Graph, at: Mapping[str, int], scratch: Iterable[TensorType] = ()
) -> tuple[Plan, Opening]:
    """The plan of a program with open dimensions, and what is computed when it runs.

    A place in the arena has the number of its lane; the plan's lengths are those at the sample. `scratch` are the
    tensors that kernels have beside those of the program.
    """
    here = fixed(program, at)
    places, copies = outside(here)
    slots, members = live(here, places)
    lanes: list[list[int]] = []
    for slot in sorted(range(len(slots)), key=lambda i: (-slots[i].size, slots[i].first, i)):
        free = (lane for lane in lanes if not any(slots[slot].meets(slots[other]) for other in lane))
        lane = next(free, None)
        if lane is None:
            lane = []
            lanes.append(lane)
        lane.append(slot)
    for number, lane in enumerate(lanes):
        places |= {storage: Place("arena", number) for slot in lane for storage in members[slot]}
    length = sum(aligned(max(slots[slot].size for slot in lane)) for lane in lanes)
    held = [tuple(dict.fromkeys(_type(program, s) for slot in lane for s in members[slot])) for lane in lanes]
    nodes = [graph.node(identity) for identity in graph.order()]
    everything = (*(type for node in nodes for type in node.types), *scratch)
    types = tuple(dict.fromkeys(type for type in everything if type.symbols()))
    positive = dict.fromkeys(dim for type in types for dim in type.shape if not isinstance(dim, int))
    for identity, node in zip(graph.order(), nodes):
        if node.op == "slice":
            extent = graph.type(graph.operands(identity)[0]).shape[node.attrs["axis"]]
            positive |= dict.fromkeys((node.attrs["start"] + 1, extent - node.attrs["stop"] + 1))
    known = tuple(dim for dim in positive if not isinstance(dim, int))
    opening = Opening(at, _most(types, known), _where(program, at), tuple(held), known, types)
    return Plan(places, copies, length, plan(here).least, ((0, 0),) * len(here.calls)), opening


def fixed(program: Program, at: Mapping[str, int]) -> Program:
    """The program with values for its open dimensions."""

    def each(types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return tuple(type.substitute(at) for type in types)

    calls = tuple(replace(call, types=each(call.types)) for call in program.calls)
    inputs, buffers, outputs = map(each, (program.inputs, program.buffers, program.outputs))
    return replace(program, inputs=inputs, buffers=buffers, outputs=outputs, calls=calls)


def _type(program: Program, storage: Storage) -> TensorType:
    return program.buffers[storage.number]


def _where(program: Program, at: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
    """For each open dimension, the input and the axis that it is; raises S0807 where there is none."""
    found: dict[str, tuple[int, int]] = {}
    for number, type in enumerate(program.inputs):
        for axis, dim in enumerate(type.shape):
            if (known := named(dim)) is not None:
                found.setdefault(known[0], (number, axis))
    for name in at:
        if name not in found:
            message = f"`{name}` cannot stay open: no input of `{program.name}` has a dimension that is {name} itself"
            raise error("S0807", message)
    return tuple(found[name] for name in at)


def _most(types: Iterable[TensorType], dims: Iterable[Dim]) -> int:
    """The greatest value of every dimension for which all that is computed stays below 2 ** 60."""
    everything = [*dims, *(type.elements for type in types)]
    most = MOST_ELEMENTS
    while any(_bound(dim, most) >= 2**60 for dim in everything):
        most //= 2
    return most


def _bound(dim: Dim, most: int) -> int:
    """What no step of computing `dim` exceeds where its symbols are at most `most`."""
    if isinstance(dim, int):
        return abs(dim)
    total = 0
    for atoms, coefficient in dim.terms:
        factors = (
            most if isinstance(a, str) else max(_bound(a.numerator, most), _bound(a.divisor, most)) for a in atoms
        )
        total += abs(coefficient) * math.prod(factors)
    return total


# ---- in C ------------------------------------------------------------------------------------------------------------


def tables(number: int, program: Program, opening: Opening, scratch: Iterable[Dim] | None = None) -> Iterable[str]:
    """What `c/driver.c` asks of the size of a number, as functions of the values `d` of its open dimensions.

    Kernels in C may have to do with a run of memory that does not grow: `scratch` are the bytes that each asks for.
    """
    place = {name: i for i, name in enumerate(opening.at)}
    outer = (*program.inputs, *program.outputs)
    extents = [dim for type in outer for dim in type.shape]
    elements = dict.fromkeys(type.elements for type in opening.types)
    yield f"static int holds{number}(const int64_t *d) {{"
    yield f"  return {' && '.join(f'{written(dim, place)} >= 1' for dim in opening.positive) or 1} &&"
    yield f"    {' && '.join(f'{written(count, place)} <= {MOST_ELEMENTS}' for count in elements) or 1};"
    yield "}"
    yield f"static void extents{number}(const int64_t *d, int64_t *extents) {{"
    yield from (f"  extents[{i}] = {written(dim, place)};" for i, dim in enumerate(extents))
    yield "}"
    yield f"static void lanes{number}(const int64_t *d, uint64_t *lanes) {{"
    for lane, types in enumerate(opening.lanes):
        yield f"  lanes[{lane}] = 0;"
        for type in types:
            physical = math.prod(type.physical) if not type.symbols() else None
            count = physical if physical is not None else written(_stored(type), place)
            yield f"  lengthen(&lanes[{lane}], {count} * {DTYPES[type.dtype]});"
    yield "  (void)d, (void)lanes;"
    yield "}"
    if scratch is not None:
        yield f"static uint64_t scratch{number}(const int64_t *d) {{"
        yield "  uint64_t most = 0;"
        yield from (f"  lengthen(&most, {written(bytes, place)});" for bytes in dict.fromkeys(scratch) if bytes != 0)
        yield "  (void)d;"
        yield "  return most;"
        yield "}"
    where = ", ".join(f"{{INPUT, {i}, {axis}}}" for i, axis in opening.where)
    yield f"static const operand where{number}[] = {{{where}}};"
    yield f"static const int64_t first{number}[] = {{{', '.join(map(str, opening.at.values()))}}};"
    items = ", ".join(str(DTYPES[type.dtype]) for type in outer)
    yield f"static const int32_t items{number}[] = {{{items}}};"
    yield f"static const opening opening{number} = {{"
    yield f"    {len(opening.at)}, {len(opening.lanes)}, {opening.most}, where{number}, first{number}, items{number},"
    yield f"    holds{number}, extents{number}, lanes{number}{'' if scratch is None else f', scratch{number}'}}};"


def room(types: Iterable[TensorType]) -> Dim:
    """The bytes of several tensors, each of which begins at a multiple of 64."""
    total: Dim = 0
    for type in types:
        total = total + floordiv(type.elements * DTYPES[type.dtype] + 63, 64) * 64
    return total


def _stored(type: TensorType) -> Dim:
    """The elements of a tensor as it is stored."""
    block = block_of(type.layout)
    if not block:
        return type.elements
    n, c, h, w = type.shape
    return product((n, floordiv(c + (block - 1), block) * block, h, w))


def written(dim: Dim, place: Mapping[str, int]) -> str:
    """A dimension in C, over an array `d` of values in which a name has its place."""
    if isinstance(dim, int):
        return str(dim)
    terms = []
    for atoms, coefficient in dim.terms:
        factors = [str(coefficient)] if coefficient != 1 or not atoms else []
        factors += [_atom(atom, place) for atom in atoms]
        terms.append(" * ".join(factors))
    return f"({' + '.join(terms)})"


def _atom(atom: str | FloorDiv, place: Mapping[str, int]) -> str:
    if isinstance(atom, str):
        return f"d[{place[atom]}]"
    return f"quotient({written(atom.numerator, place)}, {written(atom.divisor, place)})"
