"""Zero-copy concat and split: calls that only move bytes go, and their tensors become parts of one another.

    a = conv(x); b = conv(y); c = concat(a, b)     a and b are written where c is read
    c = relu(x); a = slice(c); d = conv(a)         d reads a where c was written

Which concats and slices are runs of bytes, `specc.ir.placement` says; a call carries it (`joins`, `begins`). A piece
has one place: an input, a weight, an output, or what stands twice or in two concats, keeps its concat a call; unless
all pieces of an earlier concat stand together in a later one, which then is itself a piece. A slice that is a piece is
copied into its place, where the concat would have copied it: a concat with nothing but such pieces stays.

The whole lives from its first piece on, which can cost more memory than the copy. Where the arena would be larger than
it is with every copy made, those calls come back that hold most bytes in vain while most is held. So no program needs
more memory than it would without.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from specc.backends.tvm.memory import held, live, outside, plan
from specc.backends.tvm.program import Part, Program, Storage


def share(program: Program) -> Program:
    """The program without calls that only move bytes, as far as that needs no more memory."""
    most = plan(program).arena
    kept: set[int] = set()
    while True:
        shared, dropped = without(program, kept)
        if plan(shared).arena <= most:
            return shared
        kept |= _in_vain(program, shared, dropped) or dropped


def without(program: Program, kept: Set[int]) -> tuple[Program, set[int]]:
    """The program without calls that only move bytes, and the numbers of these calls; those in `kept` stay."""
    parts: dict[Storage, Part] = {}
    dropped: set[int] = set()
    wholes: list[tuple[Storage, tuple[Storage, ...]]] = []
    outputs = set(program.results)
    sliced = {
        call.results[0]
        for number, call in enumerate(program.calls)
        if call.begins is not None and number not in kept and call.results[0] not in outputs
    }
    for number, call in enumerate(program.calls):
        if call.joins is None or number in kept or len(set(call.operands)) < len(call.operands):
            continue
        pieces = dict(zip(call.operands, call.joins, strict=True))
        for whole, earlier in wholes:
            if whole not in parts and _runs(earlier, call.operands) and all(piece in pieces for piece in earlier):
                begin = pieces[earlier[0]]
                pieces = {piece: at for piece, at in pieces.items() if piece not in earlier} | {whole: begin}
        own = [piece for piece in pieces if piece.space == "buffer" and piece not in parts and piece not in outputs]
        if len(own) == len(pieces) and not sliced.issuperset(pieces):
            parts |= {piece: Part(call.results[0], begin) for piece, begin in pieces.items()}
            wholes.append((call.results[0], call.operands))
            dropped.add(number)
    for number, call in enumerate(program.calls):
        if call.begins is not None and call.results[0] in sliced and call.results[0] not in parts:
            parts[call.results[0]] = Part(call.operands[0], call.begins)
            dropped.add(number)
    calls = tuple(call for number, call in enumerate(program.calls) if number not in dropped)
    return replace(program, calls=calls, parts=parts), dropped


def _runs(some: tuple[Storage, ...], among: tuple[Storage, ...]) -> bool:
    """Whether `some` stand one behind the other in `among`."""
    return any(among[i : i + len(some)] == some for i in range(len(among) - len(some) + 1))


def _in_vain(program: Program, shared: Program, dropped: Set[int]) -> set[int]:
    """The dropped calls of the storage that holds most bytes that nobody needs, at the call where most is held.

    Needed is what would be held there if every concat and slice were a copy.
    """
    slots, members = live(shared, outside(shared)[0])
    at = [held(slots, number) for number in range(len(shared.calls))]
    fullest = at.index(max(at))
    running = [number for number in range(len(program.calls)) if number not in dropped]
    spans = _spans(program)
    vain: dict[Storage, int] = {}
    for slot, roots in zip(slots, members):
        if slot.first <= fullest <= slot.last:
            vain |= dict.fromkeys(roots, slot.size)
    for storage, (first, last) in spans.items():
        root = shared.root(storage).host
        if root in vain and first <= running[fullest] <= last:
            vain[root] -= program.size(storage)
    calls = {root: {n for n in dropped if shared.root(program.calls[n].results[0]).host == root} for root in vain}
    worst = max((root for root in vain if calls[root]), key=lambda root: vain[root], default=None)
    return calls[worst] if worst is not None else set()


def _spans(program: Program) -> dict[Storage, tuple[int, int]]:
    """The first and the last call of each storage."""
    spans: dict[Storage, tuple[int, int]] = {}
    for number, call in enumerate(program.calls):
        for storage in (*call.operands, *call.results):
            spans[storage] = (spans[storage][0] if storage in spans else number, number)
    return spans
