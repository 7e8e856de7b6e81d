"""The inner loop of every matrix product: accumulators in registers, one factor a vector, the other one broadcast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from specc.backends.tvm.emitter import Emitter, Registers


def multiply_add(
    emitter: Emitter,
    accumulators: Registers,
    rows: int,
    vectors: int,
    lane: Any,
    terms: int,
    factor: Callable[[int, Any], Any],
    vector: Callable[[Any, int], Any],
) -> None:
    """accumulators[i * vectors + j, lane] = sum over k of factor(i, k) * vector(k, j); in a vector loop over `lane`.

    Up to four terms are written out in the innermost loop, so many that it holds 32 multiply-adds at least.
    """
    for number in range(rows * vectors):
        emitter.store(accumulators, tirx.const(0.0, "float32"), [number, lane])
    unroll = next(u for u in (4, 2, 1) if terms % u == 0 and (u == 1 or rows * vectors * u <= 64))
    with emitter.serial(terms // unroll) as outer:
        for q in range(unroll):
            k = outer * unroll + q
            for i in range(rows):
                left = factor(i, k)
                for j in range(vectors):
                    position = [i * vectors + j, lane]
                    emitter.store(accumulators, accumulators[i * vectors + j, lane] + left * vector(k, j), position)
