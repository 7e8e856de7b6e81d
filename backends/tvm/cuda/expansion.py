"""An expansion and the depthwise convolution behind it, and the projection behind that, in as few launches as pay.

    x --1x1 convolution--> wide --pointwise steps--> --depthwise k x k--> --pointwise steps--> (between)
        --1x1 convolution--> --pointwise steps--> result

In one launch (`expansion_kernel`), neither tensor between them is ever stored. Where others read what the depthwise
convolution makes, as a squeeze-excite does, the group ends with it. A model of time decides among

    all      one launch
    front    the expansion and the depthwise convolution in one, the projection behind them
    back     the expansion by itself, and what `separable` takes for the rest
    apart    of a group without a projection: each by itself

as it does between one launch and two there: the longer one of what the blocks take (`expansion_tiles`, and the models
of the other templates) and of the bytes that each launch moves, with what it costs to begin one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

from specc.backends.tvm.apart import apart
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.cuda import depthwise, separable, separable_tiles
from specc.backends.tvm.cuda.expansion_kernel import Block, Expansion
from specc.backends.tvm.cuda.expansion_tiles import Shape, cycles, ranked
from specc.backends.tvm.cuda.occupancy import LAUNCH, moved
from specc.backends.tvm.cuda.runs import WEIGHTS
from specc.backends.tvm.cuda.separable import alone, filtered_alone, multiplied_alone
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group, Part, cut
from specc.backends.tvm.packing import Packing
from specc.ir.dtypes import DTYPES, HALVES
from specc.targets import Target


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group that begins with an expansion and a depthwise convolution; None for another group."""
    block = block_of(group)
    if block is None:
        return None
    times = ways(group, block, target)
    way = choices.take("fused", sorted(times, key=lambda way: times[way]), min(times, key=lambda way: times[way]))
    if way == "all":
        shape = shape_of(group, block)
        tiles = ranked(shape, target)
        names = {tile.name: tile for tile in tiles}
        tile = names[choices.take("tile", list(names)[:24], tiles[0].name)]
        packing = WEIGHTS if shape.halves else Packing("terms")
        ends = {block.expand, block.last} if shape.outputs else {block.expand}
        packings = {group.step(end).operands[1]: packing for end in ends}
        return Template(lambda emitter: Expansion(emitter, block, tile, shape).emit(), packings)
    if way == "front":
        parts = cut(group, block.middle)
        front = lower(parts[0].group, target, choices.part("front"))
        assert front is not None
        return _in_several(block.middle, parts, [front, alone(parts[1], target, choices.part("projection"))])
    parts = cut(group, block.wide)
    rest = separable.lower(parts[1].group, target, choices.part("rest")) if way == "back" else None
    rest = rest or alone(parts[1], target, choices.part("depthwise"))
    return _in_several(block.wide, parts, [alone(parts[0], target, choices.part("expansion")), rest])


def _in_several(value: int, parts: Sequence[Part], templates: Sequence[Template]) -> Template:
    """The template of a group that is cut at `value`, by this module's name in reports."""
    made = apart(value, parts, templates)
    return Template(lambda emitter: made.write(emitter), made.packings)


def block_of(group: Group) -> Block | None:
    """The convolutions of a group, if they are what this template is for."""
    if not group.single or len(group.anchors) not in (2, 3):
        return None
    first, deep, *last = group.anchors
    expand, filtering = group.step(first), group.step(deep)
    if expand.op != "conv2d" or filtering.op != "conv2d" or filtering.operands[0] < len(group.inputs):
        return None
    wide = filtering.operands[0]
    front, rest = cut(group, wide)
    if any(value >= len(group.inputs) and value != wide for value in rest.values) or len(front.group.anchors) != 1:
        return None
    channels, dtype = expand.type.concrete[1], group.type(expand.operands[0]).dtype
    if group.type(wide).shape != expand.type.shape or filtering.attrs["groups"] != channels:
        return None
    if filtering.type.concrete[1] != channels or not _is_expansion(group, first):
        return None
    types = [step.type for step in group.steps] + [operand.type for operand in group.inputs]
    numbers = all(group.type(value).dtype in ("float32", *HALVES) for value in filtering.operands)
    if any(type.layout or not prod(type.concrete) for type in types) or not numbers:
        return None
    if last:
        chain = separable.chain_of(rest.group)
        if chain is None or rest.group.type(chain.middle).dtype != dtype:
            return None
        return Block(deep, group.step(last[0]).operands[0], last[0], first, wide)
    if rest.group.anchor is None or group.result.shape != filtering.type.shape or filtering.type.dtype != "float32":
        return None
    return Block(deep, group.last, deep, first, wide)


def _is_expansion(group: Group, first: int) -> bool:
    """Whether a step is a 1x1 convolution of what lies in memory, with frozen weights that nothing else reads."""
    step = group.step(first)
    data, weight = step.operands[:2]
    read = [operand for each in group.steps for operand in each.operands]
    if any(value >= len(group.inputs) for value in step.operands) or read.count(weight) != 1:
        return False
    plain = step.attrs["groups"] == 1 == step.attrs["stride"][0] == step.attrs["stride"][1]
    window = group.type(weight).concrete[2:] != (1, 1) or any(step.attrs["padding"])
    kinds = {group.type(data).dtype, group.type(weight).dtype}
    fits = len(kinds) == 1 and kinds <= {"float32", *HALVES} and step.type.dtype == "float32"
    return plain and not window and fits and group.inputs[weight].frozen


def shape_of(group: Group, block: Block) -> Shape:
    """The extents of the convolutions."""
    deep, expand = group.step(block.first), group.step(block.expand)
    n, channels, *_ = deep.type.concrete
    source = group.type(expand.operands[0])
    tensors = source, group.type(block.middle), group.result, group.type(block.wide)
    first, between, result, wide = (DTYPES[type.dtype] * prod(type.concrete) for type in tensors)
    return Shape(
        depthwise.window_of(group, deep),
        n,
        channels,
        group.result.concrete[1] if block.last != block.first else 0,
        source.dtype,
        first,
        between,
        result,
        source.concrete[1],
        wide,
    )


def ways(group: Group, block: Block, target: Target) -> dict[str, float]:
    """Cycles of each way in which a group can be computed, by its name."""
    shape = shape_of(group, block)
    tiles = ranked(shape, target)
    found = {}
    if tiles:
        found["all"] = max(cycles(tiles[0], shape, target), moved((shape.source, shape.result), target))
    front, rest = cut(group, block.wide)
    expansion = multiplied_alone(front.group, target) + LAUNCH
    if not shape.outputs:
        alone = separable_tiles.Shape(shape.window, 0, 0, 0, "", shape.wide, shape.between, 0)
        return found | {"apart": expansion + filtered_alone(alone, target)}
    parts = cut(group, block.middle)
    inner = block_of(parts[0].group)
    assert inner is not None
    joined = ways(parts[0].group, inner, target).get("all", inf)
    if joined < inf:
        found["front"] = joined + LAUNCH + multiplied_alone(parts[1].group, target)
    return found | {"back": expansion + _behind(rest.group, target)}


def _behind(group: Group, target: Target) -> float:
    """Cycles of a depthwise convolution and its projection."""
    chain = separable.chain_of(group)
    assert chain is not None
    shape = separable.shape_of(group, chain)
    tiles = separable_tiles.ranked(shape, target)
    several = separable.several_launches(cut(group, chain.middle), shape, target)
    return min(several, separable.one_launch(tiles[0], shape, target)) if tiles else several
