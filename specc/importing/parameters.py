"""What differs between the bodies of a block --> its parameters, and what of it follows from other things.

A number that is the same in all bodies is written; one that follows from the block's input in all of them is written so
(`c`, `4 * c`); any other becomes a parameter, named as the argument that it is. A part that some bodies lack gets a
condition: about shapes where these force it (`s == 1 and out == c`), else a flag.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from specc import ops
from specc.grammar import syntax as s
from specc.grammar import writer
from specc.grammar.literals import extents, literal
from specc.importing.blocks import ABSENT, Block, Shared
from specc.importing.scopes import Ref
from specc.ir.dims import Dim, symbol
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.ops.calls import same
from specc.ops.record import REQUIRED

DIMENSIONS = {5: "ncdhw", 4: "nchw", 3: "nlc", 2: "nc", 1: "n", 0: ""}
_FACTORS = (2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Callee:
    """An operator as the value of an argument."""

    name: str


@dataclass
class Parameter:
    """A compile-time parameter of a block: its values in the bodies, its type, and its default, if any."""

    values: list[Any]
    type: str
    kind: str
    default: Any = REQUIRED


@dataclass
class Emitted:
    """A block as text: its definition, and its parameters in order."""

    definition: s.Definition
    parameters: dict[str, Parameter]


class Parameters:
    """The names, the dimensions and the parameters of a block, found while its calls ask for their arguments."""

    def __init__(
        self,
        block: Block,
        name: str,
        callees: dict[str, Emitted],
        names: dict[str, str],
        kind: str,
        graph: Graph | None,
    ) -> None:
        self.block, self.name, self.callees, self.names, self.kind = block, name, callees, names, kind
        self.graph = graph
        self.steps = block.steps
        self.count = len(block.bodies)
        heads = {shared.one.path.split(".")[0] for shared in self.steps if shared.one.owns}
        self.taken = writer.Names(iter({*heads, "x", "y", "z", "i", *callees, name}))
        self.heads = heads
        self.parameters: dict[str, Parameter] = {}
        self.inputs = self._input_names()
        self.dims = self._dimensions()
        self.conditions: dict[tuple[bool, ...], s.Expression] = {}
        self.channels = self._result_channels()

    # ---- names

    def _input_names(self) -> list[str]:
        if self.graph is not None:
            return [self.graph.node(i).attrs["name"] for i in self.graph.inputs]
        letters = [n for n in ("x", "y", "z", *(f"x{i}" for i in range(3, 99)))]
        return letters[: len(self.block.inputs)]

    def _dimensions(self) -> dict[str, list[Dim]]:
        """The names of the inputs' dimensions, and what they are in each body."""
        found: dict[str, list[Dim]] = {}
        self.shapes: list[list[str]] = []
        if self.graph is not None:
            return {name: [symbol(name)] for name in sorted(self.graph.symbols())}
        for number in range(len(self.block.inputs)):
            letters = DIMENSIONS.get(self.block.inputs[number].rank) or [
                f"d{i}" for i in range(self.block.inputs[number].rank)
            ]
            shape = []
            for axis, letter in enumerate(letters):
                extents = [body.inputs[number].shape[axis] for body in self.block.bodies]
                same = next((n for n, known in found.items() if known == extents and n.startswith(letter)), None)
                clash = letter == "c" and "c" in self.heads
                name = same or self.taken.fresh("inputs" if clash else letter)
                found[name] = extents
                shape.append(name)
            self.shapes.append(shape)
        return found

    def _result_channels(self) -> list[Any]:
        kind, number = self.block.results[0]
        shapes = [self._type((kind, number), j) for j in range(self.count)]
        if any(t is None or t.rank < 2 for t in shapes):
            return []
        return [t.shape[1] if t.rank == 4 else t.shape[-1] for t in shapes if t is not None]

    def _type(self, ref: Ref, body: int) -> TensorType | None:
        kind, number = ref
        if kind == "input":
            return self.block.bodies[body].inputs[number]
        if kind == "step":
            step = self.steps[number].steps[body]
            standin = self.steps[number].standin
            return step.type if step else self._type(standin, body) if standin else None
        return None

    # ---- values

    def solve(
        self, values: Sequence[Any], hint: str, kind: str, default: Any = REQUIRED, owner: str = ""
    ) -> s.Expression:
        """The expression of an argument that has these values in the bodies (ABSENT where the call is not made).

        `owner` is a word for the call, which tells its parameter from another of the same name.

        kind is "extent" for what may follow from the shapes, "callee" for operators, else a kind of `Argument`.
        """
        known = [value for value in values if value is not ABSENT]
        if kind in ("ints", "axes"):
            ranks = {len(value) for value in known}
            if len(ranks) == 1:
                columns = [[v if v is ABSENT else v[i] for v in values] for i in range(ranks.pop())]
                return s.ListOf(tuple(self.solve(column, hint, "extent") for column in columns))
        if kind == "extent" and self.kind == "block":
            derived = self._derived(values, known)
            if derived is not None:
                return derived
        if all(same(value, known[0]) for value in known):
            if len(known) < len(values):  # a part that some lack: what varies with it says more than the number
                varied = [
                    n for n, p in self.parameters.items() if p.kind == kind and n == hint and _fits(p.values, values)
                ]
                if varied:
                    return s.Name(varied[0])
            return written(known[0], kind)
        return s.Name(self._parameter(values, hint, kind, default, owner))

    def _derived(self, values: Sequence[Any], known: Sequence[Any]) -> s.Expression | None:
        """`c`, `4 * c`, `c // 2`, `out`: what holds in all bodies."""
        varied = any(value != known[0] for value in known)
        pairs = {name: list(extents) for name, extents in self.dims.items()}
        pairs |= {name: p.values for name, p in self.parameters.items() if p.kind == "extent"}
        fits: list[tuple[str, list[tuple[Any, Any]]]] = []
        for name, column in pairs.items():
            both = [(v, e) for v, e in zip(values, column, strict=True) if v is not ABSENT]
            if any(e is ABSENT for _, e in both):
                continue
            fits.append((name, both))
            if all(v == e for v, e in both) and (varied or not isinstance(known[0], int) or known[0] > 4):
                return s.Name(name)
        for factor in _FACTORS:
            for name, both in fits:
                if not all(isinstance(v, int) and isinstance(e, int) and e >= 8 for v, e in both):
                    continue
                if all(v == factor * e for v, e in both):
                    return s.Binary("*", literal(factor), s.Name(name))
                if varied and all(v * factor == e for v, e in both):
                    return s.Binary("//", s.Name(name), literal(factor))
        return None

    def _parameter(self, values: Sequence[Any], hint: str, kind: str, default: Any, owner: str) -> str:
        for name, parameter in self.parameters.items():
            if parameter.kind == kind and _fits(parameter.values, values):
                parameter.values = [a if b is ABSENT else b for a, b in zip(parameter.values, values)]
                return name
        if kind == "extent" and hint == "out" and not _fits(self.channels, values):
            hint = "hidden"
        if hint in self.parameters and owner:
            hint = f"{owner}_{hint}"
        name = self.taken.fresh(hint)
        known = [value for value in values if value is not ABSENT]
        if default is not REQUIRED and not any(same(value, default) for value in known):
            default = REQUIRED
        self.parameters[name] = Parameter(list(values), _type_name(known), kind, default)
        return name

    def _arguments(self, shared: Shared) -> dict[str, s.Expression]:
        """The arguments of the calls that a step makes in the bodies."""
        if shared.one.kind == "block":
            return self._block_arguments(
                shared, {p: [step.args[p] if step else ABSENT for step in shared.steps] for p in self._of(shared)}
            )
        record = ops.get(shared.one.callee)
        found: dict[str, s.Expression] = {}
        for argument in record.signature:
            if not any(step and argument.name in step.args for step in shared.steps):
                continue
            default = REQUIRED if argument.default is REQUIRED else ops.normal_form(argument, argument.default)
            values = [ABSENT if step is None else step.args.get(argument.name, default) for step in shared.steps]
            kind = argument.kind.removesuffix("?")
            if kind in ("int", "dim") and argument.name not in ("axis", "step", "start"):
                kind = "extent"
            found[argument.name] = self.solve(values, argument.name, kind, default, _word(shared.one.path))
        return found

    def _of(self, shared: Shared) -> dict[str, Parameter]:
        return self.callees[self.names[shared.one.callee]].parameters

    def _block_arguments(self, shared: Shared, columns: dict[str, list[Any]]) -> dict[str, s.Expression]:
        found: dict[str, s.Expression] = {}
        for name, parameter in self._of(shared).items():
            values = columns[name]
            if parameter.default is not REQUIRED:
                known = [value for value in values if value is not ABSENT]
                if all(same(value, parameter.default) for value in known):
                    continue
            owner = _word(shared.one.path) or _word(self.names[shared.one.callee])
            found[name] = self.solve(values, name, parameter.kind, parameter.default, owner)
        return found

    # ---- conditions

    def _condition(self, shared: Shared) -> s.Expression:
        mask = shared.mask
        inverse = tuple(not there for there in mask)
        if mask not in self.conditions and inverse in self.conditions:
            self.conditions[mask] = s.Unary("not", self.conditions[inverse])
        if mask not in self.conditions:
            forced = shared.standin is not None and self._forced(shared)
            condition = self._about_shapes(mask) if forced else None
            if condition is None:
                head = shared.one.path.split(".")[0] or shared.one.callee
                name = self.taken.fresh(f"with_{head}" if not head.isdigit() else "whole")
                self.parameters[name] = Parameter(list(mask), "bool", "bool")
                condition = s.Name(name)
            self.conditions[mask] = condition
        return self.conditions[mask]

    def _forced(self, shared: Shared) -> bool:
        """Whether shapes decide: the part changes the shape of its stand-in, or it adds what could not be added."""
        assert shared.standin is not None
        changes, impossible = True, True
        for j in range(self.count):
            standin = self._type(shared.standin, j)
            step = shared.steps[j]
            if step is not None:
                changes &= step.type != standin
            else:
                impossible &= len({self._type(ref, j) for ref in shared.operands}) > 1
        return changes or impossible

    def _about_shapes(self, mask: tuple[bool, ...]) -> s.Expression | None:
        atoms: list[tuple[s.Expression, s.Expression, list[bool]]] = []
        channels = [name for name in self.dims if name.startswith("c")]
        if "out" in self.parameters and channels:
            same = [a == b for a, b in zip(self.parameters["out"].values, self.dims[channels[0]])]
            atoms.append((s.Name("out"), s.Name(channels[0]), same))
        for name, parameter in self.parameters.items():
            if name.startswith("s") and parameter.kind in ("pair", "int"):
                still = [value in (1, (1, 1)) for value in parameter.values]
                atoms.append((s.Name(name), literal(1), still))
        for left, right, same in atoms:
            if tuple(same) == mask:
                return s.Binary("==", left, right)
            if tuple(not b for b in same) == mask:
                return s.Binary("!=", left, right)
        if len(atoms) >= 2:
            both = tuple(all(column) for column in zip(*(same for *_, same in atoms[:2])))
            parts = [(left, right) for left, right, _ in reversed(atoms[:2])]
            if both == mask:
                equal = [s.Binary("==", *part) for part in parts]
                return s.Binary("and", equal[0], equal[1])
            if tuple(not b for b in both) == mask:
                other = [s.Binary("!=", *part) for part in parts]
                return s.Binary("or", other[0], other[1])
        return None


