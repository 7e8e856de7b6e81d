"""Lowering: a graph after its passes -> kernels, packed weights, and a program that calls the one with the other.

Every group of the graph becomes a kernel, every node outside of a group one of its own; equal groups share one, and
what no output needs has none. A view of a plainly stored tensor is no kernel: its operand's storage is its own. Nor is
a concat or a slice whose operands lie where its result is read (`sharing`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from specc.backends.tvm.choices import NOTHING, Configuration
from specc.backends.tvm.cuda.select import lower as lower_for_gpu
from specc.backends.tvm.emitter import Kernel, Template, kernel_of
from specc.backends.tvm.group import Group, extract, pieces
from specc.backends.tvm.kernels import select
from specc.backends.tvm.kernels.winograd_plan import CHOICE
from specc.backends.tvm.memory import Plan, plan
from specc.backends.tvm.opening import Opening, check, fixed, opened
from specc.backends.tvm.packing import Packing, of_type
from specc.backends.tvm.program import Call, Program, Storage
from specc.backends.tvm.sharing import share
from specc.backends.tvm.teams import alone
from specc.ir import placement
from specc.ir.array import Array
from specc.ir.bits import to_bits
from specc.ir.body import symbols_of
from specc.ir.cost import fixed as number
from specc.ir.cost import macs_of
from specc.ir.dims import substitute
from specc.ir.dtypes import HALVES
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType, block_of
from specc.targets import Target

Filter = tuple[tuple[tuple[str, Any], ...], tuple[int, ...]]
"""What a convolution at one size has in common with itself at another: its attributes and the shape of its weights."""


@dataclass(frozen=True)
class Size:
    """A network at one size: `plan` says where the tensors of `program` lie, `weights` which of all weights are those
    that it calls its own, by number. `opening` is there where dimensions are open, `program` having symbols then."""

    program: Program
    plan: Plan
    weights: tuple[int, ...]
    opening: Opening | None = None

    @property
    def sampled(self) -> Program:
        """The program, open dimensions having the values that they have in the sample."""
        return fixed(self.program, self.opening.at) if self.opening else self.program


@dataclass(frozen=True)
class Lowered:
    """A network at one size or at several: `kernels` are the functions that the programs call, by name, `weights` the
    packed arrays that they read. `configurations` are those of the kernels whose cost model was overruled; `outdated`
    names the kernels whose configuration is none of their template's (any more)."""

    sizes: tuple[Size, ...]
    kernels: Mapping[str, Kernel]
    weights: list[Array]
    groups: Mapping[str, Group]
    """What each kernel computes."""
    configurations: Mapping[str, Configuration]
    outdated: tuple[str, ...]
    tiles: Mapping[Filter, str]
    """The tiles for which weights are transformed (`kernels/winograd`), as far as that was decided."""

    @property
    def arena(self) -> int:
        """The bytes of an arena that is large enough for every size."""
        return max(size.plan.arena for size in self.sizes)


def join(parts: Sequence[Lowered]) -> Lowered:
    """The sizes of all `parts` in one: kernels of equal structure are one, and so are weights of equal bytes."""
    kernels: dict[str, Kernel] = {}
    numbers: dict[tuple[str, tuple[int, ...], bytes], int] = {}
    weights: list[Array] = []
    sizes: list[Size] = []
    groups: dict[str, Group] = {}
    configurations: dict[str, Configuration] = {}
    for part in parts:
        kernels |= part.kernels
        groups |= part.groups
        configurations |= part.configurations
        now = []
        for array in part.weights:
            digest = hashlib.blake2b(array.reshape(-1).view(np.uint8).data, digest_size=32).digest()
            number = numbers.setdefault((array.dtype.name, array.shape, digest), len(weights))
            if number == len(weights):
                weights.append(array)
            now.append(number)
        sizes += [replace(size, weights=tuple(now[number] for number in size.weights)) for size in part.sizes]
    outdated = tuple(sorted({name for part in parts for name in part.outdated}))
    tiles = {key: tile for part in reversed(parts) for key, tile in part.tiles.items()}
    return Lowered(tuple(sizes), kernels, weights, groups, configurations, outdated, tiles)


@dataclass(frozen=True)
class Made:
    """What several lowerings of one graph, for one target, have in common."""

    kernels: dict[tuple[str, frozenset[tuple[str, Any]]], tuple[Kernel, bool]] = field(default_factory=dict)
    """By name and configuration: the kernel, and whether the configuration is one of its template's."""
    weights: dict[tuple[Value, Packing], Array] = field(default_factory=dict)
    programs: list[tuple[Program, Program, Plan]] = field(default_factory=list)
    """As the groups have it, then with storages shared, and the plan of that."""


