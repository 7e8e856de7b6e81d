"""What convolutions and pooling share: the rows of a window that lie inside the input, and rows shared out to
threads."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T


def row_taps(y: Any, rows: int, taps: int, stride: int, dilation: int, padding: int, height: int) -> tuple[Any, Any]:
    """The first of a window's rows that lies inside the input for result row y of `rows`, and how many do."""
    top = y * stride - padding
    last = (rows - 1) * stride - padding + (taps - 1) * dilation
    low = 0 if padding <= 0 else T.Bind(tirx.max(0, tirx.floordiv(dilation - 1 - top, dilation)))
    if last < height:
        return low, taps - low
    high = tirx.min(taps, tirx.floordiv(height - 1 - top, dilation) + 1)
    return low, T.Bind(tirx.max(0, high - low))


def share(rows: int, others: int, least: int = 8) -> int:
    """Into how many strips `rows` are cut so that, with `others` independent pieces, threads get enough to share out.

    The number of pieces that results is a multiple of 4 where it can be, so that two or four threads get equal parts.
    """
    if (others >= least and others % 4 == 0) or others >= 4 * least:
        return 1
    wanted = -(-least // others)
    candidates = [s for s in range(1, rows + 1) if rows % s == 0 and s >= wanted and others * s % 4 == 0]
    return min(candidates, default=min(rows, 2 * wanted))
