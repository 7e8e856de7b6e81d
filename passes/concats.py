"""Concatenated channels: scales and shifts move into the parts, and parallel convolutions of one tensor become one.

    concat(a, b, ...) * s         => concat(a * s1, b * s2, ...)       where every part can take its share in
    concat(a, b, ...) + t         => concat(a + t1, b + t2, ...)
    concat(conv(x, a), conv(x, b)) => conv(x, [a; b])

A scale or shift only moves towards the inputs, and a part disappears with every merge, so the rules end.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from specc.ir.graph import Value
from specc.passes.convolutions import axis_of
from specc.passes.regions import Region
from specc.passes.rewrite import Frozen, Match, Op, Refused, Rule
from specc.passes.weight_space import along, as_vector, is_per_channel, per_channel, sole_use


def _is_channels(match: Match, concat: Value) -> bool:
    """Whether the parts stand one behind the other along dimension 1."""
    rank = match.type(concat).rank
    return rank > 1 and match.graph.node(concat.node).attrs["axis"] % rank == 1


def _absorbs(match: Match, part: Value) -> bool:
    """Whether a scale or a shift of `part` disappears in a convolution, or in a linear whose last dimension is 1."""
    op = match.graph.op(part)
    if op not in ("conv2d", "linear") or (op == "linear" and match.type(part).rank != 2):
        return False
    weights = match.graph.operands(part.node)[1:]
    return match.graph.uses(part) == 1 and all(match.is_frozen(w) for w in weights) and not match.is_frozen(part)


def _move(op: str) -> Callable[[Match], Value | None]:
    def rewrite(match: Match) -> Value | None:
        concat = Value(match["concat"])
        parts = match.graph.operands(concat.node)
        if not _is_channels(match, concat) or match.type(concat) != match.type(Value(match.root)):
            return None
        if reason := sole_use(match, concat):
            raise Refused(reason)
        if not is_per_channel(match, match["s"], concat, 1):
            raise Refused(f"{match.type(match['s'])} differs within a channel")
        for part in parts:
            if not _absorbs(match, part):
                raise Refused(f"the part made by `{match.graph.op(part)}` cannot take in its share")
        rank, channels = match.type(concat).rank, match.type(concat).shape[1]
        found = per_channel(match, match["s"], concat, 1)
        assert found is not None and isinstance(channels, int)
        vector, start, moved = as_vector(match, found, channels), 0, []
        for part in parts:
            extent = match.type(part).shape[1]
            assert isinstance(extent, int)
            share = match.apply("slice", vector, axis=0, start=start, stop=start + extent)
            moved.append(match.apply(op, part, along(match, share, 1, rank), like=part.node))
            start += extent
        return match.apply("concat", *moved, axis=1, like=concat.node)

    return rewrite


def _parallel(match: Match) -> Value | None:
    """`concat(conv(x, a), conv(x, b)) => conv(x, [a; b])` for the first two neighbours that fit."""
    root = Value(match.root)
    parts = match.graph.operands(root.node)
    refusal: Refused | None = None
    for op in ("conv2d", "linear"):
        region = Region(match, op)
        if match.graph.node(match.root).attrs["axis"] % match.type(root).rank != axis_of(op, match.type(root).rank):
            continue
        for position, (a, b) in enumerate(pairwise(parts)):
            for source in [s for s in region.sources(a) if s in region.sources(b) and a != b]:
                try:
                    merged = region.stacked(a, b, source)
                except Refused as refused:
                    refusal = refusal or refused
                    continue
                if merged is not None:
                    rest = [*parts[:position], merged, *parts[position + 2 :]]
                    return match.apply("concat", *rest, **match.node("concat").attrs) if len(rest) > 1 else merged
    if refusal is not None:
        raise refusal
    return None


_CONCAT = Op("concat", name="concat", rest="parts")

RULES = (
    Rule("concat(a, b) * s => concat(a * s1, b * s2)", Op("mul", _CONCAT, Frozen("s")), _move("mul")),
    Rule("concat(a, b) + t => concat(a + t1, b + t2)", Op("add", _CONCAT, Frozen("s")), _move("add")),
    Rule("concat(conv(x, a), conv(x, b)) => conv(x, [a; b])", _CONCAT, _parallel),
)
