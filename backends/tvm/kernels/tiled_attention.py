"""Attention of bfloat16 by products of tiles (`amx`): what `attention` computes, where its factors are rounded.

    scores[i, j]    = sum over d of q[i, d] * k[d, j]             queries are rows of A, keys columns of B
    weights[i, j]   = bfloat16(exp(E(scores)[i, j] - greatest))
    result[i, d]    = sum over j of weights[i, j] * v[j, d] / sum over j of exp(..)

Threads share out pieces: a head, or a part of its blocks of 16 queries. A piece begins with the tiles of B, which all
of its blocks read: keys as pairs of neighbours in d, values as pairs of keys. Where the elements of a key lie in a run,
as in a joint projection, 16 keys are 16 vectors of pairs, and their transpose is a tile.

A block of queries makes a row of scores of each, in float32, and of them a row of weights. A pair of weights holds keys
that lie 16 apart, so that two vectors of weights become one of pairs without a shuffle, and values are paired likewise.
Weights are at most 1 each, and rounded before the sum of them is divided by: as precise as the rounding of quotients
that the graph asks for. That sum is one of float32, of weights not rounded. The exponentials are coarse ones.
Keys beyond the last one have scores of minus infinity, so weights of 0, and their values are zeros.

197 tokens of 6 heads of 64 take 142 microseconds on one core of the Granite Rapids generation, 158 with the
exponentials of float32, and 492 in `attention` (least times of turns in one process).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Registers, Template, on_stack
from specc.backends.tvm.expression import Math, Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import amx, tiles
from specc.backends.tvm.kernels.attention_parts import Parts, destination, located, parts_of
from specc.backends.tvm.kernels.heads import head_at, strips_of, whole_or_rest
from specc.backends.tvm.kernels.together import Exponentials, beside
from specc.backends.tvm.kernels.transposition import reduced, transposed
from specc.targets import Target

_DTYPE = "bfloat16"
_SIZE = amx.ROWS
"""Queries of a block; keys, or columns of values, of a tile of B; pairs in a row of A."""
_DEPTH = amx.DEPTHS[_DTYPE]
"""Terms of a product of tiles."""
_HELD = 4
"""Tiles that hold the queries of a block, where their dimensions fit; else they are read for each tile of keys."""
_LEAST = 8
"""Queries for which the tiles of keys and values pay."""
_MOVES = ("slice", "reshape", "flatten", "permute", "roll")
"""The steps between an input and keys whose places in memory are compared."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group that is attention of bfloat16 on a target with tiles; None for another group."""
    parts = parts_of(group) if target.tile_product == "amx" else None
    if parts is None:
        return None
    factors = (*group.step(parts.scores).operands, *group.step(parts.mixed).operands)
    if any(group.type(value).dtype != _DTYPE for value in factors):
        return None
    queries = group.type(parts.scores).concrete[-2]
    if not choices.take("tiles", (True, False), queries >= _LEAST):
        return None
    return Template(lambda emitter: _Attention(emitter, parts, target).emit())


