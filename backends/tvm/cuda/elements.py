"""Any group: for every element of a stage or of the result a thread, or a team of threads where it is a long reduction.

This is the general template (`kernels.general`) with threads in place of loops. A thread computes what an operator's
`compute` says at its element; neighbours in memory are neighbours in a warp. Every stage that is stored is a launch of
its own, into a temporary.

A reduction of many terms is shared out: each member of a team takes every 32nd term (or every 256th, where the team is
a whole block), and the sums are joined pairwise in shared memory. So a row's sum reads the row in order, and a matrix
product with one row, which is bound by reading the weights, reads them in order, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

from tvm import tirx

from specc.backends.tvm.cuda.threads import BLOCK, WARP, barrier, grid, only_if, shared, unravel
from specc.backends.tvm.emitter import Again, Emitter, Registers, Template, Tensor
from specc.backends.tvm.expression import Scalar, least
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels.general import General, Nest, Plan
from specc.ir.types import TensorType
from specc.targets import Target

_MANY = 1 << 15
"""Elements that keep a GPU busy with a thread for each."""


@dataclass
class Site:
    """A kernel that is one launch of one block, whose threads write one stage after the other: see `scan`.

    Its temporaries have to be known before it begins; so it is written again for each that was missing.
    """

    threads: int
    thread: Any = None
    types: list[TensorType] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)

    def begin(self, emitter: Emitter) -> None:
        """Makes all temporaries that are known."""
        self.tensors = [emitter.temporary(type) for type in self.types]

    def allocate(self, type: TensorType) -> Tensor:
        """The next temporary; a stage that is stored only now stands in front of others that are known."""
        if not self.tensors or self.tensors[0].type != type:
            self.types.insert(len(self.types) - len(self.tensors), type)
            raise Again
        return self.tensors.pop(0)


def lower(group: Group, target: Target, site: Site | None = None) -> Template:
    """The template of any group; with `site`, of a part of the kernel there."""
    plan = Plan()
    lengths: dict[tuple[int, int], int] = {}
    return Template(lambda emitter: _Elements(emitter, plan, target, lengths, site).emit(), once=not group.anchors)


class _Elements(General):
    """Writes one kernel after a plan.

    `lengths` are the terms of the longest reduction of each nest, as far as known: by the nest's number while so many
    stages are stored, for one more stage gives nests other numbers.
    """

    def __init__(
        self, emitter: Emitter, plan: Plan, target: Target, lengths: dict[tuple[int, int], int], site: Site | None
    ) -> None:
        super().__init__(emitter, plan, 1, target)
        self.lengths, self.site = lengths, site
        self.thread: Any = 0
        self.member: Any = 0
        self.team = 1

    def allocate(self, type: TensorType) -> Tensor:
        return self.site.allocate(type) if self.site else self.emitter.temporary(type)

    def _team(self, number: int, elements: int) -> int:
        """How many threads share an element."""
        length = self.lengths.get((number, len(self.plan.stored)), 0)
        anchors = self.emitter.group.anchors
        product = any(self.emitter.group.step(anchor).record.macs is not None for anchor in anchors)
        if length < WARP or (product and elements >= _MANY):
            return 1
        return BLOCK if length >= 16 * BLOCK and elements < 1024 and not self.site else WARP

    def _write(self, target: Tensor, element: Callable[..., Scalar]) -> None:
        emitter, shape = self.emitter, target.type.concrete
        elements = prod(shape)
        if not elements:
            return
        number = self.nests
        self.nests += 1
        team = self._team(number, elements)
        if self.site:
            self._write_inside(self.site, number, team, target, element)
            return
        threads = min(BLOCK, -(-elements * team // WARP) * WARP)
        teams = threads // team
        with grid(emitter, -(-elements // teams), threads) as (block, thread):
            self._round(number, (block, thread), teams, team, target, element)

    def _write_inside(self, site: Site, number: int, team: int, target: Tensor, element: Callable[..., Scalar]) -> None:
        """All elements of `target`, by the threads of one block in as many rounds as it takes."""
        thread, teams = self.emitter.bind(site.thread, site.threads), site.threads // team
        with self.emitter.serial(-(-prod(target.type.concrete) // teams)) as step:
            self._round(number, (step, thread), teams, team, target, element)
            barrier()

    def _round(
        self,
        number: int,
        place: tuple[Any, Any],
        teams: int,
        team: int,
        target: Tensor,
        element: Callable[..., Scalar],
    ) -> None:
        """An element for each of so many teams: the number of the block, or of the round, and that of the thread."""
        emitter, elements, (block, thread) = self.emitter, prod(target.type.concrete), place
        own, self.member = emitter.divmod(thread, team) if team > 1 else (thread, 0)
        at = block * teams + own
        whole = elements % teams == 0
        self.thread, self.team = thread, team
        if team == 1:
            with only_if(whole or at < elements):
                self._element_at(number, at, target, element)
        else:  # all threads reach every barrier: those that have no element compute the last one once more
            inside = at if whole else tirx.min(at, elements - 1)
            self._element_at(number, inside, target, element, tirx.all(self.member == 0, at < elements))

    def _element_at(
        self, number: int, place: Any, target: Tensor, element: Callable[..., Scalar], stores: Any = True
    ) -> None:
        """Computes the element that has number `place` in row-major order, and stores it if `stores` holds."""
        emitter, shape = self.emitter, target.type.concrete
        sums = self.plan.sums.get(number, 0)
        point = unravel(emitter, place, shape)
        accumulators = Registers(sums, 1, self.dtype) if sums else None
        self.nest = Nest(number, shape, point, 0, accumulators)
        value = element(*point)
        with only_if(stores):
            target.put(value, target.position(point))
        self.nest = None

    def reduce(
        self,
        extents: tuple[int, ...],
        term: Callable[..., Scalar],
        start: float | None,
        join: Callable[[Any, Any], Any],
    ) -> Scalar:
        nest, emitter, length = self.nest, self.emitter, prod(extents)
        assert nest is not None
        key = (nest.number, len(self.plan.stored))
        if length > self.lengths.get(key, 0):
            self.lengths[key] = length
            raise Again
        if self.team == 1 or nest.sums >= self.plan.sums.get(nest.number, 0):
            return super().reduce(extents, term, start, join)
        position = [nest.sums, 0]
        nest.sums += 1
        first = least(self.dtype) if start is None else tirx.const(start, self.dtype)
        emitter.store(nest.accumulators, first, position)
        nest.depth += 1
        with emitter.serial(-(-length // self.team)) as step:
            place = step * self.team + self.member
            with only_if(length % self.team == 0 or place < length):
                value = term(*unravel(emitter, place, extents))
                emitter.store(nest.accumulators, join(Scalar(nest.accumulators[tuple(position)]), value), position)
        nest.depth -= 1
        return self._joined(nest.accumulators[tuple(position)], join)

    def _joined(self, own: Any, join: Callable[[Any, Any], Any]) -> Scalar:
        """What the members of the team have, joined: every one of them gets it."""
        emitter, thread = self.emitter, self.thread
        parts = shared((self.site.threads if self.site else BLOCK,), self.dtype)
        emitter.store(parts, own, [thread])
        barrier()
        half = self.team // 2
        while half:
            with only_if(self.member < half):
                emitter.store(parts, join(Scalar(parts[thread]), Scalar(parts[thread + half])), [thread])
            barrier()
            half //= 2
        return emitter.math.let(Scalar(parts[emitter.simplify(thread - self.member)]))
