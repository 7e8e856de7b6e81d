"""Passes by name: how they are spelled, and what is said where they are misspelt."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from specc.diagnostics import SpeccError
from specc.ir.graph import Graph
from specc.pages import explain
from specc.passes import registry
from specc.passes.registry import LEVELS, PASSES, Fusion, Layout, Pass, parse, pipeline
from specc.passes.rewrite import Journal
from specc.targets import TARGETS


@pytest.mark.parametrize("level", LEVELS)
def test_a_pipeline_is_spelled_and_read_back(level: int) -> None:
    for target in TARGETS.values():
        passes = pipeline(level, target)
        assert parse(",".join(map(str, passes))) == passes


def test_options_have_defaults_and_flags_need_no_value() -> None:
    assert parse(" layout , fusion{epilogues} ,fusion{epilogues=false}") == (Layout(), Fusion(), Fusion(False))
    assert parse("") == ()


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("reparm", "S0708", "did you mean `reparam`"),
        ("layout{blok=8}", "S0708", "did you mean `block`"),
        ("canonicalize{x=1}", "S0708", "there are none"),
        ("layout{block=wide}", "S0709", "of type int"),
        ("layout{block=true}", "S0709", "of type int"),
        ("fusion{epilogues=3}", "S0709", "of type bool"),
        ("layout{block=8", "S0709", "no list of passes"),
        ("a b", "S0709", "no list of passes"),
    ],
)
def test_a_misspelt_list_says_what_is_wrong(text: str, code: str, words: str) -> None:
    with pytest.raises(SpeccError) as raised:
        parse(text)
    assert raised.value.diagnostics[0].code == code
    assert words in str(raised.value)


@dataclass(frozen=True)
class Nothing(Pass):
    """Leaves everything as it is."""

    name = "nothing"
    summary = "nothing"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        return graph


def _offer(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    entry = EntryPoint("theirs", value, "specc.passes")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    registry._registered.cache_clear()


def test_another_package_adds_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        _offer(monkeypatch, f"{__name__}:Nothing")
        assert parse("nothing") == (Nothing(),)
        assert list(PASSES)[-1] == "nothing"
        assert explain("nothing") == "nothing: nothing\n\nLeaves everything as it is."
        _offer(monkeypatch, f"{__name__}:LEVELS")
        with pytest.raises(SpeccError, match="S0710"):
            list(PASSES)
    finally:
        registry._registered.cache_clear()


THEIRS = """
from dataclasses import dataclass
from specc.passes.registry import Pass

@dataclass(frozen=True)
class Right(Pass):
    name = "theirs-right"
    summary = "removes dead code"
    def __call__(self, graph, journal=None):
        result = graph.copy()
        result.prune()
        return result

@dataclass(frozen=True)
class Wrong(Right):
    name = "theirs-wrong"
    summary = "the same, and halves what comes out"
    def __call__(self, graph, journal=None):
        result = super().__call__(graph)
        if result.type(result.outputs[0]).dtype == "float32":
            result.outputs[0] = result.apply("mul", [result.outputs[0], result.constant(0.5)])
        return result
"""


def test_the_relations_are_asked_of_a_pass_of_another_package(tmp_path: Path) -> None:
    """Installing a package that registers passes is enough: no list names them."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    installed = tmp_path / "theirs-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    points = "right = theirs:Right\nwrong = theirs:Wrong\n"
    (installed / "entry_points.txt").write_text(f"[specc.passes]\n{points}")
    relations = Path(__file__).with_name("test_relations.py")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=line", "-k", "theirs", "-p", "no:cacheprovider"]
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run([*command, str(relations)], env={**os.environ, "PYTHONPATH": paths}, capture_output=True)
    said = run.stdout.decode()
    results = {name: outcome for outcome, name in re.findall(r"^(PASSED|FAILED) \S+\[([\w-]+)\]", said, re.MULTILINE)}
    assert results["theirs-right"] == "PASSED" and results["theirs-wrong"] == "FAILED", said
    assert "output 0 differs" in said
