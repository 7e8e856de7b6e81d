"""Result types are inferred once for equal calls: the work for a network does not grow with its depth."""

from __future__ import annotations

from typing import Any

import pytest

from specc import grammar, ops

DEEP = """\
specc 1
network Deep(x: [n, 8, h, w], depth: int = 30) -> [n, 8, h, w]:
    for i in range(depth):
        blocks[i] = x |> conv2d(8, k=3) |> batch_norm |> relu
        x = x + blocks[i]
    return x
"""


def inferred(text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many result types are inferred anew while the network is elaborated."""
    calls = 0
    infer = ops._infer

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return infer(*arguments)

    for record in ops.OPERATORS.values():
        record.inferred.clear()
    with monkeypatch.context() as patched:
        patched.setattr(ops, "_infer", counted)
        grammar.loads(text)
    return calls


def test_equal_calls_are_inferred_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shallow = DEEP.replace("30", "1")
    assert 0 < inferred(DEEP, monkeypatch) == inferred(shallow, monkeypatch)
