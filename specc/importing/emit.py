"""Blocks --> definitions of the language: statements, pipes and loops, from what is known of a block's parameters.

A call whose weights have a name is a line of that name; what has none stands in the call that reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from specc import ops
from specc.grammar import syntax as s
from specc.grammar import writer
from specc.grammar.literals import literal
from specc.importing.blocks import ABSENT, Block, Shared, is_activation
from specc.importing.loops import RULES, form, rule, unroll
from specc.importing.parameters import DIMENSIONS, Callee, Emitted, Parameter, Parameters, written
from specc.importing.scopes import Ref, Step
from specc.ir.graph import Graph
from specc.ops.calls import same
from specc.ops.record import REQUIRED

_LONGEST = 3
"""Calls that stand in one another on a line, at most."""


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


class _Emitter(Parameters):
    def __init__(
        self,
        block: Block,
        name: str,
        callees: dict[str, Emitted],
        names: dict[str, str],
        kind: str,
        graph: Graph | None,
    ) -> None:
        unroll(block, lambda shared: callees[names[shared.one.callee]].parameters)
        super().__init__(block, name, callees, names, kind, graph)
        self.values: dict[int, s.Expression] = {}
        self.depth: dict[int, int] = {}
        self.uses = Counter(ref for ref in self._refs() if ref[0] == "step")

    def _refs(self) -> Iterator[Ref]:
        for shared in self.steps:
            yield from shared.operands
            yield from shared.shared.values()
            if shared.standin:
                yield shared.standin
        yield from self.block.results

    # ---- loops

    def _loop(self, number: int, shared: Shared) -> Iterator[s.Statement]:
        """`for i in range(depth): blocks[i] = Block(x, ...)`, and `x = blocks[i]`."""
        index = s.Name("i")
        lists: dict[str, s.Expression] = {}
        found: dict[str, s.Expression] = {}
        for name, parameter in self._of(shared).items():
            turned = form(shared, name)
            rows = [[turn[name] for turn in step.turns] if step else None for step in shared.steps]
            if turned in RULES:
                found[name] = rule(turned)
            elif turned in ("same", "first"):
                first = [row[0] if row else ABSENT for row in rows]
                later = [row[1] if row and len(row) > 1 else ABSENT for row in rows]
                if turned == "same":
                    known = [value for value in first if value is not ABSENT]
                    if parameter.default is not REQUIRED and all(same(v, parameter.default) for v in known):
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


def _inside(step: Step, prefix: str) -> bool:
    """Whether a name of the step is that of a member of the container `prefix`, or of a part of one."""
    return not prefix or step.path.startswith(f"{prefix}.") or (step.kind == "loop" and step.path == prefix)


def _rank(parameter: Parameter) -> int:
    """Extents that every call gives first, then what else it gives, then what has a default."""
    return 2 if parameter.default is not REQUIRED else int(parameter.kind != "extent")


def _type(name: str) -> s.Type:
    if name.startswith("list["):
        return s.ListType(_type(name[5:-1]))
    return s.OptionalType(_type(name[:-1])) if name.endswith("?") else s.PlainType(name)
