"""The page of a profile in a real browser: charts, sorting, filtering, folding, keys, and no width that overflows.

`make web-test` installs what this needs and runs it; the default tests leave it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import PROGRAM, Page
from profiles_by_hand import BLOCKS, call, network, usual

from specc.profile import Profile
from specc.waterline import page
from specc.waterline.origin import Origin

pytestmark = [
    pytest.mark.cross,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium: apt install chromium"),
]
LONG = "slice_reshape_permute_mul_slice_permute_reshape_matmul_add_softmax_slice_reshape_permute_matmul_permute_reshape"


def large() -> Profile:
    """Three hundred calls of sixty kernels with long names."""
    return network(
        *(
            call(
                f"{LONG if number % 7 else 'conv2d'}_{number % 60}",
                f"stages.{number // 80}.blocks.{number // 10}.a_rather_long_name_of_a_block.{'deeper.' * 3}conv",
                10.0 + number % 60 * 3,
                5.0 + number % 60,
                (number % 60) * 100_000,
                100_000,
                operands=["float32@NCHW16c[1, 1024, 56, 56]"] * 5,
            )
            for number in range(300)
        )
    )


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with Page() as found:
        yield found


def write(folder: Path, profile: Profile, alone: Profile | None = None) -> Path:
    path = folder / "page.html"
    origin = Origin(
        "Net_small",
        "a machine with a long name " * 4,
        {"Command": "specc profile " + "long/" * 60, "Digest": "0" * 64},
        BLOCKS,
    )
    path.write_text(page.render(profile, origin, alone), encoding="utf-8")
    return path


@pytest.fixture
def shown(tab: Page, tmp_path: Path) -> Iterator[Page]:
    """The usual page in a wide window; nothing may go wrong in it, and nothing be fetched."""
    tab.problems.clear()
    tab.requests.clear()
    path = write(tmp_path, usual())
    tab.resize(1280)
    tab.open(path.as_uri())
    yield tab
    assert not tab.problems
    assert set(tab.requests) == {path.as_uri()}


def names(tab: Page) -> list[str]:
    """The kernels of the table that are seen, from top to bottom."""
    rows = "[...document.querySelectorAll('#kernels tbody')].filter(b => b.getClientRects().length)"
    found: list[str] = tab.ask(f"{rows}.map(b => b.dataset.name)")
    return found


def lit(tab: Page, chart: str) -> list[int]:
    """The marks of a chart that are lit, by their place in it."""
    found: list[int] = tab.ask(
        f"[...document.querySelectorAll('#{chart} .mark')].flatMap((m, i) => m.classList.contains('hot') ? [i] : [])"
    )
    return found


def test_marks_are_seen_where_the_numbers_say(shown: Page) -> None:
    for chart, marks in (("waterline", 5), ("staircase", 3), ("roofline", 1)):
        assert shown.ask(f"document.querySelectorAll('#{chart} .mark').length") == marks
    bars = "[...document.querySelectorAll('#waterline rect.water')]"
    heights = shown.ask(f"{bars}.map(bar => bar.getBoundingClientRect().height)")
    plot = shown.ask("document.querySelector('#waterline .plot').getBoundingClientRect().height")
    assert heights == pytest.approx([part * plot for part in (0.9, 0.08, 0.54, 0.04, 0.04)], abs=0.5)
    inside = """[...document.querySelectorAll('.plot')].every(plot => {
        const box = plot.getBoundingClientRect();
        return [...plot.querySelectorAll('.mark rect')].every(rect => {
            const r = rect.getBoundingClientRect();
            const [x, y] = [r.left >= box.left - 1 && r.right <= box.right + 1, r.top >= box.top - 1];
            return x && y && r.bottom <= box.bottom + 1;
        });
    })"""
    assert shown.ask(inside)


def test_a_heading_sorts(shown: Page) -> None:
    assert names(shown) == ["add", "conv2d", "gelu"]
    shown.click("th[data-sort=us] button")
    assert names(shown) == ["conv2d", "add", "gelu"]
    shown.click("th[data-sort=us] button")
    assert names(shown) == ["gelu", "add", "conv2d"]
    assert shown.ask("document.querySelector('th[data-sort=us]').ariaSort") == "ascending"
    shown.click("th[data-sort=share] button")
    assert names(shown) == ["conv2d", "add", "gelu"]
    shown.click("th[data-sort=name] button")
    assert names(shown) == ["add", "conv2d", "gelu"]
    assert shown.ask("document.querySelectorAll('th[aria-sort]').length") == 1


def test_text_filters(shown: Page) -> None:
    shown.click("#filter")
    shown.type("STAGES.0 add")
    assert names(shown) == ["add"]
    assert shown.ask("document.getElementById('shown').textContent") == "1 of 3"
    shown.ask("document.getElementById('filter').select()")
    shown.type("nothing has this")
    assert names(shown) == []
    shown.ask("document.getElementById('filter').select()")
    shown.type("conv2d")
    assert names(shown) == ["conv2d"]


def test_what_is_pointed_at_lights_up_everywhere(shown: Page) -> None:
    shown.move(*shown.middle("#waterline .mark:nth-of-type(4) rect.hit"))
    assert shown.ask("document.getElementById('tip').hidden") is False
    assert "stages.1 net.specc:22" in shown.ask("document.getElementById('tip').innerText")
    assert (lit(shown, "waterline"), lit(shown, "staircase"), lit(shown, "roofline")) == ([1, 3], [1], [])
    shown.move(*shown.middle("#staircase .mark rect.water"))
    assert (lit(shown, "waterline"), lit(shown, "staircase"), lit(shown, "roofline")) == ([0, 2], [0], [0])
    assert "800 µs in 2 calls" in shown.ask("document.getElementById('tip').innerText")
    shown.move(2, 2)
    assert shown.ask("document.getElementById('tip').hidden") is True
    assert lit(shown, "waterline") == [] and shown.ask("document.body.classList.contains('lit')") is False


def test_a_row_that_is_chosen_stays_lit_and_tells_more(shown: Page) -> None:
    detail = "document.querySelector('#detail0').getClientRects().length"
    assert shown.ask(detail) == 0
    shown.click("#kernels tbody .row")
    shown.move(2, 2)
    assert shown.ask(detail) == 1 and lit(shown, "waterline") == [1, 3]
    assert shown.ask("document.querySelector('#kernels [aria-controls]').ariaExpanded") == "true"
    shown.click("#kernels tbody .row")
    shown.move(2, 2)
    assert shown.ask(detail) == 0 and lit(shown, "waterline") == []


def test_blocks_fold_and_light_their_calls(shown: Page) -> None:
    seen = "[...document.querySelectorAll('#blocks tbody tr')].filter(row => row.getClientRects().length)"
    rows = f"{seen}.map(row => row.querySelector('.name').textContent)"
    assert shown.ask(rows) == ["Net_small", "stem", "stages.0", "stages.1"]
    shown.click("#blocks .fold[aria-expanded=false]")
    assert shown.ask(rows) == ["Net_small", "stem", "stages.0", "mix", "stages.1"]
    shown.click("#blocks .fold[aria-expanded=true]")
    assert shown.ask(rows) == ["Net_small"]
    shown.click("#blocks .fold")
    shown.click("#blocks tbody tr:nth-child(3) .pick")
    shown.move(2, 2)
    assert lit(shown, "waterline") == [1, 2]  # and not the call of conv2d in stem
    assert shown.ask("document.querySelector('#blocks tr.chosen .name').textContent") == "stages.0"


def test_keys_go_from_mark_to_mark(shown: Page) -> None:
    shown.ask("document.querySelector('#waterline .chart').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        shown.key(key)
    assert "stages.0.mix.conv" in shown.ask("document.getElementById('tip').innerText")
    assert lit(shown, "waterline") == [1, 3]
    shown.key("End")
    assert lit(shown, "waterline") == [4]
    shown.key("Enter")
    assert shown.ask("document.querySelector('#kernels .chosen').dataset.name") == "gelu"
    shown.key("Escape")
    assert shown.ask("document.getElementById('tip').hidden") is True


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_window(tab: Page, tmp_path: Path, width: int, dark: bool) -> None:
    tab.problems.clear()
    slower = (call(c.kernel, c.path, 2 * c.microseconds, c.ideal, c.operations) for c in large().calls)
    alone = network(*slower, threads=1)
    tab.resize(width)
    tab.prefer("dark" if dark else "light")
    tab.open(write(tmp_path, large(), alone).as_uri())
    tab.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    tab.ask("document.querySelectorAll('#blocks tr.folded').forEach(r => r.classList.remove('folded'))")
    tab.click("#kernels tbody .row")
    assert tab.ask("document.documentElement.scrollWidth") == width
    beyond = f"""[...document.querySelectorAll('main *, header *')].filter(e => !e.closest('.plot')).filter(e => {{
        const box = e.getBoundingClientRect(); return box.width && (box.right > {width} + 1 || box.left < -1);
    }}).map(e => e.outerHTML.slice(0, 120))"""
    assert tab.ask(beyond) == []
    assert tab.ask("document.querySelectorAll('#waterline .mark').length") == 300
    paper = tab.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == dark
    assert not tab.problems


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_rows_of_blocks_are_told_apart_below_their_bars(tab: Page, tmp_path: Path, width: int) -> None:
    tab.problems.clear()
    tab.resize(width)
    calls = [call("conv2d", f"{block}.a", 3.0, 1.0) for block in ("features.8", "features.12", "enclosing", "b")]
    tab.open(write(tmp_path, network(*calls)).as_uri())
    bands = """[...document.querySelectorAll('.bands span')].map(band => {
        const text = band.querySelector('i').lastChild, range = document.createRange();
        range.selectNodeContents(text);
        const box = band.getBoundingClientRect(), end = range.getBoundingClientRect();
        return [band.title, text.textContent, end.left >= box.left - 0.5 && end.right <= box.right + 0.5];
    })"""
    found = tab.ask(bands)
    assert [name for name, *_ in found] == ["features.8", "features.12", "enclosing", "b"]
    assert [end for _, end, _ in found[:2]] == [".8", ".12"] and all(inside for *_, inside in found[:2])
    assert not tab.problems


@pytest.mark.parametrize("profile", [network(whole=1.0), network(call("relu", "", 3.0, 1.0))], ids=["none", "one"])
def test_small_networks_have_a_page_that_works(tab: Page, tmp_path: Path, profile: Profile) -> None:
    tab.problems.clear()
    tab.resize(390)
    tab.open(write(tmp_path, profile).as_uri())
    for key in ("Tab", "ArrowRight", "End", "Enter"):
        tab.key(key)
    tab.click("th[data-sort=us] button")
    assert len(names(tab)) == len(profile.calls)
    assert tab.ask("document.documentElement.scrollWidth") == 390
    assert not tab.problems


@pytest.mark.parametrize("ideal", [0.02, 0.2, 0.5, 0.95, 1.0, 1.2])
def test_the_names_of_lines_are_apart_and_within_their_chart(tab: Page, tmp_path: Path, ideal: float) -> None:
    tab.resize(1280)
    tab.open(write(tmp_path, network(call("conv2d", "stem", 100.0, 100.0 * ideal))).as_uri())
    actual, best = tab.ask(
        "['actual', 'ideal'].map(name => document.querySelector('.end.' + name).getBoundingClientRect().toJSON())"
    )
    plot = tab.ask("document.querySelector('.chart.low').getBoundingClientRect().toJSON()")
    upper, lower = sorted((actual, best), key=lambda box: box["top"])
    assert upper["bottom"] <= lower["top"]
    assert (upper is actual) == (ideal <= 1)
    assert lower["bottom"] <= plot["bottom"] and upper["top"] >= plot["top"] - 20
    ends = tab.ask(
        "[...document.querySelectorAll('.chart.low .line')].map(line => {"
        "const box = line.getBoundingClientRect(); return box.top})"
    )
    for box in (actual, best):
        assert not any(box["top"] < end < box["bottom"] for end in ends), "a line runs through a name"
