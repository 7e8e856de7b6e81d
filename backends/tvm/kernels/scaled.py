"""The product of a picture and a scale for each of its channels, and the 1x1 convolution behind it, in one kernel: as
where a squeeze-excite ends.

    result[n, o, y, x] = epilogue(bias[o] + sum over i of picture[n, i, y, x] * (scale[n, i] * weight[o, i]))

The scales are taken into the weights: those of an image are multiplied first, into memory of their own, and the
convolution (`convolution`, `half_blocks`) reads the picture where it lies. Threads share out the blocks of outputs, and
then the convolution.

The fusion pass decides which products are computed so, by a rule and its measurements (`specc.passes.scaled`). A choice
can take the two apart again: one behind the other then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.apart import apart
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Template
from specc.backends.tvm.group import Group, cut
from specc.backends.tvm.kernels import convolution, general, half_blocks
from specc.backends.tvm.kernels.convolution import Convolution
from specc.backends.tvm.kernels.convolution_plan import geometry_of, schedule_of
from specc.backends.tvm.kernels.convolution_reads import Place
from specc.backends.tvm.kernels.epilogue import is_heavy
from specc.backends.tvm.kernels.half_blocks import HalfBlocks
from specc.backends.tvm.kernels.stages import is_pointwise
from specc.backends.tvm.packing import Packing
from specc.ir.types import TensorType, block_of
from specc.targets import Target


@dataclass(frozen=True)
class _Product:
    """The values of a product: itself, the picture, and the scales of its channels."""

    value: int
    picture: int
    scales: int


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a product of a picture and scales, and a 1x1 convolution of it; None for another group."""
    product = _product(group, target)
    if product is None:
        return None
    front, rest = cut(group, product.value)
    found = convolution.anchored(rest.group, target)
    if found is None:
        return None
    if not choices.take("fused", (True, False), True):
        last = convolution.lower(rest.group, target, choices.part("project"))
        assert last is not None
        first = general.lower(front.group, target, choices.part("scale"))
        made = apart(product.value, (front, rest), (first, last))
        return Template(lambda emitter: made.write(emitter), made.packings, once=made.once)
    anchor, packings, _ = found
    weight = rest.group.step(anchor).operands[1]
    plan = half_blocks.plan_of(rest.group, anchor, target, choices)
    form: type[_Scaled | _ScaledHalves] = _ScaledHalves
    packings[weight] = half_blocks.packing(target)
    if plan is None:
        packings[weight], form = Packing("convolution", target.lanes, target.lanes), _Scaled
        geometry = geometry_of(rest.group, anchor, target, choices)
        heavy = is_heavy(rest.group, rest.group.last)
        plan = geometry, schedule_of(geometry, target.lanes, target, choices, heavy=heavy)
    geometry, schedule = plan

    def write(emitter: Emitter) -> None:
        stored = emitter.buffers[rest.values[weight]]
        scaled = _scaled(emitter, stored, emitter.buffers[product.scales], geometry.batch)
        made = {product.value: emitter.buffers[product.picture], rest.values[weight]: scaled}
        inner = emitter.part(rest, packings, made, emitter.outputs[0])
        form(inner, anchor, geometry, schedule, target.lanes, target).emit()

    return Template(write, {rest.values[number]: packing for number, packing in packings.items()}, once=True)


def _product(group: Group, target: Target) -> _Product | None:
    """The product that a group begins with; None for another group."""
    if len(group.anchors) != 1 or group.step(group.anchors[0]).op != "conv2d":
        return None
    (anchor,) = group.anchors
    value = group.step(anchor).operands[0]
    if value < len(group.inputs) or group.step(value).op != "mul" or not is_pointwise(group, anchor):
        return None
    operands, type = group.step(value).operands, group.type(value)
    if any(operand >= len(group.inputs) or group.inputs[operand].frozen for operand in operands):
        return None
    types = [group.type(operand) for operand in (*operands, *group.step(anchor).operands[1:], anchor)]
    if any(t.dtype != "float32" for t in types) or {block_of(t.layout) for t in (type, *types[:2])} != {target.lanes}:
        return None
    for picture, scales in (operands, operands[::-1]):
        if group.type(picture) == type and group.type(scales).concrete == (*type.concrete[:2], 1, 1) != type.concrete:
            return _Product(value, picture, scales)
    return None


def _scaled(emitter: Emitter, weights: Any, scales: Any, batch: int) -> Any:
    """Writes the loops that multiply all blocks of the weights by the scales of each image; the memory of the products,
    those of one image behind those of the other."""
    blocks, *rest = map(int, weights.shape)
    channels, _, _, steps, lanes = rest
    scaled, depth = emitter.temporary(TensorType((batch * blocks, *rest))).buffer, int(scales.shape[-1]) // steps
    with emitter.parallel(batch * blocks) as work:
        n, block = emitter.divmod(work, blocks)
        with emitter.serial(channels) as channel, emitter.serial(steps) as i:
            at = [channel, 0, 0, i]
            if depth > 1:
                pair, every = half_blocks.repeated(scales, [n, *at[:-1], i * depth], lanes), tirx.Ramp(0, 1, lanes)
                T.buffer_store(scaled, tirx.BufferLoad(weights, [block, *at, every]) * pair, [work, *at, every])
            else:
                with emitter.lanes(lanes) as lane:
                    value = weights[block, channel, 0, 0, i, lane] * tirx.BufferLoad(scales, [n, *at])
                    emitter.store(scaled, value, [work, *at, lane])
    return scaled


class _Scaled(Convolution):
    """Writes the loops of the convolution, whose weights each image has for itself."""

    def _filters(self, place: Place) -> Sequence[Any]:
        blocks = -(-self.geometry.out_channels // self.lanes)
        return [self.emitter.simplify(place.n * blocks + block) for block in place.blocks]


class _ScaledHalves(HalfBlocks):
    """The same where two inputs are in each vector."""

    def _filters(self, place: Place) -> Sequence[Any]:
        return [self.emitter.simplify(place.n * self.vectors + vector) for vector in super()._filters(place)]
