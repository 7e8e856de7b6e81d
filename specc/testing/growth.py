"""Seeds -> a graph: every seed is one step that adds an operator, or a few, to what is there.

Operators come from their records: a step draws an example of a record, puts values at hand in the place of the
operands, and asks `infer`; weights are made by `spell`, as in a call of the language. So a new record is grown at once,
and a step only adds what is legal. Some steps are motifs, because chance alone seldom finds them: sums of branches
that can be merged, residual sums, a second use of weights, loops with state.

Values stay tame: the operands of operators with a domain (`sqrt`, `div`, indices) and of `exp` are brought into it
first, and a value is multiplied by another only so often, since rounding errors grow with the power. Operators that
jump (`round`, `less`) are given values that are exact, as inputs and integers are: on others, two right results differ.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from specc import ops
from specc.ir.body import Body
from specc.ir.dims import Dim, Symbolic, substitute, symbols
from specc.ir.dtypes import SMALL
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.ops.record import ELEMENTS, REQUIRED, Argument, Illegal, Operator

_PRODUCTS = ("mul", "matmul", "div")
_LARGEST = 4096
"""Elements of a value, at most: small cases find the same mistakes sooner."""
_HIGHEST = 4
"""The highest power of an input that a value may hold."""


def grow(
    seeds: Sequence[int], inputs: Sequence[TensorType], outputs: int = 1, defaults: Mapping[str, int] | None = None
) -> Graph:
    """The graph of these inputs that the seeds describe, with at most so many outputs.

    The outputs are the latest values that nobody uses, and from the third on values that are used as well. Others that
    nobody uses stay in it, as dead code. `defaults` gives the dimensions of the inputs values under which all is legal.
    Every prefix of `seeds` gives a part of the same graph.
    """
    growth = _Growth(inputs, defaults or {})
    for seed in seeds:
        growth.step(random.Random(seed))
    return growth.finish(outputs)


class _Growth:
    def __init__(self, inputs: Sequence[TensorType], defaults: Mapping[str, int], prefix: str = "") -> None:
        self.graph = Graph("Grown", defaults=dict(defaults))
        self.prefix = prefix
        self.power: dict[Value, int] = {}
        self.values: list[Value] = []
        self.calls: list[tuple[str, list[Value], dict[str, Any]]] = []
        self.exact: set[Value] = set()
        for number, type in enumerate(inputs):
            self.exact.add(self._know(self.graph.input(f"x{number}", type), 1))

    def step(self, rng: random.Random) -> None:
        motifs: list[Callable[[random.Random], bool]] = [
            self._branches,
            self._residual,
            self._weighted,
            self._weighted,
            self._again,
            self._scan,
            self._fitted,
            *[self._any] * 5,
        ]
        while not rng.choice(motifs)(rng):
            pass

    def finish(self, outputs: int) -> Graph:
        unused = [value for value in self.values if not self.graph.uses(value)]
        used = [value for value in self.values if self.graph.uses(value)]
        self.graph.outputs = [
            *unused[-min(outputs, 2) :],
            *(used[len(used) // 2 :][: outputs - 2] if outputs > 2 else []),
        ]
        return self.graph

    # ---- steps: each says whether it added something --------------------------------------------------------------

    def _any(self, rng: random.Random) -> bool:
        """An operator that brings no weights, drawn from all records."""
        given = ("input", "param")
        records = [
            r for r in ops.OPERATORS.values() if not r.weights and r.name not in given and "body" not in r.traits
        ]
        return self._apply(rng, rng.choice(records))

    def _apply(self, rng: random.Random, record: Operator) -> bool:
        for _ in range(8):
            types, attrs = record.example(rng)
            operands: list[Value] = []
            for position, wanted in enumerate(types):  # partners that fit are rare by chance
                at_hand = self._at_hand(record, position, wanted)
                fitting = [v for v in at_hand if self._legal(record, [*operands, v], attrs)] if operands else []
                if not (fitting or at_hand):
                    break
                operands.append(rng.choice(fitting) if fitting else self._late(rng, at_hand))
            if len(operands) == len(types) and self._legal(record, operands, attrs):
                operands = self._tame(record, operands, attrs)
                self._add(record.name, operands, attrs)
                return True
        return False

    def _weighted(self, rng: random.Random) -> bool:
        """An operator with weights, drawn from all records, with arguments drawn by their kinds."""
        record = rng.choice([record for record in ops.OPERATORS.values() if record.weights])
        for _ in range(8):
            x = self._pick(rng)
            channels = [e for e in self.graph.type(x).shape if isinstance(e, int)]
            arguments = {a.name: _argument(rng, a, channels) for a in record.signature}
            if self._call(record.name, [x] * len(record.call_operands), arguments) is not None:
                return True
        return False

    def _branches(self, rng: random.Random) -> bool:
        """A sum of convolutions, batch norms and the identity on one value: what re-parameterization merges."""
        found = self._picture(rng)
        if found is None:
            return False
        x, channels = found
        groups = rng.choice((1, 1, channels))
        out = channels if groups > 1 or rng.random() < 0.6 else rng.choice((2, 3, 8))
        stride = 1 if out == channels and rng.random() < 0.7 else 2
        branches = []
        for k in rng.sample((1, 3, 5, (1, 3)), rng.randint(1, 3)):
            arguments = {"out": out, "k": k, "s": stride, "groups": groups, "bias": rng.random() < 0.4}
            branch = self._call("conv2d", [x], arguments)
            if branch is not None and rng.random() < 0.7:
                branch = self._call("batch_norm", [branch], {"affine": rng.random() < 0.8})
            branches += [branch] if branch is not None else []
        if out == channels and stride == 1 and rng.random() < 0.7:
            identity = x if rng.random() < 0.5 else self._call("batch_norm", [x], {})
            branches += [identity] if identity is not None else []
        if not branches:
            return False
        total = branches[0]
        for branch in branches[1:]:
            total = self._add("add", [total, branch], {})
        if rng.random() < 0.4:
            self._call("batch_norm", [total], {})
        return True

    def _residual(self, rng: random.Random) -> bool:
        """The sum of two values of one shape, the later one preferably the result of the earlier."""
        later = self._pick(rng)
        partners = [v for v in self.values if v != later and self.graph.type(v) == self.graph.type(later)]
        if not partners or self.graph.type(later).dtype == "bool":
            return False
        self._add("add", [rng.choice(partners), later], {})
        return True

    def _again(self, rng: random.Random) -> bool:
        """A call from before on another value, with the same weights."""
        if not self.calls:
            return False
        op, operands, attrs = rng.choice(self.calls)
        others = [v for v in self.values if v != operands[0] and self._legal(ops.get(op), [v, *operands[1:]], attrs)]
        if not others:
            return False
        self._add(op, self._tame(ops.get(op), [rng.choice(others), *operands[1:]], attrs), attrs)
        return True

    def _scan(self, rng: random.Random) -> bool:
        """A scan over a value: a graph grown inside, whose state stays small, with a result at every step or none."""
        x = self._pick(rng)
        type = self.graph.type(x)
        if not type.rank or type.dtype != "float32" or self.prefix:
            return False
        axis = rng.randrange(type.rank)
        shape = (*type.shape[:axis], *type.shape[axis + 1 :])
        starts = [v for v in self.values if v != x and self.graph.type(v).dtype == "float32"]
        start = rng.choice(starts) if starts and rng.random() < 0.4 else self.graph.constant(0.0, shape)
        state = self.graph.type(start)
        if state.layout or not _small(state):
            return False
        inner = _Growth([TensorType(shape), state], self.graph.defaults, f"scan_{len(self.graph)}.")
        _, h = inner.values
        for _ in range(rng.randint(1, 4)):
            inner.step(rng)
        fitting = [value for value in inner.values if inner.graph.type(value) == state]
        new = inner.graph.apply("tanh", [fitting[-1]]) if rng.random() < 0.8 else h
        stacked = [value for value in inner.values[2:] if inner.graph.type(value).rank >= axis]
        inner.graph.outputs = [*stacked[-rng.randint(0, 2) :], new] if rng.random() < 0.8 else [new]
        body = Body.of(inner.graph)
        parameters = [body.graph.node(i).attrs for i in body.parameters.values()]
        weights = [self.graph.parameter(a["key"], a["type"], a["init"], a["trainable"]) for a in parameters]
        attrs = {"body": body, "axis": axis, "reverse": rng.random() < 0.3}
        value = self.graph.apply("scan", [x, start, *weights], attrs)
        for result, inside in enumerate(body.graph.outputs):
            self._know(Value(value.node, result), inner.power.get(inside, 1))
        return True

    def _fitted(self, rng: random.Random) -> bool:
        """An operator on operands of just the shapes of an example: some fit each other too seldom by chance."""
        record = rng.choice([r for r in ops.OPERATORS.values() if r.operands and "body" not in r.traits])
        types, attrs = record.example(rng)
        if any(type.layout or not _small(type) for type in types):
            return False
        given = len(record.call_operands) if record.weights else len(types)
        operands = [self._shaped(rng, record, position, wanted) for position, wanted in enumerate(types[:given])]
        made = [operand for operand in operands if operand is not None]
        if len(made) < given or sum(self.power[value] for value in made) > _HIGHEST:
            return False
        path = f"{self.prefix}{record.name}_{len(self.graph)}"
        names = [name.removesuffix("?") for name in record.operands[given:]]
        weights = [self.graph.parameter(f"{path}.{name}", type, "ones") for name, type in zip(names, types[given:])]
        whole = [*self._tame(record, made, attrs, types[given:]), *weights]
        if not self._legal(record, whole, attrs):
            return False
        self._add(record.name, whole, attrs)
        return True

    def _shaped(self, rng: random.Random, record: Operator, position: int, wanted: TensorType) -> Value | None:
        """A value of the wanted shape: one at hand, or its elements cut or filled up with zeros, and reshaped."""
        at_hand = [v for v in self._at_hand(record, position, wanted) if isinstance(self.graph.type(v).elements, int)]
        fitting = [value for value in at_hand if self.graph.type(value).shape == wanted.shape]
        if fitting or not at_hand:
            return rng.choice(fitting) if fitting else None
        value = self._late(rng, at_hand)
        there, needed = self.graph.type(value).elements, wanted.elements
        assert isinstance(there, int) and isinstance(needed, int)
        value = self._add("reshape", [value], {"shape": (there,)})
        if there > needed:
            value = self._add("slice", [value], {"axis": 0, "start": 0, "stop": needed})
        elif there < needed:
            value = self._add("pad", [value], {"before": (0,), "after": (needed - there,)})
        return self._add("reshape", [value], {"shape": wanted.shape})

    # ---- building -------------------------------------------------------------------------------------------------

    def _pick(self, rng: random.Random) -> Value:
        """A value at hand; late ones are likelier, so that the graph becomes deep."""
        return self._late(rng, self.values)

    @staticmethod
    def _late(rng: random.Random, values: list[Value]) -> Value:
        return values[-1 - min(int(rng.expovariate(0.5)), len(values) - 1)]

    def _at_hand(self, record: Operator, position: int, wanted: TensorType) -> list[Value]:
        """The values that an operand can be; where none has a type of element that it takes, one is made."""
        taken = ELEMENTS[record.classes(position + 1)[position]]
        values = [v for v in self.values if "jumps" not in record.traits or v in self.exact]
        fitting = [v for v in values if self.graph.type(v).dtype in taken]
        if not fitting and wanted.dtype in ("int64", "int32", "bool"):
            shape = wanted.shape
            last = shape[-1] if shape else 1
            kind = "int32" if wanted.dtype == "bool" else wanted.dtype
            numbers = self._add("arange", [], {"stop": last, "dtype": kind})
            made = self._add("expand" if shape else "reshape", [numbers], {"shape": shape})
            fitting = [self._add("cast", [made], {"dtype": wanted.dtype})]
        elif not fitting and wanted.dtype in SMALL:
            ones = self._add("constant", [], {"value": 1.0, "shape": wanted.shape})
            fitting = [self._add("quantize", [ones, self.graph.constant(3.0)], {"dtype": wanted.dtype})]
        return fitting

    def _picture(self, rng: random.Random) -> tuple[Value, int] | None:
        """A value [n, c, h, w], and c."""
        ranked = [value for value in self.values if self.graph.type(value).rank == 4]
        if not ranked:
            return None
        value = ranked[-1 - min(int(rng.expovariate(0.5)), len(ranked) - 1)]
        channels = self.graph.type(value).shape[1]
        return (value, channels) if isinstance(channels, int) else None

    def _legal(self, record: Operator, operands: list[Value], attrs: dict[str, Any]) -> bool:
        try:
            completed = ops.complete(record, attrs)
            types = [self.graph.type(operand) for operand in operands]
            results = ops.infer(record, types, completed)
            if self.graph.defaults:
                ops.infer(record, [type.substitute(self.graph.defaults) for type in types], completed)
        except Illegal:
            return False
        powers = [self.power.get(operand, 1) for operand in operands]
        small = all(_small(type) and not type.layout for type in results)
        return small and (record.name not in _PRODUCTS or sum(powers) <= _HIGHEST)

    def _tame(
        self, record: Operator, operands: list[Value], attrs: dict[str, Any], weights: Sequence[TensorType] = ()
    ) -> list[Value]:
        """The operands, or values made from them, on which a call that brings `weights` makes sense."""
        operands = list(operands)
        if record.domain is not None:
            types = [*map(self.graph.type, operands), *weights]
            asked = record.domain(types, ops.complete(record, attrs))
            for position, (least, greatest) in asked.items():
                operands[position] = self._bounded(operands[position], self._number(least), self._number(greatest))
        elif record.name == "exp":
            operands[0] = self.graph.apply("tanh", [operands[0]])
        return operands

    def _number(self, limit: Dim | float) -> float:
        """A limit; a symbolic one for the least extents that there are."""
        if isinstance(limit, Symbolic):
            limit = substitute(limit, dict.fromkeys(symbols(limit), 1))
        assert isinstance(limit, (int, float))
        return limit

    def _bounded(self, value: Value, least: float, greatest: float) -> Value:
        """The value, or one made from it, with elements in an interval."""
        graph, dtype = self.graph, self.graph.type(value).dtype

        def joined(op: str, a: Value, number: float) -> Value:
            return graph.apply(op, [a, graph.constant(number, dtype=dtype)])

        if not dtype.startswith("float"):
            limits = {"min": least, "max": greatest}
            return graph.apply("clamp", [value], {k: float(v) for k, v in limits.items() if math.isfinite(v)})
        if math.isfinite(greatest):
            half = (greatest - least) / 2
            return joined("add", joined("mul", graph.apply("tanh", [value]), half), least + half)
        return joined("add", graph.apply("abs", [value]), least)

    def _call(self, op: str, operands: list[Value], arguments: dict[str, Any]) -> Value | None:
        path = f"{self.prefix}{op}_{len(self.graph)}"
        try:
            spelling = ops.spell(ops.get(op), [self.graph.type(operand) for operand in operands], arguments)
            if not all(_small(weight.type) for weight in spelling.weights):
                return None
            types = [*map(self.graph.type, operands), *(weight.type for weight in spelling.weights)]
            attrs = ops.complete(ops.get(op), dict(spelling.attrs))
            results = ops.infer(ops.get(op), types, attrs)
            if self.graph.defaults:
                ops.infer(ops.get(op), [type.substitute(self.graph.defaults) for type in types], attrs)
        except Illegal:
            return None
        if not all(_small(type) for type in results):
            return None
        weights = [weight.type for weight in spelling.weights]
        value = self.graph.call(op, self._tame(ops.get(op), operands, attrs, weights), arguments, path)
        made = list(self.graph.operands(value.node))
        self.calls.append((op, made, dict(self.graph.node(value.node).attrs)))
        return self._know(value, max(self.power[operand] for operand in operands))

    def _add(self, op: str, operands: list[Value], attrs: dict[str, Any]) -> Value:
        value = self.graph.apply(op, operands, attrs)
        whole = not self.graph.type(value).dtype.startswith("float")
        moves = {"movement", "choice"} & ops.get(op).traits
        if whole or (moves and all(operand in self.exact for operand in operands)):
            self.exact.add(value)
        powers = [self.power.get(operand, 1) for operand in operands] or [0]
        power = sum(powers) if op in _PRODUCTS else max(powers)
        for result in range(len(self.graph.node(value.node).types)):
            self._know(Value(value.node, result), power)
        return value

    def _know(self, value: Value, power: int) -> Value:
        self.values.append(value)
        self.power[value] = power
        return value


def _argument(rng: random.Random, argument: Argument, channels: Sequence[int]) -> Any:
    """A value for an argument of a call: its default, or something of its kind."""
    if argument.default is not REQUIRED and rng.random() < 0.5:
        return argument.default
    match argument.kind.removesuffix("?"):
        case "int" | "dim":
            return rng.choice((1, 2, 3, 4, 8, *channels))
        case "single" | "pair" | "triple" as kind:
            return tuple(rng.choice((1, 1, 2, 3, 5)) for _ in range({"single": 1, "pair": 2, "triple": 3}[kind]))
        case "padding1" | "padding" | "padding3" as kind:
            return tuple(rng.choice((0, 1, 2)) for _ in range({"padding1": 2, "padding": 4, "padding3": 6}[kind]))
        case "bool":
            return rng.random() < 0.5
        case "float":
            return argument.default if argument.default is not REQUIRED else rng.choice((0.1, 0.5))
        case "ints" | "axes":
            return tuple(rng.choice((1, 2, 3)) for _ in range(rng.randint(1, 4)))
    return None if argument.default is REQUIRED else argument.default


def _small(type: TensorType) -> bool:
    return not isinstance(type.elements, int) or 0 < type.elements <= _LARGEST
