"""The memory plan: a place for every buffer of a program, in one arena or in what the caller gives for the results.

A buffer lives from the call that writes it to the last call that reads it; two that live at the same time have no byte
in common. A buffer that is an output lies where the caller wants the output, and until it is written, that memory
serves as others need it. A kernel that reads an operand at the element which it is about to write (a pointwise one, one
that adds a residual, or one that normalizes and has the statistics by then) writes in the place of that operand if
nobody reads it afterwards. What is part of another storage lies in it, and that lives from the first to the last of its
parts; nothing is written over a part, for that would keep the whole alive. What is free at a call, the kernel may have
for its own buffers.

Places are found greedily, the largest buffer first, each at the lowest offset where it fits between those that live at
the same time (Pisarchyk and Lee, "Efficient memory management for deep neural net inference", arXiv:2001.03288,
"greedy by size"). Where that leaves gaps, the buffer that ends highest gets its place first in another try; and where
all of these leave some, they begin again with the buffers of the fullest call, then those of the next ("greedy by
breadth"). What no plan goes below, the plan states beside what it needs.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from specc.backends.tvm.program import Program, Storage
from specc.ir.placement import aligned, size


class Place(NamedTuple):
    """`offset` bytes from the beginning of the arena (number 0), or of input, output or weight number `number`."""

    space: Literal["input", "output", "weight", "arena"]
    number: int
    offset: int = 0


@dataclass(frozen=True)
class Slot:
    """A run of `size` bytes that is in use from call `first` to call `last`, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: Slot) -> bool:
        """Whether both are in use at some call."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """Where everything lies.

    `places` has every storage of the program. `copies` are the outputs that are not computed into their place, by
    number, with the storage to copy at the end. `arena` is the bytes of the arena; with the outputs, it is the memory
    that a run takes beside inputs and weights. `least` is what the arena of no plan goes below. `rooms` are, for each
    call, where the longest run of free bytes begins in the arena, and how long it is.
    """

    places: dict[Storage, Place]
    copies: tuple[tuple[int, Storage], ...]
    arena: int
    least: int
    rooms: tuple[tuple[int, int], ...]


def plan(program: Program) -> Plan:
    """The plan of a program."""
    roots, copies = outside(program)
    slots, members = live(program, roots)
    regions = _regions(program, roots)
    for storages, place in zip(members, assign(slots, regions)):
        roots |= dict.fromkeys(storages, place)
    places = dict(roots)
    for part in program.parts:
        host, offset = program.root(part)
        if host in roots:
            places[part] = roots[host]._replace(offset=roots[host].offset + offset)
    ends = [roots[of[0]].offset + slot.size for slot, of in zip(slots, members) if roots[of[0]].space == "arena"]
    needs = [sum(held(each, call) for each in (slots, regions)) for call in range(len(program.calls))]
    least = max(needs, default=0) - sum(aligned(region.size) for region in regions)
    arena = aligned(max(ends, default=0))
    there = [(slot, roots[of[0]].offset) for slot, of in zip(slots, members) if roots[of[0]].space == "arena"]
    rooms = tuple(_room(there, call, arena) for call in range(len(program.calls)))
    return Plan(places, copies, arena, max(least, 0), rooms)


def _room(slots: Iterable[tuple[Slot, int]], call: int, arena: int) -> tuple[int, int]:
    """The longest run of bytes of an arena that none of the slots with these offsets takes at a call."""
    taken = sorted((offset, aligned(offset + slot.size)) for slot, offset in slots if slot.first <= call <= slot.last)
    best, end = (0, 0), 0
    for begin, behind in [*taken, (arena, arena)]:
        best = max(best, (end, begin - end), key=lambda room: room[1])
        end = max(end, behind)
    return best


def held(slots: Iterable[Slot], call: int) -> int:
    """The bytes that are in use at a call."""
    return sum(aligned(slot.size) for slot in slots if slot.first <= call <= slot.last)


def outside(program: Program) -> tuple[dict[Storage, Place], tuple[tuple[int, Storage], ...]]:
    """The places that are not in the arena, and the outputs to copy (see `Plan`).

    An operand that a call writes its output over lies where the output does.
    """
    places = {Storage("input", i): Place("input", i) for i in range(len(program.inputs))}
    places |= {Storage("weight", i): Place("weight", i) for i in range(len(program.weights))}
    copies = []
    for number, storage in enumerate(program.results):
        if storage in places or storage in program.parts:
            copies.append((number, storage))
        else:
            places[storage] = Place("output", number)
    last = _last(program)
    for number in reversed(range(len(program.calls))):
        call = program.calls[number]
        over = [o for o in _dying(program, number, last) if o not in places]
        if over and call.results[0] in places:
            places[over[0]] = places[call.results[0]]
    return places, tuple(copies)


def _regions(program: Program, placed: Mapping[Storage, Place]) -> list[Slot]:
    """The memory of each output, in use from the first call that writes what lies in it."""
    end = len(program.calls)
    first = [end] * len(program.outputs)
    for number, call in enumerate(program.calls):
        for place in (placed.get(program.root(result).host) for result in call.results):
            if place is not None:
                first[place.number] = min(first[place.number], number)
    return [Slot(size(type), begin, end) for type, begin in zip(program.outputs, first)]


def _last(program: Program) -> dict[Storage, int]:
    """The last call that uses each storage that is part of no other, or one of its parts."""
    used = [(number, storage) for number, call in enumerate(program.calls) for storage in call.operands + call.results]
    used += [(len(program.calls), storage) for storage in program.results]
    return {program.root(storage).host: number for number, storage in used}


def _dying(program: Program, number: int, last: Mapping[Storage, int]) -> list[Storage]:
    """The operands in whose place a call may write: nobody reads them, nor a part of them, in another way or later."""
    call = program.calls[number]
    read = [program.root(operand).host for operand in call.operands]
    over = [call.operands[i] for i in call.overwrites if program.root(call.results[0]).host == call.results[0]]
    return [o for o in over if last.get(o) == number and read.count(o) == 1]


def live(program: Program, placed: Container[Storage]) -> tuple[list[Slot], list[list[Storage]]]:
    """The runs of bytes that are needed for what is not `placed`, and the storages that lie in each, one after the
    other: those that are part of no other."""
    last = _last(program)
    slots: list[Slot] = []
    members: list[list[Storage]] = []
    slot_of: dict[Storage, int] = {}
    for number, call in enumerate(program.calls):
        for result in call.results:
            root = program.root(result).host
            if root in placed or root in slot_of:
                continue
            over = _dying(program, number, last) if root == call.results[0] else ()
            home = next((slot_of[o] for o in over if o in slot_of), None)
            if home is None:
                home = len(slots)
                slots.append(Slot(program.size(root), number, last[root]))
                members.append([root])
            else:
                slots[home] = replace(slots[home], last=last[root])
                members[home].append(root)
            slot_of[root] = home
    return slots, members


TRIES = 64
"""How many orders of the buffers are tried from each first one. With 1, two of the zoo's small networks (UniRepLKNet,
MobileViT) needed 13 and 20 % more than with 64, and more than eager execution of the same graph; with 64 that begin by
size alone, a third one did (Restormer, 1.3 %): no order of size fills its fullest call, which four buffers of three
sizes fill together."""


def assign(slots: Sequence[Slot], regions: Sequence[Slot] = ()) -> list[Place]:
    """The place of each slot, at a multiple of 64 bytes; slots that meet do not overlap.

    `regions` are the outputs' memory, which slots may use that they do not meet.
    """
    room = sum(aligned(region.size) for region in regions)
    least = max((held([*slots, *regions], slot.first) for slot in slots), default=0) - room
    beside = neighbours(slots)
    best: list[Place] = []
    lowest: int | None = None
    for order in (_by_size(slots), _by_breadth(slots)):
        for _ in range(TRIES):
            places = _greedy(slots, regions, order, beside)
            ends = {i: at.offset + slots[i].size for i, at in enumerate(places) if at.space == "arena"}
            end = max(ends.values(), default=0)
            if lowest is None or end < lowest:
                best, lowest = places, end
            if end <= least or not ends:
                return best
            highest = max(ends, key=lambda i: (ends[i], i))
            order = [highest, *(i for i in order if i != highest)]
    return best


def _by_size(slots: Sequence[Slot]) -> list[int]:
    """The largest slot first."""
    return sorted(range(len(slots)), key=lambda i: (-slots[i].size, slots[i].first, i))


def _by_breadth(slots: Sequence[Slot]) -> list[int]:
    """The slots of the call at which most is held first, then those of the next one; at each, the largest first."""
    calls = sorted({slot.first for slot in slots}, key=lambda call: (-held(slots, call), call))
    order = _by_size(slots)
    return list(dict.fromkeys(i for call in calls for i in order if slots[i].first <= call <= slots[i].last))


def neighbours(slots: Sequence[Slot]) -> list[list[int]]:
    """For each slot, the others that it meets. Each meets few of a deep network's, so nobody asks all pairs."""
    found: list[list[int]] = [[] for _ in slots]
    used: list[int] = []
    for number in sorted(range(len(slots)), key=lambda i: slots[i].first):
        used = [other for other in used if slots[other].meets(slots[number])]
        for other in used:
            found[other].append(number)
            found[number].append(other)
        used.append(number)
    return found


def _greedy(
    slots: Sequence[Slot], regions: Sequence[Slot], order: Sequence[int], beside: Sequence[Sequence[int]]
) -> list[Place]:
    """Each slot at the lowest offset that is free for it, in this order; in a region where one has room.

    beside  as `neighbours` gives them
    """
    places: dict[int, Place] = {}

    def lowest(number: int, place: Place) -> Place:
        """The first place in the space of `place` that nothing takes which lives at the same time."""
        slot, position = slots[number], place.offset
        taken = sorted(
            (places[other].offset, places[other].offset + slots[other].size)
            for other in beside[number]
            if other in places and places[other][:2] == place[:2]
        )
        for start, end in taken:
            if position + slot.size <= start:
                break
            position = max(position, aligned(end))
        return place._replace(offset=position)

    for number in order:
        slot = slots[number]
        free = [Place("output", i) for i, region in enumerate(regions) if not slot.meets(region)]
        found = [lowest(number, place) for place in free]
        fitting = [place for place in found if place.offset + slot.size <= regions[place.number].size]
        places[number] = fitting[0] if fitting else lowest(number, Place("arena", 0))
    return [places[number] for number in range(len(slots))]
