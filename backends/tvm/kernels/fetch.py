"""Asking for weights, inputs and results before they are read or written.

Each vector of weights is read once for every register tile. Processors foresee such reads only within a page of memory
and some lines ahead; requests help, and cost an instruction each:

    soon      weights a few vectors ahead of the reduction, to the first-level cache
    ahead     the weights of the next group of output blocks to the second-level cache, in equal parts by all tiles that
              use the weights of this one: so that memory works evenly
    abreast   the same in several streams: a processor foresees reads in many pages at once, but none beyond a page's
              end, so that one stream is as slow as its beginnings of pages
    inputs    what a tile of a convolution reads of the next block of channels (or row of the window) to the first-level
              cache, while it computes with this one: its lines lie a whole image further on
    results   what the epilogue of a convolution reads besides the accumulators, and the lines that it writes, while the
              first blocks of channels are added up

One core of a Cascade Lake. `soon` 16 vectors: products with 49 to 200 rows take 0.88 to 1.02 of the time, those of
more weights less. `inputs`: without, all pixels of a tile wait for their line at once whenever a block of channels
begins; with it, the 1x1 convolutions of ResNet-50 take 0.84 to 0.97 of the time. `ahead`: 49
to 196 rows of a linear layer take 0.75 to 0.99 of the time, a single one 1.45, and where two groups do not fit the
second-level cache (49 rows, 3072 inputs, 4 blocks) 1.19. `results`: with 64 input channels, a
1x1 convolution with a residual takes 0.87 of the time, with 128 0.96, and with 256 or more 1.00 to 1.03, as the
requests go on where nothing is left to ask for.

`abreast`, one core of the Granite Rapids generation beside busy neighbours, a loop in C that multiplies tiles by 4.7 MB
of bfloat16 from beyond the second-level cache: requests two steps of 1 KB ahead 194 microseconds, 16 steps ahead 190, a
block of 147 KB ahead in one stream 181, in 4 and in 8 streams 170 and 167; the same weights, read alone in one stream
and in 8, 170 and 155. In the slower third of the turns, when neighbours use memory, too: 286, 238, 227, 197, 182; 304
and 167. Of streams within 4 to 16 KB nothing is left: a stream needs a page.

With vectors of 128 bits a line is asked for four times, and a request takes the place of a load, of which ARM's cores
have none to spare: there, nothing is asked for unless a measurement says so. By llvm-mca's count, a linear
layer with one row multiplies 2.8 times as fast without requests on the Cortex-A72, a 3x3 convolution 1.2 times.
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

_NARROW = 128
"""Bits of vectors that are so short that requests cost more than they bring."""

_KEPT, _FEW = 1 << 20, 6
"""Bytes of a second-level cache that keeps a part of the weights where a group serves so few tiles at most."""

_STREAMS, _PAGE = 8, 64
"""Streams of requests side by side, and the least lines of one: those of a page of memory, beyond which no processor
foresees what is read."""

_SHORT = 8
"""Blocks of channels in a reduction so short that requests for results pay."""


def pays(target: Target) -> bool:
    """Whether requests are made where no measurement decides."""
    return target.vector_bits > _NARROW and not target.broadcast_registers


def take_soon(choices: Choices, target: Target) -> int:
    """How many vectors ahead weights are asked for; 0 where there are no words for it."""
    return choices.take("soon", (16, 0, 8, 32), 16 if pays(target) else 0) if target.vectors else 0


def take_ahead(choices: Choices, weights: int, group: int, tiles: int, target: Target) -> bool:
    """Whether weights are asked for a group ahead: where the second-level cache does not keep all of them anyway, holds
    those of two groups, and several register tiles use a group.

    `weights` are the bytes of all, `group` those of one group, which so many `tiles` use. Where these are few, no cache
    keeps weights of more than 256 KB until the next run: 672 to 160 channels at 7x7, 0.86 of the time (one core of the
    Granite Rapids generation, 2 MB); 512 to 256 at 28x28, with seven tiles, 1.03.
    """
    cache = target.l2_bytes
    kept = min(cache, _KEPT) if tiles <= _FEW else cache
    default = pays(target) and 4 * weights > kept and 2 * group <= cache and tiles > 1
    return target.vectors and choices.take("ahead", (True, False), default)


def take_inputs(choices: Choices, target: Target) -> bool:
    """Whether a convolution asks for the inputs that it reads next."""
    return target.vectors and choices.take("inputs", (True, False), pays(target))


def take_results(choices: Choices, blocks: int, heavy: bool, target: Target) -> bool:
    """Whether a convolution asks for what its epilogue reads and writes; it adds up so many blocks of channels, those
    of all taps together. A heavy epilogue writes so slowly that its lines come in time."""
    default = pays(target) and blocks <= _SHORT and not heavy
    return target.vectors and choices.take("results", (True, False), default)


def soon(buffer: Any, *index: Any) -> None:
    """Asks for the line of an element to come to the first-level cache."""
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


class Abreast:
    """Requests for weights as `Ahead` makes them, of which those of one step belong to different streams.

    A stream is a part of a block's lines, one behind the other, a page or more of them; there are `_STREAMS` at most.
    """

    def __init__(self, emitter: Emitter, blocks: int, lines: int, tiles: int, steps: int) -> None:
        self.emitter, self.blocks, self.steps = emitter, blocks, steps
        most = min(_STREAMS, -(-blocks * lines // (tiles * steps))) // blocks
        fitting = (n for n in range(2, most + 1) if lines % n == 0 and lines // n >= _PAGE)
        self.parts = max(fitting, default=1)
        self.rows = lines // self.parts
        self.count = -(-self.rows // (tiles * steps))

    def __call__(self, tile: Any, step: Any, buffer: Any, index: Callable[[Any, Any], tuple[Any, ...]]) -> None:
        """What falls to a step of a tile; `index` says where line number l of the group's block number j lies."""
        for q in range(self.count):
            row = T.Bind((tile * self.steps + step) * self.count + q)
            with T.If(row < self.rows), T.Then():
                for j in range(self.blocks):
                    for part in range(self.parts):
                        _request(buffer, index(j, part * self.rows + row), _SECOND)


def _request(buffer: Any, index: tuple[Any, ...], level: int) -> None:
    T.evaluate(tirx.call_intrin("void", "tirx.prefetch", tirx.address_of(buffer[index]), 0, level, 1))
