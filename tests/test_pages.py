"""Every code has a page, every example is wrong in the way that it is for, and the documents are up to date."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from specc.cli import execute
from specc.codes import CODES
from specc.pages import pages

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def generate() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "generate.py"))


def test_every_code_has_one_page_and_no_page_is_left_over() -> None:
    assert tomllib.loads((ROOT / "specc" / "pages.toml").read_text()).keys() == CODES.keys()
    for page in pages().values():
        assert page.means.endswith(".") and page.do.endswith((".", "`"))
        assert bool(page.example) != bool(page.shell), page.code


@pytest.mark.parametrize("code", [code for code, page in pages().items() if page.example])
def test_an_example_gives_its_message_and_no_other(code: str, generate: dict[str, Any]) -> None:
    text = generate["message"](pages()[code])
    assert text.startswith(f"error[{code}]") and text.count("error[") == 1, text


def test_every_message_about_a_spec_has_an_example() -> None:
    assert [code for code, page in pages().items() if page.shell and "S0101" <= code <= "S0508"] == ["S0106"]


def test_the_documents_are_up_to_date(generate: dict[str, Any]) -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == generate["errors"](), "make docs"
    assert (ROOT / "docs" / "std.md").read_text() == generate["standard_library"](), "make docs"
    assert (ROOT / "docs" / "operators.md").read_text() == generate["operators"](), "make docs"


def test_the_map_of_the_house_names_what_is_there_and_leaves_nothing_out() -> None:
    named = set(re.findall(r"`([\w./]+)`", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")))
    paths = {name for name in named if re.search(r"/|\.(py|c|h|lark)$", name)}
    places = [ROOT, *(ROOT / place for place in ("specc", "grammar", "passes", "backends/tvm"))]
    assert not [path for path in paths if not any((place / path).exists() for place in places)]
    inside = [each for each in (ROOT / "specc").iterdir() if each.suffix == ".py" or (each / "__init__.py").exists()]
    parts = {path.removeprefix("specc/").partition("/")[0] for path in paths}
    assert not {each.name for each in inside if not each.name.startswith("__")} - parts


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("S0205", "no name says what their key"),
        ("s0205", "y = relu(conv2d(x, 8))"),
        ("reparam", "conv(x, w * s, b * s)"),
        ("conv2d", "groups: an integer"),
        ("relu", "max(x, 0)"),
    ],
)
def test_explain(name: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["explain", name]) == 0
    assert part in capsys.readouterr().out


def test_explain_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["explain", "reparm"]) == 1
    assert "did you mean `reparam`" in capsys.readouterr().err
