"""How attention is shared out: its heads, and the blocks of their queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.emitter import Emitter, Index

_ENOUGH = 8
"""Pieces that are enough for threads to share out, where each begins with a copy."""


def strips_of(heads: int, blocks: int) -> int:
    """Into how many strips the blocks of a head's queries go, where each strip begins with a copy."""
    return next((n for n in range(1, blocks) if heads * n >= _ENOUGH and heads * n % 4 == 0), blocks)


def head_at(emitter: Emitter, number: Any, lead: Sequence[int]) -> Index:
    """The index of head `number` in the dimensions `lead`."""
    index: list[Any] = []
    for extent in reversed(lead[1:]):
        number, place = emitter.divmod(number, extent)
        index.insert(0, place)
    return (number, *index) if lead else ()


def whole_or_rest(block: Any, count: int, size: int, write: Callable[[Any, int], None]) -> None:
    """`write` with the first query of a block and how many it has: `size` of `count`, or what is left for the last."""
    full, rest = divmod(count, size)
    if not full or not rest:
        write(block * size, size if full else rest)
        return
    with T.If(block < full):
        with T.Then():
            write(block * size, size)
        with T.Else():
            write(full * size, rest)
