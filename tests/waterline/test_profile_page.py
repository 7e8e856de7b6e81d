"""The page of a profile: what stands in it, that it is one file, and that no name breaks out of its place."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tiny
from profiles_by_hand import BLOCKS, call, network, usual

from specc import artifact as container
from specc import terminal
from specc.cli import execute
from specc.profile import Profile
from specc.waterline import page
from specc.waterline.origin import Origin


class Read(HTMLParser):
    """The elements of a page, each with its attributes; and its text, scripts and styles aside."""

    VOID = ("meta", "link", "input", "line", "rect", "circle", "polygon", "polyline", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.data: dict[str, str] = {}
        self._open: list[str] = []
        self._data = ""
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = {name: value or "" for name, value in attrs}
        self.found.append((tag, about))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "script":
            self._data = about.get("id", "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.data[self._data] = self.data.get(self._data, "") + data
        elif self._open and self._open[-1] != "style":
            self.text.append(data)

    def marks(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.found if t == tag and all(a.get(n.strip("_")) == v for n, v in wanted.items())]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def made(profile: Profile, name: str = "Net_small", alone: Profile | None = None) -> Read:
    return Read(
        page.render(profile, Origin(name, "a machine, 2 threads", {"Command": "specc profile net"}, BLOCKS), alone)
    )


def test_every_call_and_every_kernel_has_its_marks() -> None:
    found = made(usual())
    marks = found.marks("g", class_="mark")
    assert [a["data-call"] for a in marks if "data-call" in a] == list("01234")
    assert sorted(a["data-kernel"] for a in marks if "data-call" not in a) == list("012")
    assert [a["data-kernel"] for a in found.marks("circle", class_="mark dot")] == ["1"]  # only conv2d multiplies
    assert len([a for tag, a in found.found if tag == "tbody" and "data-kernel" in a]) == 3
    assert len(json.loads(found.data["calls"])) == 5


def test_a_bar_is_as_high_as_its_time() -> None:
    found = made(usual())
    water = [float(a["height"].rstrip("%")) for a in found.marks("rect", class_="water")]
    lost = [float(a["height"].rstrip("%")) for a in found.marks("rect", class_="lost")]
    assert water[:5] == [90.0, 8.0, 54.0, 4.0, 4.0]  # of 500 us
    assert lost[:5] == [10.0, 12.0, 6.0, 8.0, 12.0]
    # Then the staircase: conv2d, add, gelu, as wide as 800, 160 and 80 of 1040 us.
    widths = [float(a["width"].rstrip("%")) for a in found.marks("rect", class_="water")][5:]
    assert widths == [76.923, 15.385, 7.692]
    assert water[5:] == [90.0, 37.5, 25.0]


def test_the_numbers_of_the_page_are_those_of_the_profile() -> None:
    words = made(usual()).words
    for said in ("1.10 ms a run", "1.04 ms in 5 calls of 3 kernels", "800 µs ideal", "240 µs beyond the ideal"):
        assert said in words
    assert "Look first at add (2 calls, most in stages.0.mix.conv , net.specc:12): 15% of the time" in words
    assert "stages.0 Stage net.specc:22 2 400 µs 38% 310 µs 90 µs 27.0 MFLOP 1.00 MB 78%" in words


def test_a_kernel_above_its_roof_is_shown_as_full() -> None:
    found = made(network(call("winograd", "stem", 50.0, 100.0, 10_000_000)))
    assert "200%" in found.words
    assert [float(a["height"].rstrip("%")) for a in found.marks("rect", class_="lost")] == [0.0, 0.0]
    assert float(found.marks("rect", class_="water")[1]["height"].rstrip("%")) == 100.0


def test_one_kernel_and_none_have_a_page() -> None:
    assert "in 1 call of 1 kernel" in made(network(call("relu", "", 3.0, 1.0))).words
    empty = made(network(whole=1.0))
    assert "This network has no kernels" in empty.words and not empty.marks("g", class_="mark")


def test_another_number_of_threads_stands_beside() -> None:
    once = network(*(call(c.kernel, c.path, 2 * c.microseconds, c.ideal) for c in usual().calls), threads=1)
    found = made(usual(), alone=once)
    assert found.words.count("2.00×") == 3
    assert "a ring is a kernel with one thread" in found.words and len(found.marks("circle", class_="ring")) == 1
    assert "×" not in made(usual()).words


def test_what_was_chosen_for_a_kernel_is_told() -> None:
    chosen = {"tile": "13x2", "unroll": 2}
    made_so = network(call("conv2d", "", 9.0, 1.0, configuration=chosen, template="convolution", parallel=[8, 4]))
    assert "template convolution (tile 13x2, unroll 2); threads share 8 and 4 pieces" in made(made_so).words


def test_integers_have_a_level_in_the_roofline() -> None:
    profile = network(call("conv2d_integer", "stem", 9.0, 1.0, 1_000_000, 1000, element="uint8"))
    both = replace(profile, roofs=replace(profile.roofs, others=(("uint8", 400e9),)))
    assert "uint8: 400 GOP/s" in made(both).words and "GOP/s" not in made(profile).words
    assert len(made(both).marks("line", class_="roof ")) == len(made(profile).marks("line", class_="roof ")) + 1


def test_the_page_needs_nothing_else() -> None:
    found = made(usual())
    for _, about in found.found:
        assert not about.get("src") and about.get("href", "data:").startswith("data:")
    (policy,) = [a["content"] for a in found.marks("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    text = page.render(usual(), Origin("N", "", {}, {}))
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(text) < 60_000


NASTY = "</script><img src=x onerror=alert(1)>&\"'`{{ 7 * 7 }}`"


def test_names_stay_names() -> None:
    calls = [call(NASTY, NASTY, 100.0, 10.0, 1000, 1000, place=NASTY, operands=[f"float32[{NASTY}]"], template=NASTY)]
    text = page.render(
        network(*calls), Origin(NASTY, NASTY, {NASTY: NASTY}, {"": (NASTY, NASTY), NASTY: (NASTY, NASTY)})
    )
    found = Read(text)
    assert not found.marks("img") and "<img" not in text
    assert [tag for tag, _ in found.found].count("script") == 2
    assert NASTY in found.words
    assert json.loads(found.data["calls"])[0]["path"] == NASTY


# ---- the command


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "tiny.artifact"
    tiny.artifact().save(path)
    return path


def test_the_command_writes_the_page(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.html"
    words = ["profile", str(artifact), "--seconds", "0", "--threads", "1", "--html", str(out), "--scaling"]
    assert execute([*words, "--json"]) == terminal.FINE
    printed = capsys.readouterr()
    assert "out.html" in printed.err
    data = json.loads(printed.out)
    found = Read(out.read_text("utf-8"))
    shown = json.loads(found.data["calls"])
    assert [c["path"] for c in shown] == [c["path"] or "(network)" for c in data["calls"]]
    assert data["threads"] == data["alone"]["threads"] == 1 and len(data["alone"]["calls"]) == len(shown)
    words = found.words
    assert "BLAKE2b-128" in words and "--threads 1 --seconds 0 --scaling" in words and "tiny.artifact" in words
    assert "ConvBN" in words and "Branches" in words


@pytest.mark.parametrize("where", ["", "no/such/folder/out.html", ".", "itself"])
def test_what_cannot_be_written_is_said_at_once(
    artifact: Path, where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specc.profile.profile", lambda *_: pytest.fail("measured in vain"))
    out = str(artifact) if where == "itself" else where
    before = artifact.read_bytes()
    assert execute(["profile", str(artifact), "--html", out]) == terminal.FAILED
    assert "error[S0002]" in capsys.readouterr().err
    assert artifact.read_bytes() == before


def test_an_artifact_that_tells_less_is_refused(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = container.read(artifact)
    (size,) = contents.manifest.sizes
    calls = [{"kernel": call["kernel"]} for call in size.facts["kernels"]]
    less = replace(size, facts={**size.facts, "kernels": calls})
    path = artifact.with_name("less.artifact")
    container.write(path, replace(contents, manifest=replace(contents.manifest, sizes=(less,))))
    assert execute(["profile", str(path), "--seconds", "0"]) == terminal.FAILED
    assert "error[S0903]" in capsys.readouterr().err
