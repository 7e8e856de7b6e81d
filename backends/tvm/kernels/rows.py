"""What convolutions and pooling share: the rows of a window that lie inside the input, rows shared out to threads, and
rows that one convolution of a kernel, or one layer, leaves for the next."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Tensor
from specc.ir.types import TensorType
from specc.targets import Target


class Rows(Tensor):
    """Some rows of a blocked tensor of `type`, of one image and so many blocks of channels from `first` on: a ring, in
    which row number y lies at place y modulo how many there are.

    The buffer is [blocks, rows * width, block of channels]. Where rows are run through as one axis, row 0 has the
    pixels of all, and a batch of as many as the ring has lies in order; then a row may have another `width` than those
    of the tensor.
    """

    def __init__(
        self, emitter: Emitter, type: TensorType, blocks: int, rows: int, first: Any = 0, width: int | None = None
    ) -> None:
        *_, own, lanes = type.physical
        self.width = own if width is None else width
        self.rows, self.first = rows, first
        super().__init__(T.alloc_buffer((blocks, rows * self.width, lanes), "float32"), type, emitter.simplify)

    def since(self, first: Any) -> Rows:
        """The same memory for the blocks of channels from another one on."""
        other = copy(self)
        other.first = first
        return other

    def position(self, index: Index) -> list[Any]:
        _, *place = super().position(index)
        return self.place(*place)

    def place(self, block: Any, row: Any, column: Any, lane: Any) -> list[Any]:
        """Where a channel of a block lies."""
        start = tirx.truncmod(row, self.rows) * self.width
        if isinstance(row, int):
            start = row % self.rows * self.width
        column = column if isinstance(column, int) else tirx.floormod(column, self.rows * self.width)
        return [self.simplify(block - self.first), start + self.simplify(column), lane]


@dataclass(frozen=True)
class Strip:
    """Of the rows of a plain tensor, `count` from row `first` on, which a layer computes by itself.

    It reads them from `source` and writes them to `goal`, buffers [count, columns], where there is one in place of the
    tensor of all rows.
    """

    count: int
    first: Any = 0
    source: Any = None
    goal: Any = None


def index_of_row(lead: Sequence[int], row: Any) -> Index:
    """The leading indices of a row: the last dimension of more than one row runs through all of them."""
    axis = max((i for i, extent in enumerate(lead) if extent > 1), default=0)
    return tuple(row if i == axis else 0 for i in range(len(lead)))


def row_taps(y: Any, rows: int, taps: int, stride: int, dilation: int, padding: int, height: int) -> tuple[Any, Any]:
    """The first of a window's rows that lies inside the input for result row y of `rows`, and how many do."""
    top = y * stride - padding
    last = (rows - 1) * stride - padding + (taps - 1) * dilation
    low = 0 if padding <= 0 else T.Bind(tirx.max(0, tirx.floordiv(dilation - 1 - top, dilation)))
    if last < height:
        return low, taps - low
    high = tirx.min(taps, tirx.floordiv(height - 1 - top, dilation) + 1)
    return low, T.Bind(tirx.max(0, high - low))


def share(rows: int, others: int, least: int = 8) -> int:
    """Into how many strips `rows` are cut so that, with `others` independent pieces, threads get enough to share out.

    The number of pieces that results is a multiple of 4 where it can be, so that two or four threads get equal parts.
    """
    if (others >= least and others % 4 == 0) or others >= 4 * least:
        return 1
    wanted = -(-least // others)
    candidates = [s for s in range(1, rows + 1) if rows % s == 0 and s >= wanted and others * s % 4 == 0]
    return min(candidates, default=min(rows, 2 * wanted))


def strips_first(weights: int, inputs: int, groups: int, target: Target) -> int:
    """How many strips of rows to run through, each with all weights, so that least is read from beyond the second-level
    cache; 0 where it is better to run through the `groups` of output blocks, each with all rows.

    `weights` and `inputs` are bytes. What fits in half of the cache is read once, anything else once for each turn of
    the outer loop. Weights of an eighth of the cache are never in the way.
    """
    half = target.l2_bytes // 2
    strips = -(-inputs // half)
    if 8 * weights <= target.l2_bytes:
        return max(8, strips)
    by_groups = weights + inputs * (1 if inputs <= half else groups)
    by_strips = inputs + weights * (1 if weights <= half else strips)
    if by_strips >= by_groups:
        return 0
    return max(8, strips) if weights <= half else -(-strips // 2) * 2


def take_order(choices: Choices, weights: int, inputs: int, groups: int, target: Target) -> int:
    """What `strips_first` says, unless the choice `order` has been made otherwise; then 8 strips, or 0."""
    wanted = strips_first(weights, inputs, groups, target)
    order = choices.take("order", ("strips", "blocks"), "strips" if wanted else "blocks")
    return (wanted or 8) if order == "strips" else 0


def take_strips(choices: Choices, rows: int, default: int) -> int:
    """Into how many strips `rows` are cut: `default`, or another number, one for each size of a strip."""
    sizes = dict.fromkeys(-(-rows // strips) for strips in range(1, rows + 1))
    counts = [-(-rows // size) for size in sizes]
    return choices.near("strips", (n for n in counts if default <= 8 * n and n <= 8 * default), default)
