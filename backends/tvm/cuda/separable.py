"""A depthwise convolution and the 1x1 convolution that alone reads it, in one launch where that pays.

    x --depthwise k x k--> --pointwise steps--> (between) --1x1 convolution--> --pointwise steps--> result

In one launch (`separable_kernel`), what is between them lies in shared memory alone. A block has all channels of its
pixels, and as many outputs as its tile has rows: where these are not all, the depthwise part is computed again for the
others. In several, the templates of both write one behind the other, with the tensor between them in a temporary.

Which of the two, a model of time decides: the longer one of what the blocks take (`separable_tiles`, and the models of
both templates) and of the bytes that each launch moves. What is larger than the second-level cache comes from memory,
anything else from the cache; a launch costs what it takes to begin one in a CUDA graph behind another. (Qararyah et
al., "Fusing Depthwise and Pointwise Convolutions for Efficient Inference on GPUs", arXiv:2404.19331.)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

from specc.backends.tvm.apart import apart
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.cuda import core_tiles, cores, depthwise, elements, products
from specc.backends.tvm.cuda.occupancy import LAUNCH, ROUND_TRIP, moved
from specc.backends.tvm.cuda.operands import sizes_of
from specc.backends.tvm.cuda.runs import WEIGHTS, in_place, padded
from specc.backends.tvm.cuda.separable_kernel import Chain, Separable
from specc.backends.tvm.cuda.separable_tiles import Shape, Tile, cycles, ranked
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group, Part, cut
from specc.backends.tvm.packing import Packing
from specc.ir.dtypes import DTYPES, HALVES
from specc.targets import Target


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group that is a depthwise convolution and a 1x1 convolution; None for another group."""
    chain = chain_of(group)
    if chain is None:
        return None
    parts, shape = cut(group, chain.middle), shape_of(group, chain)
    tiles = ranked(shape, target)
    pays = bool(tiles) and one_launch(tiles[0], shape, target) < several_launches(parts, shape, target)
    if choices.take("fused", (True, False) if tiles else (False,), pays):
        names = {tile.name: tile for tile in tiles}
        tile = names[choices.take("tile", list(names)[:24], tiles[0].name)]
        weight = group.step(chain.last).operands[1]
        packings = {weight: WEIGHTS if shape.halves else Packing("terms")}
        return Template(lambda emitter: Separable(emitter, chain, tile, shape).emit(), packings)
    templates = [alone(part, target, choices.part(name)) for part, name in zip(parts, ("depthwise", "product"))]
    made = apart(chain.middle, parts, templates)
    return Template(lambda emitter: made.write(emitter), made.packings)  # by this module's name in reports


def chain_of(group: Group) -> Chain | None:
    """The convolutions of a group, if they are what this template is for."""
    if not group.single or len(group.anchors) != 2:
        return None
    first, last = group.anchors
    deep, product = group.step(first), group.step(last)
    if deep.op != "conv2d" or product.op != "conv2d":
        return None
    middle, weight, *bias = product.operands
    read = [operand for step in group.steps for operand in step.operands]
    if any(v >= len(group.inputs) for v in (*deep.operands, weight, *bias)) or read.count(weight) != 1:
        return None
    before, behind = (group.reached(value) & set(group.anchors) for value in (middle, group.last))
    if before != {first} or behind != {last}:
        return None
    if any(value >= len(group.inputs) and value != middle for value in cut(group, middle)[1].values):
        return None
    if group.type(middle).shape != deep.type.shape or group.result.shape != product.type.shape:
        return None
    apart = deep.attrs["groups"] == group.type(deep.operands[0]).concrete[1]
    attrs, kernel = product.attrs, group.type(weight).concrete[2:]
    plain = kernel == (1, 1) == tuple(attrs["stride"]) and attrs["groups"] == 1 and not any(attrs["padding"])
    types = [step.type for step in group.steps] + [operand.type for operand in group.inputs]
    factors = {group.type(value).dtype for value in (middle, weight)}
    numbers = {"float32", *HALVES}
    fits = len(factors) == 1 and factors <= numbers and all(group.type(v).dtype in numbers for v in deep.operands)
    sums = deep.type.dtype == product.type.dtype == "float32"
    if not (apart and plain and fits and sums and group.inputs[weight].frozen) or any(t.layout for t in types):
        return None
    return Chain(first, middle, last) if all(prod(type.concrete) for type in types) else None


def shape_of(group: Group, chain: Chain) -> Shape:
    """The extents of both convolutions."""
    deep, last = group.step(chain.first), group.step(chain.last)
    n, channels, *_ = deep.type.concrete
    source = group.type(deep.operands[0])
    return Shape(
        depthwise.window_of(group, deep),
        n,
        channels,
        last.type.concrete[1],
        group.type(chain.middle).dtype,
        DTYPES[source.dtype] * prod(source.concrete),
        DTYPES[group.type(chain.middle).dtype] * prod(deep.type.concrete),
        DTYPES[group.result.dtype] * prod(group.result.concrete),
    )


# ---- one launch or several -------------------------------------------------------------------------------------------


def one_launch(tile: Tile, shape: Shape, target: Target) -> float:
    """Cycles of the fused form."""
    return max(cycles(tile, shape, target), moved((shape.source, shape.result), target))


def several_launches(parts: Sequence[Part], shape: Shape, target: Target) -> float:
    """Cycles of the two convolutions one behind the other, and of the launch in front of a product that needs one."""
    return filtered_alone(shape, target) + LAUNCH + multiplied_alone(parts[1].group, target)


def filtered_alone(shape: Shape, target: Target) -> float:
    """Cycles of the depthwise convolution."""
    window = shape.window
    tile = depthwise.choose(window, target, Choices())
    taken = depthwise.cycles(window, tile, target) if tile else inf
    return max(taken, moved((shape.source, shape.between), target))


def multiplied_alone(group: Group, target: Target) -> float:
    """Cycles of a group that is a 1x1 convolution, and of the launch in front of it if it needs one."""
    assert group.anchor is not None
    step = group.step(group.anchor)
    source, sizes = group.type(step.operands[0]), sizes_of(group, step)
    assert sizes is not None
    before, behind = (DTYPES[type.dtype] * prod(type.concrete) for type in (source, group.result))
    arranged = 0.0
    if source.dtype in HALVES:
        sizes = (*sizes[:3], padded(sizes[3]))
        taken = core_tiles.cycles(*core_tiles.choose(sizes, target, Choices()), sizes, target)
        if not in_place(group, step):
            arranged = LAUNCH + moved((before, before), target)
    else:
        taken = ROUND_TRIP + products.cycles(*products.choose(sizes, target, Choices()), sizes, target)
    return arranged + max(taken, moved((before, behind), target))


# ---- several launches ------------------------------------------------------------------------------------------------


def alone(part: Part, target: Target, choices: Choices) -> Template:
    """The template of one of the convolutions."""
    for lower in (cores.lower, products.lower, depthwise.lower):
        found = lower(part.group, target, choices)
        if found is not None:
            return found
    return elements.lower(part.group, target)
