"""A graph and a seed -> random weights and inputs under which the network behaves like a trained one.

Fresh parameters hide mistakes: a batch norm with mean 0, variance 1 and weight 1 is nearly the identity, and a wrong
merge of it shows nothing. Here running variances are far from 1, weights of batch norms have both signs and some are 0,
biases are not 0. At the same time activations stay around 1 at any depth: no nonlinearity saturates, and no signal
drowns in biases: the mean square of every value is followed through the graph (as in arXiv:1511.06422, by rule instead
of by measurement), and every product's weights are scaled by it.

Every key has a generator of its own and only integers, products and square roots are used, so that a seed gives the
same numbers on every machine, whatever else is in the graph.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from specc.ir.array import Array
from specc.ir.body import bodies
from specc.ir.domains import Interval, domains
from specc.ir.graph import Graph, Node, Value
from specc.ir.specialize import specialize

_MEAN_SQUARE: dict[str, Callable[..., float]] = {
    "relu": lambda x: 0.5 * x,
    "relu6": lambda x: 0.5 * x,
    "leaky_relu": lambda x: 0.5 * x,
    "gelu": lambda x: 0.45 * x,
    "silu": lambda x: 0.45 * x,
    "hard_swish": lambda x: 0.45 * x,
    "sigmoid": lambda x: 0.3,
    "hard_sigmoid": lambda x: 0.3,
    "softmax": lambda x: 0.1,
    "tanh": lambda x: 0.4,
    "erf": lambda x: 0.4,
    "exp": lambda x: 1.0,
    "rsqrt": lambda x: 1.0,
    "div": lambda a, b: a,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "matmul": lambda a, b: a * b,
    "mean": lambda x: 0.2 * x,
    "global_avg_pool": lambda x: 0.2 * x,
    "avg_pool2d": lambda x: 0.4 * x,
    "batch_norm": lambda x, *_: 1.0,
    "layer_norm": lambda x, *_: 1.0,
    "group_norm": lambda x, *_: 1.0,
    "rms_norm": lambda x, *_: 1.0,
    "conv2d": lambda x, *_: 1.0,
    "linear": lambda x, *_: 1.0,
}
"""The mean square of a result from those of the operands, roughly; the greatest of them for an operator not listed."""


@dataclass(frozen=True)
class _Use:
    """Where a parameter is first used: the operator, the operand's name, and the mean square of its first operand."""

    op: str
    role: str
    square: float


def random_weights(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """A checkpoint for the graph, training state included, with the shapes and types that it takes."""
    uses, asked = _uses(graph), domains(graph)
    result: dict[str, Array] = {}
    for identity in graph.order():
        node = graph.node(identity)
        if node.op == "param":
            key, type = node.attrs["key"], node.types[0]
            drawn = _draw(node, uses.get(identity), _generator(seed, key), asked.get(Value(identity)))
            result[key] = np.asarray(drawn, type.dtype).reshape(type.concrete)
    for key, type in graph.checkpoint.items():
        if key not in result:
            result[key] = np.full(type.concrete, 100, type.dtype)
    return result


def random_inputs(graph: Graph, seed: int = 0, shapes: dict[str, int] | None = None) -> dict[str, Array]:
    """Inputs for the graph by name, around 0 and of mean square 1 where the operators that read them take all numbers.

    Its dimensions are as `shapes` and its defaults say.
    """
    fixed = specialize(graph, shapes)
    asked = domains(fixed)
    result: dict[str, Array] = {}
    for identity in fixed.inputs:
        name, type = fixed.node(identity).attrs["name"], fixed.node(identity).types[0]
        generator, domain = _generator(seed, f"input {name}"), asked.get(Value(identity))
        if type.dtype.startswith("float"):
            numbers = _field(generator, type.concrete)
            result[name] = np.asarray(numbers if domain is None else _inside(numbers, domain), type.dtype)
        else:
            result[name] = np.asarray(_integers(generator, type.concrete, domain), type.dtype)
    return result


def _integers(generator: np.random.Generator, shape: tuple[int, ...], domain: Interval | None) -> Array:
    """Integers of the domain; 0 and 1 where there is none, near its beginning where it has no end."""
    least, greatest = domain or (0, 1)
    first = least if math.isfinite(least) else greatest - 1
    return generator.integers(int(first), int(min(greatest, first + 2**31)) + 1, shape)


def _inside(numbers: Array, domain: Interval) -> Array:
    """Numbers around 0, brought into the domain."""
    least, greatest = domain
    if math.isfinite(least) and math.isfinite(greatest):
        shares: Array = np.abs(numbers) / max(np.abs(numbers).max(initial=0), 1)
        return least + (greatest - least) * shares
    return least + np.abs(numbers) if math.isfinite(least) else greatest - np.abs(numbers)


def _generator(seed: int, key: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())]))


def _uniform(generator: np.random.Generator, shape: tuple[int, ...], square: float) -> Array:
    """Numbers around 0 with that mean square."""
    bound = math.sqrt(3 * square)
    return generator.random(shape) * (2 * bound) - bound


