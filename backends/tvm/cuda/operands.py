"""What is multiplied: convolutions, linear layers and matrix products as one product of two matrices, several times.

    result[b, m, n] = epilogue(sum over k of left[b, m, k] * right[b, k, n])

Of a convolution, m is an output channel of a group, n a pixel of any picture, k a tap and an input channel; of a linear
layer, m is a row and n an output. The kernels in tiles (`products`) read both sides as they say here, and give
their sums back to be finished: bias, the pointwise steps behind, the place in the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.cuda.intrinsics import address, put
from specc.backends.tvm.cuda.threads import BLOCK, grid, local, only_if, unravel, unrolled
from specc.backends.tvm.emitter import Emitter, Index
from specc.backends.tvm.expression import Scalar, narrowed
from specc.backends.tvm.group import Group, Step
from specc.backends.tvm.halves import stored
from specc.ir.dtypes import DTYPES
from specc.ir.types import TensorType


@dataclass(frozen=True)
class Destination:
    """Where the sums [b, m, n] of a product are in the result."""

    batch: int
    rows: int
    columns: int
    place: Callable[[Any, Any, Any], Index]
    """The index in the result of [b, m, n]."""
    neighbours: int
    """So many n from a multiple of it on are neighbours in the result."""
    bias: Callable[[Index], Scalar] | None


@dataclass(frozen=True)
class Product(Destination):
    """What is multiplied. `left` and `right` read an element; `*_runs` says along which index they lie in memory."""

    terms: int
    left: Callable[[Any, Any, Any], Scalar]
    right: Callable[[Any, Any, Any], Scalar]
    left_runs: str
    right_runs: str


def sizes_of(group: Group, step: Step) -> tuple[int, int, int, int] | None:
    """Batch, rows, columns and terms of a step; None for one that is no product."""
    shape = step.type.concrete
    if step.op in ("conv1d", "conv2d", "conv3d"):
        out, *kernel = group.type(step.operands[1]).concrete
        groups = step.attrs["groups"]
        return groups, out // groups, shape[0] * prod(shape[2:]), prod(kernel)
    if step.op == "linear":
        return 1, prod(shape[:-1]), shape[-1], group.type(step.operands[0]).concrete[-1]
    if step.op == "matmul":
        return prod(shape[:-2]), shape[-2], shape[-1], group.type(step.operands[0]).concrete[-1]
    return None


def anchor_of(group: Group) -> tuple[int, tuple[int, int, int, int]] | None:
    """The step that is a group's product with float32 sums, behind which all else is pointwise, and its batch, rows,
    columns and terms; None for a group without one, and where the product does not read inputs as they lie in memory.
    """
    anchor = group.anchor if group.single else None
    if anchor is None:
        return None
    step = group.step(anchor)
    sizes = sizes_of(group, step)
    if sizes is None or group.result.shape != step.type.shape or step.type.dtype != "float32":
        return None
    if any(operand >= len(group.inputs) or group.type(operand).layout for operand in step.operands):
        return None
    return anchor, sizes


def product(emitter: Emitter, step: Step) -> Product:
    """The product that a step is."""
    sizes = sizes_of(emitter.group, step)
    assert sizes is not None
    if step.op == "matmul":
        return _matmul(emitter, step, sizes)
    return _linear(emitter, step, sizes) if step.op == "linear" else _convolution(emitter, step, sizes)


def _convolution(emitter: Emitter, step: Step, sizes: tuple[int, int, int, int]) -> Product:
    group, (_, rows, _, _) = emitter.group, sizes
    data, weight, *bias = step.operands
    _, per_group, *kernel = group.type(weight).concrete
    extents, places = group.type(data).concrete[2:], step.type.concrete[2:]
    stride, dilation, padding = (step.attrs[name] for name in ("stride", "dilation", "padding"))
    x, math = emitter.input(data), emitter.math

    def term(k: Any) -> tuple[Index, Any]:
        """The tap and the input channel, within its group, of term k."""
        tap, channel = emitter.divmod(k, per_group)
        return unravel(emitter, tap, tuple(kernel)), channel

    def left(b: Any, m: Any, k: Any) -> Scalar:
        if emitter.packings[weight].kind == "terms":
            return Scalar(emitter.load(weight, k, emitter.simplify(b * rows + m)), reads=True)
        tap, channel = term(k)
        return emitter.input(weight)(b * rows + m, channel, *tap)

    def right(b: Any, k: Any, n: Any) -> Scalar:
        tap, channel = term(k)
        picture, *place = unravel(emitter, n, (step.type.concrete[0], *places))
        at = [y * s + r * d - p for y, s, r, d, p in zip(place, stride, tap, dilation, padding)]
        inside = []
        for index, extent, p, out, s, d, taps in zip(at, extents, padding, places, stride, dilation, kernel):
            inside.append(index >= 0 if p else True)
            inside.append(index < extent if (out - 1) * s + (taps - 1) * d - p >= extent else True)
        read = x(picture, b * per_group + channel, *at)
        return math.select(math.all(*inside), read, math.const(0.0, "float32"))

    def place(b: Any, m: Any, n: Any) -> Index:
        picture, *pixel = unravel(emitter, n, (step.type.concrete[0], *places))
        return (picture, b * rows + m, *pixel)

    frozen = emitter.packings[weight].kind == "terms"
    shift = (lambda index: emitter.input(bias[0])(index[1])) if bias else None
    batch, _, columns, terms = sizes
    return Product(batch, rows, columns, place, prod(places), shift, terms, left, right, "m" if frozen else "k", "n")


def _linear(emitter: Emitter, step: Step, sizes: tuple[int, int, int, int]) -> Product:
    data, weight, *bias = step.operands
    lead = step.type.concrete[:-1]
    x, frozen = emitter.input(data), emitter.packings[weight].kind == "terms"

    def left(b: Any, m: Any, k: Any) -> Scalar:
        return x(*unravel(emitter, m, lead), k)

    def right(b: Any, k: Any, n: Any) -> Scalar:
        return Scalar(emitter.load(weight, *([k, n] if frozen else [n, k])), reads=True)

    def place(b: Any, m: Any, n: Any) -> Index:
        return (*unravel(emitter, m, lead), n)

    shift = (lambda index: emitter.input(bias[0])(index[-1])) if bias else None
    batch, rows, columns, terms = sizes
    return Product(batch, rows, columns, place, columns, shift, terms, left, right, "k", "n" if frozen else "k")


def _matmul(emitter: Emitter, step: Step, sizes: tuple[int, int, int, int]) -> Product:
    lead = step.type.concrete[:-2]

    def operand(number: int) -> Callable[..., Scalar]:
        own = emitter.group.type(number).concrete[:-2]
        access = emitter.input(number)

        def at(b: Any, row: Any, column: Any) -> Scalar:
            outer = unravel(emitter, b, lead)[len(lead) - len(own) :]
            return access(*(0 if extent == 1 else i for extent, i in zip(own, outer)), row, column)

        return at

    def place(b: Any, m: Any, n: Any) -> Index:
        return (*unravel(emitter, b, lead), m, n)

    batch, rows, columns, terms = sizes
    left, right = map(operand, step.operands)
    return Product(batch, rows, columns, place, columns, None, terms, left, right, "k", "n")


class Results:
    """Where the sums of a product go: `parts`, memory for sums over parts of k, [parts, b, m, n], or the result.

    `run` neighbours of n, from a multiple of it on, can be written at once: 16 bytes or less.
    """

    def __init__(self, emitter: Emitter, anchor: int, product: Destination, splits: int = 1) -> None:
        self.emitter, self.anchor, self.product, self.splits = emitter, anchor, product, splits
        shape = (splits, product.batch, product.rows, product.columns)
        self.parts = emitter.temporary(TensorType(shape)).buffer if splits > 1 else None
        self.dtype = "float32" if splits > 1 else emitter.group.result.dtype
        self.bytes = DTYPES[self.dtype]
        extent = product.columns if splits > 1 else product.neighbours
        self.run = next(run for run in (8, 4, 2, 1) if run * self.bytes <= 16 and extent % run == 0)

    def put(self, place: tuple[Any, Any, Any], split: Any, total: Scalar) -> None:
        """Takes the sum at [b, m, n], over one part of k."""
        if self.parts is None:
            value, index = self._finished(place, total)
            result = self.emitter.result()
            result.put(value, result.position(index))
        else:
            self.emitter.store(self.parts, total, [split, *place])

    def put_run(self, place: tuple[Any, Any, Any], split: Any, total: Callable[[Any], Scalar]) -> None:
        """Takes the sums at [b, m, n] and the next ones, a run of them; `total` gives the one of a number."""
        if self.run == 1:
            self.put(place, split, total(0))
            return
        b, m, n = place
        result = self.emitter.result()
        held = local(self.run, stored(self.dtype))
        with unrolled(self.emitter, self.run) as j:
            if self.parts is None:
                value, _ = self._finished((b, m, self.emitter.simplify(n + j)), total(j))
                self.emitter.store(held, narrowed(T.Bind(value.expr), self.dtype), [j])
            else:
                self.emitter.store(held, total(j), [j])
        if self.parts is None:
            to = address(result.buffer, *result.position(self.product.place(b, m, n)))
        else:
            to = address(self.parts, split, b, m, n)
        put(to, address(held, 0), self.run * self.bytes)

    def _finished(self, place: tuple[Any, Any, Any], total: Scalar) -> tuple[Scalar, Index]:
        """The group's result at [b, m, n], whose sum is `total`, and its index."""
        emitter, index = self.emitter, self.product.place(*place)
        if self.product.bias is not None:
            total = total + self.product.bias(index)
        total = emitter.math.let(total)

        def leaf(number: int, at: Index) -> Scalar:
            return total if number == self.anchor else emitter.input(number)(*at)

        return emitter.evaluate(emitter.group.last, index, leaf), index

    def add_up(self) -> None:
        """Another launch, where k was split: the sums of all parts."""
        emitter, p, parts = self.emitter, self.product, self.parts
        if parts is None:
            return
        shape = (p.batch, p.rows, p.columns)
        elements = prod(shape)
        with grid(emitter, -(-elements // BLOCK), BLOCK) as (block, thread):
            number = block * BLOCK + thread
            with only_if(elements % BLOCK == 0 or number < elements):
                place = unravel(emitter, number, shape)
                total = Scalar(parts[(0, *place)])
                for split in range(1, self.splits):
                    total = total + Scalar(parts[(split, *place)])
                value, index = self._finished((place[0], place[1], place[2]), total)
                result = emitter.result()
                result.put(value, result.position(index))