class _Attention:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, parts: Parts, target: Target) -> None:
        self.emitter, self.group, self.parts, self.target = emitter, emitter.group, parts, target
        self.query, self.key = self.group.step(parts.scores).operands
        self.weight, self.value = self.group.step(parts.mixed).operands
        self.scored = self.group.step(parts.softmax).operands[0]
        self.queries, self.keys = self.group.type(parts.scores).concrete[-2:]
        self.depth = self.group.type(self.query).concrete[-1]
        *self.lead, _, self.width = self.group.type(parts.mixed).concrete
        self.key_tiles, self.columns = -(-self.keys // _SIZE), -(-self.width // _SIZE)
        """Tiles of B that hold all keys, and all columns of values."""
        self.depths, self.terms = -(-self.depth // _DEPTH), -(-self.keys // _DEPTH)
        """Products of tiles that make a score, and an element of the result."""

    def emit(self) -> None:
        """The pieces: all heads, with the blocks of their queries."""
        emitter = self.emitter
        blocks = -(-self.queries // _SIZE)
        strips = strips_of(prod(self.lead), blocks)
        with emitter.parallel(prod(self.lead) * strips) as work, amx.configured():
            head, strip = emitter.divmod(work, strips)
            lead = head_at(emitter, head, self.lead)
            self._allocate()
            softmax_lead = located(emitter, self.weight, (*lead, 0, 0), self.parts.softmax)[:-2]
            scores_lead = located(emitter, self.scored, (*softmax_lead, 0, 0), self.parts.scores)[:-2]
            self._pack_keys(scores_lead)
            self._pack_values(lead)
            with emitter.strip(blocks, strips, strip) as block:
                leads = (lead, softmax_lead, scores_lead)
                whole_or_rest(block, self.queries, _SIZE, partial(self._block, leads))

    def _allocate(self) -> None:
        """The memory of a piece: tiles of B, and what a block of queries becomes on its way."""
        self.packed_keys = T.alloc_buffer((self.key_tiles, self.depths * _SIZE, _SIZE), "uint32")
        self.packed_values = T.alloc_buffer((self.terms, self.columns, _SIZE, _SIZE), "uint32")
        self.rows = T.alloc_buffer((_SIZE, self.depths * _DEPTH), "uint16")
        self.scores = T.alloc_buffer((_SIZE, self.key_tiles * _SIZE), "float32")
        self.weights = T.alloc_buffer((_SIZE, self.terms * _SIZE), "uint32")
        self.sums = T.alloc_buffer((_SIZE, self.columns * _SIZE), "float32")
        self.totals = T.alloc_buffer((_SIZE, _SIZE), "float32")
        self.top, self.scale = (on_stack((_SIZE,), "float32") for _ in range(2))

    # ---- tiles of B -------------------------------------------------------------------------------------------------

    def _pack_keys(self, lead: Index) -> None:
        """Pairs of neighbours in d, of 16 keys at a time: [tile, pair, key]. What is no key, or no d, is 0."""
        emitter, (whole, rest) = self.emitter, divmod(self.keys, _SIZE)
        if self.depth % 2 == 0 and in_runs(self.group, self.key):
            if whole:
                with emitter.serial(whole) as tile:
                    self._transpose(lead, tile, _SIZE)
            if rest:
                self._transpose(lead, whole, rest)
            return
        pairs, odd = divmod(self.depth, 2)
        if rest or self.depth % _DEPTH:
            with emitter.serial(self.key_tiles) as tile, emitter.serial(self.depths * _SIZE) as pair:
                self._clear(self.packed_keys, [tile, pair])
        for start, count, lanes in ((0, whole, _SIZE), (whole, 1, rest)):
            if not count or not lanes:
                continue
            with emitter.serial(count, start) as tile:
                for first, steps, both in ((0, pairs, True), (pairs, odd, False)):
                    if not steps:
                        continue
                    with emitter.serial(steps, first) as pair, emitter.lanes(lanes) as lane:
                        key = tile * _SIZE + lane
                        places = [(*lead, 2 * pair + i, key) for i in range(1 + both)]
                        emitter.store(self.packed_keys, self._pair(self.key, places), [tile, pair, lane])

    def _transpose(self, lead: Index, tile: Any, count: int) -> None:
        """The pairs of `count` keys, whose elements lie in a run each."""
        for part in range(self.depths):
            pairs = min(_DEPTH, self.depth - part * _DEPTH) // 2
            zeros = tirx.Broadcast(tirx.const(0, "uint32"), _SIZE)
            rows = [zeros] * _SIZE
            for i in range(count):
                words = self._words((*lead, part * _DEPTH, tile * _SIZE + i), pairs)
                if pairs < _SIZE:
                    words = tirx.Shuffle([words, zeros], [*range(_SIZE)])
                rows[i] = T.Bind(words)
            for pair, column in enumerate(transposed(rows)):
                T.buffer_store(self.packed_keys, column, [tile, part * _SIZE + pair, tirx.Ramp(0, 1, _SIZE)])

    def _words(self, index: Index, count: int) -> Any:
        """So many pairs of neighbours of a key from an index on, as they lie in memory."""
        found: list[tuple[int, Index]] = []

        def leaf(number: int, place: Index) -> Scalar:
            found.append((number, place))
            return self.emitter.input(number)(*place)

        self.emitter.evaluate(self.key, index, leaf)
        ((number, place),) = found
        *row, first = self.emitter.input(number).position(place)
        halves = tirx.BufferLoad(self.emitter.buffers[number], [*row, tirx.Ramp(first, 1, 2 * count)])
        return tirx.reinterpret(f"uint32x{count}" if count > 1 else "uint32", halves)

    def _pack_values(self, lead: Index) -> None:
        """Pairs of keys that lie 16 apart: [term, tile of columns, pair, column]. What is no key is 0."""
        emitter, (whole, rest) = self.emitter, divmod(self.keys, _DEPTH)
        if rest:
            with emitter.serial(self.columns) as tile, emitter.serial(_SIZE) as pair:
                self._clear(self.packed_values, [whole, tile, pair])
        second = max(0, rest - _SIZE)
        parts = (
            (0, whole, 0, _SIZE, True),
            (whole, 1, 0, second, True),
            (whole, 1, second, min(rest, _SIZE) - second, False),
        )
        for start, count, first, pairs, both in parts:
            if count and pairs:
                with emitter.serial(count, start) as term, emitter.serial(pairs, first) as pair:
                    self._pack_pairs(lead, term, pair, both)

    def _pack_pairs(self, lead: Index, term: Any, pair: Any, both: bool) -> None:
        """All columns of two keys, or of one and zeros."""
        emitter = self.emitter
        for tile in range(self.columns):
            with emitter.lanes(min(_SIZE, self.width - tile * _SIZE)) as lane:
                keys = [term * _DEPTH + pair + i * _SIZE for i in range(1 + both)]
                places = [(*lead, key, tile * _SIZE + lane) for key in keys]
                emitter.store(self.packed_values, self._pair(self.value, places), [term, tile, pair, lane])

    def _pair(self, value: int, places: Sequence[Index]) -> Any:
        """One or two elements of a value of bfloat16 in 32 bits."""
        words = [tirx.reinterpret("uint32", self.emitter.evaluate(value, at, self._leaf).expr) for at in places]
        low = words[0] >> tirx.const(16, "uint32")
        return low | (words[1] & tirx.const(0xFFFF0000, "uint32")) if len(words) > 1 else low

    def _clear(self, buffer: Any, row: Sequence[Any]) -> None:
        T.buffer_store(buffer, tirx.Broadcast(tirx.const(0, "uint32"), _SIZE), [*row, tirx.Ramp(0, 1, _SIZE)])

    # ---- a block of queries -----------------------------------------------------------------------------------------

    def _block(self, leads: tuple[Index, Index, Index], first: Any, rows: int) -> None:
        """The result for `rows` queries of a head from `first` on; what is in other rows of tiles, nobody reads."""
        lead, softmax_lead, scores_lead = leads
        self._rows(scores_lead, first, rows)
        self._score()
        self._finish(softmax_lead, first, rows)
        self._weigh(rows)
        self._mix()
        self._write(lead, first, rows)

    def _rows(self, lead: Index, first: Any, rows: int) -> None:
        """The queries, with zeros behind their last dimension."""
        emitter, (whole, rest) = self.emitter, divmod(self.depth, _SIZE)
        with emitter.serial(rows) as i:
            for start, count, lanes in ((0, whole, _SIZE), (whole, 1, rest)):
                if not count or not lanes:
                    continue
                with emitter.serial(count, start) as part, emitter.lanes(lanes) as lane:
                    column = part * _SIZE + lane
                    word = self._pair(self.query, [(*lead, first + i, column)])
                    emitter.store(self.rows, tirx.Cast("uint16", word), [i, column])
            if beyond := self.depths * _DEPTH - self.depth:
                with emitter.lanes(beyond) as lane:
                    emitter.store(self.rows, tirx.const(0, "uint16"), [i, self.depth + lane])

    def _score(self) -> None:
        """The first product: two tiles of keys at a time, whose sums wait for each other's products."""
        emitter, stride = self.emitter, self.depths * amx.BYTES
        held = self.depths <= _HELD
        for part in range(self.depths if held else 0):
            amx.load(part, self.rows, (0, part * _DEPTH), stride)
        for start, count, size in tiles.runs(self.key_tiles, 2):
            with emitter.serial(count) as number:
                keys = [start + number * size + i for i in range(size)]
                for i in range(size):
                    amx.zero(_HELD + i)
                if held:
                    for part in range(self.depths):
                        self._add_scores(keys, part, part)
                else:
                    with emitter.serial(self.depths) as part:
                        amx.load(0, self.rows, (0, part * _DEPTH), stride)
                        self._add_scores(keys, part, 0)
                for i, tile in enumerate(keys):
                    amx.store(_HELD + i, self.scores, (0, tile * _SIZE), 4 * self.key_tiles * _SIZE)

    def _add_scores(self, keys: Sequence[Any], part: Any, left: int) -> None:
        for i, tile in enumerate(keys):
            amx.load(_HELD + 2 + i, self.packed_keys, (tile, part * _SIZE, 0), amx.BYTES)
            amx.multiply(_DTYPE, _HELD + i, left, _HELD + 2 + i)

    def _finish(self, lead: Index, first: Any, rows: int) -> None:
        """What stands between the product and the softmax, minus infinity behind the last key, and the greatest score
        of each query."""
        emitter, (whole, rest) = self.emitter, divmod(self.keys, _SIZE)
        top = Registers(rows, _SIZE, "float32")
        changed = self.scored != self.parts.scores

        def finished(i: int, key: Any) -> Scalar:
            sum_ = Scalar(self.scores[i, key])

            def leaf(value: int, index: Index) -> Scalar:
                return sum_ if value == self.parts.scores else self._leaf(value, index)

            return emitter.evaluate(self.scored, (*lead, first + i, key), leaf)

        if changed and rest:
            with emitter.lanes(rest) as lane:
                for i in range(rows):
                    key = whole * _SIZE + lane
                    emitter.store(self.scores, finished(i, key), [i, key])
        with emitter.lanes(_SIZE) as lane:
            for i in range(rows):
                emitter.store(top, tirx.min_value("float32"), [i, lane])
            if whole:
                with emitter.serial(whole) as tile:
                    for i in range(rows):
                        key = tile * _SIZE + lane
                        if changed:
                            emitter.store(self.scores, finished(i, key), [i, key])
                        emitter.store(top, tirx.max(top[i, lane], self.scores[i, key]), [i, lane])
            if rest:
                for i in range(rows):
                    key = whole * _SIZE + lane
                    none = tirx.const(float("-inf"), "float32")
                    emitter.store(self.scores, tirx.Select(lane < rest, self.scores[i, key], none), [i, key])
                    emitter.store(top, tirx.max(top[i, lane], self.scores[i, key]), [i, lane])
        every = tirx.Ramp(0, 1, _SIZE)
        vectors = [tirx.BufferLoad(top.vectors[min(i, rows - 1)], [every]) for i in range(_SIZE)]
        T.buffer_store(self.top, reduced(vectors, tirx.max), [every])

    def _weigh(self, rows: int) -> None:
        """exp(score - greatest score) as pairs of bfloat16, and 1 / their sum, which is one of float32."""
        emitter, (pairs, odd) = self.emitter, divmod(self.key_tiles, 2)
        for start, count, size in tiles.runs(rows, max(1, beside(self.target) // 2)):
            total = Registers(size, _SIZE, "float32")
            both, last = (
                Exponentials(emitter, n * size, _SIZE, coarse=True) if some else None
                for n, some in ((2, pairs), (1, odd))
            )
            with emitter.serial(count) as number, emitter.lanes(_SIZE) as lane:
                lines = [start + number * size + i for i in range(size)]
                for i in range(size):
                    emitter.store(total, tirx.const(0.0, "float32"), [i, lane])
                if both:
                    with emitter.serial(pairs) as pair:
                        self._powers(both, lines, pair, 2, lane, total)
                if last:
                    self._powers(last, lines, pairs, 1, lane, total)
                for i, line in enumerate(lines):
                    emitter.store(self.totals, total[i, lane], [line, lane])
        every = tirx.Ramp(0, 1, _SIZE)
        vectors = [tirx.BufferLoad(self.totals, [min(i, rows - 1), every]) for i in range(_SIZE)]
        total = reduced(vectors, lambda a, b: a + b)
        T.buffer_store(self.scale, tirx.Broadcast(tirx.const(1.0, "float32"), _SIZE) / total, [every])

    def _powers(
        self, exp: Exponentials, lines: Sequence[Any], pair: Any, size: int, lane: Any, total: Registers
    ) -> None:
        """The weights of one or two tiles of keys, for some queries."""
        emitter = self.emitter
        keys = [(pair * 2 + j) * _SIZE + lane for j in range(size)]
        powers = exp([Scalar(self.scores[line, key] - self.top[line]) for line in lines for key in keys], lane)
        for i, line in enumerate(lines):
            parts = powers[i * size : (i + 1) * size]
            for power in parts:
                emitter.store(total, total[i, lane] + power.expr, [i, lane])
            words = [_nearest(power.expr) for power in parts]
            low = words[0] >> tirx.const(16, "uint32")
            word = low | (words[1] & tirx.const(0xFFFF0000, "uint32")) if size > 1 else low
            emitter.store(self.weights, word, [line, pair * _SIZE + lane])

    def _mix(self) -> None:
        """The second product, before it is divided by the sums of weights."""
        emitter, stride = self.emitter, 4 * self.columns * _SIZE
        for start, count, size in tiles.runs(self.columns, 4):
            with emitter.serial(count) as number:
                columns = [start + number * size + i for i in range(size)]
                for i in range(size):
                    amx.zero(i)
                with emitter.serial(self.terms) as term:
                    amx.load(4, self.weights, (0, term * _SIZE), self.terms * amx.BYTES)
                    for i, column in enumerate(columns):
                        amx.load(6 + i % 2, self.packed_values, (term, column, 0, 0), amx.BYTES)
                        amx.multiply(_DTYPE, i, 4, 6 + i % 2)
                for i, column in enumerate(columns):
                    amx.store(i, self.sums, (0, column * _SIZE), stride)

    def _write(self, lead: Index, first: Any, rows: int) -> None:
        """The rows of the result to where they belong."""
        emitter, (whole, rest) = self.emitter, divmod(self.width, _SIZE)
        result = emitter.result()
        with emitter.serial(rows) as i:
            for start, count, lanes in ((0, whole, _SIZE), (whole, 1, rest)):
                if not count or not lanes:
                    continue
                with emitter.serial(count, start) as part, emitter.lanes(lanes) as lane:
                    column = part * _SIZE + lane
                    value = Scalar(self.sums[i, column] * self.scale[i])
                    at = destination(self.group, self.parts, (*lead, first + i, column))
                    result.put(emitter.math.cast(value, result.type.dtype), result.position(at))

    def _leaf(self, number: int, index: Index) -> Scalar:
        return self.emitter.input(number)(*index)


def _nearest(power: Any) -> Any:
    """The bits of a float32 that is not negative, so changed that the upper half is the nearest bfloat16."""
    return tirx.reinterpret("uint32", power) + tirx.const(0x8000, "uint32")


def in_runs(group: Group, key: int) -> bool:
    """Whether neighbours in d of keys, [.., d, j], are neighbours in an input, from which they are only moved."""
    shape = group.type(key).concrete
    index: Index = tuple(np.ogrid[tuple(slice(extent) for extent in shape)])
    while key >= len(group.inputs):
        step = group.step(key)
        if step.op not in _MOVES or step.record.compute is None:
            return False
        types = [group.type(step.operands[0])]
        index = step.record.compute(Math(), types, lambda *i: i, **step.attrs)(*index)
        key = step.operands[0]
    *row, last = (np.diff(np.broadcast_to(each, shape), axis=-2) for each in index)
    return bool((last == 1).all()) and not any(each.any() for each in row)
