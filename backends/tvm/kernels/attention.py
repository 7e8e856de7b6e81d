"""Attention without the matrix of scores in memory: one kernel for q @ k, whatever is done to the scores, softmax, @ v.

    scores[.., i, j]  = sum over d of q[.., i, d] * k[.., d, j]
    weights           = softmax over j of pointwise steps on the scores (scales, biases, masks)
    result[.., i, d]  = sum over j of weights[.., i, j] * v[.., j, d], moved to where it is needed

Threads share out pieces: a head and a block of some vectors of queries. In a piece the queries lie transposed, so that
a vector holds one dimension of 16 queries; then the scores come out as [j, queries], the softmax over j needs no
operation across lanes, and the weights are in place for the second product, whose vectors are rows of v. The scores of
a piece stay in the second-level cache: 25 KB for 197 keys and 32 queries. (After Dao et al., arXiv:2205.14135; a whole
row of scores fits the cache here, so no partial softmax has to be corrected.)

q, k and v are read where they lie: slices, reshapes, permutes and rolls of a joint projection are index arithmetic,
likewise those behind. v is read best where its last dimension is contiguous. Rows at unequal distances, as windows of a
picture have them, are copied in front of their products, keys and values in one loop (`offsets`), and asked for while
the head before is computed (`gathering`).

Every tile of the second product reads all of v. Rows of a joint projection lie far apart (4608 bytes in ViT-S), each on
a page of its own, and share few sets of the first-level cache. Where this cache does not keep them (`offsets`), a
piece is a head with several blocks of queries, and begins with a copy of the head's values in one run: 0.88 to 0.90 of
the time with 197 tokens of 6 heads of 64, 0.83 with 1024 of them, 0.81 with 256 of 8 heads and a mask, 0.96 with 49 of
24 heads of 32; but 1.08 with 64 windows of 49 tokens of 3 heads, whose rows stay in the cache. The copy ends with a row
of zeros where the number of keys is odd, as two steps are written out at a time then.

Where a graph rounds the weights to 16 bits for the second product, they stay float32 here: they are in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Registers, Template
from specc.backends.tvm.expression import Scalar, writing_c
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import fetch, gathering, offsets, tiles
from specc.backends.tvm.kernels.attention_parts import Parts, between, destination, located, parts_of
from specc.backends.tvm.kernels.heads import head_at, strips_of, whole_or_rest
from specc.backends.tvm.kernels.products import multiply_add
from specc.backends.tvm.kernels.together import Exponentials, beside
from specc.backends.tvm.kernels.transposition import SIZE
from specc.backends.tvm.packing import Packing
from specc.targets import Target

_VECTORS, _ALL = 3, 4
"""Vectors of queries in a piece, unless it is chosen otherwise; all, where so many of 16 hold them. 49 tokens in one
piece take 0.92 of the time of 48 and one, in Swin-T with one thread of the Granite Rapids generation."""

_ACCUMULATORS = 24
"""Accumulators of a tile of scores, likewise."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group that is attention; None for another group."""
    parts = parts_of(group)
    if parts is None:
        return None
    queries, keys = group.type(parts.scores).concrete[-2:]
    packings = {
        operand: Packing("transposed", target.lanes)
        for number in between(group, group.step(parts.softmax).operands[0], parts.scores) or ()
        for operand in group.step(number).operands
        if operand < len(group.inputs) and group.inputs[operand].frozen
        if group.type(operand).concrete[-2:] == (queries, keys) and queries > 1
    }
    most = -(-queries // target.lanes)
    together = most <= _ALL and target.lanes == SIZE
    vectors = choices.near("vectors", range(1, min(most, _ALL) + 1), most if together else min(_VECTORS, most))
    accumulators = choices.near("accumulators", (4, 8, 12, 16, 20, 28), _ACCUMULATORS)
    (query, key), value = group.step(parts.scores).operands, group.step(parts.mixed).operands[1]
    uneven = not all(offsets.even(group, *each) for each in ((query, -2), (key, -1), (value, -2)))
    several = queries > vectors * target.lanes
    scattered = several and target.vectors and offsets.scattered(group, value, target)
    copied = (several or uneven) and choices.take("copied", (True, False), scattered or uneven)
    gathered = copied and uneven
    turned = target.lanes == SIZE and offsets.in_runs(group, query)
    ahead = gathered and fetch.pays(target) and choices.take("ahead", (True, False), True)
    plan = Plan(vectors, accumulators, copied, gathered, turned, ahead)
    return Template(lambda emitter: _Attention(emitter, parts, plan, target).emit(), packings)


@dataclass(frozen=True)
class Plan:
    """How attention is computed: vectors of queries in a block, accumulators of a tile of scores, and whether the
    values of a head are copied before they are read, or all of a head is; whether queries are transposed in registers,
    and the rows of the next head asked for."""

    vectors: int
    accumulators: int
    copied: bool
    gathered: bool
    turned: bool
    ahead: bool


class _Attention:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, parts: Parts, plan: Plan, target: Target) -> None:
        self.emitter, self.group, self.parts, self.target = emitter, emitter.group, parts, target
        self.vectors, self.accumulators, self.copied = plan.vectors, plan.accumulators, plan.copied
        self.gathered, self.ahead, self.turned = plan.gathered, plan.ahead, plan.turned and not writing_c()
        self.lanes = target.lanes
        self.query, self.key = self.group.step(parts.scores).operands
        self.weights, self.value = self.group.step(parts.mixed).operands
        self.queries, self.keys = self.group.type(parts.scores).concrete[-2:]
        self.depth = self.group.type(self.query).concrete[-1]
        *self.lead, _, self.width = self.group.type(parts.mixed).concrete
        self.terms = self.keys + (self.copied and self.keys % 2)
        """Terms of the second product: with the row of zeros behind the keys, if there is one."""
        self.copy: Any = None
        self.key_copy: Any = None
        self.following: Index | None = None
        """The leading indices of the next head's result, where its rows are asked for."""

    def emit(self) -> None:
        """The pieces: all heads, with the blocks of their queries."""
        emitter, size = self.emitter, self.vectors * self.lanes
        blocks = -(-self.queries // size)
        strips = strips_of(prod(self.lead), blocks) if self.copied else blocks
        with emitter.parallel(prod(self.lead) * strips) as work:
            head, strip = emitter.divmod(work, strips)
            lead = head_at(emitter, head, self.lead)
            if self.ahead and strips == 1 < prod(self.lead):
                last = prod(self.lead) - 1
                following = emitter.bind(T.Bind(tirx.min(head + 1, last)), last + 1)
                self.following = head_at(emitter, following, self.lead)
            if self.copied:
                self._copy(lead, self._leads(lead)[1])
            with emitter.strip(blocks, strips, strip) as block:
                whole_or_rest(block, self.queries, size, partial(self._block, lead))

    def _copy(self, lead: Index, scores_lead: Index) -> None:
        """The values of a head in one run, and where all is gathered, the keys in another one."""
        emitter = self.emitter
        self.copy = T.alloc_buffer((self.terms, self.width), "float32")
        if self.gathered:
            self.key_copy = T.alloc_buffer((self.keys, self.depth), "float32")
        with emitter.serial(self.keys) as j:
            if self.gathered:
                self._row(self.key_copy, j, self.depth, lambda d: self._at(self.key, (*scores_lead, d, j)))
            self._row(self.copy, j, self.width, lambda column: self._at(self.value, (*lead, j, column)))
        if self.terms > self.keys:
            self._row(self.copy, self.keys, self.width, lambda column: tirx.const(0.0, "float32"))

    def _row(self, buffer: Any, number: Any, width: int, value: Callable[[Any], Any]) -> None:
        gathering.row(self.emitter, buffer, number, width, self.lanes, value)

    def _request(self, first: Any, count: int) -> None:
        """Asks for so many rows of the next head's queries, keys and values, as far as there are as many of each."""
        assert self.following is not None
        lead, scores_lead = self.following, self._leads(self.following)[1]
        for j in (first + i for i in range(count)):
            gathering.request(self.emitter, self.key, (*scores_lead, 0, j), -2, self.depth)
            gathering.request(self.emitter, self.value, (*lead, j, 0), -1, self.width)
            if self.queries == self.keys:
                gathering.request(self.emitter, self.query, (*scores_lead, j, 0), -1, self.depth)

    def _at(self, value: int, index: Index) -> Any:
        return self.emitter.evaluate(value, index, self._leaf)

    def _block(self, lead: Index, first: Any, rows: int) -> None:
        """The result for `rows` queries of a head from `first` on."""
        vectors = -(-rows // self.lanes)
        padded = vectors * self.lanes
        softmax_lead, scores_lead = self._leads(lead)
        query = T.alloc_buffer((self.depth, padded), "float32")
        weights = T.alloc_buffer((self.terms, padded), "float32")
        scale = T.alloc_buffer((padded,), "float32")
        self._transpose(scores_lead, first, rows, padded, query)
        runs = tiles.runs(self.keys, max(1, self.accumulators // vectors))
        accumulators = Registers(runs[0][2] * vectors, self.lanes, "float32")
        top, total = (Registers(vectors, self.lanes, "float32") for _ in range(2))
        powers = [
            (run, Exponentials(self.emitter, run[2] * vectors, self.lanes))
            for run in tiles.runs(self.keys, max(1, beside(self.target) // vectors))
        ]
        with self.emitter.lanes(self.lanes) as lane:
            for c in range(vectors):
                self.emitter.store(top, tirx.min_value("float32"), [c, lane])
            for start, count, size in runs:
                with self.emitter.serial(count) as number:
                    places = (scores_lead, softmax_lead, first, start + number * size)
                    self._scores(places, size, rows, vectors, lane, query, weights, accumulators, top)
            self._softmax(vectors, lane, weights, scale, powers, top, total)
        self._mix(lead, first, rows, weights, scale)

    def _leads(self, lead: Index) -> tuple[Index, Index]:
        """The leading indices of the softmax and of the scores for those of the result."""
        softmax_lead = located(self.emitter, self.weights, (*lead, 0, 0), self.parts.softmax)[:-2]
        scored = self.group.step(self.parts.softmax).operands[0]
        return softmax_lead, located(self.emitter, scored, (*softmax_lead, 0, 0), self.parts.scores)[:-2]

    def _transpose(self, lead: Index, first: Any, rows: int, padded: int, query: Any) -> None:
        """The queries of a block as [d, query]; behind the last one it is repeated.

        Vectors of queries are gathered: written one dimension after the other, LLVM scatters vectors of these, and
        attention of ViT-S took 8 % longer.
        """
        emitter, lanes = self.emitter, self.lanes
        if self.turned:

            def value(i: Any, d: Any) -> Any:
                return self._at(self.query, (*lead, first + i, d))

            gathering.columns(emitter, query, rows, self.depth, value)
            return
        held = T.alloc_buffer((rows, self.depth), "float32") if self.gathered else None
        if held is not None:
            with emitter.serial(rows) as i:
                self._row(held, i, self.depth, lambda d: self._at(self.query, (*lead, first + i, d)))
        with emitter.serial(padded // lanes) as c, emitter.serial(self.depth) as d, emitter.lanes(lanes) as lane:
            i = c * lanes + lane
            row = i if padded == rows else tirx.min(i, rows - 1)
            value = self._at(self.query, (*lead, first + row, d)) if held is None else held[row, d]
            emitter.store(query, value, [d, i])

    def _scores(
        self,
        places: tuple[Index, Index, Any, Any],
        size: int,
        rows: int,
        vectors: int,
        lane: Any,
        query: Any,
        weights: Any,
        accumulators: Registers,
        top: Registers,
    ) -> None:
        """A tile: the scores of `size` keys from `key` on, finished, and the greatest ones so far."""
        emitter, lanes = self.emitter, self.lanes
        scores_lead, softmax_lead, first, key = places

        def factor(i: int, d: Any) -> Any:
            if self.gathered:
                return self.key_copy[key + i, d]
            return self._at(self.key, (*scores_lead, d, key + i)).expr

        def vector(d: Any, c: int) -> Any:
            return query[d, c * lanes + lane]

        if self.following is not None and 2 * rows > self.queries:
            self._request(key, size)
        multiply_add(emitter, accumulators, size, vectors, lane, self.depth, factor, vector)
        scored = self.group.step(self.parts.softmax).operands[0]
        for i in range(size):
            for c in range(vectors):
                number = c * lanes + lane
                row = first + (number if (c + 1) * lanes <= rows else tirx.min(number, rows - 1))
                sum_ = Scalar(accumulators[i * vectors + c, lane])

                def leaf(value: int, index: Index, sum_: Scalar = sum_, number: Any = number) -> Scalar:
                    if value == self.parts.scores:
                        return sum_
                    if emitter.packings[value].kind == "transposed":
                        at = [*index[:-2], index[-1], first + number]
                        return Scalar(emitter.load(value, *at), reads=True)
                    return self._leaf(value, index)

                at = (i * vectors + c, lane)
                emitter.store(accumulators, emitter.evaluate(scored, (*softmax_lead, row, key + i), leaf), at)
                emitter.store(weights, accumulators[at], [key + i, number])
                emitter.store(top, tirx.max(top[c, lane], accumulators[at]), [c, lane])

    def _softmax(
        self,
        vectors: int,
        lane: Any,
        weights: Any,
        scale: Any,
        powers: list[tuple[tuple[int, int, int], Exponentials]],
        top: Registers,
        total: Registers,
    ) -> None:
        """exp(score - greatest score) in place of the scores, those of some keys at a time, and 1 / their sum.

        Side by side (`together`), exponentials are 0.94 to 0.95 of the time of attention in ViT-S, 0.93 in windows.
        """
        emitter, lanes = self.emitter, self.lanes
        for c in range(vectors):
            emitter.store(total, tirx.const(0.0, "float32"), [c, lane])
            if self.terms > self.keys:
                emitter.store(weights, tirx.const(0.0, "float32"), [self.keys, c * lanes + lane])
        for (start, count, size), exp in powers:
            with emitter.serial(count) as number:
                places = [(start + number * size + i, c) for i in range(size) for c in range(vectors)]
                below = [Scalar(weights[j, c * lanes + lane] - top[c, lane]) for j, c in places]
                for (j, c), power in zip(places, exp(below, lane), strict=True):
                    emitter.store(weights, power, [j, c * lanes + lane])
                    emitter.store(total, total[c, lane] + power.expr, [c, lane])
        for c in range(vectors):
            emitter.store(scale, tirx.const(1.0, "float32") / total[c, lane], [c * lanes + lane])

    def _mix(self, lead: Index, first: Any, rows: int, weights: Any, scale: Any) -> None:
        """The second product, and its rows to where they belong."""
        whole, rest = divmod(self.width, self.lanes)
        if whole:
            tile = tiles.choose(rows, whole, self.target, way=0.0 if self.copied else tiles.WAY)
            for start, count, vectors in tiles.runs(whole, tile.blocks):
                with self.emitter.serial(count) as number:
                    column = (start + number * vectors) * self.lanes
                    self._columns((lead, first, column), rows, tile.pixels, vectors, self.lanes, weights, scale)
        if rest:
            pixels = tiles.choose(rows, 1, self.target).pixels
            self._columns((lead, first, whole * self.lanes), rows, pixels, 1, rest, weights, scale)

    def _columns(
        self, place: tuple[Index, Any, Any], rows: int, pixels: int, vectors: int, lanes: int, weights: Any, scale: Any
    ) -> None:
        """Some vectors of columns of the result, from `column` on, for all rows."""
        emitter, (lead, first, column) = self.emitter, place
        for start, count, size in tiles.runs(rows, pixels):
            with emitter.serial(count) as number:
                accumulators = Registers(size * vectors, lanes, "float32")
                row = start + number * size
                with emitter.lanes(lanes) as lane:

                    def factor(i: int, j: Any, row: Any = row) -> Any:
                        return weights[j, row + i]

                    def vector(j: Any, v: int, lane: Any = lane) -> Any:
                        if self.copied:
                            return self.copy[j, column + v * lanes + lane]
                        at = (*lead, j, column + v * lanes + lane)
                        return emitter.evaluate(self.value, at, self._leaf).expr

                    multiply_add(emitter, accumulators, size, vectors, lane, self.terms, factor, vector)
                    for i in range(size):
                        for v in range(vectors):
                            value = Scalar(accumulators[i * vectors + v, lane] * scale[row + i])
                            place = (*lead, first + row + i, column + v * lanes + lane)
                            at = destination(self.group, self.parts, place)
                            result = emitter.result()
                            result.put(emitter.math.cast(value, result.type.dtype), result.position(at))

    # ---- indices ----------------------------------------------------------------------------------------------------

    def _leaf(self, number: int, index: Index) -> Scalar:
        return self.emitter.input(number)(*index)
