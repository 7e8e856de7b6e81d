"""The pages on deployment and precision: their commands print what stands below them, but for numbers and times."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Trained

from specc.cli import execute

ROOT = Path(__file__).parents[2]
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]\d+)?|x86-64-v\S+(?=,)")


def transcript(page: str, beginning: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of the page's block that begins so, each with the lines that it prints."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    block = text[text.index(f"```\n$ {beginning}") + 4 :].partition("\n```")[0]
    for part in block.removeprefix("$ ").split("\n$ "):
        command, *lines = part.split("\n")
        yield command, lines


def masked(line: str) -> str:
    return _NUMBER.sub("#", line)


@pytest.mark.parametrize(
    ("page", "beginning"),
    [
        ("precision.md", "python examples/digits.py"),
        ("deploying.md", "specc compile examples/digits.specc -o digits.artifact\n..."),
        ("deploying.md", "specc compile examples/digits.specc --emit c"),
    ],
)
def test_commands_print_what_the_page_says(
    page: str,
    beginning: str,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for command, expected in transcript(page, beginning):
        words = shlex.split(command)
        if words[0] == "python":
            shutil.copytree(trained.folder, words[-1])  # fewer epochs, and what they recognize, are the fixture's
            continue
        if words[0] == "specc":
            assert execute(words[1:]) == 0
            said = "".join(capsys.readouterr())
        else:  # `cd digits-c && gcc ...` needs a shell
            said = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True).stdout
        found = {masked(line) for line in said.splitlines()}
        missing = [line for line in expected if line != "..." and masked(line) not in found]
        assert not missing, f"{command} does not print {missing}, but {said}"
