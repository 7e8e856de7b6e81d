"""How a frozen operand is stored for a kernel: a function of its logical array, run once when a network is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specc.backends.tvm.filtering import transforms
from specc.ir.types import TensorType, block_of


@dataclass(frozen=True)
class Packing:
    """How an array is stored.

    plain               as it is, row-major
    blocked             [n, c, h, w] -> [n, ceil(c / block), h, w, block], zeros beyond c
    padded              [..., c, ...] -> [ceil(c / block) * block], every other extent being 1, zeros beyond c
    convolution         [o, i, kh, kw] -> [ceil(o / block), ceil(i / inner), kh, kw, inner, block], zeros beyond
    grouped             as convolution, of weights of `groups` groups, `together` of which are one: what the outputs of
                        one have for the inputs of another is zeros
    dot                 [o, i, ...] -> [ceil(o / block), ceil(i / inner) * ... * inner / 4, block * 4], zeros beyond:
                        four neighbours of i for each o
    pairs               [o, i, ...] -> [ceil(o / block), ceil(i / inner), ..., inner / 2, block * 2], zeros beyond: two
                        neighbours of i for each o, which a kernel reads as one number of 32 bits
    interleaved         as pairs; the two neighbours of i are numbers of their own, in lanes side by side
    lowered             as dot, with a vector before all others: for each o, 128 times the sum of its elements, the
                        bytes of an int32
    depthwise           [c, 1, kh, kw] -> [ceil(c / block), kh, kw, block], zeros beyond
    transposed          [..., i, j] -> [..., j, ceil(i / block) * block], zeros beyond i
    winograd            [o, i, kh, kw] -> [ceil(o / block), n, ceil(i / inner) * inner, block], zeros beyond: the
                        weights at the n places of tiles of `tile` results `stride` apart, G g G^T (`filtering`)
    matrix              [o, i, ...] -> [ceil(o / block), i, block], zeros beyond o, or, of `groups`, beyond the o of
                        each; every other extent is 1
    terms               [o, i, ...] -> [... * i, o]
    rows                [o, i, ...] -> [o, ... * ceil(i / block) * block], zeros beyond i

    Numbers of 16 bits stay such, but for `wide` ones: they are stored as float32. In dot and pairs, the zeros that fill
    the last block of i stand in front of what it has of `a` where they are `early`, not behind; and so many
    neighbouring `taps` of a row of the kernel, a divisor of them, stand beside each other as if they were more of i.
    """

    kind: str
    block: int = 1
    inner: int = 1
    tile: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    together: int = 1
    wide: bool = False
    early: bool = False
    taps: int = 1

    def shape(self, logical: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the packed array."""
        return self.apply(np.empty(logical, np.int8)).shape

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """The packed array, contiguous, of the same dtype."""
        packed: NDArray[Any] = getattr(self, f"_{self.kind}")(array)
        return packed.copy(order="C")

    def _plain(self, a: NDArray[Any]) -> NDArray[Any]:
        return a

    def _blocked(self, a: NDArray[Any]) -> NDArray[Any]:
        n, _, h, w = a.shape
        return _grown(a, 1, self.block).reshape(n, -1, self.block, h, w).transpose(0, 1, 3, 4, 2)

    def _padded(self, a: NDArray[Any]) -> NDArray[Any]:
        return _grown(a.reshape(-1), 0, self.block)

    def _convolution(self, a: NDArray[Any]) -> NDArray[Any]:
        a = _grown(_grown(a, 0, self.block), 1, self.inner)
        o, i, kh, kw = a.shape
        blocks = a.reshape(o // self.block, self.block, i // self.inner, self.inner, kh, kw)
        return blocks.transpose(0, 2, 4, 5, 3, 1)

    def _grouped(self, a: NDArray[Any]) -> NDArray[Any]:
        own, inputs = a.shape[0] // self.groups, a.shape[1]
        joined = np.zeros((a.shape[0], inputs * self.together, *a.shape[2:]), a.dtype)
        for first in range(0, a.shape[0], own):
            start = first // own % self.together * inputs
            joined[first : first + own, start : start + inputs] = a[first : first + own]
        return self._convolution(joined)

    def _winograd(self, a: NDArray[Any]) -> NDArray[Any]:
        a = _grown(_grown(a, 0, self.block), 1, self.inner)
        o, i, kh, kw = a.shape
        rows, columns = (np.array(g, float) for _, g, _ in map(transforms, self.tile, (kh, kw), self.stride))
        u: NDArray[Any] = np.einsum("er,oirs,fs->efio", rows, a, columns, optimize=True).astype(a.dtype)
        return u.reshape(-1, i, o // self.block, self.block).transpose(2, 0, 1, 3)

    def _dot(self, a: NDArray[Any]) -> NDArray[Any]:
        a = self._filled(_grown(a, 0, self.block))
        o, i, *kernel = a.shape
        blocks = a.reshape(o // self.block, self.block, i // self.inner, self.inner // 4, 4, *kernel)
        taps = range(5, blocks.ndim)
        packed = blocks.transpose(0, 2, *taps, 3, 1, 4)
        return packed.reshape(packed.shape[0], -1, self.block * 4)

    def _filled(self, a: NDArray[Any]) -> NDArray[Any]:
        """With zeros up to a multiple of `inner` on axis 1, and `taps` beside each other there."""
        if self.taps > 1:
            a = _grown(a, 1, self.inner // self.taps)
            o, i, rows, columns = a.shape
            beside = a.reshape(o, i, rows, columns // self.taps, self.taps).transpose(0, 4, 1, 2, 3)
            return beside.reshape(o, self.taps * i, rows, -1)
        if not self.early:
            return _grown(a, 1, self.inner)
        whole = a.shape[1] // self.inner * self.inner
        zeros = np.zeros((a.shape[0], -a.shape[1] % self.inner, *a.shape[2:]), a.dtype)
        return np.concatenate([a[:, :whole], zeros, a[:, whole:]], 1)

    def _pairs(self, a: NDArray[Any]) -> NDArray[Any]:
        a = self._filled(_grown(a, 0, self.block))
        o, i, *kernel = a.shape
        blocks = a.reshape(o // self.block, self.block, i // self.inner, self.inner // 2, 2, *kernel)
        packed = blocks.transpose(0, 2, *range(5, blocks.ndim), 3, 1, 4)
        return packed.reshape(*packed.shape[:-2], self.block * 2)

    def _interleaved(self, a: NDArray[Any]) -> NDArray[Any]:
        return self._pairs(a)

    def _lowered(self, a: NDArray[Any]) -> NDArray[Any]:
        packed = self._dot(a)
        sums = 128 * packed.reshape(*packed.shape[:2], self.block, 4).sum((1, 3), dtype="<i4")
        return np.concatenate([sums.astype("<i4").view(packed.dtype)[:, None], packed], 1)

    def _depthwise(self, a: NDArray[Any]) -> NDArray[Any]:
        kernel = a.shape[2:] if a.ndim == 4 else (1, 1)
        a = _grown(a.reshape(-1, self.inner, *kernel), 0, self.block)
        blocks = a.reshape(-1, self.block, self.inner, *kernel).transpose(0, 2, 3, 4, 1)
        return blocks.reshape(-1, *kernel, self.block)

    def _transposed(self, a: NDArray[Any]) -> NDArray[Any]:
        return _grown(a.swapaxes(-1, -2), a.ndim - 1, self.block)

    def _terms(self, a: NDArray[Any]) -> NDArray[Any]:
        return a.reshape(a.shape[0], a.shape[1], -1).transpose(2, 1, 0).reshape(-1, a.shape[0])

    def _rows(self, a: NDArray[Any]) -> NDArray[Any]:
        a = _grown(a, 1, self.block)
        return a.reshape(a.shape[0], a.shape[1], -1).transpose(0, 2, 1).reshape(a.shape[0], -1)

    def _matrix(self, a: NDArray[Any]) -> NDArray[Any]:
        a = _grown(a.reshape(self.groups, -1, a.shape[1]), 1, self.block)
        return a.reshape(-1, self.block, a.shape[2]).transpose(0, 2, 1)


def of_type(type: TensorType) -> Packing:
    """The packing that stores a logical array as `type` says."""
    block = block_of(type.layout)
    return Packing("blocked", block) if block else Packing("plain")


def _grown(a: NDArray[Any], axis: int, multiple: int) -> NDArray[Any]:
    """`a` with zeros behind it on `axis` up to a multiple of `multiple`."""
    missing = -a.shape[axis] % multiple
    return np.pad(a, [(0, missing if i == axis else 0) for i in range(a.ndim)]) if missing else a
