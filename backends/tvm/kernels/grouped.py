"""Grouped convolutions of two dimensions: the loops of a dense one (`convolution`) for each group of channels.

    result[n, o, y, x] = epilogue(bias[o] + sum over i of the group of o, r, s of
                                  input[n, i, y * sy + r * dy - top, x * sx + s * dx - left] * weight[o, i, r, s])

The groups of an image are, in memory, as many images of fewer channels, if the channels of each fill blocks (those of
the input, if it lies in blocks): the batch of the loops is that of the images times that of the groups.

A group whose channels do not fill blocks is joined with its neighbours, the fewest that do fill them; their weights
have zeros where the one has nothing of the other. With vectors of 16, four groups of 4 channels (ResNeXt-50) are one,
of which a quarter of the products are wanted; with vectors of 4, each is one by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import gcd, lcm
from typing import Any

from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Template
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels.convolution import Convolution, anchored
from specc.backends.tvm.kernels.convolution_plan import Geometry, Schedule, geometry_of, kept_of, schedule_of
from specc.backends.tvm.kernels.epilogue import is_heavy
from specc.backends.tvm.packing import Packing
from specc.targets import Target


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a grouped convolution; None for another group."""
    found = anchored(group, target)
    if found is None:
        return None
    anchor, packings, inner = found
    step, lanes = group.step(anchor), target.lanes
    data, weight, *_ = step.operands
    groups, inputs, outputs = step.attrs["groups"], group.type(data).concrete[1], step.type.concrete[1]
    together = _together(groups, inputs // groups, outputs // groups, inner, lanes)
    if groups == 1 or together is None:
        return None
    parts = groups // together
    packings[weight] = Packing("grouped", lanes, inner, groups=groups, together=together)
    whole = geometry_of(group, anchor, target, choices)
    geometry = replace(whole, batch=whole.batch * parts, in_channels=inputs // parts, out_channels=outputs // parts)
    heavy = is_heavy(group, group.last)
    schedule = schedule_of(geometry, inner, target, choices, heavy=heavy, kept=kept_of(geometry, inner, target))

    def write(emitter: Emitter) -> None:
        _Grouped(emitter, anchor, geometry, schedule, parts, inner, target).emit()

    return Template(write, packings, once=True)


def _together(groups: int, inputs: int, outputs: int, inner: int, lanes: int) -> int | None:
    """How many groups of so many channels, read in blocks of `inner`, are computed as one; None if the zeros would cost
    what vectors gain."""
    fewest = lcm(inner // gcd(inputs, inner), lanes // gcd(outputs, lanes))
    together = fewest if groups % fewest == 0 else groups
    return together if together <= lanes else None


class _Grouped(Convolution):
    """Writes the loops: `parts` images of the geometry are the groups of one."""

    def __init__(
        self,
        emitter: Emitter,
        anchor: int,
        geometry: Geometry,
        schedule: Schedule,
        parts: int,
        inner: int,
        target: Target,
    ) -> None:
        super().__init__(emitter, anchor, geometry, schedule, inner, target)
        self.parts = parts
        self.start: Any = 0

    def _rows(self, n: Any, blocks: Sequence[Any], strip: Any) -> None:
        image, part = self.emitter.divmod(n, self.parts)
        self.start = self._bound(part, self.geometry.in_channels, self.inner)
        first = self._bound(part, self.geometry.out_channels, self.lanes)
        super()._rows(image, [first + block for block in blocks], strip)

    def _bound(self, part: Any, channels: int, block: int) -> Any:
        """The first block of the channels of a part."""
        first = self.emitter.simplify(part * -(-channels // block))
        return first if isinstance(first, int) else T.Bind(first)

    def _channel(self, number: Any) -> Any:
        return self.start + number
