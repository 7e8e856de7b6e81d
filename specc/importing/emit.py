"""Blocks --> definitions of the language: what differs between the bodies of a block becomes its parameters.

A number that is the same in all bodies is written; one that follows from the block's input in all of them is written so
(`c`, `4 * c`); any other becomes a parameter, named as the argument that it is. A part that some bodies lack gets a
condition: about shapes where these force it (`s == 1 and out == c`), else a flag.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from specc import ops
from specc.grammar import syntax as s
from specc.grammar import writer
from specc.grammar.literals import extents, literal
from specc.importing.blocks import ABSENT, Block, Shared, is_activation
from specc.importing.scopes import Ref, Step
from specc.ir.dims import Dim, symbol
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.ops.record import REQUIRED

DIMENSIONS = {5: "ncdhw", 4: "nchw", 3: "nlc", 2: "nc", 1: "n", 0: ""}
_LONGEST = 3
"""Calls that stand in one another on a line, at most."""
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


def emit(
    block: Block,
    name: str,
    callees: dict[str, Emitted],
    names: dict[str, str],
    kind: str = "block",
    graph: Graph | None = None,
) -> Emitted:
    """The definition of a block called `name`; `callees` are the definitions of those that it calls.

    A network's inputs are declared as `graph` has them.
    """
    return _Emitter(block, name, callees, names, kind, graph).definition()


class _Emitter:
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
        self._unroll()
        self.steps = block.steps
        self.count = len(block.bodies)
        heads = {shared.one.path.split(".")[0] for shared in self.steps if shared.one.owns}
        self.taken = writer.Names(iter({*heads, "x", "y", "z", "i", *callees, name}))
        self.heads = heads
        self.parameters: dict[str, Parameter] = {}
        self.inputs = self._input_names()
        self.dims = self._dimensions()
        self.conditions: dict[tuple[bool, ...], s.Expression] = {}
        self.values: dict[int, s.Expression] = {}
        self.depth: dict[int, int] = {}
        self.uses = Counter(ref for ref in self._refs() if ref[0] == "step")
        self.channels = self._result_channels()

    def _refs(self) -> Iterator[Ref]:
        for shared in self.steps:
            yield from shared.operands
            yield from shared.shared.values()
            if shared.standin:
                yield shared.standin
        yield from self.block.results

    # ---- loops that are few enough to be written one by one

    def _unroll(self) -> None:
        steps: list[Shared] = []
        moved: dict[int, int] = {}

        def here(ref: Ref) -> Ref:
            return ("step", moved[ref[1]]) if ref[0] == "step" else ref

        for number, shared in enumerate(self.block.steps):
            shared = replace(
                shared,
                operands=[here(ref) for ref in shared.operands],
                shared={role: here(ref) for role, ref in shared.shared.items()},
                standin=here(shared.standin) if shared.standin else None,
            )
            if shared.one.kind != "loop" or self._is_loop(shared):
                moved[number] = len(steps)
                steps.append(shared)
                continue
            for turn in range(len(shared.one.turns)):
                columns = [step and _turn(step, turn) for step in shared.steps]
                source = shared.operands if turn == 0 else [("step", len(steps) - 1)]
                steps.append(Shared(columns, list(source), {}, shared.standin))
            moved[number] = len(steps) - 1
        self.block.steps = steps
        self.block.results = [here(ref) for ref in self.block.results]

    def _is_loop(self, shared: Shared) -> bool:
        counts = {len(step.turns) for step in shared.steps if step}
        if len(counts) > 1:
            return True
        (count,) = counts
        if count <= 3:
            return False
        irregular = [p for p in self.callees[self.names[shared.one.callee]].parameters if self._form(shared, p) is None]
        return len(irregular) <= 2

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
        if kind == "ints":
            ranks = {len(value) for value in known}
            if len(ranks) == 1:
                columns = [[v if v is ABSENT else v[i] for v in values] for i in range(ranks.pop())]
                return s.ListOf(tuple(self.solve(column, hint, "extent") for column in columns))
        if kind == "extent" and self.kind == "block":
            derived = self._derived(values, known)
            if derived is not None:
                return derived
        if all(_same(value, known[0]) for value in known):
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
        if default is not REQUIRED and not any(_same(value, default) for value in known):
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
                if all(_same(value, parameter.default) for value in known):
                    continue
            owner = _word(shared.one.path) or _word(self.names[shared.one.callee])
            found[name] = self.solve(values, name, parameter.kind, parameter.default, owner)
        return found

    # ---- loops

    def _form(self, shared: Shared, parameter: str) -> Any:
        """What the values of a parameter in a loop's turns are: "same", "first" and others, or a rule of `_RULES`."""
        rows = [[turn[parameter] for turn in step.turns] for step in shared.steps if step]
        if all(all(_same(v, row[0]) for v in row) for row in rows):
            return "same"
        booleans = all(isinstance(v, bool) for row in rows for v in row)
        if booleans:
            for form, rule in _RULES.items():
                if all(v == rule(i) for row in rows for i, v in enumerate(row)):
                    return form
        if all(all(_same(v, row[1]) for v in row[1:]) for row in rows if len(row) > 1):
            return "first"
        return None

    def _loop(self, number: int, shared: Shared) -> Iterator[s.Statement]:
        """`for i in range(depth): blocks[i] = Block(x, ...)`, and `x = blocks[i]`."""
        index = s.Name("i")
        lists: dict[str, s.Expression] = {}
        found: dict[str, s.Expression] = {}
        for name, parameter in self._of(shared).items():
            form = self._form(shared, name)
            rows = [[turn[name] for turn in step.turns] if step else None for step in shared.steps]
            if form in _RULES:
                found[name] = _rule(form)
            elif form in ("same", "first"):
                first = [row[0] if row else ABSENT for row in rows]
                later = [row[1] if row and len(row) > 1 else ABSENT for row in rows]
                if form == "same":
                    known = [value for value in first if value is not ABSENT]
                    if parameter.default is not REQUIRED and all(_same(v, parameter.default) for v in known):
                        continue
                    found[name] = self.solve(first, name, parameter.kind, parameter.default)
                else:
                    sides = [self.solve(v, name, parameter.kind, parameter.default) for v in (first, later)]
                    condition = s.Binary("==", index, literal(0))
                    found[name] = sides[0] if sides[0] == sides[1] else s.Conditional(sides[0], condition, sides[1])
            else:
                columns = [ABSENT if row is None else tuple(row) for row in rows]
                each = self.taken.fresh(name)
                columnrows = [row for row in rows if row is not None]
                if all(row == columnrows[0] for row in columnrows):
                    lists[each] = s.ListOf(tuple(written(v, parameter.kind) for v in columnrows[0]))
                else:
                    listed = self.taken.fresh(f"{name}s")
                    self.parameters[listed] = Parameter(columns, f"list[{parameter.type}]", f"list {parameter.kind}")
                    lists[each] = s.Name(listed)
                found[name] = s.Name(each)
        counts = [ABSENT if step is None else len(step.turns) for step in shared.steps]
        source = self._value(shared.operands[0])
        carried = s.Name(self.taken.fresh("y") if self._read_later(number) else "x")
        if source != carried:
            yield s.Assign((s.Target(carried.name),), source)
        pattern: s.Pattern = s.NamePattern("i")
        if lists:
            names = [s.NamePattern(name) for name in lists]
            inner: s.Pattern = names[0] if len(names) == 1 else s.TuplePattern(tuple(names))
            pattern = s.TuplePattern((pattern, inner))
            values = list(lists.values())
            zipped = values[0] if len(values) == 1 else s.Call(s.Name("zip"), tuple(values))
            iterated: s.Expression = s.Call(s.Name("enumerate"), (zipped,))
        else:
            iterated = s.Call(s.Name("range"), (self.solve(counts, "depth", "int"),))
        place = writer.target(shared.one.path)
        start = shared.one.start
        where = index if not start else s.Binary("+", index, literal(start))
        target = s.Target(place.name, (*place.indices, where))
        call = s.Call(
            s.Name(self.names[shared.one.callee]),
            (carried, *self._positional(shared, found)),
            self._named(shared, found),
        )
        member: s.Expression = s.Index(writer.reference(shared.one.path), where)
        yield s.For(pattern, iterated, (s.Assign((target,), call), s.Assign((s.Target(carried.name),), member)))
        self.values[number] = carried

    def _read_later(self, number: int) -> bool:
        """Whether the variable `x`, the first input, is read behind step `number`."""
        later = [r for shared in self.steps[number + 1 :] for r in [*shared.operands, *shared.shared.values()]]
        later += [shared.standin for shared in self.steps[number + 1 :] if shared.standin]
        return ("input", 0) in [*later, *self.block.results] and "x" in self.inputs

    # ---- calls

    def _positional(self, shared: Shared, found: dict[str, s.Expression]) -> list[s.Expression]:
        required = [n for n, p in self._of(shared).items() if p.default is REQUIRED]
        leading = [n for n in required if self._of(shared)[n].kind == "extent"]
        return [found[name] for name in leading]

    def _named(self, shared: Shared, found: dict[str, s.Expression]) -> tuple[s.Keyword, ...]:
        leading = [n for n, p in self._of(shared).items() if p.default is REQUIRED and p.kind == "extent"]
        return tuple(s.Keyword(name, value) for name, value in found.items() if name not in leading)

    def _call(self, shared: Shared, operands: list[s.Expression]) -> s.Expression:
        step = shared.one
        found = self._arguments(shared)
        if step.kind == "block":
            positional = (*operands, *self._positional(shared, found))
            return s.Call(s.Name(self.names[step.callee]), positional, self._named(shared, found))
        if is_activation(step):
            callees = [ABSENT if other is None else Callee(other.callee) for other in shared.steps]
            function = self.solve(callees, "act", "callee")
            assert isinstance(function, s.Name)
            if function.name in ops.OPERATORS:
                return writer.call(ops.get(function.name), operands, {})
            return s.Call(function, tuple(operands))
        found |= {role: self._value(ref) for role, ref in shared.shared.items()}
        return writer.call(ops.get(step.callee), operands, found)

    def _value(self, ref: Ref) -> s.Expression:
        kind, number = ref
        if kind == "number":
            return number  # type: ignore[no-any-return]
        return s.Name(self.inputs[number]) if kind == "input" else self.values[number]

    # ---- pipes

    def _pipes(self) -> dict[int, list[int]]:
        """Chains of the members `path.0` to `path.k` of a container, by their last step."""
        found: dict[int, list[int]] = {}
        paths = {shared.one.path: number for number, shared in enumerate(self.steps) if self._pipeable(shared)}
        for path in paths:
            prefix, _, last = path.rpartition(".")
            if last != "0":
                continue
            chain = [paths[path]]
            while (name := f"{prefix}.{len(chain)}".lstrip(".")) in paths:
                following = paths[name]
                if self.steps[following].operands != [("step", chain[-1])] or self.uses["step", chain[-1]] > 1:
                    break
                if self.steps[following].mask != self.steps[chain[0]].mask:
                    break
                chain.append(following)
            owned = [n for n, other in enumerate(self.steps) if other.one.owns and _inside(other.one, prefix)]
            whole = set(owned) <= set(chain)
            if whole and (len(chain) > 1 or not prefix) and any(self.steps[number].one.owns for number in chain):
                found[chain[-1]] = chain
        return found

    def _pipeable(self, shared: Shared) -> bool:
        step = shared.one
        if step.kind not in ("operator", "block") or len(shared.operands) != 1 or shared.shared:
            return False
        return step.kind == "block" or step.callee not in ("neg", *writer.ARITHMETIC)

    # ---- the definition

    def definition(self) -> Emitted:
        body = list(self._statements())
        results = tuple(
            self.values[number] if kind == "step" else self._value((kind, number))
            for kind, number in self.block.results
        )
        body.append(s.Return(results))
        parameters = [
            s.Parameter(name, writer.tensor([s.Dimension(s.Name(n)) for n in shape], type_.dtype))
            for name, shape, type_ in zip(self.inputs, self.shapes, self.block.inputs)
        ]
        if self.graph is not None:
            parameters = list(writer.input_parameters(self.graph))
            body = writer.requirements(self.graph) + body
        ordered = sorted(self.parameters.items(), key=lambda item: _rank(item[1]))
        self.parameters = dict(ordered)
        for parameter in self.parameters.values():  # a body that lacks the part takes any value
            known = [value for value in parameter.values if value is not ABSENT]
            idle = known[0] if parameter.default is REQUIRED else parameter.default
            parameter.values = [idle if value is ABSENT else value for value in parameter.values]
        for name, parameter in ordered:
            default = None if parameter.default is REQUIRED else written(parameter.default, parameter.kind)
            parameters.append(s.Parameter(name, _type(parameter.type), default))
        tensors = tuple(self._declared(ref) for ref in self.block.results)
        definition = s.Definition(self.kind, self.name, tuple(parameters), tensors, None, tuple(body))
        return Emitted(definition, self.parameters)

    def _declared(self, ref: Ref) -> s.Tensor:
        types = [self._type(ref, j) for j in range(self.count)]
        rank = types[0].rank if types[0] else 0
        dims = []
        for axis in range(rank):
            values = [t.shape[axis] if t else ABSENT for t in types]
            known = {n: list(e) for n, e in self.dims.items()} | {
                n: p.values for n, p in self.parameters.items() if p.kind == "extent"
            }
            letters = DIMENSIONS.get(rank, "?" * rank)
            names = [n for n, extents in known.items() if extents == values]
            best = next((n for n in names if n == letters[axis]), names[0] if names else None)
            plain = all(isinstance(v, int) and v == values[0] for v in values) and axis == rank - 1 and rank == 2
            expression = s.Name(best) if best else literal(values[0]) if plain else s.Name("_")
            dims.append(s.Dimension(expression))
        return writer.tensor(dims, types[0].dtype if types[0] else "float32")

    def _statements(self) -> Iterator[s.Statement]:
        pipes = self._pipes()
        inside = {number for chain in pipes.values() for number in chain[:-1]}
        for number, shared in enumerate(self.steps):
            if number in inside:
                continue
            if shared.one.kind == "loop":
                yield from self._loop(number, shared)
            elif shared.one.kind == "param":
                yield self._param(number, shared)
            else:
                yield from self._step(number, shared, pipes.get(number, [number]))

    def _step(self, number: int, shared: Shared, chain: list[int]) -> Iterator[s.Statement]:
        first = self.steps[chain[0]]
        operands = [self._value(ref) for ref in first.operands]
        depth = 1 + max((self.depth.get(ref[1], 0) for ref in first.operands if ref[0] == "step"), default=0)
        path = shared.one.path
        if len(chain) > 1 or (path.isdigit() and shared.one.owns):
            stages = tuple(self._stage(self.steps[n]) for n in chain)
            value: s.Expression = s.Pipe(operands[0], stages)
            path = path.rpartition(".")[0]
        else:
            value = self._call(shared, operands)
        owns = any(self.steps[n].one.owns for n in chain)
        if not shared.always and shared.standin is not None:
            value = s.Conditional(value, self._condition(shared), self._value(shared.standin))
            depth = _LONGEST
        if path == "" and owns:  # the block's own scope: what it returns
            self.values[number] = value
            return
        if not owns and self.uses["step", number] == 1 and depth < _LONGEST:
            self.values[number], self.depth[number] = value, depth
            return
        if not owns and self.block.results == [("step", number)] and self.uses["step", number] == 1:
            self.values[number] = value
            return
        if owns:
            target, self.values[number] = writer.target(path), writer.reference(path)
        else:
            tail = path.rpartition(".")[2]
            plain = tail if tail and not tail.isdigit() and tail not in self.heads else shared.one.callee
            name = self.taken.fresh(plain if plain not in self.heads else f"{plain}_")
            target, self.values[number] = s.Target(name), s.Name(name)
        line = s.Assign((target,), value)
        if owns and not shared.always and shared.standin is None:  # what lacks it has another thing in its place
            yield s.If(((self._condition(shared), (line,)),))
        else:
            yield line

    def _stage(self, shared: Shared) -> s.Name | s.Call:
        call = self._call(shared, [])
        assert isinstance(call, s.Call)
        bare = not call.arguments and not call.keywords
        return call.callee if bare and isinstance(call.callee, s.Name) else call

    def _param(self, number: int, shared: Shared) -> s.Statement:
        step = shared.one
        shapes = [ABSENT if other is None else other.args["shape"] for other in shared.steps]
        shape = self.solve(shapes, "width", "ints")
        assert isinstance(shape, s.ListOf)
        self.values[number] = writer.reference(step.path)
        init = writer.initializer(step.args["init"], len(shape.items))
        kind = "param" if step.args["trainable"] else "buffer"
        return s.Param(kind, writer.target(step.path), s.Tensor(tuple(map(s.Dimension, shape.items))), init)

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


