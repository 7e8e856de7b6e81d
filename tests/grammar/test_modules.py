"""Files that use files, and what a spec consists of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from specc import grammar
from specc.diagnostics import SpeccError

MAIN = """specc 1
use parts.mixer: Mixer
use std.conv: ConvBN
network N(x: [n, 3, h, w]) -> [n, 3, h, w]:
    stem = ConvBN(x, 3)
    y = Mixer(stem)
    return y
"""
MIXER = """specc 1
use helper: Double
block Mixer(x: [n, c, h, w]) -> [n, c, h, w]:
    y = conv2d(Double(x), c)
    return y
"""
HELPER = """specc 1
block Double(x: [n, c, h, w]) -> [n, c, h, w]:
    return x * 2
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "main.specc").write_text(MAIN)
    (tmp_path / "parts" / "mixer.specc").write_text(MIXER)
    (tmp_path / "parts" / "helper.specc").write_text(HELPER)
    return tmp_path / "main.specc"


def test_files_are_found_beside_the_one_that_uses_them(spec: Path) -> None:
    assert "y.y.weight" in grammar.load(spec).parameters


def test_the_closure_is_every_file_that_is_used(spec: Path) -> None:
    closure = grammar.spec_closure(spec)
    assert closure[0] == spec
    assert sorted(path.name for path in closure) == ["conv.specc", "helper.specc", "main.specc", "mixer.specc"]
    assert all(path.is_file() for path in closure)


def test_mistakes_in_a_used_file_are_shown_there(spec: Path) -> None:
    helper = spec.parent / "parts" / "helper.specc"
    helper.write_text(HELPER.replace("x * 2", "y * 2"))
    with pytest.raises(SpeccError) as caught:
        grammar.load(spec)
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, diagnostic.labels[0].span.file) == ("S0201", str(helper))
    helper.write_text(HELPER.replace(":\n", "\n"))
    with pytest.raises(SpeccError, match=r"helper\.specc:2:"):
        grammar.load(spec)


def test_files_may_use_each_other(spec: Path) -> None:
    helper = spec.parent / "parts" / "helper.specc"
    helper.write_text(HELPER.replace("specc 1", "specc 1\nuse mixer: Mixer"))
    assert len(grammar.load(spec).parameters) == 7


def test_what_a_file_offers() -> None:
    examples = Path(__file__).parents[2] / "examples"
    assert [offer.variant for offer in grammar.offers(examples / "reparam" / "repvit.specc")] == [
        "m0_9",
        "m1_0",
        "m1_1",
        "m1_5",
        "m2_3",
    ]
    assert grammar.offers(examples / "digits.specc") == [grammar.Offer("Digits", None)]


def test_reading_a_spec_imports_neither_torch_nor_tvm() -> None:
    program = (
        "import sys; from specc import grammar; grammar.load(sys.argv[1]); print({'torch', 'tvm'} & set(sys.modules))"
    )
    digits = Path(__file__).parents[2] / "examples" / "digits.specc"
    done = subprocess.run([sys.executable, "-c", program, digits], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
