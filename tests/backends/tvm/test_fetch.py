"""Which weights are asked for ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_programs import execute, program, weight
from tvm import tirx

from specc import targets
from specc.backends.tvm.emitter import Emitter, Template, kernel_of
from specc.backends.tvm.kernels import fetch

TARGET = targets.TARGETS["x86-64-v4"]


@pytest.mark.parametrize(
    ("blocks", "lines", "tiles", "steps", "streams"),
    [
        (1, 2304, 1, 144, 8),  # 3x3, 512 channels of bfloat16 at 7x7
        (1, 432, 1, 27, 6),  # eight parts of it would be shorter than a page
        (2, 256, 2, 16, 8),
        (2, 128, 2, 8, 4),
        (2, 128, 7, 8, 4),
        (2, 288, 29, 18, 2),  # so many units that a step has two lines to ask for
        (1, 7, 3, 2, 1),
    ],
)
def test_streams_have_every_line_once(
    blocks: int, lines: int, tiles: int, steps: int, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are counted in the place of making them."""

    def count(buffer: Any, index: tuple[Any, ...], level: int) -> None:
        Emitter.store(buffer, buffer[index] + tirx.const(1, "float32"), index)

    monkeypatch.setattr(fetch, "_request", count)
    found = []

    def write(emitter: Emitter) -> None:
        (result,) = emitter.outputs
        with emitter.serial(blocks) as j, emitter.serial(lines) as line:
            emitter.store(result, tirx.const(0, "float32"), [j, line])
        ask = fetch.Abreast(emitter, blocks, lines, tiles, steps)
        found.append(blocks * ask.parts)
        with emitter.serial(tiles) as tile, emitter.serial(steps) as step:
            ask(tile, step, result, lambda j, line: (j, line))

    group = program([weight(blocks, lines)], ("relu", [0], {}))
    arrays = [np.zeros((blocks, lines), np.float32)]
    (counted,) = execute(kernel_of(group, Template(write)), group, arrays, TARGET)
    assert np.array_equal(counted, np.ones((blocks, lines)))
    assert found == [streams]
