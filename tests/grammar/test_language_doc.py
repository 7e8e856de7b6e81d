"""docs/language.md: specs work, wrong ones give the message that is shown, commands print what the page says."""

from __future__ import annotations

import re
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from specc import grammar
from specc.cli import execute
from specc.diagnostics import SpeccError
from specc.ir.verify import verify

TEXT = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
FENCED = re.findall(r"^```(specc error|specc|text|console|diff)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
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


def test_the_tutorial_goes_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, commands = Path("net.specc"), 0
    for kind, body in FENCED:
        if kind == "specc":
            file.write_text(body)
        elif kind == "diff":
            before = "".join(line[1:] for line in body.splitlines(True) if line[0] != "+")
            after = "".join(line[1:] for line in body.splitlines(True) if line[0] != "-")
            assert before in file.read_text()
            file.write_text(file.read_text().replace(before, after))
        elif kind == "console":
            commands += 1
            command, expected = body.removeprefix("$ specc ").split("\n", 1)
            said = StringIO()
            with redirect_stderr(said), redirect_stdout(said):
                execute(command.split())
            shown = "".join(line.rstrip() + "\n" for line in said.getvalue().splitlines())
            assert re.fullmatch(_pattern(expected), shown, re.DOTALL), shown
    assert commands == 8


def _pattern(expected: str) -> str:
    """`...` stands for any text, except where a message shows it between two lines of a spec."""
    message = expected.find("error[")
    free, exact = (expected, "") if message < 0 else (expected[:message], expected[message:])
    return "".join(".*" if part == "..." else re.escape(part) for part in re.split(r"(\.\.\.)", free)) + re.escape(
        exact
    )


def test_every_construct_and_function_is_described() -> None:
    from specc.grammar.builtins import FUNCTIONS
    from specc.grammar.values import PLAIN_TYPES

    for name in (*FUNCTIONS, *PLAIN_TYPES):
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", TEXT), name


def test_every_block_of_the_library_is_described() -> None:
    std = Path(__file__).parents[2] / "grammar" / "std"
    definitions = [d for path in std.glob("*.specc") for d in grammar.parse(path.read_text()).definitions]
    assert definitions and all(definition.docstring for definition in definitions)