def written(value: Any, kind: str) -> s.Expression:
    """A value as an argument: an operator by its name, pairs and paddings in their shortest form."""
    if isinstance(value, Callee):
        return s.Name(value.name)
    if kind in ("pair", "padding"):
        return extents(value)
    if kind.startswith("list "):
        return s.ListOf(tuple(written(item, kind.removeprefix("list ")) for item in value))
    return literal(value)


def _word(name: str) -> str:
    """The word by which a call is known: `fc1` of `mlp.fc1`, `squeeze` of `SqueezeExcitation`."""
    tail = name.rpartition(".")[2]
    match = re.match(r"[A-Z]?[a-z0-9]+", tail)
    return match[0].lower() if match and not tail.isdigit() else ""


def _fits(known: Sequence[Any], values: Sequence[Any]) -> bool:
    """Whether two lists of values agree wherever both have one, and they do so somewhere."""
    both = [(a, b) for a, b in zip(known, values) if a is not ABSENT and b is not ABSENT]
    return bool(both) and all(same(a, b) for a, b in both)


def _type_name(values: Sequence[Any]) -> str:
    value = values[0]
    match value:
        case Callee():
            return "block"
        case bool():
            return "bool"
        case float():
            return "float"
        case str():
            return "str"
        case tuple() if len(set(map(str, value))) > 1 or any(len(set(map(str, v))) > 1 for v in values):
            return "list[int]"
        case None:
            return "int?"
    return "int"
