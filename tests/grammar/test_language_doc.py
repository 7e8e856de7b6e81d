"""docs/language.md: every spec in it works, every wrong one gives the message that is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from specc import grammar
from specc.diagnostics import SpeccError
from specc.ir.verify import verify

TEXT = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
FENCED = re.findall(r"^```(specc error|specc|text)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
RIGHT = [body for kind, body in FENCED if kind == "specc"]
WRONG = [(body, FENCED[i + 1]) for i, (kind, body) in enumerate(FENCED) if kind == "specc error"]


@pytest.mark.parametrize("body", RIGHT, ids=range(len(RIGHT)))
def test_every_spec_works(body: str) -> None:
    reports = grammar.checks(body if body.startswith("specc") else f"specc 1\n{body}")
    assert reports, "a network shows that the blocks work"
    for report in reports:
        report.raise_failures()
        assert report.graph is not None
        verify(report.graph)


@pytest.mark.parametrize(("body", "follows"), WRONG, ids=range(len(WRONG)))
def test_every_wrong_spec_gives_the_message_below_it(body: str, follows: tuple[str, str]) -> None:
    kind, expected = follows
    assert kind == "text"
    with pytest.raises(SpeccError) as caught:
        grammar.loads(body, file="language.md")
    assert caught.value.render() + "\n" == expected


def test_every_construct_and_function_is_described() -> None:
    from specc.grammar.builtins import FUNCTIONS
    from specc.grammar.values import PLAIN_TYPES

    for name in (*FUNCTIONS, *PLAIN_TYPES):
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", TEXT), name


def test_every_block_of_the_library_is_described() -> None:
    std = Path(__file__).parents[2] / "grammar" / "std"
    definitions = [d for path in std.glob("*.specc") for d in grammar.parse(path.read_text()).definitions]
    assert definitions and all(definition.docstring for definition in definitions)
