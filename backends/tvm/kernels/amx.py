"""Products of small matrices on x86 processors with AMX: eight tiles, each a matrix of 16 rows of 64 bytes.

    C[i, j] <- C[i, j] + sum over k of A[i, k] * B[k, j]        16 x 16 sums of 32 bits

A row of A is 64 bytes of the reduction: 32 bfloat16 or 64 integers of 8 bits, such as the channels of a pixel. A row of
B holds, for each of 16 columns (output channels), the 4 bytes of the reduction that are neighbours: two bfloat16, or
four integers. So weights lie in memory as `vdpbf16ps` and `vpdpbusd` take them (`Packing`, pairs and dot), 16 of their
vectors to a tile.

    bfloat16   sums are float32, rounded to the nearest after each product; numbers below 2^-126 count as 0
    integers   of uint8 and int8, in 32 bits, exact

Every tile has all rows and bytes unless `configured` says otherwise: a matrix with fewer is one with zeros, or
with rows that nobody reads the results of. That costs nothing where it fills one tile instead of a part of it: a
product takes as many cycles as the greater of the rows of A and of B, ten at least (measured on a processor of the
Granite Rapids generation, as all of the following). One of full tiles takes 18 cycles, 22 where it adds to what the one
before it has computed; a load takes 9 from the first-level cache, whatever lies between the rows; a store 17. So two
loads a product are as fast as the products are if both factors come from the first-level cache. From the second-level
one, a product takes 29 cycles with one factor and 36 with both: what is read again should be near (`tiled`,
`tiled_linear`).

Linux gives a process the tiles when it asks for them (`specc.targets`, and the artifact's driver, do). They belong to a
thread: each configures them for itself and releases them, since the system has less to store then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.emitter import on_stack

TILES = 8
"""Tiles of a thread."""
ROWS = 16
"""Rows of a tile; also the columns of sums."""
BYTES = 64
"""Bytes in a row of a tile."""
DEPTHS = {"bfloat16": BYTES // 2, "uint8": BYTES}
"""Elements of the reduction in a row of A, by the type of activations."""

_PRODUCTS = {"bfloat16": "tdpbf16ps", "uint8": "tdpbusd"}


@contextmanager
def configured(shapes: Sequence[tuple[int, int]] = ((ROWS, BYTES),) * TILES) -> Iterator[None]:
    """What is written in here can use all tiles, each of so many rows and bytes in a row; one thread runs it. They are
    undefined at first."""
    config = on_stack((BYTES // 4,), "int32")
    rows, widths = zip(*shapes)
    heights = [int.from_bytes(bytes(rows[first : first + 4]), "little") for first in (0, 4)]
    pairs = [widths[first] | widths[first + 1] << 16 for first in range(0, TILES, 2)]
    words = [1, 0, 0, 0, *pairs, *([0] * 4), *heights, 0, 0]
    for first, word in enumerate(words):  # palette 1, bytes of a row for each tile, then rows for each
        T.buffer_store(config, tirx.const(word, "int32"), [first])
    _call("ldtilecfg", _address(config, [0]))
    yield
    _call("tilerelease")


def zero(tile: int) -> None:
    """Sets a tile to zeros."""
    _call("tilezero", _number(tile))


def load(tile: int, buffer: Any, position: Sequence[Any], stride: Any) -> None:
    """Reads all rows of a tile, as many and as long as it is `configured` to have: the first one begins at an element
    of `buffer`, each other one `stride` bytes behind the one before it; they may overlap. All of them have to lie
    inside of memory that the kernel may read."""
    _call("tileloadd64", _number(tile), _address(buffer, position), tirx.Cast("int64", stride))


def store(tile: int, buffer: Any, position: Sequence[Any], stride: Any) -> None:
    """Writes the rows of a tile as `load` reads them."""
    _call("tilestored64", _number(tile), _address(buffer, position), tirx.Cast("int64", stride))


def multiply(dtype: str, sums: int, left: int, right: int) -> None:
    """Adds the product of two tiles to the tile `sums`: of activations of `dtype` (`DEPTHS`) and weights."""
    _call(_PRODUCTS[dtype], _number(sums), _number(left), _number(right))


def products(
    dtype: str,
    high: int,
    wide: int,
    left: Callable[[int, int], None],
    right: Callable[[int, int], None],
    real: int | None = None,
) -> None:
    """Adds to sum number i * wide + j, a tile each, the product of the activations i and the weights j.

    `left` and `right` load factors: a number of them to a tile. Those of the shorter side stay in tiles of their own;
    `fits` says whether there are enough. Of the weights, the first `real` ones alone are there, if it is given.
    """
    sums, least = high * wide, min(high, wide)
    kept, moving = (left, right) if high <= wide else (right, left)
    free, columns = [*range(sums + least, TILES)], wide if real is None else real
    few, many = (high, columns) if high <= wide else (columns, high)
    for number in range(few):
        kept(number, sums + number)
    for number in range(many):
        tile = free[number % len(free)]
        moving(number, tile)
        for other in range(few):
            i, j = (other, number) if high <= wide else (number, other)
            factors = (sums + other, tile) if high <= wide else (tile, sums + other)
            multiply(dtype, i * wide + j, *factors)


def fits(high: int, wide: int) -> bool:
    """Whether the tiles hold sums of `high` tiles of activations and `wide` ones of weights, and what `products`
    reads."""
    return high * wide + min(high, wide) + 1 <= TILES


def shapes(high: int, wide: int, rows: int = ROWS, width: int = BYTES) -> list[tuple[int, int]]:
    """The rows of each tile for `products`, and the bytes in a row: tiles of activations have `rows` of `width` bytes,
    and those of weights as many rows as make up that many bytes of the reduction."""
    sums, least = high * wide, min(high, wide)

    def shape(tile: int) -> tuple[int, int]:
        if tile < sums:
            return rows, BYTES
        return (rows, width) if (tile < sums + least) == (high <= wide) else (width // 4, BYTES)

    return [shape(tile) for tile in range(TILES)]


def _number(tile: int) -> Any:
    return tirx.const(tile, "int8")


def _address(buffer: Any, position: Sequence[Any]) -> Any:
    return tirx.address_of(tirx.BufferLoad(buffer, list(position)))


def _call(name: str, *arguments: Any) -> None:
    T.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))
