"""A block at work: its names, its dimensions, and its place in the state_dict."""

from __future__ import annotations

from dataclasses import dataclass, field

from specc.diagnostics import Span
from specc.grammar import syntax as s
from specc.grammar.modules import Module
from specc.grammar.values import Value
from specc.ir.dims import Dim


@dataclass(frozen=True)
class NoSlot:
    """In the place of a slot where no name reaches a call; `within` is what it stands in, where that is the reason."""

    within: s.Assign | s.Pipe | None = None


@dataclass(frozen=True)
class Place:
    """Where in the state_dict a call stands. `nameless` is the call that lost its name, if one did, and `lost` how."""

    path: str
    nameless: Span | None = None
    lost: NoSlot = NoSlot()

    def inside(self, slot: str | NoSlot, call: Span) -> Place:
        """The place of a call in `slot` of this one."""
        if self.nameless:
            return self
        if isinstance(slot, NoSlot):
            return Place(self.path, call, slot)
        return Place(join(self.path, slot))


@dataclass
class Scope:
    """One block at work: its file, its place, its names and its dimensions."""

    module: Module
    definition: s.Definition
    place: Place
    names: dict[str, Value] = field(default_factory=dict)
    dims: dict[str, Dim] = field(default_factory=dict)
    dim_spans: dict[str, Span] = field(default_factory=dict)
    dim_origins: dict[str, tuple[str, Span]] = field(default_factory=dict)
    failed: bool = False


@dataclass(frozen=True)
class Site:
    """Where a call stands: in a block at work, in the state_dict, and in the text."""

    scope: Scope
    place: Place
    span: Span


def join(path: str, slot: str) -> str:
    """`slot` below `path`; either may be empty."""
    return f"{path}.{slot}" if path and slot else path or slot
