"""Asking for weights before they are read.

Each vector of weights is read once for every register tile. Processors foresee such reads only within a page of memory
and some lines ahead; two requests help, and cost an instruction each:

    soon    a few vectors ahead of the reduction, to the first-level cache
    ahead   the weights of the next group of output blocks to the second-level cache, in equal parts by all tiles that
            use the weights of this one: so that memory works evenly

One core of a Cascade Lake, `soon` 16 vectors: products with 49 to 200 rows take 0.88 to 1.02 of the time, those of
more weights less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter
from specc.targets import Target

_FIRST, _SECOND = 3, 2
"""LLVM's words for how near data are to be kept: in every cache, and in all but the first level."""


def take_soon(choices: Choices, target: Target) -> int:
    """How many vectors ahead weights are asked for; 0 where there are no words for it."""
    return choices.take("soon", (16, 0, 8, 32), 16) if target.vectors else 0


def take_ahead(choices: Choices, weights: int, target: Target) -> bool:
    """Whether weights of so many bytes are asked for ahead: where the second-level cache does not keep them anyway."""
    return target.vectors and choices.take("ahead", (True, False), 4 * weights > target.l2_bytes)


def soon(buffer: Any, *index: Any) -> None:
    """Asks for a vector to come to the first-level cache."""
    _request(buffer, index, _FIRST)


class Ahead:
    """Requests for the weights of the next group, `blocks` output blocks of `lines` vectors each.

    They are shared out among `tiles` register tiles of `steps` innermost iterations each. Behind the last group nothing
    comes of it.
    """

    def __init__(self, emitter: Emitter, blocks: int, lines: int, tiles: int, steps: int) -> None:
        self.emitter, self.lines, self.wanted, self.steps = emitter, lines, blocks * lines, steps
        self.count = -(-self.wanted // max(1, tiles * steps))

    def __call__(self, tile: Any, step: Any, buffer: Any, index: Callable[[Any, Any], tuple[Any, ...]]) -> None:
        """What falls to a step of a tile; `index` says where line number l of the group's block number j lies."""
        for q in range(self.count):
            number = tirx.min((tile * self.steps + step) * self.count + q, self.wanted - 1)
            _request(buffer, index(*self.emitter.divmod(number, self.lines)), _SECOND)


def _request(buffer: Any, index: tuple[Any, ...], level: int) -> None:
    T.evaluate(tirx.call_intrin("void", "tirx.prefetch", tirx.address_of(buffer[index]), 0, level, 1))
