"""Dense two-dimensional convolution in tiles of 16 x 16 results (`amx`): of bfloat16 with sums in float32, and of
integers with sums in 32 bits; any kernel, stride, dilation and padding.

    result[n, o, y, x] = epilogue(bias[o] + sum over i, r, s of
                                  input[n, i, y * sy + r * dy - top, x * sx + s * dx - left] * weight[o, i, r, s])

The operand is packed first (`panels`): then the results of an image are one axis, and every tap reads what lies at a
constant distance. A *unit* is some tiles of 16 results by some blocks of 16 output channels, as many sums as the tiles
of a thread hold. Its reduction runs over panels of channels and over taps; each step loads a tile of inputs for each 16
results and one of weights for each block. The sums go to memory that the first-level cache holds (not on the stack: TVM
aligns that to 16 bytes, and rows of 64 would lie on two lines each; without that, ResNet-50 in bfloat16 takes 0.92 to
0.98 of the time, as the stack happens to lie, RepViT-M1.1 0.97), and from there, vector by vector, through the epilogue
to the result. That is done while the products of the next unit are added up, a few results between two steps: tiles and
vectors are different parts of a core. With all of it between two units instead, or a quarter of it between quarters,
nothing overlaps (64 channels, 56 x 56, 3 x 3, integers: 80 microseconds, in place of 73; products alone 52, on one core
of the Granite Rapids generation).

Where units pack their part of the operand (`panels`), each goes through all output blocks, and reads all weights. So
they do where all weights are an eighth of the second-level cache at most. Microseconds, one core of the Granite Rapids
generation beside busy neighbours, operands from beyond this cache, least times in turns, all packed first and by units:

    bfloat16, 56 x 56   256 -> 64 channels, ReLU 204, 139       64 -> 256, sum 216, 201     128 -> 64, sum 116, 71
                        64 -> 128, GELU 151, 127
    bfloat16, 28 x 28   512 -> 128 128, 113                     128 -> 512, sum 131, 131    112 -> 224, GELU 76, 68
    bfloat16, 14 x 14   224 -> 448, GELU 64, 53                 448 -> 224, sum 59, 51
    integers            256 -> 64, 56 x 56 97, 53               512 -> 128, 28 x 28 59, 42  64 -> 256, 56 x 56 138, 118

Without asking for the next part, units of 1 x 4 tiles take 1.00 to 1.15 times as long. With weights of a quarter of the
cache (1024 -> 256 at 14 x 14) both forms take as long.

Weights come from beyond the second-level cache in every run of a network. So while the weights of some blocks are
used, those of the next ones are asked for, in several streams (`fetch`, abreast): where units read them one behind the
other, and where units pack their parts, by the first one of a thread. The same core beside busy neighbours, one thread,
least times in turns of requests for what lies just behind and of streams:

    7 x 7               bfloat16    integers
    512 -> 512, 3 x 3   368, 310    199, 172
    the same, stride 2  412, 338    231, 184
    2048 -> 512         207, 168    119, 98
    512 -> 2048         199, 175    111, 115    (groups of blocks so short that requests come late)
    14 x 14
    256 -> 1024, sum    78, 78      79, 74

Weights of a group of blocks that the first-level cache does not hold come from the second one for every unit: a product
takes 29 to 36 cycles then (`amx`). So all units of a strip add up a *chunk* of the reduction, of some panels, whose
weights stay in the first-level cache, before the next one; their sums wait in memory in between. Microseconds, the same
core beside busy neighbours, least times in turns, without chunks and with them:

    bfloat16, 3 x 3     256 channels, 14 x 14    one thread 178, 150    two threads 102, 91
                        128 channels, 28 x 28               171, 141                113, 103
                        192 channels, 14 x 14                85, 70                  52, 45
    bfloat16, 1 x 1     1024 -> 256, 14 x 14                114, 96                  82, 79
    integers, 3 x 3     256 channels, 14 x 14               101, 82                  59, 47

Two orders of the loops, as in `convolution`: threads share out strips of units and run through all output blocks for
each, or they share out the output blocks, so that each weight is read by one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Template, on_stack
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import amx
from specc.backends.tvm.kernels.amx import DEPTHS, ROWS
from specc.backends.tvm.kernels.epilogue import Epilogue, flattens, operand_packings
from specc.backends.tvm.kernels.panels import Image
from specc.backends.tvm.kernels.pixels import FEW, Picture
from specc.backends.tvm.kernels.tiled_factors import Factors, Unit
from specc.backends.tvm.kernels.tiled_plan import Plan, plan_of
from specc.backends.tvm.packing import Packing
from specc.ir.dtypes import HALVES
from specc.ir.types import block_of
from specc.targets import Target

_AT_ONCE = 4
"""Results for which the epilogue is computed between two steps, at least."""

_WEIGHTS = {"bfloat16": ("conv2d", "bfloat16", "pairs"), "uint8": ("conv2d_integer", "int8", "dot")}
"""By the type of activations: the operator, the type of weights, how they are packed."""


def convolution(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a dense convolution of a type that the target's tiles multiply; None for
    another group or target, and where another template is faster."""
    anchor = group.anchor
    return None if anchor is None else _template(group, (anchor,), True, target, choices)


