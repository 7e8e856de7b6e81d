"""The choices of a template: what may be decided in one way or another, with equal results at another speed.

A template asks for each of them by name while it looks at a group, with the values that would do and the one that its
cost model takes. What it is given is that one, or what a *configuration* says instead:

    tile = choices.take("tile", ["13x2", "9x3", ...], "13x2")

All choices that were asked for are the template's *space* for this group and target (`Template.space`). A value may
decide what is asked for next, and which values that has: the order of two loops, then how many pieces the outer one is
cut into. A configuration that names only some of them leaves the others to the cost model, which then knows of these.

`specc tune` searches spaces and keeps configurations. It knows no template: one that asks for a choice is tuned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log2
from types import MappingProxyType
from typing import TypeVar

Value = bool | int | str
V = TypeVar("V", bound=Value)
Configuration = Mapping[str, Value]
"""Values by the names of choices."""

NOTHING: Configuration = MappingProxyType({})
"""The configuration that leaves everything to the cost models."""


@dataclass(frozen=True)
class Choice:
    """One choice as it was asked for. `values` stand in the order of their promise; `taken` is one of them."""

    name: str
    values: tuple[Value, ...]
    taken: Value


class Choices:
    """Answers what a template asks, after a configuration, and notes it. No template asks about a group of others."""

    def __init__(self, configuration: Configuration = NOTHING) -> None:
        self._given = configuration
        self._asked: dict[str, Choice | Choices] = {}

    def take(self, name: str, values: Iterable[V], default: V) -> V:
        """The value for `name`: the configuration's where it is one of `values`, else `default`."""
        known: tuple[V, ...] = tuple(dict.fromkeys((*values, default)))
        given = self._given.get(name)
        # True == 1: what is of another type is no value of this choice.
        taken = next((value for value in known if value == given and type(value) is type(given)), default)
        self._asked[name] = Choice(name, known, taken)
        return taken

    def near(self, name: str, values: Iterable[int], default: int) -> int:
        """As `take`, for a number above 0: the nearer a value's ratio to `default` to 1, the more promising it is."""
        return self.take(name, sorted(values, key=lambda value: (abs(log2(value / default)), value)), default)

    def part(self, name: str) -> Choices:
        """The choices of a part of the kernel; their names begin with `name` and a dot."""
        start = f"{name}."
        inner = {key.removeprefix(start): value for key, value in self._given.items() if key.startswith(start)}
        self._asked[name] = part = Choices(inner)
        return part

    @property
    def space(self) -> tuple[Choice, ...]:
        """All that was asked for, in order."""
        found: list[Choice] = []
        for name, asked in self._asked.items():
            if isinstance(asked, Choice):
                found.append(asked)
            else:
                found += (Choice(f"{name}.{inner.name}", inner.values, inner.taken) for inner in asked.space)
        return tuple(found)
