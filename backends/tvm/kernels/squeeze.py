"""Squeeze-excite in one kernel: the mean over height and width, then products of weights with one vector of channels,
as many as there are.

    [n, c, h, w] --mean--> [n, c, 1, 1] --(1x1 convolution, pointwise steps)*--> [n, o, 1, 1]

The last steps may make integers of the numbers.

The mean reads the tensor once, threads sharing out channel blocks; the products are too small to share out unless their
weights fill a part of the second-level cache. What one product leaves for the next lies in a buffer of the kernel.

One core of a Cascade Lake, [1, 256, 14, 14] -> 64 -> 256 channels: 0.0045 ms; by the general template, whose vectors
gather the weights, 0.159 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Registers, Template, Tensor
from specc.backends.tvm.expression import Scalar, constant
from specc.backends.tvm.group import Group, Step
from specc.backends.tvm.packing import Packing
from specc.ir.types import TensorType
from specc.targets import Target

_PARTS = 8
"""Weights of such a part of the second-level cache are worth two threads: [1, 480] -> 120 -> 480 takes 0.65 of the
time."""

_CHAINS = 4
"""Partial sums side by side: an addition starts every cycle and takes four."""


@dataclass(frozen=True)
class _Schedule:
    """How one product is computed: `width` output blocks side by side, each in `chains` partial sums."""

    width: int
    chains: int
    shared: bool
    """Whether threads share it out."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group that is a mean over the image and 1x1 convolutions of it; None for another group."""
    lanes, anchors = target.lanes, group.anchors
    if not anchors or not is_mean(group.step(anchors[0])) or group.steps[-1].type.layout != target.blocked_layout:
        return None
    source = group.step(anchors[0]).operands[0]
    if source >= len(group.inputs) or group.inputs[source].type.layout != target.blocked_layout:
        return None
    packings: dict[int, Packing] = {}
    product = anchors[0]
    for number in anchors[1:]:
        step = group.step(number)
        data, weight, *bias = step.operands
        frozen = all(v < len(group.inputs) and group.inputs[v].frozen for v in (weight, *bias))
        if not _is_product(group, step) or not frozen or group.sources(data) - {product}:
            return None
        packings[weight] = Packing("convolution", lanes, lanes)
        packings |= {value: Packing("padded", lanes) for value in bias}
        product = number
    scalars = (i for i, operand in enumerate(group.inputs) if operand.frozen and operand.type.elements == 1)
    numbers = {i for i in scalars if group.type(i).dtype == "float32"}
    if group.sources(group.last) - {product} - numbers:
        return None
    pixels = prod(group.type(source).concrete[2:])
    fitting = [n for n in (4, 7, 5, 6, 3, 2, 1, 8) if pixels % n == 0]
    chains = choices.take("chains", fitting, fitting[0])
    schedules = [_schedule(group, number, target, choices.part(f"product{i}")) for i, number in enumerate(anchors[1:])]
    return Template(lambda emitter: _Squeeze(emitter, chains, schedules, target).emit(), packings)


