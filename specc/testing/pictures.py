"""A number -> a network of the parts that kernels join: expansions, depthwise convolutions, squeeze-excites,
perceptrons, sums of 1x1 convolutions. They stand in an order that no published network has, and now and then there is
one that differs in a single place: weights that vary, a mean of columns, a convolution with strides.

Which of them become one kernel, the second-level cache decides. On pictures as small as a test can afford, a target
with a cache of a few KB joins what real ones do on large pictures; its cache is drawn with the network.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType

_ACTS = ("relu", "relu", "relu6", "silu", "silu", "hard_swish", "leaky_relu", "gelu", "", "")
_CHANNELS = (1, 3, 8, 8, 12, 16, 16, 17, 20, 24, 24, 32, 33, 40, 48, 56)
_EXTENTS = (1, 3, 5, 7, 8, 9, 12, 14, 14, 16, 19, 20, 28, 28)
_LARGEST = 1 << 15
"""Elements of an image's picture, at most."""

Step = Callable[["_Growth"], Value]


def pictures(number: int) -> Graph:
    """The network of that number: up to ten steps on one or two pictures, with up to three outputs."""
    rng = random.Random(number)
    growth = _Growth(rng)
    for _ in range(rng.randint(2, 10)):
        growth.step()
    return growth.finish()


def cache_of(number: int) -> int:
    """The second-level cache that goes with it, in bytes: some hold next to nothing, some a picture."""
    return 1 << random.Random(~number).randint(12, 16)


