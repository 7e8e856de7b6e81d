"""The order of the blocks of an imported network's spec."""

from __future__ import annotations

import sys

from specc.grammar.parse import parse
from specc.grammar.syntax import Definition
from specc.importing.structure import called_by


def definitions(*calls: str) -> dict[str, Definition]:
    """Blocks B0, B1, ...: each returns what `calls` says."""
    blocks = "\n".join(f"block B{number}(x: [n]) -> [n]:\n    return {made}\n" for number, made in enumerate(calls))
    return {item.name: item for item in parse(f"specc 1\n\n{blocks}").items if isinstance(item, Definition)}


def test_a_block_stands_behind_those_that_it_calls_once() -> None:
    found = definitions("B2(B1(x))", "B3(x)", "B3(B4(x))", "relu(x)", "exp(x)", "tanh(x)")
    assert [block.name for block in called_by(found.pop("B0"), found)] == ["B3", "B4", "B2", "B1"]
    assert found.keys() == {"B5"}


def test_blocks_that_call_each_other_deeper_than_calls_may_nest() -> None:
    depth = sys.getrecursionlimit() + 100
    found = definitions(*(f"B{number + 1}(x)" for number in range(depth)), "relu(x)")
    names = [block.name for block in called_by(found.pop("B0"), found)]
    assert names == [f"B{number}" for number in range(depth, 0, -1)]