def _schedule(group: Group, anchor: int, target: Target, choices: Choices) -> _Schedule:
    """Several blocks side by side hide the latency; for a single one, several partial sums do."""
    blocks, lanes = -(-group.type(anchor).concrete[1] // target.lanes), target.lanes
    widths = [w for w in (4, 3, 2, 1, 6, 8) if blocks % w == 0]
    width = choices.take("width", widths, widths[0])
    default = _CHAINS if width == 1 else 2 if width < 4 else 1
    chains = choices.near("chains", (n for n in (1, 2, 4, 8) if lanes % n == 0 and n * width <= 16), default)
    large = 4 * prod(group.type(group.step(anchor).operands[1]).concrete) * _PARTS > target.l2_bytes
    return _Schedule(width, chains, choices.take("shared", (False, True), large))


def is_mean(step: Step) -> bool:
    """Whether a step is the mean of a picture, for each channel."""
    if step.type.dtype != "float32" or step.type.rank != 4:
        return False
    attrs = step.attrs
    return attrs.get("keep", False) and (
        step.op == "global_avg_pool" or (step.op == "mean" and tuple(sorted(a % 4 for a in attrs["axes"])) == (2, 3))
    )


def _is_product(group: Group, step: Step) -> bool:
    if step.op != "conv2d" or step.attrs["groups"] != 1 or any(step.attrs["padding"]):
        return False
    return group.type(step.operands[1]).concrete[2:] == (1, 1) and step.type.concrete[2:] == (1, 1)


class _Squeeze:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, chains: int, schedules: Sequence[_Schedule], target: Target) -> None:
        self.emitter, self.lanes, self.target = emitter, target.lanes, target
        self.chains, self.schedules = chains, schedules

    def emit(self) -> None:
        group = self.emitter.group
        anchors = group.anchors
        # What is stored after each anchor: the operand of the next one, at the end the result.
        values = [group.step(number).operands[0] for number in anchors[1:]] + [group.last]
        stored: Tensor | None = None
        for number, (anchor, value) in enumerate(zip(anchors, values, strict=True)):
            goal = self._goal(value)
            if stored is None:
                self._mean(anchor, value, goal)
            else:
                self._product(anchor, value, stored, goal, self.schedules[number - 1])
            stored = goal

    def _goal(self, value: int) -> Tensor:
        emitter = self.emitter
        if value == emitter.group.last:
            return emitter.result()
        type = TensorType(emitter.group.type(value).shape, "float32", self.target.blocked_layout)
        return Tensor(T.alloc_buffer(type.physical, "float32"), type, emitter.simplify)

    def _mean(self, anchor: int, value: int, goal: Tensor) -> None:
        emitter, source = self.emitter, self.emitter.group.step(anchor).operands[0]
        n, blocks, height, width, lanes = emitter.group.type(source).physical
        pixels = height * width
        chains = self.chains
        with emitter.parallel(n * blocks) as work:
            batch, block = emitter.divmod(work, blocks)

            def read(pixel: Any, lane: Any) -> Any:
                return emitter.load(source, batch, block, 0, pixel, lane)

            acc = Registers(chains, lanes, "float32")
            with emitter.lanes(lanes) as lane:
                for i in range(chains):
                    emitter.store(acc, tirx.const(0.0, "float32"), [i, lane])
                with emitter.serial(pixels // chains) as p:
                    for i in range(chains):
                        emitter.store(acc, acc[i, lane] + read(p * chains + i, lane), [i, lane])
                total = sum((acc[i, lane] for i in range(1, chains)), acc[0, lane])
                mean = Scalar(total * constant(1.0 / pixels, "float32"))
                self._store(anchor, value, goal, mean, batch, block, lane)

    def _product(self, anchor: int, value: int, source: Tensor, goal: Tensor, schedule: _Schedule) -> None:
        emitter, step = self.emitter, self.emitter.group.step(anchor)
        _, weight, *bias = step.operands
        n, blocks, _, _, lanes = goal.type.physical
        inputs = source.type.physical[1]
        width, chains = schedule.width, schedule.chains
        loop: Any = emitter.parallel if schedule.shared else emitter.serial
        with loop(n * (blocks // width)) as work:
            batch, group = emitter.divmod(work, blocks // width)
            acc = Registers(width * chains, lanes, "float32")
            with emitter.lanes(lanes) as lane:
                for j in range(width):
                    first = (
                        emitter.load(bias[0], (group * width + j) * lanes + lane)
                        if bias
                        else tirx.const(0.0, "float32")
                    )
                    for i in range(chains):
                        emitter.store(acc, tirx.const(0.0, "float32") if i else first, [j * chains + i, lane])
                with emitter.serial(inputs) as k, emitter.serial(lanes // chains) as q:
                    for i in range(chains):
                        x = source.at(batch, k, 0, 0, q * chains + i)
                        for j in range(width):
                            w = emitter.load(weight, group * width + j, k, 0, 0, q * chains + i, lane)
                            at = [j * chains + i, lane]
                            emitter.store(acc, acc[tuple(at)] + x * w, at)
                for j in range(width):
                    total = sum((acc[j * chains + i, lane] for i in range(1, chains)), acc[j * chains, lane])
                    self._store(anchor, value, goal, Scalar(total), batch, group * width + j, lane)

    def _store(self, anchor: int, value: int, goal: Tensor, accumulator: Scalar, n: Any, block: Any, lane: Any) -> None:
        """`value` computed from its anchor's, one vector. Lanes beyond the channels of the result become 0."""
        emitter = self.emitter

        def leaf(number: int, index: Index) -> Scalar:
            if number == anchor:
                return accumulator
            buffer = emitter.buffers[number]  # a single number
            return Scalar(tirx.BufferLoad(buffer, [0 for _ in buffer.shape]), reads=True)

        channel = block * self.lanes + lane
        result = emitter.evaluate(value, (n, channel, 0, 0), leaf)
        channels = goal.type.concrete[1]
        if channels % self.lanes:
            zero = emitter.math.const(0, result.dtype)
            result = emitter.math.select(channel < channels, emitter.math.let(result), zero)
        goal.put(result, [n, block, 0, 0, lane])