def added(group: Group, anchors: Sequence[int], together: bool, target: Target, choices: Choices) -> Template | None:
    """The template of 1x1 convolutions whose results are added up (`added`), `together` where nothing is done with them
    before; None as in `convolution`."""
    return _template(group, anchors, together, target, choices)


def _template(
    group: Group, anchors: Sequence[int], together: bool, target: Target, choices: Choices
) -> Template | None:
    """The template of a group with such `anchors`, whose products are one sum or, if not `together`, several."""
    found = [_image(group, anchor, target) for anchor in anchors] if target.tile_product == "amx" else [None]
    packings = operand_packings(group, target.lanes, anchors[0])
    images = [image for image in found if image is not None]
    if packings is None or len(images) < len(found):
        return None
    if len(images) > 1 and (len({i.bytes for i in images}) > 1 or not all(i.one_row for i in images)):
        return None
    plan = plan_of(images, group.type(anchors[0]).concrete[1], target, choices)
    if plan is None:
        return None
    for anchor, image in zip(anchors, images, strict=True):
        _, weight, *bias = group.step(anchor).operands
        packings[weight] = Packing(_WEIGHTS[image.dtype][2], target.lanes, image.depth, taps=image.together)
        packings |= {value: Packing("padded", target.lanes) for value in bias}
    several = [*zip(anchors, images, strict=True)]
    return Template(lambda emitter: _Convolution(emitter, several, together, plan, target).emit(), packings, once=True)


def _image(group: Group, anchor: int, target: Target) -> Image | None:
    """What an anchor reads and computes, if it is such a convolution."""
    step = group.step(anchor)
    if step.op not in ("conv2d", "conv2d_integer") or step.attrs["groups"] != 1:
        return None
    data, weight, *bias = step.operands
    x, w = group.type(data), group.type(weight)
    if x.dtype not in DEPTHS or (step.op, w.dtype) != _WEIGHTS[x.dtype][:2]:
        return None
    block = block_of(x.layout)
    if block not in (0, target.lanes) or not all(group.inputs[v].frozen for v in (weight, *bias)):
        return None
    (n, c, height, width), (rows, columns), kernel = x.concrete, step.type.concrete[2:], w.concrete[2:]
    attrs = step.attrs
    if not block and c > FEW:
        return None
    return (Image if block else Picture)(
        *(x.dtype, n, c, height, width, rows, columns, (kernel[0], kernel[1])),
        *(attrs["stride"], attrs["dilation"], attrs["padding"][:2], block),
    )


