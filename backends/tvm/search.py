"""Which configuration of a kernel to try next: the neighbours of the best one so far, then random changes of it.

A neighbour differs in one choice. For each value there are two: with the choices that are asked for later as they are,
and with these left to the cost model, which then knows of the new value. Values come in the order of their promise, one
of every choice before the second one of any.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from specc.backends.tvm.choices import NOTHING, Choice, Configuration
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import select
from specc.targets import Target

_ATTEMPTS = 64
"""Random changes in a row that lead to nothing new, after which there is nothing new."""


class Search:
    """The search for one kernel, beginning with the cost model's configuration, or with `best`.

    It proposes nothing that is in `tried`, and nothing twice. Two searches of the same history propose the same.
    """

    def __init__(
        self,
        name: str,
        group: Group,
        target: Target,
        tried: Iterable[Configuration] = (),
        best: Configuration = NOTHING,
    ) -> None:
        self._group, self._target = group, target
        default = self._complete(NOTHING)
        self._tried = {_key(configuration) for configuration in (default, *tried)}
        self._random = random.Random(name)
        self.accept(best or default)

    @property
    def open(self) -> bool:
        """Whether there is anything to choose."""
        return any(len(choice.values) > 1 for choice in self._space)

    def accept(self, best: Configuration) -> None:
        """From now on, proposals start from `best`."""
        self.best = best
        self._space = select.lower(self._group, self._target, best).space
        self._neighbours = self._near(self._space)

    def propose(self) -> Configuration | None:
        """A configuration that has not been tried; None where none is found."""
        for configuration in self._neighbours:
            if (found := self._new(configuration)) is not None:
                return found
        for _ in range(_ATTEMPTS if self.open else 0):
            changed = dict(self.best)
            for choice in self._random.sample(self._space, min(len(self._space), self._random.randint(2, 3))):
                changed[choice.name] = self._random.choice(choice.values)
            if (found := self._new(changed)) is not None:
                return found
        return None

    def _near(self, space: tuple[Choice, ...]) -> Iterator[Configuration]:
        best = {choice.name: choice.taken for choice in space}
        others = [[value for value in choice.values if value != choice.taken] for choice in space]
        for rank in range(max(map(len, others), default=0)):
            for place, choice in enumerate(space):
                if rank < len(others[place]):
                    changed = {choice.name: others[place][rank]}
                    yield {c.name: c.taken for c in space[:place]} | changed
                    yield best | changed

    def _new(self, configuration: Configuration) -> Configuration | None:
        found = self._complete(configuration)
        if _key(found) in self._tried:
            return None
        self._tried.add(_key(found))
        return found

    def _complete(self, configuration: Configuration) -> Configuration:
        return select.lower(self._group, self._target, configuration).configuration


def _key(configuration: Configuration) -> frozenset[tuple[str, object]]:
    # 1 == True: the type is part of the value.
    return frozenset((name, (type(value), value)) for name, value in configuration.items())
