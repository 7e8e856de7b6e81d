"""The type of a tensor: its logical shape, the type of its elements, and how it lies in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from specc.ir.dims import Dim, Symbolic, product, substitute, symbols

_BLOCKED = re.compile(r"NCHW(\d+)c")


@dataclass(frozen=True, slots=True)
class TensorType:
    """`shape` is always the logical one; `layout` says how the elements are stored.

    "" is row-major in logical order. "NCHW16c" stores a logical [N, C, H, W] as [N, ceil(C / 16), H, W, 16]; lanes of
    the last block beyond C hold finite values that mean nothing and never reach a real lane.
    """

    shape: tuple[Dim, ...]
    dtype: str = "float32"
    layout: str = ""

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> Dim:
        """The number of logical elements."""
        return product(self.shape)

    @property
    def concrete(self) -> tuple[int, ...]:
        """The shape as integers; `ValueError` while a symbol is left (but see `valued`)."""
        return tuple(map(concrete, self.shape))

    @property
    def physical(self) -> tuple[int, ...]:
        """The shape of the buffer that holds the tensor."""
        block = block_of(self.layout)
        if not block:
            return self.concrete
        n, c, h, w = self.concrete
        return n, -(-c // block), h, w, block

    def symbols(self) -> frozenset[str]:
        """The names of all dimensions that are not fixed yet."""
        return frozenset().union(*(symbols(dim) for dim in self.shape))

    def substitute(self, bindings: Mapping[str, Dim]) -> TensorType:
        """The type with the symbols in `bindings` replaced."""
        shape = tuple(substitute(dim, bindings) for dim in self.shape)
        return self if shape == self.shape else replace(self, shape=shape)

    def __str__(self) -> str:
        layout = f"@{self.layout}" if self.layout else ""
        return f"{self.dtype}{layout}[{', '.join(map(str, self.shape))}]"


def block_of(layout: str) -> int:
    """The number of channels in a block of `layout`: 16 for "NCHW16c", 0 for the plain layout.

    Raises `ValueError` for a layout that does not exist.
    """
    if not layout:
        return 0
    match = _BLOCKED.fullmatch(layout)
    if not match:
        raise ValueError(f"no such layout: `{layout}`")
    return int(match[1])


def concrete(dim: Dim) -> int:
    """The dimension as an integer; `ValueError` while a symbol is left (but see `valued`)."""
    if isinstance(dim, int):
        return dim
    value = _VALUE.get()
    if value is None:
        raise ValueError(f"the dimension `{dim}` has no value yet")
    found: int = value(dim)
    return found


_VALUE: ContextVar[Callable[[Symbolic], Any] | None] = ContextVar("_VALUE", default=None)


@contextmanager
def valued(value: Callable[[Symbolic], Any]) -> Iterator[None]:
    """While a kernel is written whose dimensions get their values when it is run, `value` gives what stands for one.

    Shapes then hold expressions of the kernel beside integers, and whoever computes with them does so as with indices.
    """
    before = _VALUE.set(value)
    try:
        yield
    finally:
        _VALUE.reset(before)
