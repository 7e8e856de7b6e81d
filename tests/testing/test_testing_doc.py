"""docs/testing-passes.md: its blocks run in order, the mistake is found, and the fix holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, find, settings

from specc.testing import check_pass

PAGE = Path(__file__).parents[2] / "docs" / "testing-passes.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_runs_as_it_is_written() -> None:
    rule, attack, generator, fix, shell, blocks, networks, texts = BLOCKS
    names: dict[str, Any] = {"__name__": "page"}
    for block in (rule, attack, generator):
        exec(compile(block, str(PAGE), "exec"), names)
    with pytest.raises(AssertionError, match=r"makes float32.* is needed") as raised:
        names["test_merge_pools_on_pools"]()
    (shown,) = raised.value.__notes__
    assert "".join(shown.split()) in "".join(PAGE.read_text(encoding="utf-8").split())
    wrong = find(
        names["pools"](),
        lambda graph: _fails(names["merge_pools"], graph),
        settings=settings(max_examples=500, suppress_health_check=list(HealthCheck), database=None),
    )
    assert len(wrong.live()) == 2
    assert wrong.node(wrong.live()[0]).attrs["stride"] == (2, 2)  # as the page says
    exec(compile(fix, str(PAGE), "exec"), names)
    exec(compile(rule[rule.index("POOLS =") :], str(PAGE), "exec"), names)
    names["test_merge_pools_on_pools"]()
    names["test_merge_pools"]()
    exec(compile(shell, str(PAGE), "exec"), names)
    check_pass(names["MergePools"](), wrong)
    exec(compile(blocks, str(PAGE), "exec"), names)
    exec(compile(networks, str(PAGE), "exec"), names)
    names["test_fusion_on_pictures"]()
    exec(compile(texts, str(PAGE), "exec"), names)
    names["test_formatting_keeps_the_tree"]()
    names["test_a_mistake_is_located"]()
    names["test_reparam_on_linear_blocks"]()


def _fails(run: Any, graph: Any) -> bool:
    try:
        check_pass(run, graph)
    except AssertionError:
        return True
    return False