def _field(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Noise on every scale: of single elements, of quarters of the last two dimensions, and of these as a whole.

    A picture of noise alone is the same to a network as any other: its means over many elements are all near 0.
    """
    total = _uniform(generator, shape, 1 / 3 if len(shape) > 2 else 1.0)
    if len(shape) > 2:
        total = total + _uniform(generator, (*shape[:-2], 1, 1), 1 / 3)
        parts = _uniform(generator, (*shape[:-2], 4, 4), 1 / 3)
        rows, columns = (np.arange(extent) * 4 // extent for extent in shape[-2:])
        total = total + parts[..., rows[:, None], columns]
    return total


def _draw(node: Node, use: _Use | None, generator: np.random.Generator, domain: Interval | None) -> Array:
    shape, dtype, init = node.types[0].concrete, node.types[0].dtype, node.attrs["init"]
    square = max(use.square, 1e-3) if use else 1.0
    if not dtype.startswith("float"):
        return _integers(generator, shape, domain)
    if use and use.op == "batch_norm":
        return _statistics(use.role, shape, square, generator)
    if init == "kaiming" or (use and use.role == "weight" and len(shape) >= 2):
        return _uniform(generator, shape, 1 / (math.prod(shape[1:]) * square))
    if init == "ones" or init.startswith("constant("):
        # a scale: of both signs unless it is a buffer, which may be a variance
        magnitude = 0.5 + generator.random(shape)
        return magnitude * _signs(generator, shape) if node.attrs["trainable"] else magnitude
    return _uniform(generator, shape, 0.02)


def _statistics(role: str, shape: tuple[int, ...], square: float, generator: np.random.Generator) -> Array:
    """Batch norm: variances in 0.25..0.7 and 1.5..4 times the mean square, weights that bring the result back to 1."""
    part = generator.random(shape)
    match role:
        case "running_var":
            return square * np.where(generator.random(shape) < 0.5, 0.25 + 0.45 * part, 1.5 + 2.5 * part)
        case "weight":
            weight = (0.5 + 0.7 * part) * _signs(generator, shape)
            return np.where(generator.random(shape) < 1 / 16, 0.0, weight)
        case "running_mean":
            return 0.4 * (part - 0.5) * math.sqrt(square)
    return 0.4 * (part - 0.5)


def _signs(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.where(generator.random(shape) < 0.5, -1.0, 1.0)


def _uses(graph: Graph) -> dict[int, _Use]:
    """The first use of every parameter, in the order of the graph."""
    if graph.symbols() <= graph.defaults.keys():
        graph = specialize(graph)
    return _follow(graph, {})[1]


def _follow(graph: Graph, squares: dict[Value, float]) -> tuple[dict[Value, float], dict[int, _Use]]:
    """The mean square of every value, where those of some inputs and parameters are known; and the uses."""
    squares = dict(squares)
    uses: dict[int, _Use] = {}
    inside = dict(bodies(graph))
    for identity in graph.order():
        node = graph.node(identity)
        if Value(identity) in squares:
            continue
        operands = graph.operands(identity)
        known: list[Any] = [squares[operand] for operand in operands]
        if identity in inside:
            body = inside[identity]
            within, read = _follow(body.graph, dict(zip(body.sources, known, strict=True)))
            for operand, source in zip(operands, body.sources, strict=True):
                if graph.op(operand) == "param" and source.node in read:
                    uses.setdefault(operand.node, read[source.node])
            squares |= {Value(identity, number): within[value] for number, value in enumerate(body.graph.outputs)}
            continue
        for position, operand in enumerate(operands):
            if graph.op(operand) == "param" and operand.node not in uses and position:
                role = node.record.operands[min(position, len(node.record.operands) - 1)].rstrip("?")
                uses[operand.node] = _Use(node.op, role, known[0] * _inside_picture(graph, identity))
        if node.op == "constant":
            square = node.attrs["value"] ** 2
        elif node.op in _MEAN_SQUARE:
            square = _MEAN_SQUARE[node.op](*known)
        elif node.op == "param":
            square = 0.02 if node.attrs["init"] == "zeros" else 1.0
        else:
            square = max(known, default=1.0)
        squares |= {Value(identity, number): square for number in range(len(node.types))}
    return squares, uses


def _inside_picture(graph: Graph, identity: int) -> float:
    """The part of a convolution's taps that meet the picture and not its padding: small pictures lose much there."""
    node = graph.node(identity)
    if node.op != "conv2d":
        return 1.0
    x, weight = (graph.type(operand).shape for operand in graph.operands(identity)[:2])
    result, part = node.types[0].shape, 1.0
    for axis in (0, 1):
        extent, kernel, count = x[2 + axis], weight[2 + axis], result[2 + axis]
        if not isinstance(extent, int) or not isinstance(kernel, int) or not isinstance(count, int):
            return 1.0
        stride, dilation, before = (node.attrs[name][axis] for name in ("stride", "dilation", "padding"))
        taps = [place * stride + tap * dilation - before for place in range(count) for tap in range(kernel)]
        part *= sum(0 <= tap < extent for tap in taps) / len(taps)
    return part
