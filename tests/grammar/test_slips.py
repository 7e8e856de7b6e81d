"""Frequent slips, one by one: what is written, what is said of it, and what is said to write instead.

slips.txt has them: below the lines of a slip stands what is told, behind `=`. An example is added by its lines alone;
`pytest --update-golden` adds the rest, to be read before it is committed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from specc import grammar
from specc.diagnostics import SpeccError
from specc.grammar.slips import SLIPS

CORPUS = Path(__file__).with_name("slips.txt")
INSIDE, ITEMS = "==== inside of a block", "==== the items of a file"


def examples() -> list[tuple[str, str, str]]:
    """The part of the corpus, the lines of the slip, what is told."""
    found, part = [], ""
    for paragraph in CORPUS.read_text().rstrip("\n").split("\n\n"):
        if paragraph in (INSIDE, ITEMS):
            part = paragraph
            continue
        lines = paragraph.split("\n")
        told = [line for line in lines if line.startswith("= ")]
        found.append((part, "\n".join(lines[: len(lines) - len(told)]), "\n".join(told)))
    return found


def told(part: str, lines: str) -> str:
    if part == INSIDE:
        lines = (
            "block F(x: [n, c]) -> [n, c]:\n" + "".join(f"    {line}\n" for line in lines.split("\n")) + "    return x"
        )
    with pytest.raises(SpeccError) as caught:
        grammar.parse(f"specc 1\n\n{lines}\n")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "S0101" and diagnostic.labels
    return "\n".join(f"= {said}" for said in (diagnostic.message, *diagnostic.notes))


@pytest.fixture(scope="module", autouse=True)
def updated(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        parts = {
            part: [f"{lines}\n{told(part, lines)}" for p, lines, _ in EXAMPLES if p == part] for part in (INSIDE, ITEMS)
        }
        CORPUS.write_text("\n\n".join(text for part, texts in parts.items() for text in (part, *texts)) + "\n")


EXAMPLES = examples()


@pytest.mark.parametrize(("part", "lines", "expected"), EXAMPLES, ids=[lines for _, lines, _ in EXAMPLES])
def test_a_slip(part: str, lines: str, expected: str, request: pytest.FixtureRequest) -> None:
    assert told(part, lines) == expected or request.config.getoption("--update-golden")


def test_every_slip_has_an_example() -> None:
    """But those of a file's first lines, which tests/errors has."""
    elsewhere = {"a file begins with the version of the language", "`use` stands above all blocks"}
    shown = CORPUS.read_text()
    assert {slip.message for slip in SLIPS if f"= {slip.message}\n" not in shown} == elsewhere


MANY = """# A file of many mistakes.
specc 1

use std.conv: ConvBN

block A(x: [n, c]) -> [n, c]:
    y = relu(x
    z = y
    return z

def B(x):
    pass

block Right(x: [n, c]) -> [n, c]:
    \"\"\"
block C(x: [n, c]) -> [n, c]: of a docstring
    \"\"\"
    return x

block D(x: [n, c]) -> [n, c]:
\treturn x

network N(x: [n = 1, 3]) -> [n, 3]:
    if n is none:
        y = x
    return x

check N with x = [1, 3]
    params == 0
"""


def test_every_item_tells_of_its_first_mistake() -> None:
    with pytest.raises(SpeccError) as caught:
        grammar.parse(MANY)
    assert [(d.code, d.labels[0].span.line, d.message) for d in caught.value.diagnostics] == [
        ("S0101", 8, "the `(` of line 7 is not closed"),
        ("S0101", 11, "specc has blocks and networks"),
        ("S0102", 21, "a tab in the indentation"),
        ("S0101", 24, "values are compared by `==`"),
        ("S0101", 28, "this line needs a `:` at its end"),
    ]


def test_a_file_of_another_language_is_not_told_of_line_by_line() -> None:
    with pytest.raises(SpeccError) as caught:
        grammar.parse("specc 1\n" + "import torch\n" * 10_000)
    assert len(caught.value.diagnostics) == 20
