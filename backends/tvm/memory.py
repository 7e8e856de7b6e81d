"""The memory plan: a place for every buffer of a program, in one arena or in what the caller gives for the results.

A buffer lives from the call that writes it to the last call that reads it; two that live at the same time have no byte
in common. A buffer that is an output lies where the caller wants the output. A pointwise kernel writes in the place of
an operand that nobody reads afterwards.

Places are found greedily, the largest buffer first, each at the lowest offset where it fits between those that live at
the same time (Pisarchyk and Lee, "Efficient memory management for deep neural net inference", arXiv:2001.03288,
"greedy by size"). The least that any plan needs is the most that lives at one call, which the plan states beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from specc.backends.tvm.program import Program, Storage, aligned


class Place(NamedTuple):
    """`position` is an offset in bytes in the arena, or the number of an input, an output or a weight."""

    space: Literal["input", "output", "weight", "arena"]
    position: int


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
    number, with the storage to copy at the end. `arena` is the bytes of the arena, `least` what no plan goes below.
    """

    places: dict[Storage, Place]
    copies: tuple[tuple[int, Storage], ...]
    arena: int
    least: int


def plan(program: Program) -> Plan:
    """The plan of a program."""
    places = {Storage("input", i): Place("input", i) for i in range(len(program.inputs))}
    places |= {Storage("weight", i): Place("weight", i) for i in range(len(program.weights))}
    copies = []
    for number, storage in enumerate(program.results):
        if storage in places:
            copies.append((number, storage))
        else:
            places[storage] = Place("output", number)
    slots, members = _slots(program, places)
    offsets = assign(slots)
    for slot, offset in enumerate(offsets):
        places |= dict.fromkeys(members[slot], Place("arena", offset))
    arena = max((offset + slot.size for slot, offset in zip(slots, offsets)), default=0)
    needs = (sum(aligned(s.size) for s in slots if s.first <= call <= s.last) for call in range(len(program.calls)))
    return Plan(places, tuple(copies), aligned(arena), max(needs, default=0))


def _slots(program: Program, placed: dict[Storage, Place]) -> tuple[list[Slot], list[list[Storage]]]:
    """The runs of bytes that are needed, and the buffers that lie in each, one after the other."""
    last: dict[Storage, int] = {}
    for number, call in enumerate(program.calls):
        last |= dict.fromkeys((*call.operands, *call.results), number)
    slots: list[Slot] = []
    members: list[list[Storage]] = []
    slot_of: dict[Storage, int] = {}
    for number, call in enumerate(program.calls):
        for result in call.results:
            if result in placed:
                continue
            reusable = (call.operands[i] for i in call.overwrites)
            home = next((slot_of[o] for o in reusable if o in slot_of and last[o] == number), None)
            if home is None:
                home = len(slots)
                slots.append(Slot(program.size(result), number, last[result]))
                members.append([result])
            else:
                slots[home] = replace(slots[home], last=last[result])
                members[home].append(result)
            slot_of[result] = home
    return slots, members


def assign(slots: Sequence[Slot]) -> list[int]:
    """The offset of each slot, a multiple of 64; slots that meet do not overlap."""
    offsets: dict[int, int] = {}
    for number in sorted(range(len(slots)), key=lambda i: (-slots[i].size, slots[i].first, i)):
        slot = slots[number]
        taken = sorted(
            (offset, offset + slots[other].size) for other, offset in offsets.items() if slot.meets(slots[other])
        )
        position = 0
        for start, end in taken:
            if position + slot.size <= start:
                break
            position = max(position, aligned(end))
        offsets[number] = position
    return [offsets[number] for number in range(len(slots))]
