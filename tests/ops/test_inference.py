"""Work that is done once: types of equal calls, the spelling of a call, a network at one set of extents."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from specc import grammar, ops
from specc.cli import execute
from specc.ir.graph import Graph

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


def test_a_call_is_spelled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spelled: list[str] = []
    spell = ops.spell
    monkeypatch.setattr(ops, "spell", lambda record, *rest: spelled.append(record.name) or spell(record, *rest))
    grammar.loads(DEEP)
    assert sorted(spelled) == sorted(["conv2d", "batch_norm", "relu", "add"] * 30)


def test_a_check_and_its_report_fix_the_dimensions_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, ir = (importlib.import_module(name) for name in ("specc.grammar.check", "specc.ir.specialize"))
    fixed: list[object] = []
    specialize = ir.specialize

    def counted(graph: Graph, shapes: dict[str, int]) -> Graph:
        fixed.append(shapes)
        return specialize(graph, shapes)

    for module in (check, ir):
        monkeypatch.setattr(module, "specialize", counted)
    path = tmp_path / "deep.specc"
    with_defaults = DEEP.replace("[n, 8, h, w], depth", "[n=1, 8, h=4, w=4], depth")
    path.write_text(with_defaults + "variants Deep:\n    deep: depth=2\ncheck deep:\n    params == 1k\n")
    execute(["check", f"{path}:deep"])
    assert len(fixed) == 1
    execute(["check", f"{path}:deep", "--shapes", "h=8"])
    assert len(fixed) == 3, "once for the line of the spec, and once for the shapes that are asked for"
