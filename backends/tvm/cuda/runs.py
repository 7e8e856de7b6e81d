"""Both sides of a product of numbers of 16 bits, as runs in memory that can be copied as they are.

A copy to shared memory on its way brings 2, 4 or 8 numbers that are neighbours in memory and begin at a multiple of
their size. What lies in such runs is read where it lies: rows of a linear layer, both sides of a matrix product, the
pixels of a convolution with one tap and stride 1 (of 8 pixels if the pictures have a multiple of 8, and so on). Frozen
weights are stored so. Anything else, a launch in front arranges:

    the input of another convolution    [n, groups, c / 8, y, x, 8], with the zeros around it: a run is 8 channels of a
                                        pixel, whatever taps, strides and dilation are, and neighbours are neighbours
    rows that begin at odd addresses    [b, index, terms], the terms filled up to a multiple of 8 with zeros
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from tvm import tirx
from tvm.ir import TensorLoad

from specc.backends.tvm.cuda.intrinsics import address, put
from specc.backends.tvm.cuda.threads import BLOCK, grid, local, only_if, unravel, unrolled
from specc.backends.tvm.emitter import Emitter
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group, Step
from specc.backends.tvm.packing import Packing
from specc.ir.types import TensorType

RUN = 8
"""Numbers that a thread copies at once, 16 bytes; where they lie at a multiple of 8 or 4 bytes, in parts."""

WEIGHTS = Packing("rows", RUN)
"""How frozen weights of convolutions and linear layers are stored."""


@dataclass(frozen=True)
class Runs:
    """One side, element (b, index, k) at `at`: `extent` of the index, `terms` of k; what is beyond counts as 0.

    `width` numbers along `along` are neighbours, from a multiple of `width` on. If none are, `at` gives bits that it
    may have computed, not a place in memory. With `spread`, a thread's neighbour reads the next index, not the next
    run of k.
    """

    extent: int
    terms: int
    along: Literal["k", "own"]
    width: int
    at: Callable[[Any, Any, Any], Any]
    spread: bool = False


def width_of(extent: int) -> int:
    """How many numbers of a row of that extent a copy can bring; 1 if none can."""
    return next(width for width in (8, 4, 2, 1) if extent % width == 0)


def neighbours(emitter: Emitter, extent: int, element: Callable[[Any], Any]) -> int:
    """How many of `extent` elements are neighbours in memory, from each multiple of so many on: 8, 4, or 2.

    1 if none are, or if what `element` gives for a number is not read at one place of a buffer.
    """

    def offset(number: Any) -> Any:
        read, flat = element(number), 0
        if not isinstance(read, TensorLoad):
            return None
        for index, size in zip(read.indices, read.source.shape):
            flat = flat * size + index
        return flat

    def equal(value: Any, number: int) -> bool:
        found = emitter.simplify(value)
        return int(found) == number if isinstance(found, (int, tirx.IntImm)) else False

    for width in (8, 4, 2):
        if extent % width == 0:
            first = emitter.bind(tirx.Var("run", "int32"), extent // width) * width
            offsets = [offset(first + number) for number in range(width)]
            if any(own is None for own in offsets) or not equal(emitter.divmod(offsets[0], width)[1], 0):
                continue
            if all(equal(own - offsets[0], number) for number, own in enumerate(offsets)):
                return width
    return 1


def padded(extent: int) -> int:
    """The next multiple of a run."""
    return -(-extent // RUN) * RUN


def terms_of(group: Group, step: Step) -> int:
    """How many terms a product has with the zeros that fill runs up."""
    if step.op in ("conv1d", "conv2d", "conv3d"):
        _, channels, *kernel = group.type(step.operands[1]).concrete
        return prod(kernel) * padded(channels)
    return padded(group.type(step.operands[0]).concrete[-1])


def sides(emitter: Emitter, step: Step, sizes: tuple[int, int, int, int]) -> tuple[Runs, Runs]:
    """Left and right side of the product that `step` is, of so many batches, rows, columns and terms.

    Writes the launches that arrange them.
    """
    if step.op == "matmul":
        return _matmul(emitter, step, sizes)
    return _linear(emitter, step, sizes) if step.op == "linear" else _convolution(emitter, step, sizes)


def in_place(group: Group, step: Step) -> bool:
    """Whether the data of a convolution is read where it lies."""
    _, _, *kernel = group.type(step.operands[1]).concrete
    taps, pixels = prod(kernel), prod(step.type.concrete[2:])
    moves = any(stride > 1 for stride in step.attrs["stride"]) or any(step.attrs["padding"])
    return taps == 1 and not moves and width_of(pixels) > 1


def _convolution(emitter: Emitter, step: Step, sizes: tuple[int, int, int, int]) -> tuple[Runs, Runs]:
    group, (groups, rows, columns, _) = emitter.group, sizes
    data, weight = step.operands[:2]
    _, channels, *kernel = group.type(weight).concrete
    deep = padded(channels)
    terms, places = prod(kernel) * deep, step.type.concrete[2:]
    pictures = (step.type.concrete[0], *places)
    filters = emitter.buffers[weight]

    def tap(k: Any) -> tuple[Any, tuple[Any, ...]]:
        """The channel and the tap of a term."""
        number, channel = emitter.divmod(k, deep)
        return channel, unravel(emitter, number, tuple(kernel))

    if emitter.packings[weight] == WEIGHTS:
        left = Runs(rows, terms, "k", RUN, lambda b, m, k: filters[emitter.simplify(b * rows + m), k])
    else:

        def element(b: Any, m: Any, k: Any) -> Scalar:
            channel, at = tap(k)
            read = Scalar(tirx.BufferLoad(filters, [b * rows + m, channel, *at]), reads=True)
            return emitter.math.select(channels == deep or channel < channels, read, _zero())

        left = _arranged(emitter, (groups, rows, terms), group.type(weight).dtype, element)
    if in_place(group, step):
        image = emitter.buffers[data]

        def pixel(b: Any, n: Any, k: Any) -> Any:
            picture, *place = unravel(emitter, n, pictures)
            return tirx.BufferLoad(image, [picture, emitter.simplify(b * channels + k), *place])

        return left, Runs(columns, channels, "own", width_of(prod(places)), pixel)
    stride, dilation = step.attrs["stride"], step.attrs["dilation"]
    chunks, single = _chunks(emitter, step, groups), prod(kernel) == 1

    def chunk(b: Any, n: Any, k: Any) -> Any:
        picture, *place = unravel(emitter, n, pictures)
        channel, at = tap(k)
        block, first = emitter.divmod(channel, RUN)
        if not single:
            place = [y * s + r * d for y, s, r, d in zip(place, stride, at, dilation)]
        return tirx.BufferLoad(chunks, [picture, b, block, *place, first])

    return left, Runs(columns, terms, "k", RUN, chunk, spread=True)


def _chunks(emitter: Emitter, step: Step, groups: int) -> Any:
    """The input of a convolution, [n, groups, c / 8, y, x, 8], from its padding's first place to the last that is read.

    With one tap, it has those places alone that are read.
    """
    data, weight = step.operands[:2]
    type = emitter.group.type(data)
    _, channels, *kernel = emitter.group.type(weight).concrete
    extents, places = type.concrete[2:], step.type.concrete[2:]
    stride, dilation, padding = (step.attrs[name] for name in ("stride", "dilation", "padding"))
    single = prod(kernel) == 1
    reach = [
        out if single else (out - 1) * s + (taps - 1) * d + 1
        for out, s, taps, d in zip(places, stride, kernel, dilation)
    ]
    shape = (type.concrete[0], groups, padded(channels) // RUN, *reach, RUN)
    chunks = emitter.temporary(TensorType(shape, type.dtype)).buffer
    image = emitter.buffers[data]

    def element(index: tuple[Any, ...], j: Any) -> Scalar:
        picture, b, block, *place = index
        channel = emitter.simplify(block * RUN + j)
        at = [emitter.simplify(y * (s if single else 1) - p) for y, s, p in zip(place, stride, padding)]
        inside = [channels % RUN == 0 or channel < channels]
        for place_, extent, out, s, p in zip(at, extents, reach, stride, padding):
            last = (out - 1) * (s if single else 1) - p
            inside += [place_ >= 0 if p else True, place_ < extent if last >= extent else True]
        read = Scalar(tirx.BufferLoad(image, [picture, emitter.simplify(b * channels + channel), *at]), reads=True)
        return emitter.math.select(emitter.math.all(*inside), read, _zero())

    _fill(emitter, chunks, shape, element)
    return chunks


def _linear(emitter: Emitter, step: Step, sizes: tuple[int, int, int, int]) -> tuple[Runs, Runs]:
    group, (_, rows, columns, terms) = emitter.group, sizes
    data, weight = step.operands[:2]
    lead = step.type.concrete[:-1]
    x, matrix = emitter.buffers[data], emitter.buffers[weight]
    left = _rows(emitter, (1, rows, terms), group.type(data).dtype, lambda b, m, k: x[(*unravel(emitter, m, lead), k)])
    if emitter.packings[weight] == WEIGHTS:
        return left, Runs(columns, padded(terms), "k", RUN, lambda b, n, k: matrix[n, k])
    return left, _rows(emitter, (1, columns, terms), group.type(weight).dtype, lambda b, n, k: matrix[n, k])


def _matmul(emitter: Emitter, step: Step, sizes: tuple[int, int, int, int]) -> tuple[Runs, Runs]:
    group, (batch, rows, columns, terms) = emitter.group, sizes
    lead = step.type.concrete[:-2]

    def access(number: int) -> Callable[[Any, Any, Any], Any]:
        own, buffer = group.type(number).concrete[:-2], emitter.buffers[number]

        def at(b: Any, row: Any, column: Any) -> Any:
            outer = unravel(emitter, b, lead)[len(lead) - len(own) :]
            return tirx.BufferLoad(buffer, [*(0 if e == 1 else i for e, i in zip(own, outer)), row, column])

        return at

    one, other = map(access, step.operands)
    left = _rows(emitter, (batch, rows, terms), group.type(step.operands[0]).dtype, one)
    width = width_of(columns)
    if width > 1:
        return left, Runs(columns, terms, "own", width, lambda b, n, k: other(b, k, n))
    dtype = group.type(step.operands[1]).dtype
    return left, _rows(emitter, (batch, columns, terms), dtype, lambda b, n, k: other(b, k, n), dense=False)


def _rows(
    emitter: Emitter, shape: tuple[int, int, int], dtype: str, at: Callable[[Any, Any, Any], Any], dense: bool = True
) -> Runs:
    """A side [b, index, k] that `at` reads; where its rows are `dense`, neighbours of k are neighbours in memory."""
    _, extent, terms = shape
    width = width_of(terms) if dense else 1
    if width > 1:
        return Runs(extent, terms, "k", width, at)
    return _arranged(emitter, shape, dtype, lambda b, index, k: Scalar(at(b, index, k), reads=True))


def _arranged(
    emitter: Emitter, shape: tuple[int, int, int], dtype: str, element: Callable[[Any, Any, Any], Scalar]
) -> Runs:
    """A side [b, index, k] as a launch brings it to rows of whole runs."""
    batch, extent, terms = shape
    deep = padded(terms)
    made = emitter.temporary(TensorType((batch, extent, deep), dtype)).buffer

    def number(index: tuple[Any, ...], j: Any) -> Scalar:
        b, own, run = index
        k = emitter.simplify(run * RUN + j)
        return emitter.math.select(terms == deep or k < terms, element(b, own, k), _zero())

    _fill(emitter, made, (batch, extent, deep // RUN, RUN), number, (batch, extent, deep))
    return Runs(extent, deep, "k", RUN, lambda b, index, k: made[b, index, k])


def _fill(
    emitter: Emitter,
    buffer: Any,
    shape: tuple[int, ...],
    element: Callable[[tuple[Any, ...], Any], Scalar],
    stored: tuple[int, ...] = (),
) -> None:
    """A launch that writes a buffer of `shape`, whose last dimension is a run; a thread writes one.

    `element` gives the bits at the index of a run and a number within. The buffer's own shape may be another one.
    """
    runs = prod(shape[:-1])
    with grid(emitter, -(-runs // BLOCK), BLOCK) as (block, thread):
        number = block * BLOCK + thread
        with only_if(runs % BLOCK == 0 or number < runs):
            index = unravel(emitter, number, shape[:-1])
            held = local(RUN, "uint16")
            with unrolled(emitter, RUN) as j:
                emitter.store(held, element(index, j), [j])
            to = (*index, 0) if not stored else (*index[:-1], index[-1] * RUN)
            put(address(buffer, *to), address(held, 0))


def _zero() -> Scalar:
    return Scalar(tirx.const(0, "uint16"))
