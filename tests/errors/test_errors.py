"""Every wrong spec in this folder gives exactly the text beside it.

`# load` in a spec's second line says that it is loaded (`# load variant=m1_2`), all others are checked. The texts are
rewritten by `pytest --update-golden`, to be read before they are committed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from specc import grammar
from specc.codes import CODES
from specc.diagnostics import SpeccError

HERE = Path(__file__).parent
SPECS = sorted(path.stem for path in HERE.glob("*.specc"))


def message(path: str) -> str:
    """All that a user is told of the spec."""
    load = re.search(r"^# load(?: (\w+)=(\w+))?$", Path(path).read_text(), re.MULTILINE)
    try:
        if load:
            grammar.load(path, **({load[1]: load[2]} if load[1] else {}))
            return ""
        reports = grammar.check(path)
    except SpeccError as problem:
        return problem.render()
    failures = [SpeccError(*report.failures, sources=report.sources).render() for report in reports if report.failures]
    return "\n\n".join(failures)


@pytest.mark.parametrize("name", SPECS)
def test_the_message_is_the_expected_one(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(HERE)
    text = message(f"{name}.specc")
    assert text, "this spec is not wrong"
    expected = HERE / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        expected.write_text(text + "\n")
    assert text + "\n" == expected.read_text()


def test_every_code_of_the_language_has_a_spec() -> None:
    shown = "".join((HERE / f"{name}.txt").read_text() for name in SPECS)
    language = {code for code in CODES if "S0101" <= code <= "S0508" and code != "S0507"}
    assert language <= set(re.findall(r"error\[(S\d+)\]", shown))


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "repvit.specc").write_text("specc 1\n")
    with pytest.raises(SpeccError) as caught:
        grammar.load(tmp_path / "repvitt.specc")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "S0001"
    assert diagnostic.notes == ("did you mean `repvit.specc`?",)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.specc").write_bytes(os.urandom(64) + b"\xff\xfe")
    with pytest.raises(SpeccError, match="UTF-8"):
        grammar.load(tmp_path / "weights.specc")
    with pytest.raises(SpeccError, match="directory"):
        grammar.load(tmp_path)


@pytest.mark.parametrize(
    "body",
    ["(" * 3000 + "x" + ")" * 3000, "-" * 5000 + "1", " + ".join(["1"] * 5000), "[" * 2000, "x" * 1_000_001],
    ids=["brackets", "signs", "terms", "open", "long"],
)
def test_a_monstrous_expression_is_refused_or_read(body: str) -> None:
    with pytest.raises(SpeccError) as caught:
        grammar.loads(f"specc 1\n\nnetwork N(x: [n, 3]) -> [n, 3]:\n    k = {body}\n    return relu(y)\n")
    assert {d.code for d in caught.value.diagnostics} <= {"S0101", "S0106", "S0201", "S0406"}
    assert all(d.labels for d in caught.value.diagnostics)
