"""What a unit of a convolution in tiles multiplies (`tiled`): its operand as it is packed, its weights, and what is
asked for ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.emitter import Emitter, on_stack
from specc.backends.tvm.kernels import amx
from specc.backends.tvm.kernels.amx import ROWS
from specc.backends.tvm.kernels.fetch import Abreast, Ahead, soon
from specc.backends.tvm.kernels.panels import Image, Panels, whole
from specc.backends.tvm.kernels.pixels import Picture, Pixels
from specc.backends.tvm.kernels.tiled_plan import Plan


@dataclass(frozen=True)
class Unit:
    """Where a unit is: results from `first` on of image n, `blocks` output blocks from `block` on. Where it is not
    `real`, there is none."""

    n: Any
    first: Any
    block: Any
    blocks: int
    real: Any = True
    number: Any = 0
    """How many units of the strip, with the same blocks, are in front of it."""
    begins: Any = False
    """Whether a thread begins with it, if there are one or two."""


class Factors:
    """Of one convolution: its operand, as `image` has it packed, its weights, and its products."""

    def __init__(self, emitter: Emitter, anchor: int, image: Image, plan: Plan, lanes: int) -> None:
        self.emitter, self.anchor, self.image, self.plan = emitter, anchor, image, plan
        step = emitter.group.step(anchor)
        data, self.weight, *bias = (emitter.buffers[v] for v in step.operands)
        self.bias = bias[0] if bias else None
        self.near = plan.near and image.pointwise
        """Whether units pack their parts of it."""
        size = ROWS * plan.tiles
        results = size if self.near else whole(image.results, plan.tiles)
        where = (data, lanes, results, step.attrs.get("outside", 0))
        self.panels = Pixels(emitter, image, *where) if isinstance(image, Picture) else Panels(emitter, image, *where)
        self.units = -(-image.results // size)
        self.blocks = -(-step.type.concrete[1] // lanes)
        self.lines = image.bytes // 4
        """Vectors of weights for an output block and a step."""
        self.places: Any = None

    def ready(self) -> None:
        """What is written behind this can compute products."""
        image = self.image
        if self.near:
            self.panels.near()
        size = image.positions(whole(image.results, self.plan.tiles))
        places = [phase * size + shift for phase, shift in image.taps]
        self.places = on_stack((len(places),), "int32") if len(places) > 1 else None
        for tap, place in enumerate(places if len(places) > 1 else ()):
            T.buffer_store(self.places, tirx.const(place, "int32"), [tap])

    def ask(self, unit: Unit, panel: Any, step: Any, chunk: Any) -> None:
        """Asks for weights: the first unit that reads them for those of a step further on, others for those of
        the next chunk or the next blocks. And, where units pack their parts of the operand, for a panel of the next
        unit's."""
        plan, middle, units = self.plan, [0] * (len(self.weight.shape) - 3), -(-self.units // self.plan.strips)
        steps = self.image.steps
        if plan.soon:
            with T.If(tirx.EQ(unit.number, 0)), T.Then():
                for j in range(unit.blocks):
                    for q in range(self.lines):
                        soon(self.weight, unit.block + j, *middle, (step + plan.soon) * self.lines + q, 0)
        if plan.ahead and plan.chunk and units > 1:
            parts = self.image.panels // plan.chunk
            lines = steps // parts * self.lines
            ahead = Ahead(self.emitter, plan.blocks, lines, units - 1, steps // parts)
            ends = tirx.EQ(chunk, parts - 1)
            first = T.Bind(tirx.Select(ends, unit.block + unit.blocks, unit.block))
            start = T.Bind(tirx.Select(ends, 0, (chunk + 1) * lines))
            with T.If(unit.number > 0), T.Then():
                ahead(unit.number - 1, step, self.weight, lambda j, line: (first + j, *middle, start + line, 0))
        elif plan.ahead:
            near, following = plan.near, unit.block + unit.blocks
            abreast = Abreast(self.emitter, plan.blocks, steps * self.lines, 1 if near else units, steps)
            with T.If(unit.begins if near else tirx.const(True, "bool")), T.Then():
                abreast(
                    0 if near else unit.number, step, self.weight, lambda j, line: (following + j, *middle, line, 0)
                )
        if self.near:
            groups = self.blocks // plan.blocks
            self.panels.ask(unit.n, unit.first + ROWS * plan.tiles, panel, unit.block // plan.blocks, groups)

    def step(self, unit: Unit, panel: Any, tap: Any, step: Any) -> None:
        """The products of a panel and a tap."""
        plan, image = self.plan, self.image
        start = unit.first * image.advance
        first = start if self.places is None else T.Bind(start + self.places[tap])
        middle = [0] * (len(self.weight.shape) - 3)

        def inputs(number: int, tile: int) -> None:
            place = first + ROWS * image.advance * number
            at = [0, panel, 0, ROWS * number, 0] if self.near else [unit.n, panel, 0, place, 0]
            amx.load(tile, self.panels.buffer, at, image.pitch)

        def weights(number: int, tile: int) -> None:
            amx.load(tile, self.weight, [unit.block + number, *middle, step * self.lines, 0], amx.BYTES)

        amx.products(image.dtype, plan.tiles, plan.blocks, inputs, weights, unit.blocks)
