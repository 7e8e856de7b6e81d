"""A scan on a GPU: one block, whose threads run the loop together (`kernels.scan`).

Every stage of a step is computed by all threads of the block, a barrier behind it; what lies between the stages is in
temporaries of one step, which the caches hold. So a step costs no launch, but a single multiprocessor does all of it:
right for every body, and slow for large ones.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from specc.backends.tvm.choices import NOTHING, Choices
from specc.backends.tvm.cuda import elements
from specc.backends.tvm.cuda.elements import Site
from specc.backends.tvm.cuda.threads import barrier, grid, only_if, unravel
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import scan
from specc.ir.types import TensorType
from specc.targets import Target

_THREADS = 512


def lower(group: Group, target: Target) -> Template | None:
    """The template of a group that is a scan; None for another group."""
    site = Site(_THREADS)

    class Inner(_Scan):
        place = site

    class Outer(Inner):
        def emit(self) -> None:
            site.begin(self.emitter)
            with grid(self.emitter, 1, site.threads) as (_, site.thread):
                super().emit()

    def piece(group: Group, target: Target, choices: Choices) -> Template:
        return scan.lower(group, target, choices, piece, Inner) or elements.lower(group, target, site)

    return scan.lower(group, target, Choices(NOTHING), piece, Outer)


class _Scan(scan.Scan):
    """Writes a scan, which may be a part of another one, at `place`."""

    place: Site

    def allocate(self, type: TensorType) -> Any:
        return self.place.allocate(type).buffer

    def _copy(self, target: Any, source: Callable[..., Scalar]) -> None:
        emitter, shape, site = self.emitter, target.type.concrete, self.place
        with emitter.serial(-(-prod(shape) // site.threads)) as step:
            number = step * site.threads + site.thread
            with only_if(prod(shape) % site.threads == 0 or number < prod(shape)):
                index = unravel(emitter, number, shape)
                emitter.store(target.buffer, source(*index), target.position(index))
        barrier()
