"""What is kept between runs: made once, from what it is made from, and anew where the file is not whole."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from specc import cache
from specc.grammar.layout import Layout


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPECC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def counted(content: bytes) -> tuple[list[bytes], Callable[[], bytes]]:
    """What was made, and the function that makes it."""
    made: list[bytes] = []

    def make() -> bytes:
        made.append(content)
        return content

    return made, make


def test_a_thing_is_made_once(folder: Path) -> None:
    made, make = counted(b"content")
    assert [cache.kept("thing", "a", origin, make) for origin in ("x", "x", "y", "x")] == [b"content"] * 4
    assert len(made) == 2, "from x and from y"
    assert {path.suffix for path in (folder / "things").iterdir()} == {".thing"}


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:20] + b"!" + c[21:], lambda c: b""])
def test_a_damaged_file_is_made_anew(damage: Callable[[bytes], bytes], folder: Path) -> None:
    made, make = counted(b"content")
    cache.kept("thing", "a", "x", make)
    (path,) = (folder / "things").iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert cache.kept("thing", "a", "x", make) == b"content"
    assert len(made) == 2
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_made_is_done_without(folder: Path) -> None:
    folder.write_text("a file stands here")
    made, make = counted(b"content")
    assert [cache.kept("thing", "a", "x", make) for _ in range(2)] == [b"content"] * 2
    assert len(made) == 2


def test_no_home_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SPECC_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache.kept("thing", "a", "x", lambda: b"content") == b"content"


def test_the_tables_of_the_parser_are_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = importlib.import_module("specc.grammar.parse")
    made: list[str] = []
    tables = parse._tables
    monkeypatch.setattr(parse, "_tables", lambda grammar: made.append(grammar) or tables(grammar))
    layouts: list[Layout] = []
    for _ in range(2):  # as two processes do
        parser, layout = parse._parser.__wrapped__()
        layout.file = "one text"
        layouts.append(layout)
        assert parser.parse("specc 1\n\nblock F(x: [n]) -> [n]:\n    return x\n", start="start").data == "start"
    assert len(made) == 1
    assert layouts[0] is not layouts[1]
    assert len(list((folder / "tables").iterdir())) == 1
