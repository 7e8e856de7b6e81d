"""The functions of `c/device.cuh` in TIR: copies to shared memory on their way, and products of a warp on tensor cores.

A fragment is a warp's share of a small matrix: `FRAGMENT` words of a thread hold 16 x 16 numbers of 16 bits of the left
side, or 16 (of k) x 16 of the right one, which is two of what one instruction takes.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

FRAGMENT = 4
"""Words of a fragment of 16 x 16 numbers, and sums of a thread in 16 x 8."""


def address(buffer: Any, *index: Any) -> Any:
    """Where an element lies."""
    return tirx.call_intrin("handle", "tirx.address_of", tirx.BufferLoad(buffer, list(index)))


def copy(to: Any, source: Any, width: int, there: Any) -> None:
    """Brings `width` numbers of 16 bits to shared memory, or as many zeros; they are there after `wait` and a barrier.

    Both addresses are multiples of the 2 * `width` bytes, 4, 8 or 16 of them.
    """
    chosen = tirx.const(1, "int32") if there is True else tirx.Cast("int32", there)
    _call(f"specc_copy_{2 * width}", to, source, chosen)


def put(to: Any, source: Any, count: int = 16) -> None:
    """Writes 4, 8 or 16 bytes at once, from registers to an address that is a multiple of so many."""
    _call(f"specc_put_{count}", to, source)


def copies_end() -> None:
    """What this thread has begun to copy since the last call is one group, even if there is nothing in it."""
    _call("specc_copies_end")


def wait(groups: int) -> None:
    """Until no more than so many of this thread's last groups are on their way."""
    _call(f"specc_copies_wait<{groups}>")


def load_fragment(fragments: Any, first: int, row: Any, transposed: bool) -> None:
    """Words `first` and on of `fragments` from four matrices of 8 x 8; `row` is where the row is that this thread
    names: row i % 8 of matrix i / 8 for thread i of the warp."""
    _call("specc_matrices_transposed" if transposed else "specc_matrices", address(fragments, first), row)


def multiply(dtype: str, sums: Any, left: Any, right: Any) -> None:
    """Adds the products of 16 x 16 and 16 x 8 numbers of `dtype` to 16 x 8 sums in float32; all three are addresses."""
    _call(f"specc_multiply_{dtype}", sums, left, right)


def pair(dtype: str, low: Any, high: Any) -> Any:
    """Two numbers of `dtype`, rounded from float32, as a word of a fragment."""
    return tirx.call_pure_extern("uint32", f"specc_pair_{dtype}", low, high)


def power_of_two(exponent: Any) -> Any:
    """2 to a float32 of 0 or less, to 22 bits; what would be below 2^-126 may be 0."""
    return tirx.call_pure_extern("float32", "specc_power_of_two", exponent)


def warp_barrier() -> None:
    """Threads of a warp wait for each other here, and see what the others have written."""
    _call("specc_warp_barrier")


def _call(name: str, *arguments: Any) -> None:
    T.evaluate(tirx.call_extern("int32", name, *arguments))
