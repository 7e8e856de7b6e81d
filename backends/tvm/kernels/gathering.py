"""Rows that lie anywhere: copied to where they lie side by side, turned into vectors of many rows, and asked for early.

Kernels of attention read rows of queries, keys and values through steps that move them (`offsets`). 16 rows of 16
numbers are 16 vectors, whose transpose takes 64 shuffles (`transposition`); written element by element, LLVM puts each
number into its vector by itself. Attention of windows takes 0.86 to 0.94 of the time by it (one thread of the Granite
Rapids generation), of 197 tokens 0.99.

Windows lie in runs of a few rows, which no processor foresees. While one head is computed, the rows of the next one are
asked for, to the first-level cache: 0.87 of the time in Swin-T, 0.90 if they come to the second-level cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.emitter import Emitter, Index
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.fetch import soon
from specc.backends.tvm.kernels.transposition import SIZE, transposed


def row(emitter: Emitter, buffer: Any, number: Any, width: int, lanes: int, value: Callable[[Any], Any]) -> None:
    """Row `number` of a copy, `value` of each column, in vectors and what is left."""
    whole = width // lanes
    for start, count, size in ((0, whole, lanes), (whole * lanes, 1, width % lanes)):
        if count and size:
            with emitter.serial(count) as v, emitter.lanes(size) as lane:
                column = start + v * size + lane
                emitter.store(buffer, value(column), [number, column])


def columns(emitter: Emitter, buffer: Any, count: int, width: int, value: Callable[[Any, Any], Any]) -> None:
    """buffer[d, i] = value(i, d) for `count` rows of `width` numbers, and the last row again to the end of a vector.

    `value` is read in vectors of 16 numbers of a row.
    """
    held = T.alloc_buffer((SIZE, -(-width // SIZE) * SIZE), "float32")
    for start, vectors, rows in ((0, count // SIZE, SIZE), (count // SIZE, 1, count % SIZE)):
        if vectors and rows:
            with emitter.serial(vectors, start) as c:
                with emitter.serial(rows) as i:
                    row(emitter, held, i, width, SIZE, partial(value, c * SIZE + i))
                _turn(emitter, held, rows, width, buffer, c * SIZE)


def _turn(emitter: Emitter, held: Any, rows: int, width: int, buffer: Any, first: Any) -> None:
    """A vector of rows to the columns of `buffer` from `first` on."""
    whole, rest = divmod(width, SIZE)
    for start, parts, size in ((0, whole, SIZE), (whole, 1, rest)):
        if parts and size:
            with emitter.serial(parts, start) as part:
                at = tirx.Ramp(part * SIZE, 1, SIZE)
                vectors = [T.Bind(tirx.BufferLoad(held, [min(i, rows - 1), at])) for i in range(SIZE)]
                for d, column in enumerate(transposed(vectors)[:size]):
                    T.buffer_store(buffer, column, [part * SIZE + d, tirx.Ramp(first, 1, SIZE)])


def request(emitter: Emitter, value: int, index: Index, axis: int, width: int) -> None:
    """Asks for the lines of `width` elements of a value that is only moved, or scaled, from `index` on along `axis`."""

    def leaf(number: int, place: Index) -> Scalar:
        tensor = emitter.input(number)
        soon(tensor.buffer, *tensor.position(place))
        return tensor(*place)

    for column in range(0, width, tiles.LINE // 4):
        at = list(index)
        at[axis] = column
        emitter.evaluate(value, tuple(at), leaf)
