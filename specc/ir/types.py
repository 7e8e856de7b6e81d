"""The type of a tensor: its logical shape, the type of its elements, and how it lies in memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from specc.ir.dims import Dim, product, substitute, symbols

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
        """The shape as integers; `ValueError` while a symbol is left."""
        return tuple(_concrete(dim) for dim in self.shape)

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


def _concrete(dim: Dim) -> int:
    if not isinstance(dim, int):
        raise ValueError(f"the dimension `{dim}` has no value yet")
    return dim