class _Growth:
    """A network that grows, and what is at hand in it: pictures [n, c, h, w]."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.graph, self.layers = rng, Graph("Pictures"), 0
        self.weights: list[Value] = []
        batch = rng.choice((1, 1, 2, 3))
        extents = rng.choice(_EXTENTS), rng.choice(_EXTENTS)
        self.values = [
            self.graph.input(f"x{number}", TensorType((batch, rng.choice(_CHANNELS), *extents)))
            for number in range(rng.choice((1, 1, 2)))
        ]

    def step(self) -> None:
        """One more part, of a picture that is at hand, a late one rather than an early one."""
        part = self.rng.choice(_PARTS)
        made = part(self)
        if self._small(made):
            self.values.append(made)

    def finish(self) -> Graph:
        """The graph. Its outputs are the last value, and others at random, used or not."""
        others = [value for value in self.values[:-1] if self.graph.op(value) != "input"]
        self.graph.outputs = [
            *self.rng.sample(others, min(len(others), self.rng.choice((0, 0, 1, 2)))),
            self.values[-1],
        ]
        self.graph.prune()
        return self.graph

    # ---- values -----------------------------------------------------------------------------------------------------

    def pick(self) -> Value:
        return self.values[-1 - min(int(self.rng.expovariate(0.9)), len(self.values) - 1)]

    def like(self, value: Value) -> list[Value]:
        """The other values of the same batch, height and width."""
        n, _, *extents = self.shape(value)
        return [v for v in self.values if v != value and (self.shape(v)[0], *self.shape(v)[2:]) == (n, *extents)]

    def shape(self, value: Value) -> tuple[int, ...]:
        return self.graph.type(value).concrete

    def _small(self, value: Value) -> bool:
        shape = self.shape(value)
        return len(shape) == 4 and 0 < np.prod(shape[1:]) <= _LARGEST

    # ---- layers -----------------------------------------------------------------------------------------------------

    def conv(self, value: Value, out: int, k: Any = 1, **given: Any) -> Value:
        """A convolution; seldom one whose weights another one has, too, or are an input."""
        self.layers += 1
        path, kind = f"layer{self.layers}", self.rng.random()
        arguments = {"out": out, "k": k, "bias": self.rng.random() < 0.7, **given}
        made = self.graph.call("conv2d", [value], arguments, path)
        node, (_, weight, *bias) = self.graph.node(made.node), self.graph.operands(made.node)
        type = self.graph.type(weight)
        alike = [v for v in self.weights if self.graph.type(v) == type]
        self.weights.append(weight)
        if kind < 0.96:
            return made
        other = self.rng.choice(alike) if alike and kind < 0.98 else self.graph.input(path, type)
        return self.graph.apply("conv2d", [value, other, *bias], node.attrs)

    def channels(self) -> int:
        return self.rng.choice(_CHANNELS)

    def act(self, value: Value) -> Value:
        name = self.rng.choice(_ACTS)
        return self.graph.apply(name, [value]) if name else value

    def pointwise(self, value: Value, out: int | None = None) -> Value:
        """A 1x1 convolution; seldom one with strides, padding or groups."""
        out, kind = out or self.channels(), self.rng.random()
        given = {"s": 2} if kind < 0.02 else {"p": 1} if kind < 0.04 else {}
        if kind > 0.98 and out % 2 == self.shape(value)[1] % 2 == 0:
            given = {"groups": 2}
        return self.act(self.conv(value, out, **given))

    def deep(self, value: Value) -> Value:
        """A depthwise convolution of any window that fits."""
        rng, (_, channels, *extents) = self.rng, self.shape(value)
        k = rng.choice(((3, 3), (3, 3), (5, 5), (3, 5), (1, 7), (7, 7), (2, 3)))
        d = rng.choice((1, 1, 1, 2))
        p = rng.choice((None, None, 0, 1, (0, 1, 2, 1)))
        if p is not None and any(extent <= d * (size - 1) for extent, size in zip(extents, k, strict=True)):
            p = None
        if p is None:
            p = (d * (k[0] // 2), d * (k[1] // 2)) * 2
        filters = rng.choice((1, 1, 1, 1, 1, 2)) if channels > 1 else 1
        s = rng.choice((1, 1, 1, 2, (2, 1)))
        return self.act(self.conv(value, channels * filters, k, s=s, d=d, p=p, groups=channels))

    def scales(self, value: Value) -> Value:
        """What a squeeze-excite makes of a picture: a number for each of its channels."""
        graph, channels = self.graph, self.shape(value)[1]
        made = self.mean(value)
        for _ in range(self.rng.choice((0, 1, 2, 2))):
            made = self.act(self.conv(made, self.channels()))
        if self.shape(made)[1] != channels:
            made = self.conv(made, channels)
        return graph.apply(self.rng.choice(("sigmoid", "hard_sigmoid", "tanh")), [made])

    def mean(self, value: Value) -> Value:
        """That of each channel, or of each of its columns alone."""
        n, channels, *_ = self.shape(value)
        axes = self.rng.choice(((2, 3), (2, 3), (3, 2), (-2, -1), (2,)))
        if self.rng.random() < 0.9:
            return self.graph.apply("mean", [value], {"axes": axes, "keep": True})
        made = self.graph.apply("mean", [value], {"axes": (2, 3), "keep": False})
        return self.graph.apply("reshape", [made], {"shape": (n, channels, 1, 1)})

    def excited(self, value: Value) -> Value:
        scales = self.scales(value)
        if self.rng.random() < 0.05:
            scales = self.graph.parameter(f"scales{len(self.graph)}", self.graph.type(scales), "normal(1)")
        if self.rng.random() < 0.1:
            self.values.append(scales)
        pair = [value, scales]
        self.rng.shuffle(pair)
        return self.graph.apply("mul", pair)

    def residual(self, value: Value, sources: list[Value]) -> Value:
        """The sum with one of the values that have its shape, if there is one."""
        fitting = [v for v in sources if self.shape(v) == self.shape(value) and v != value]
        if not fitting or self.rng.random() < 0.3:
            return value
        pair = [value, self.rng.choice(fitting)]
        self.rng.shuffle(pair)
        return self.act(self.graph.apply("add", pair))


def _inverted(growth: _Growth) -> Value:
    rng, source = growth.rng, growth.pick()
    value = growth.pointwise(source) if rng.random() < 0.8 else source
    value = growth.deep(value)
    value = growth.excited(value) if rng.random() < 0.5 else value
    out = growth.shape(source)[1] if rng.random() < 0.6 else growth.channels()
    return growth.residual(growth.pointwise(value, out), growth.values)


def _perceptron(growth: _Growth) -> Value:
    source = growth.pick()
    value = growth.deep(source) if growth.rng.random() < 0.3 else source
    out = growth.shape(value)[1] if growth.rng.random() < 0.7 else growth.channels()
    value = growth.conv(growth.pointwise(value, growth.rng.choice((40, 56, 72))), out)
    if growth.rng.random() < 0.3:
        growth.layers += 1
        scale = growth.graph.parameter(f"scale{growth.layers}", TensorType((out, 1, 1)), "ones")
        value = growth.graph.apply("mul", [value, scale])
    return growth.residual(value, growth.values)


def _addends(growth: _Growth) -> Value:
    """The sum of two 1x1 convolutions, of one picture or of two."""
    source = growth.pick()
    out, others = growth.channels(), growth.like(source)
    other = growth.rng.choice(others) if others else growth.act(growth.conv(source, growth.channels()))
    terms = [growth.conv(source, out), growth.conv(other, out)]
    if growth.rng.random() < 0.2:
        terms[0] = growth.act(terms[0])
    return growth.act(growth.graph.apply("add", terms))


def _downsampled(growth: _Growth) -> Value:
    """A residual block whose two branches have a stride."""
    source, out = growth.pick(), growth.channels()
    _, _, height, width = growth.shape(source)
    if min(height, width) < 3:
        return growth.pointwise(source, out)
    inner = growth.act(growth.conv(source, growth.channels(), 3, s=2, p=1))
    terms = [growth.conv(inner, out), growth.conv(source, out, 1, s=2)]
    return growth.act(growth.graph.apply("add", terms))


def _joined(growth: _Growth) -> Value:
    source = growth.pick()
    others = growth.like(source)
    parts = [source, *growth.rng.sample(others, min(len(others), growth.rng.choice((1, 1, 2))))]
    return growth.graph.apply("concat", parts, {"axis": 1}) if len(parts) > 1 else growth.pointwise(source)


def _sliced(growth: _Growth) -> Value:
    """Neighbouring channels, rows or columns, or every second one of them."""
    rng, source = growth.rng, growth.pick()
    axis = rng.choice((1, 1, 2, 3))
    extent = growth.shape(source)[axis]
    start = rng.choice((0, 0, extent // 2))
    stop = rng.randint(start + 1, extent)
    attrs = {"axis": axis, "start": start, "stop": stop, "step": rng.choice((1, 1, 1, 2))}
    return growth.graph.apply("slice", [source], attrs)


def _resized(growth: _Growth) -> Value:
    rng, source = growth.rng, growth.pick()
    size = tuple(max(1, round(extent * rng.choice((0.5, 1, 2, 2, 1.6)))) for extent in growth.shape(source)[2:])
    mode = rng.choice(("nearest", "bilinear", "bicubic"))
    return growth.act(growth.graph.call("resize", [source], {"size": size, "mode": mode}))


def _transposed(growth: _Growth) -> Value:
    """A transposed convolution, often with its border cut off."""
    source, (k, s, p) = growth.pick(), growth.rng.choice(((2, 2, 0), (4, 2, 1), (3, 2, 1), (3, 1, 1)))
    growth.layers += 1
    arguments = {"out": growth.channels(), "k": k, "s": s, "p": p}
    return growth.graph.call("conv_transpose2d", [source], arguments, f"layer{growth.layers}")


def _pooled(growth: _Growth) -> Value:
    source = growth.pick()
    if min(growth.shape(source)[2:]) < 2:
        return growth.act(source)
    arguments = {"k": 2, "s": growth.rng.choice((1, 2)), "p": growth.rng.choice((0, 1))}
    return growth.graph.call(growth.rng.choice(("max_pool2d", "avg_pool2d")), [source], arguments)


def _summed(growth: _Growth) -> Value:
    return growth.graph.apply(
        "cumsum", [growth.graph.apply("tanh", [growth.pick()])], {"axis": growth.rng.choice((1, 2, 3))}
    )


_PARTS: tuple[Step, ...] = (
    *[_inverted] * 5,
    *[_perceptron] * 3,
    *[_addends] * 2,
    *[_joined] * 2,
    _downsampled,
    _sliced,
    _resized,
    _transposed,
    _pooled,
    _summed,
    lambda growth: growth.deep(growth.pick()),
    lambda growth: growth.excited(growth.pick()),
    lambda growth: growth.pointwise(growth.pick()),
    lambda growth: growth.act(growth.conv(growth.pick(), growth.channels(), 3, p=1)),
    lambda growth: growth.residual(growth.pick(), growth.values),
)
