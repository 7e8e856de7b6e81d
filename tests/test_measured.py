"""docs/measure.py: results of each machine by themselves, and pages that say what was measured."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

from measuring import bf16, latency, machine, pages, results, roofs, zoo

from specc.zoo import entries

OLD = """\
vendor_id	: GenuineIntel
cpu family	: 6
model		: 85
model name	: Intel(R) Xeon(R) Processor @ 2.50GHz
stepping	: 7
cache size	: 36608 KB
flags		: fpu avx2 avx512f avx512_vnni

vendor_id	: another core
"""
NEW = """\
vendor_id	: GenuineIntel
cpu family	: 6
model		: 167
model name	: Intel(R) Xeon(R) Processor
stepping	: 1
cache size	: 491520 KB
flags		: fpu avx512f amx_bf16 avx512_bf16 avx512_vnni amx_tile
"""
FIRST, SECOND = machine.told(OLD, 2), machine.told(NEW, 2)
OUTCOME = {
    **{"seconds": 60.0, "tried": 10, "better": 1, "kernels": 2, "default_ms": 2.0, "best_ms": 1.0, "gain": 0.5},
    "spread": (0.4, 0.6),
}
"""What `specc tune` says, as far as the page does."""


def timings(ours: float, *peers: float, turns: int = 8, own: int | None = None) -> list[dict[str, Any]]:
    return [
        {
            "name": "specc" if not number else f"peer {number}",
            "form": "form",
            "median_ms": milliseconds,
            "p10_ms": milliseconds,
            "p90_ms": milliseconds,
            "ratio": milliseconds / ours,
            "turns": turns,
            "own_cores": None if own is None else {"turns": own, "ratio": milliseconds / ours},
            "error": 0.001,
        }
        for number, milliseconds in enumerate((ours, *peers))
    ]


def row(ours: float, *peers: float, seconds: float = 10.0, **about: Any) -> dict[str, Any]:
    return {"compile_seconds": seconds, "timings": {"2": timings(ours, *peers, **about)}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "MEASURED", tmp_path)
    return tmp_path


def test_a_machine_is_called_by_what_tells_it_apart() -> None:
    assert (FIRST.name, FIRST.title) == ("intel-6-85-7-2.50ghz-2-cores", "Cascade Lake at 2.50GHz")
    assert (SECOND.name, SECOND.title) == ("intel-6-167-1-amx-2-cores", "Intel 6-167-1 with AMX")
    assert machine.told(NEW, 1).name == "intel-6-167-1-amx-1-core"
    assert FIRST.features == ("avx512f", "avx512_vnni")
    assert str(SECOND).endswith("491520 KB of cache, `avx512f`, `avx512_vnni`, `avx512_bf16`, `amx_tile`, `amx_bf16`")


def test_results_of_machines_stand_side_by_side(folder: Path) -> None:
    results.save(FIRST, "latency", {"seconds": 8}, {"resnet50": row(50, 60)})
    results.save(SECOND, "latency", {"seconds": 8}, {"resnet50": row(30, 40)})
    assert results.machines() == [SECOND, FIRST]
    for of, ours in ((FIRST, 50), (SECOND, 30)):
        found = results.load(of, "latency")
        assert found and found["results"]["resnet50"]["timings"]["2"][0]["median_ms"] == ours
    assert results.load(FIRST, "tuned") is None


def test_rows_of_other_networks_stay_where_the_options_are_the_same(folder: Path) -> None:
    results.save(FIRST, "latency", {"seconds": 8.0}, {"resnet50": row(50, 60)})
    known = results.load(FIRST, "latency")
    for seconds, networks, kept in ((8.0, ["repvgg_a0"], ["resnet50"]), (2.0, ["repvgg_a0"], []), (8.0, [], [])):
        options = argparse.Namespace(seconds=seconds, networks=networks)
        assert list(results.rows_kept(options, known, ("seconds",))) == kept


@pytest.mark.parametrize("section", [name for name, section in pages.SECTIONS.items() if section.MEASURED])
def test_a_network_that_is_not_measured_is_refused(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    pages.SECTIONS[section].arguments(parser)
    first, second, *_ = pages.SECTIONS[section].MEASURED
    assert parser.parse_args([]).networks == []
    assert parser.parse_args([second, first]).networks == [second, first]
    with pytest.raises(SystemExit):
        parser.parse_args([first, "swin_tiny"])
    assert "there is no swin_tiny; there are" in capsys.readouterr().err


def test_the_pages_are_those_of_the_results() -> None:
    for path, text in pages.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"python docs/measure.py page writes {path.name}"
    written = {path for path in pages.pages() if path.name.startswith("performance")}
    assert set(pages.DOCS.glob("performance*.md")) == written


def test_the_summary_has_every_machine_and_what_misses_the_aim(folder: Path) -> None:
    results.save(FIRST, "latency", {}, {"resnet50": row(50, 100, 200), "repvgg_a0": row(20, 10, 40, seconds=50.0)})
    results.save(SECOND, "tuned", {}, {"resnet50": {"outcome": OUTCOME, "timings": {"2": timings(76, 100)}}})
    made = pages.pages()
    lines = made[pages.DOCS / "performance.md"].splitlines()
    (head,) = (line for line in lines if line.startswith("|  |  | aim: mean"))
    assert [cell.strip() for cell in head.split("|")[5:-1:2]] == [f"{SECOND.title}: mean", f"{FIRST.title}: mean"]
    assert "| Latency | 2 threads | 0.85 | 1.05 |  |  | **1.00** (2 of 9 networks) | **2.00** (RepVGG-A0) |" in lines
    assert "| Latency, tuned | 2 threads | 0.75 | 1.00 | **0.76** (1 of 9 networks) | 0.76 (ResNet-50) |  |  |" in lines
    assert "| Latency, tuned: ResNet-50 | 2 threads |  | 0.75 |  | **0.76** |  |  |" in lines
    assert "| Latency | 40 s |  | **50 s** (RepVGG-A0) |" in lines
    assert f"](performance-{SECOND.name}.md)" in made[pages.DOCS / "performance.md"]
    assert "| ResNet-50 | 50.0 (0.50) |" in made[pages.README]
    assert "## Latency, tuned" not in made[pages.DOCS / f"performance-{FIRST.name}.md"]


@pytest.mark.parametrize("own", [5, 8])
def test_what_is_said_of_own_cores_is_what_was_seen(own: int) -> None:
    measured = {"resnet50": row(50, 60, own=own), "repvgg_a0": row(50, 60)}
    said = " ".join(latency.own_cores([measured, {"digits": {"no": "timings"}}]))
    assert f"in {own} of 8 turns" in said and ("The column `own cores`" in said) == (own < 8)
    assert ("own cores (turns)" in " ".join(latency.tables(measured))) == (own < 8)
    assert latency.own_cores([{"resnet50": row(50, 60)}]) == []


def test_what_the_processor_can_do_is_told_for_each_number_of_threads() -> None:
    one = {"operations": {"float32": 2e11, "uint8": 7e12}, "bytes": 1.5e10, "cached": [[1 << 18, 1e11]]}
    two = {"operations": {"float32": 4e11, "uint8": 14e12}, "bytes": 2e10, "cached": [[1 << 19, 2e11]]}
    lines = roofs.write({"1": one, "2": two}, FIRST)
    assert "| GB/s from 256 KB a thread, read again and again | 200 |" in roofs.write({"2": two}, FIRST)
    assert lines[3:] == [
        "|  | 1 thread | 2 threads |",
        "| --- | ---: | ---: |",
        "| GFLOP/s of float32 | 200 | 400 |",
        "| GOP/s of uint8 | 7000 | 14000 |",
        "| GB/s from 256 KB a thread, read again and again | 100 | 200 |",
        "| GB/s from memory | 15.0 | 20.0 |",
    ]


def test_columns_of_numbers_are_aligned_to_the_right() -> None:
    assert results.table(["network", "ms", "ratio", "form", "part", ""], []) == [
        "| network | ms | ratio | form | part |  |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows = [
        ["ResNet-50", "9.5 (9.4 to 9.9)", "**1.05** (Swin-T)", "1.31.1", "-", ""],
        ["digits", "", "(0.73)", "2026.4.1-22982", "-0.4%", ""],
    ]
    assert results.table([""] * 6, rows)[1] == "| --- | ---: | ---: | --- | ---: | --- |"


@pytest.mark.parametrize("before, said", [(0.4, "was 0.4 when it began."), (1.3, "was 1.3 when it began: the section")])
def test_what_ran_before_a_section_is_told(before: float, said: str, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(results, "_LOAD", before)
    results.save(FIRST, "latency", {}, {"resnet50": row(50, 100)})
    page = pages.pages()[pages.DOCS / f"performance-{FIRST.name}.md"]
    assert f"The load average {said}" in page and ("two threads most" in page) == (before > 1)


def test_the_section_in_bfloat16_knows_the_processor() -> None:
    measured = {"resnet50": row(50, 60)}
    assert "no products of bfloat16" in " ".join(bf16.write(measured, FIRST))
    assert "in pairs (`avx512_bf16`) and in tiles (`amx_bf16`)" in " ".join(bf16.write(measured, SECOND))


def test_the_zoo_is_measured_but_for_what_stands_above() -> None:
    known = {name.partition("/")[0] for name in zoo.MEASURED}
    assert set(entries()) - known == {"efficientnet", "convnext", "fastvit", "repvgg", "swin"}
    assert "mobilenetv3/small_100" in zoo.MEASURED  # its large one is measured above


def test_a_network_of_the_zoo_that_a_peer_refuses_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(name: str, spec: str, _: argparse.Namespace) -> dict[str, Any]:
        assert spec == f"zoo:{name}"
        if name == "bert/base":
            raise SystemExit("specc bench fails")
        return {"1": timings(3, 4, 5)}

    monkeypatch.setattr(latency, "timings", measured)
    parser = argparse.ArgumentParser()
    zoo.arguments(parser)
    options = parser.parse_args(["lsnet/t", "bert/base"])
    known = {"options": vars(options), "results": {"bert/base": {"timings": {}}, "dcgan/Generator": {"timings": {}}}}
    found = zoo.measure(options, known)
    assert list(found) == ["dcgan/Generator", "lsnet/t"]
    assert "bert/base: not measured: specc bench fails" in capsys.readouterr().err
    lines = zoo.write({"lsnet/t": found["lsnet/t"]}, FIRST)
    assert "| lsnet/t | 3.0 (3.0 to 3.0) | 4.0 (4.0 to 4.0) | 5.0 (5.0 to 5.0) | 0.75 |" in lines
    assert any(
        line.startswith("Not measured, those with a loop among them: repvit/m0_9, ") and "bert/base" in line
        for line in lines
    )