def lower(
    graph: Graph,
    target: Target,
    frozen: Mapping[Value, Array],
    configurations: Mapping[str, Configuration] = MappingProxyType({}),
    made: Made | None = None,
    at: Mapping[str, int] = MappingProxyType({}),
    tiles: Mapping[Filter, str] = MappingProxyType({}),
) -> Lowered:
    """The kernels and the program of a graph; `frozen` holds what needs no input, logically.

    `configurations` overrule the cost models of the kernels that they name. `made` is filled, and used, by lowerings of
    the same graph. `at` has a value for each dimension that is not fixed, which the network's callers give later.
    Raises S0807 where that cannot be. `tiles` are those of the network at another size, which its weights are shared
    with.
    """
    graph = graph.copy()
    graph.prune()
    if at:
        check(graph, target, at)
    return _Lowering(graph, target, frozen, configurations, made or Made(), at, tiles).run()


@dataclass
class _Lowering:
    graph: Graph
    target: Target
    arrays: Mapping[Value, Array]
    configurations: Mapping[str, Configuration]
    made: Made
    at: Mapping[str, int]
    given_tiles: Mapping[Filter, str]
    tiles: dict[Filter, str] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    """The groups that may need a kernel, by its name."""
    kernels: dict[str, Kernel] = field(default_factory=dict)
    outdated: set[str] = field(default_factory=set)
    weights: dict[tuple[Value, Packing], tuple[Storage, Array]] = field(default_factory=dict)
    buffers: list[TensorType] = field(default_factory=list)
    storages: dict[Value, Storage] = field(default_factory=dict)
    """Where inputs, views and the results of groups lie."""

    def run(self) -> Lowered:
        graph = self.graph
        self.frozen = self._known()
        live = [i for i in graph.order() if i not in self.frozen and graph.node(i).op != "input"]
        inputs = [Value(identity) for identity in graph.inputs]
        self.storages = {value: Storage("input", number) for number, value in enumerate(inputs)}
        calls = []
        for piece in pieces(graph, live):
            if self._is_view(piece):
                (identity,) = piece
                (source,) = graph.operands(identity)
                self.storages[Value(identity)] = self._operand(source, of_type(graph.type(source)))
            else:
                calls.append(self._call(piece))
        results = tuple(self._operand(value, of_type(graph.type(value))) for value in graph.outputs)
        arrays = [array for _, array in self.weights.values()]
        program = Program(
            graph.name,
            tuple(graph.node(identity).attrs["name"] for identity in graph.inputs),
            tuple(graph.output_names),
            tuple(map(graph.type, inputs)),
            tuple(array.nbytes for array in arrays),
            tuple(self.buffers),
            tuple(calls),
            tuple(map(graph.type, graph.outputs)),
            results,
        )
        opening = None
        if self.at:
            scratch = [type for call in calls for type in self._kernel(call.kernel).scratch]
            places, opening = opened(program, graph, self.at, scratch)
        else:
            program, places = self._planned(program)
        kernels = {call.kernel: self._kernel(call.kernel) for call in program.calls}
        program = replace(program, alone=not opening and alone(program, kernels, self.target))
        taken = {n: c for n, c in self.configurations.items() if n in kernels and n not in self.outdated}
        groups = {name: self.groups[name] for name in kernels}
        outdated = tuple(sorted(self.outdated & kernels.keys()))
        size = Size(program, places, tuple(range(len(arrays))), opening)
        return Lowered((size,), kernels, arrays, groups, taken, outdated, self.tiles)

    def _planned(self, program: Program) -> tuple[Program, Plan]:
        """The program with its storages shared, and their places."""
        for before, shared, places in self.made.programs:
            if before == program:
                return shared, places
        shared = share(program)
        self.made.programs.append((program, shared, plan(shared)))
        return self.made.programs[-1][1:]

    def _known(self) -> frozenset[int]:
        """The nodes that depend neither on an input nor on a dimension that is open."""
        known: set[int] = set()
        for identity in self.graph.order():
            node = self.graph.node(identity)
            fixed = not any(map(symbols_of, (*node.types, *node.attrs.values())))
            if fixed and node.op != "input" and all(o.node in known for o in self.graph.operands(identity)):
                known.add(identity)
        return frozenset(known)

    def _call(self, piece: list[int]) -> Call:
        group, outside, values = extract(self.graph, piece, self.frozen)
        name = self._name(group)
        joins, begins = self._moves(piece)
        moves = joins is not None or begins is not None
        packings = map(of_type, (i.type for i in group.inputs)) if moves else self._kernel(name).packings
        operands = tuple(self._operand(value, packing) for value, packing in zip(outside, packings, strict=True))
        temporaries = () if moves else self._kernel(name).temporaries
        over = () if moves else self._kernel(name).overwrites
        types = [*map(self.graph.type, values), *temporaries]
        results = tuple(Storage("buffer", len(self.buffers) + number) for number in range(len(types)))
        self.storages |= zip(values, results)
        self.buffers += types
        overwrites = tuple(number for number in over if operands.count(operands[number]) == 1)
        macs = {identity: number(substitute(macs_of(self.graph, identity), self.at)) for identity in piece}
        most = max(piece, key=lambda identity: macs[identity])
        chief, factors = self.graph.node(most), self.graph.operands(most)
        return Call(
            name,
            operands,
            results,
            overwrites,
            joins,
            begins,
            chief.path,
            group.title,
            sum(macs.values()),
            chief.span,
            self.graph.type(factors[0]).dtype if factors and macs[most] else "",
            tuple(operand.type for operand in group.inputs),
            () if group.symbols else tuple(map(group.read, range(len(operands)))),
        )

    def _moves(self, piece: list[int]) -> tuple[tuple[int, ...] | None, int | None]:
        """`joins` and `begins` of the call that a piece becomes; such a call takes its operands as their types say."""
        node, operands = self.graph.node(piece[0]), self.graph.operands(piece[0])
        types = [self.graph.type(operand) for operand in operands]
        if len(piece) > 1 or len(set(operands)) < len(operands) or any(o.node in self.frozen for o in operands):
            return None, None
        if node.op == "concat":
            return placement.joined(types, node.types[0], node.attrs["axis"]), None
        return None, placement.begin(types[0], node.types[0], node.attrs) if node.op == "slice" else None

    def _is_view(self, piece: list[int]) -> bool:
        node = self.graph.node(piece[0])
        if len(piece) > 1:
            return False
        if node.op == "convert_layout":
            return _lies_alike(self.graph.type(self.graph.operands(piece[0])[0]), node.types[0])
        return "view" in node.record.traits and not node.types[0].layout

    def _name(self, group: Group) -> str:
        """The name of the kernel of `group`."""
        digest = hashlib.blake2b(repr(group).encode(), digest_size=6).hexdigest()
        name = f"{group.title[:60]}_{digest}"
        self.groups[name] = group
        return name

    def _kernel(self, name: str) -> Kernel:
        """The kernel called `name`."""
        if name not in self.kernels:
            configuration = self.configurations.get(name, NOTHING)
            key = (name, frozenset(configuration.items()))
            if key not in self.made.kernels:
                self.made.kernels[key] = self._write(name, configuration)
            self.kernels[name], holds = self.made.kernels[key]
            if not holds:
                self.outdated.add(name)
        return self.kernels[name]

    def _write(self, name: str, configuration: Configuration) -> tuple[Kernel, bool]:
        """The kernel called `name`, and whether it has the configuration: it must be one of its template's."""
        group = self.groups[name]
        template = self._template(group, configuration)
        holds = not configuration or template.configuration == configuration
        if not holds:
            template = self._template(group, NOTHING)
        target = self.target
        kernel = kernel_of(group, template, target.form, target.conversions, target.keeps_nan)
        return replace(kernel, function=kernel.function.with_attr("global_symbol", name)), holds

    def _template(self, group: Group, configuration: Configuration) -> Template:
        lower = lower_for_gpu if self.target.gpu else select.lower
        key = _filter(group)
        agreed = {CHOICE: self.given_tiles[key]} if key and key in self.given_tiles else {}
        template = lower(group, self.target, {**agreed, **configuration})
        if key and CHOICE in template.configuration:
            self.tiles.setdefault(key, str(template.configuration[CHOICE]))
        return template

    def _operand(self, value: Value, packing: Packing) -> Storage:
        """Where a value lies: a frozen one as the weight that holds it in the form that a kernel takes."""
        if value.node not in self.frozen:
            return self.storages[value]
        key = (value, packing)
        if key not in self.weights:
            if key not in self.made.weights:
                dtype, array = self.graph.type(value).dtype, packing.apply(np.asarray(self.arrays[value]))
                self.made.weights[key] = to_bits(array, dtype) if dtype in HALVES and not packing.wide else array
            self.weights[key] = (Storage("weight", len(self.weights)), self.made.weights[key])
        return self.weights[key][0]


def _lies_alike(before: TensorType, after: TensorType) -> bool:
    """Whether a tensor of one place in whole blocks of channels lies as it does plainly, or the other way round."""
    blocks = [block_of(kind.layout) for kind in (before, after) if kind.layout]
    return (
        not before.symbols() and before.shape[2:] == (1, 1) and all(before.concrete[1] % block == 0 for block in blocks)
    )


def _filter(group: Group) -> Filter | None:
    """That of a group whose anchor is a convolution."""
    if group.anchor is None or group.step(group.anchor).op != "conv2d":
        return None
    step = group.step(group.anchor)
    return step.attributes, group.type(step.operands[1]).concrete
