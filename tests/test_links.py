"""README.md and docs/: links lead somewhere, and the commands and options of `specc` that they name are there."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from specc.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def prose(text: str) -> str:
    """The text without code."""
    return re.sub(r"`[^`\n]+`", "", FENCED.sub("", text))


@cache
def anchors(path: Path) -> frozenset[str]:
    """What `#...` may name: the headings, as GitHub has them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def dead_links(path: Path) -> list[str]:
    """The links to files and headings that are not there."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        goal = path.parent / name if name else path
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            dead.append(link)
    return dead


def commands(text: str) -> list[str]:
    """The command lines of `specc`, in code of a line and in blocks."""
    blocks, rest = "\n".join(FENCED.findall(text)).replace("\\\n", " "), FENCED.sub("", text)
    lines = re.findall(r"^(?:\$ )?specc ([a-z].*)$", blocks, re.MULTILINE)
    lines += [" ".join(line.split()) for line in re.findall(r"`specc ([a-z][^`]*)`", rest)]
    return [line.partition("  #")[0] for line in lines]


def unknown(line: str) -> list[str]:
    """What a command line names that `specc` does not have."""
    name, *words = shlex.split(line)
    if name not in cli.commands:
        return [name]
    known = {word for option in cli.commands[name].params for word in option.opts}
    return [word for word in words if word.startswith("-") and word.partition("=")[0] not in known | {"--help"}]


@page
def test_every_link_leads_somewhere(path: Path) -> None:
    assert dead_links(path) == []


@page
def test_every_command_and_option_is_there(path: Path) -> None:
    assert {line: found for line in commands(path.read_text()) if (found := unknown(line))} == {}


def test_what_is_not_there_is_found(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# A heading, twice\n[a](page.md#a-heading-twice) [b](#a-heading) [c](other.md) `[d](x.md)`\n")
    assert dead_links(path) == ["#a-heading", "other.md"]
    text = "`specc zoo`\n```\n$ specc run x --trace  # --no\nspecc runs\n```\n`specc tune NET --minutes 10`\n"
    assert [unknown(line) for line in commands(text)] == [["--trace"], ["runs"], [], []]
