"""Every network of examples/index.toml: well written, named as its reference names it, and computing the same.

Nothing here knows a network: what is particular to one stands in the index.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import checks
import pytest
import report

import specc
from specc import grammar, zoo
from specc.cli import execute

ENTRIES = zoo.entries()
FILES = sorted(path for path in zoo.EXAMPLES.rglob("*.specc"))
FIRST = [(name, next(iter(entry.variants))) for name, entry in ENTRIES.items()]
OTHERS = [(name, variant) for name, entry in ENTRIES.items() for variant in list(entry.variants)[1:]]
SMALL = [
    pytest.param(name, marks=[] if entry.small.get("spread") else pytest.mark.slow) for name, entry in ENTRIES.items()
]


def test_every_spec_is_in_the_index_once_or_needs_no_reference() -> None:
    listed = {entry.path.resolve() for entry in ENTRIES.values()}
    assert {path.resolve() for path in FILES} - listed == {(zoo.EXAMPLES / "digits.specc").resolve()}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_variants_of_the_index_are_those_of_the_file(name: str) -> None:
    entry = ENTRIES[name]
    sharing = [other for other in ENTRIES.values() if other.file == entry.file]
    offered = [offer.variant or offer.network for offer in grammar.offers(entry.path)]
    assert sorted(offered) == sorted(variant for other in sharing for variant in other.variants)
    counts = zoo.counts(entry.path)
    assert all(counts[variant].params and counts[variant].macs for variant in entry.variants), "checked by the spec"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_spec_is_in_canonical_form_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = grammar.parse(text, path.name)
    assert grammar.format_text(text, path.name) == text
    assert tree.docstring
    assert all(d.docstring for d in tree.definitions if d.kind == "block"), "every block says what it does"


@pytest.mark.parametrize(("name", "variant"), FIRST)
def test_names_and_shapes_are_those_of_the_reference(timm: Any, name: str, variant: str) -> None:
    checks.named_as_the_reference(timm, ENTRIES[name], variant, with_lines=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), OTHERS)
def test_names_and_shapes_of_all_variants(timm: Any, name: str, variant: str) -> None:
    checks.named_as_the_reference(timm, ENTRIES[name], variant)


@pytest.mark.parametrize("name", SMALL)
def test_the_spec_computes_what_the_reference_computes(timm: Any, name: str) -> None:
    pair = checks.Pair(timm, ENTRIES[name])
    assert pair.difference() <= pair.tolerance


@pytest.mark.parametrize("name", SMALL)
def test_the_artifact_computes_what_the_reference_computes(timm: Any, name: str) -> None:
    _, difference = checks.Pair(timm, ENTRIES[name]).compiled()
    assert difference <= checks.COMPILED


def _code(path: Path) -> str:
    """A module without its comments and docstrings: they may say where a number was measured."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


@pytest.mark.parametrize("folder", ["passes", "backends"])
def test_no_network_has_a_case_of_its_own_in_a_pass_or_a_backend(folder: str) -> None:
    names = {word for entry in ENTRIES.values() for word in (entry.name, re.sub(r"\W", "", entry.system).lower())}
    for path in (Path(__file__).parents[2] / folder).rglob("*.py"):
        found = names & set(re.findall(r"[a-z][a-z0-9]+", _code(path).lower()))
        assert not found, f"{path} speaks of {', '.join(sorted(found))}"


def test_zoo_lists_what_the_checks_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["zoo", "repvit", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[2] == {
        "name": "repvit/m1_1",
        "system": "RepViT",
        "params": "8.80M",
        "macs": "1.34G",
        "reference": "timm:repvit_m1_1",
        "file": "reparam/repvit.specc",
    }
    assert execute(["zoo"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + sum(len(entry.variants) for entry in ENTRIES.values())


def test_the_page_tells_of_every_network_and_of_what_failed() -> None:
    rows = {name: report.Row(name, report.digest(name), float64=1e-12, compiled=2e-7, kernels=3) for name in ENTRIES}
    page = report.table(rows)
    assert all(f"](../examples/{entry.file})" in page for entry in ENTRIES.values())
    assert page.count("| equal | 1.0e-12 | 2.0e-07 |") == len(ENTRIES) and "none with a check" in page
    rows["vit"].failed = "float64: a difference of 1.0e+00"
    page = report.table(rows)
    assert "| float64: a difference of 1.0e+00 |  |  |" in page and "1 with a check" in page


def test_zoo_compares_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["zoo", "--lines", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["file"] for row in rows} == {entry.file for entry in ENTRIES.values()}
    assert execute(["zoo", "--lines", "vit"]) == 0
    assert "median" in capsys.readouterr().err


def test_a_network_of_the_zoo_is_a_spec_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["show", "zoo:vit/tiny", "--depth", "0"]) == 0
    assert "5.72M parameters" in capsys.readouterr().out
    assert specc.load("zoo:vit/tiny").name == "ViT_tiny"


@pytest.mark.parametrize(
    ("asked", "said"), [("zoo:repvitt", "did you mean `repvit`"), ("zoo:vit/tinny", "did you mean `tiny`")]
)
def test_what_the_zoo_lacks(asked: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["check", asked]) == 1
    text = capsys.readouterr().err
    assert "S1007" in text and said in text