_RULES: dict[str, Callable[[int], bool]] = {
    "even": lambda i: i % 2 == 0,
    "odd": lambda i: i % 2 == 1,
    "only first": lambda i: i == 0,
    "only later": lambda i: i > 0,
}


def _rule(form: str) -> s.Expression:
    index, remainder = s.Name("i"), s.Binary("%", s.Name("i"), literal(2))
    match form:
        case "even":
            return s.Binary("==", remainder, literal(0))
        case "odd":
            return s.Binary("==", remainder, literal(1))
        case "only first":
            return s.Binary("==", index, literal(0))
    return s.Binary(">", index, literal(0))


def written(value: Any, kind: str) -> s.Expression:
    """A value as an argument: an operator by its name, pairs and paddings in their shortest form."""
    if isinstance(value, Callee):
        return s.Name(value.name)
    if kind in ("pair", "padding"):
        return extents(value)
    if kind.startswith("list "):
        return s.ListOf(tuple(written(item, kind.removeprefix("list ")) for item in value))
    return literal(value)


def _inside(step: Step, prefix: str) -> bool:
    """Whether a name of the step is that of a member of the container `prefix`, or of a part of one."""
    return not prefix or step.path.startswith(f"{prefix}.") or (step.kind == "loop" and step.path == prefix)


def _rank(parameter: Parameter) -> int:
    """Extents that every call gives first, then what else it gives, then what has a default."""
    return 2 if parameter.default is not REQUIRED else int(parameter.kind != "extent")


def _word(name: str) -> str:
    """The word by which a call is known: `fc1` of `mlp.fc1`, `squeeze` of `SqueezeExcitation`."""
    tail = name.rpartition(".")[2]
    match = re.match(r"[A-Z]?[a-z0-9]+", tail)
    return match[0].lower() if match and not tail.isdigit() else ""


def _turn(step: Step, turn: int) -> Step:
    path = f"{step.path}.{step.start + turn}"
    return Step(path, "block", step.callee, [], step.type, step.turns[turn], {}, True)


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


def _fits(known: Sequence[Any], values: Sequence[Any]) -> bool:
    """Whether two lists of values agree wherever both have one, and they do so somewhere."""
    both = [(a, b) for a, b in zip(known, values) if a is not ABSENT and b is not ABSENT]
    return bool(both) and all(_same(a, b) for a, b in both)


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


def _type(name: str) -> s.Type:
    if name.startswith("list["):
        return s.ListType(_type(name[5:-1]))
    return s.OptionalType(_type(name[:-1])) if name.endswith("?") else s.PlainType(name)
