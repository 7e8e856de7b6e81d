"""Every network of examples/index.toml: well written, named as its reference names it, and computing the same.

Nothing here knows a network: what is particular to one stands in the index.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch

import specc
from specc import grammar, zoo
from specc.backends.torch import to_torch
from specc.cli import execute
from specc.ir.verify import verify
from specc.weights import random_weights
from specc.weights.draw import random_inputs
from specc.weights.rename import rename_key

ENTRIES = zoo.entries()
FILES = sorted(path for path in zoo.EXAMPLES.rglob("*.specc"))
FIRST = [(name, next(iter(entry.variants))) for name, entry in ENTRIES.items()]
OTHERS = [(name, variant) for name, entry in ENTRIES.items() for variant in list(entry.variants)[1:]]
SMALL = [
    pytest.param(name, marks=[] if entry.small.get("spread") else pytest.mark.slow) for name, entry in ENTRIES.items()
]
SEED = 5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are small: on a busy machine, two threads wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def named_as_the_reference(timm: Any, name: str, variant: str, with_lines: bool = False) -> None:
    """The checks of the variant hold, and the graph's keys and shapes are those of the reference's state_dict."""
    entry = ENTRIES[name]
    (report,) = grammar.check(entry.path, variant)
    report.raise_failures()
    assert report.graph is not None
    verify(report.graph)
    model = reference.build(timm, entry.variants[variant], entry.options.get(variant), device="meta")
    expected = {
        rename_key(key, report.graph.renames): tuple(tensor.shape) for key, tensor in model.state_dict().items()
    }
    assert {key: type_.shape for key, type_ in report.graph.checkpoint.items()} == expected
    if with_lines:
        assert reference.lines(timm, entry.variants[variant], entry.options.get(variant)) == entry.lines, (
            "`lines` of the index"
        )
        here = entry.variants[variant].startswith("here:")  # as short as we can write it
        assert here or entry.spec_lines <= entry.lines, "a spec is no longer than its reference"


@pytest.mark.parametrize(("name", "variant"), FIRST)
def test_names_and_shapes_are_those_of_the_reference(timm: Any, name: str, variant: str) -> None:
    named_as_the_reference(timm, name, variant, with_lines=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), OTHERS)
def test_names_and_shapes_of_all_variants(timm: Any, name: str, variant: str) -> None:
    named_as_the_reference(timm, name, variant)


class Pair:
    """A small network of an entry, its reference with the same random weights, and inputs."""

    def __init__(self, timm: Any, name: str) -> None:
        entry = ENTRIES[name]
        small = entry.small
        variant = small.get("variant")
        if "arguments" in small:
            network = next(o.network for o in grammar.offers(entry.path) if (o.variant or o.network) in entry.variants)
            text = entry.path.read_text(encoding="utf-8")
            text += f"\nvariants {network}:\n    of_the_index: {small['arguments']}\n"
            self.graph = grammar.loads(text, variant="of_the_index", file=entry.file, directory=entry.path.parent)
        else:
            self.graph = grammar.load(entry.path, variant=variant)
        self.shapes: dict[str, int] = small.get("shapes", {})
        self.weights = random_weights(self.graph, SEED)
        self.inputs = random_inputs(self.graph, SEED, self.shapes)
        named = small.get("reference") or entry.variants[variant or next(iter(entry.variants))]
        options = small.get("options", entry.options.get(variant or "", {}))
        self.model = reference.build(timm, named, options).double()
        state = {key: self._value(key, tensor) for key, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(state)

    def _value(self, key: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.weights[rename_key(key, self.graph.renames)]).to(tensor.dtype)

    def wanted(self) -> list[np.ndarray]:
        """What the reference computes in float64."""
        with torch.inference_mode():
            results = self.model(*(_wide(array) for array in self.inputs.values()))
        if isinstance(results, Mapping):
            results = list(results.values())
        return [tensor.numpy() for tensor in (results if isinstance(results, (tuple, list)) else [results])]


def _wide(array: np.ndarray) -> torch.Tensor:
    tensor = torch.as_tensor(array)
    return tensor.double() if tensor.is_floating_point() else tensor


def assert_near(got: list[np.ndarray], wanted: list[np.ndarray], tolerance: float) -> None:
    assert len(got) == len(wanted)
    for ours, theirs in zip(got, wanted):
        assert ours.shape == theirs.shape
        assert np.isfinite(theirs).all() and np.ptp(theirs) > 1e-3 * np.abs(theirs).max(), "the inputs matter"
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("name", SMALL)
def test_the_spec_computes_what_the_reference_computes(timm: Any, name: str) -> None:
    pair = Pair(timm, name)
    module = to_torch(pair.graph).double().eval()
    module.load_state_dict({key: torch.as_tensor(array) for key, array in pair.weights.items()})
    with torch.inference_mode():
        results = module(*(_wide(array) for array in pair.inputs.values()))
    got = [tensor.numpy() for tensor in (results if isinstance(results, tuple) else (results,))]
    assert_near(got, pair.wanted(), ENTRIES[name].small.get("tolerance", 1e-9))


@pytest.mark.parametrize("name", SMALL)
def test_the_artifact_computes_what_the_reference_computes(timm: Any, name: str) -> None:
    pair = Pair(timm, name)
    artifact = specc.compile(pair.graph, weights=pair.weights, shapes=pair.shapes)
    assert_near(list(artifact(*pair.inputs.values())), pair.wanted(), 1e-4)


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