class _Convolution:
    """Writes the loops of one convolution, or of several with as many results: their products are added up `together`,
    or else each has sums of its own."""

    def __init__(
        self,
        emitter: Emitter,
        convolutions: Sequence[tuple[int, Image]],
        together: bool,
        plan: Plan,
        target: Target,
    ) -> None:
        self.emitter, self.plan, self.lanes = emitter, plan, target.lanes
        self.together = together
        self.factors = [Factors(emitter, *each, plan, self.lanes) for each in convolutions]
        self.factors.sort(key=lambda factors: -factors.image.steps)
        first = self.factors[0]
        self.image, self.blocks, self.units = first.image, first.blocks, first.units
        within = [factors.anchor for factors in self.factors[1:]] if together else []
        self.epilogue = Epilogue(emitter, first.anchor, self.lanes, within=within)
        self.flat = self.image.across == self.image.columns and flattens(emitter.group)
        self.size = ROWS * plan.tiles
        self.sums: list[Any] = []
        self.bias: Any = None

    def emit(self) -> None:
        """All loops: the operands', then those of the products."""
        emitter, plan, batch = self.emitter, self.plan, self.image.batch
        for factors in self.factors:
            if not factors.near:
                factors.panels.emit()
        many, rest = divmod(self.blocks, plan.blocks)
        if plan.strips_first:
            with emitter.parallel(batch * plan.strips) as work:
                n, strip = emitter.divmod(work, plan.strips)
                with self._ready():
                    if many:
                        self._units(n, 0, many, plan.blocks, strip)
                    if rest:
                        self._units(n, many, 1, rest, strip)
            return
        groups = many + (rest > 0)
        with emitter.parallel(batch * groups * plan.strips) as work:
            outer, strip = emitter.divmod(work, plan.strips)
            n, group = emitter.divmod(outer, groups)
            with self._ready():
                if not rest or not many:
                    return self._units(n, group, 1, rest or plan.blocks, strip)
                with T.If(group < many):
                    with T.Then():
                        self._units(n, group, 1, plan.blocks, strip)
                    with T.Else():
                        self._units(n, group, 1, rest, strip)

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """What is written in here can compute units."""
        count = 1 if self.together else len(self.factors)
        for factors in self.factors:
            factors.ready()
        kept = -(-self.units // self.plan.strips) if self.plan.chunk else 1
        shape = (kept * self.size, self.plan.blocks, self.lanes)
        self.sums = [T.alloc_buffer(shape, self.epilogue.dtype) for _ in range(count)]
        if self.together:
            self.bias = self._biases([factors.bias for factors in self.factors if factors.bias is not None])
        with amx.configured(amx.shapes(self.plan.tiles, self.plan.blocks, ROWS, self.image.bytes)):
            yield

    def _biases(self, biases: list[Any]) -> Any:
        """The sum of some biases, each of all output channels."""
        if len(biases) < 2:
            return biases[0] if biases else None
        total = T.alloc_buffer((self.blocks * self.lanes,), self.epilogue.dtype)
        with self.emitter.serial(self.blocks) as block, self.emitter.lanes(self.lanes) as lane:
            place = block * self.lanes + lane
            self.emitter.store(total, sum((bias[place] for bias in biases[1:]), biases[0][place]), [place])
        return total

    def _units(self, n: Any, group: Any, groups: int, blocks: int, strip: Any) -> None:
        """The units of a strip for `groups` groups of so many output blocks, from number `group` on. While the products
        of one are added up, the epilogue of the one before it is computed."""
        emitter, size = self.emitter, self.plan.blocks
        count = -(-self.units // self.plan.strips)
        low = strip * count
        high = T.Bind(tirx.min(self.units, low + count)) if count * self.plan.strips > self.units else low + count

        def unit(group: Any, number: Any, real: Any = True) -> Unit:
            return Unit(n, number * self.size, group * size, blocks, real, number - low)

        last = group + groups - 1
        if self.plan.near:
            with emitter.strip(self.units, self.plan.strips, strip) as number:
                for factors in self.factors:
                    if factors.near:
                        factors.panels.pack(n, number * self.size)
                with emitter.serial(groups, group) as g:
                    begins = T.Bind(tirx.EQ(g, group)) if groups > 1 else tirx.const(True, "bool")
                    before = unit(
                        T.Bind(tirx.Select(begins, last, g - 1)),
                        T.Bind(tirx.Select(begins, number - 1, number)),
                        T.Bind(tirx.Or(number > low, tirx.Not(begins))),
                    )
                    this = unit(g, number)
                    if self.plan.ahead:
                        half = -(-self.plan.strips // 2)
                        starts = tirx.Or(tirx.EQ(strip, 0), tirx.EQ(strip, half))
                        this = replace(this, begins=T.Bind(tirx.And(starts, tirx.EQ(this.number, 0))))
                    self._unit(this, before)
            return self._finish(unit(last, high - 1, high > low), 0, self.size)
        if self.plan.chunk:
            chunks = self.image.panels // self.plan.chunk
            with emitter.serial(groups, group) as g:
                with emitter.serial(chunks) as chunk, emitter.strip(self.units, self.plan.strips, strip) as number:
                    self._part(unit(g, number), unit(g, number - 1, number > low), chunk)
                self._finish(unit(g, high - 1, high > low), 0, self.size)
            return
        with emitter.serial(groups, group) as g, emitter.strip(self.units, self.plan.strips, strip) as number:
            begins = number == low
            before = unit(
                T.Bind(tirx.Select(begins, g - 1, g)) if groups > 1 else g,
                T.Bind(tirx.Select(begins, high - 1, number - 1)),
                T.Bind(tirx.Or(tirx.Not(begins), g > group)) if groups > 1 else T.Bind(tirx.Not(begins)),
            )
            self._unit(unit(g, number), before)
        self._finish(unit(last, high - 1, high > low), 0, self.size)

    def _unit(self, unit: Unit, before: Unit) -> None:
        """All products of a unit, and the epilogue of the one before it.

        Where each convolution has sums of its own, that ends before those of the first one are written.
        """
        together, begin = self.together, 0
        steps = sum(f.image.steps for f in self.factors) if together else self.factors[0].image.steps
        for number, factors in enumerate(self.factors):
            if number == 0 or not together:
                self._start(unit, self.bias if together else factors.bias)
            self._products(factors, unit, before, begin, steps)
            if number == len(self.factors) - 1 or not together:
                self._move(amx.store, unit, self.sums[0 if together else number])
            begin += factors.image.steps

    def _part(self, unit: Unit, before: Unit, chunk: Any) -> None:
        """The products of a chunk of the reduction, and in the last one the epilogue of the unit in front."""
        (factors,), (sums,) = self.factors, self.sums
        panels = self.plan.chunk
        last = factors.image.panels // panels - 1
        with T.If(tirx.EQ(chunk, 0)):
            with T.Then():
                self._start(unit, self.bias)
            with T.Else():
                self._move(amx.load, unit, sums)
        real = T.Bind(tirx.And(before.real, tirx.EQ(chunk, last)))
        self._products(factors, unit, replace(before, real=real), 0, panels * len(factors.image.taps), chunk)
        self._move(amx.store, unit, sums)

    def _start(self, unit: Unit, bias: Any) -> None:
        """What sums begin with: their biases in all rows."""
        for j in range(unit.blocks):
            for i in range(self.plan.tiles):
                if bias is None:
                    amx.zero(i * self.plan.blocks + j)
                else:
                    amx.load(i * self.plan.blocks + j, bias, [(unit.block + j) * self.lanes], 0)

    def _move(self, move: Callable[..., None], unit: Unit, sums: Any) -> None:
        """Writes the tiles of a unit to memory, or reads them from there."""
        plan, first = self.plan, self._kept(unit)
        for i in range(plan.tiles):
            for j in range(unit.blocks):
                move(i * plan.blocks + j, sums, [first + ROWS * i, j, 0], 4 * self.lanes * plan.blocks)

    def _kept(self, unit: Unit) -> Any:
        """Where in memory the sums of a unit begin."""
        return T.Bind(unit.number * self.size) if self.plan.chunk else 0

    def _products(self, factors: Factors, unit: Unit, before: Unit, begin: int, steps: int, chunk: Any = 0) -> None:
        """Adds all products of one convolution, or of a chunk of it, to the tiles of a unit. In between, in its steps
        number `begin` and on of so many `steps` of all, the epilogue of the unit before it, a few results at a time: a
        core takes instructions in order, and those behind more loads of tiles than it has tiles for have to wait.
        """
        emitter, image, taps = self.emitter, factors.image, len(factors.image.taps)
        least = max(_AT_ONCE, -(-self.size // steps))
        count = next(n for n in range(least, self.size + 1) if self.size % n == 0)
        panels = self.plan.chunk or image.panels
        with emitter.serial(panels) as number, emitter.serial(taps) as tap:
            step, panel = number * taps + tap, chunk * panels + number
            factors.ask(unit, panel, step, chunk)
            factors.step(unit, panel, tap, panel * taps + tap)
            if begin * count >= self.size:
                due: Any = False
            elif count == self.size:
                due = step == 0
            else:
                due = (begin + step) * count < self.size
            if self.plan.chunk:
                due = tirx.And(before.real, due)
            if isinstance(due, bool):
                if due:
                    self._finish(before, (begin + step) * count, count)
            else:
                with T.If(due), T.Then():
                    self._finish(before, T.Bind((begin + step) * count), count)

    def _finish(self, unit: Unit, number: Any, size: int) -> None:
        """The epilogue for those of `size` results of a unit, from number `number` on, that are used: runs of
        neighbours in a row."""
        emitter, image, minimum, maximum = self.emitter, self.image, tirx.min, tirx.max
        across, first = image.across, T.Bind(unit.first + number)

        def where(count: Any) -> Any:
            return T.Bind(count if unit.real is True else tirx.Select(unit.real, count, 0))

        if self.flat:
            return self._run(unit, 0, first, number, where(minimum(size, image.results - first)))
        top = T.Bind(tirx.floordiv(first, across))
        bottom = minimum(image.rows, tirx.floordiv(first + (size - 1), across) + 1)
        with emitter.serial(where(bottom - top), top) as y:
            start = T.Bind(maximum(0, first - y * across))
            stop = T.Bind(minimum(image.columns, first + size - y * across))
            self._run(unit, y, start, T.Bind(number + y * across + start - first), T.Bind(maximum(0, stop - start)))

    def _run(self, unit: Unit, y: Any, x: Any, number: Any, count: Any) -> None:
        """The epilogue for `count` neighbouring results of row y from x on, from number `number` of the unit on."""
        emitter, epilogue, lanes = self.emitter, self.epilogue, self.lanes
        kept = self._kept(unit)
        result, plain = epilogue.result, not epilogue.result.block
        kind = "float32" if result.type.dtype in HALVES else result.type.dtype
        staged = [on_stack((self.size, lanes), kind) for _ in range(unit.blocks)] if plain else []
        with emitter.serial(count) as i, emitter.lanes(lanes) as lane:
            for j in range(unit.blocks):
                index = (unit.n, (unit.block + j) * lanes + lane, y, x + i)
                sums = [Scalar(each[kept + number + i, j, lane]) for each in self.sums]
                beside = {f.anchor: value for f, value in zip(self.factors[1:], sums[1:])}
                value = epilogue.value_at(sums[0], index, beside)
                if plain:
                    emitter.store(staged[j], value, [i, lane])
                else:
                    result.put(value, result.position(index))
        for j, buffer in enumerate(staged):
            channel = (unit.block + j) * lanes
            left = tirx.min(lanes, epilogue.channels - channel) if epilogue.partial else lanes
            with emitter.serial(left) as lane, emitter.serial(count) as i:
                result.put(buffer[i, lane], [unit.n, channel + lane, y, x + i])
