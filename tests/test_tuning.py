"""The tuner: that it finds what is better, keeps nothing that is not, and goes on where it was stopped.

Most tests replace the machine by a formula: a "library" then is the text of its configurations.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import Ran

import specc
from specc import grammar, records, targets, tuning
from specc.backends.tvm import measure
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.measure import Failed, Job, Times
from specc.cli.tune import _progress
from specc.diagnostics import SpeccError
from specc.tuning import tuner, variants

TEXT = """specc 1

network Net(image: [1, 32, h = 56, w = 56]) -> [1, 48, _, _]:
    first = conv2d(image, 64, k=3, s=2, d=2)
    second = conv2d(relu(first), 48, k=3, s=2, d=2)
    return second
"""

Seconds = Callable[[str, Mapping[str, Any]], float]


@pytest.fixture
def graph() -> specc.Graph:
    return grammar.loads(TEXT)


class Formula:
    """A machine on which a kernel takes what `seconds` says of its name and configuration."""

    parallel, ahead = 1, 0
    noise = 0.0

    def __init__(self, seconds: Seconds, wrong: Callable[[Mapping[str, Any]], bool] = lambda _: False) -> None:
        self.seconds, self.wrong = seconds, wrong
        self.jobs = 0
        self.random = np.random.default_rng(0)

    def measure(self, job: Job) -> Times:
        self.jobs += 1
        found, outputs = [], []
        for path in job.libraries:
            settings = json.loads(path.read_text())
            taken = np.array([self.seconds(name, settings[name] or {}) for name in settings["calls"]])
            found.append(taken * (1 + self.noise * self.random.standard_normal((job.least, len(taken)))))
            bad = any(self.wrong(settings[name] or {}) for name in settings["calls"])
            outputs.append(np.full(job.output_bytes, 1 if bad else 0, np.uint8))
        return Times(np.abs(np.array(found)), tuple(outputs), 2)

    def close(self) -> None: ...


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Formula]:
    """Puts a formula in the place of this machine and of the code generator."""

    def built(self: Any, lowered: Sequence[Any], settings: Sequence[Mapping[str, Any]]) -> list[Path]:
        paths = []
        for variant, configurations in zip(lowered, settings):
            calls = [call.kernel for call in variant.sizes[0].program.calls]
            paths.append(self._new_folder() / "library")
            chosen = {name: configurations.get(name) for name in calls}
            paths[-1].write_text(json.dumps({**{k: v and dict(v) for k, v in chosen.items()}, "calls": calls}))
        return paths

    def use(*arguments: Any) -> Formula:
        machine = Formula(*arguments)
        monkeypatch.setattr(variants.Variants, "_built", built)
        monkeypatch.setattr(measure, "Here", lambda: machine)
        return machine

    return use


def by_choice(name: str, configuration: Mapping[str, Any]) -> float:
    """A tile of a single block is best, and a loop that is not unrolled; a kernel without tiles is as fast as it is."""
    narrow, plain = str(configuration.get("tile")).endswith("x1"), configuration.get("unroll") == 1
    return 1e-3 * (0.5 if narrow else 1) * (0.8 if plain else 1)


def tune(graph: specc.Graph, path: Path, **options: Any) -> tuning.Outcome:
    return tuning.tune(graph, tuning=path, **{"minutes": 10.0, "trials": 100, **options})


def keys(path: Path) -> list[tuple[str, str]]:
    return [(r.kernel, json.dumps(r.configuration, sort_keys=True)) for r in records.read(path).records]


def test_the_best_configurations_are_found(graph: specc.Graph, formula: Any, tmp_path: Path) -> None:
    formula(by_choice)
    told: list[tuning.Standing] = []
    outcome = tune(graph, tmp_path / "records", progress=told.append)
    best = records.read(tmp_path / "records").best(targets.native().name)
    assert outcome.kernels == 3 and len(best) == outcome.better == 2
    for configuration in best.values():
        assert str(configuration["tile"]).endswith("x1") and configuration["unroll"] == 1
    assert outcome.gain == pytest.approx(0.4), "two kernels of three in 0.4 of the time"
    assert outcome.undone == outcome.failed == 0
    assert [s.tried for s in told] == sorted(s.tried for s in told)
    assert len(set(keys(tmp_path / "records"))) == len(keys(tmp_path / "records")), "nothing is measured twice"


def test_every_record_says_what_it_took(graph: specc.Graph, formula: Any, tmp_path: Path) -> None:
    formula(by_choice)
    tune(graph, tmp_path / "records", trials=60)
    for record in records.read(tmp_path / "records").records:
        expected = by_choice(record.kernel, record.configuration)
        assert record.ratio == pytest.approx(expected / 1e-3)
        assert record.microseconds == pytest.approx(1e6 * expected)
        assert record.threads == 2 and record.target == targets.native().name


def test_a_run_goes_on_where_another_ended(graph: specc.Graph, formula: Any, tmp_path: Path) -> None:
    formula(by_choice)
    path = tmp_path / "records"
    tune(graph, path, trials=30)
    first = keys(path)
    outcome = tune(graph, path, trials=30)
    assert keys(path)[: len(first)] == first
    assert outcome.tried == len(keys(path)) - len(first) >= 30
    assert len(set(keys(path))) == len(keys(path)), "nothing is measured twice"


def test_trials_and_minutes_are_limits(graph: specc.Graph, formula: Any, tmp_path: Path) -> None:
    machine = formula(by_choice)
    assert tune(graph, tmp_path / "a", trials=7).tried == 7
    machine.jobs = 0
    outcome = tune(graph, tmp_path / "b", minutes=0, trials=None)
    assert machine.jobs == 3, "one round at least, between the first look and the last one"
    assert outcome.tried > 0
    assert tune(graph, tmp_path / "c", trials=0).tried == 0


def test_an_interrupted_run_leaves_what_it_has_measured(graph: specc.Graph, formula: Any, tmp_path: Path) -> None:
    machine, path = formula(by_choice), tmp_path / "records"
    measured = machine.measure

    def interrupted(job: Job) -> Times:
        if machine.jobs == 3:
            raise KeyboardInterrupt
        return measured(job)

    machine.measure = interrupted
    with pytest.raises(KeyboardInterrupt):
        tune(graph, path)
    before = keys(path)
    assert before
    machine.measure = measured
    tune(graph, path, trials=20)
    assert len(set(keys(path))) == len(keys(path)) > len(before)


@pytest.mark.parametrize("how", ["crash", "wrong"])
def test_a_configuration_that_fails_harms_no_other(
    graph: specc.Graph, formula: Any, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(configuration: Mapping[str, Any]) -> bool:
        return configuration.get("unroll") == 4

    machine = formula(by_choice, bad if how == "wrong" else lambda _: False)
    if how == "crash":
        measured = machine.measure

        def crashing(job: Job) -> Times:
            texts = [json.loads(path.read_text()) for path in job.libraries]
            if any(bad(text[name] or {}) for text in texts for name in text["calls"]):
                raise Failed("the process that measures has crashed")
            return measured(job)

        machine.measure = crashing
    if how == "wrong":
        monkeypatch.setattr(tuner, "difference", lambda a, b: 0.0 if np.array_equal(a, b) else 1.0)
    outcome = tune(graph, tmp_path / "records", trials=60)
    failed = [r for r in records.read(tmp_path / "records").records if r.ratio is None]
    assert failed and outcome.failed == len(failed)
    assert all(bad(r.configuration) and not r.better for r in failed)
    assert all(not bad(r.configuration) for r in records.read(tmp_path / "records").records if r.ratio is not None)
    assert outcome.better == 2


def test_noise_is_no_gain(graph: specc.Graph, formula: Any, tmp_path: Path) -> None:
    machine = formula(lambda name, configuration: 1e-3)
    machine.noise = 0.3
    outcome = tune(graph, tmp_path / "records", trials=100)
    assert outcome.tried >= 100
    assert outcome.better <= outcome.kernels / 2


def test_what_is_slower_at_last_is_taken_back(graph: specc.Graph, formula: Any, tmp_path: Path) -> None:
    machine = formula(by_choice)
    measured = machine.measure

    def turned(job: Job) -> Times:
        times = measured(job)
        if job.seconds == tuner.LAST_SECONDS:
            return Times(times.seconds[::-1], times.outputs, times.threads)
        return times

    machine.measure = turned
    outcome = tune(graph, tmp_path / "records", trials=60)
    assert outcome.undone == 2 and outcome.better == 0
    assert records.read(tmp_path / "records").best(targets.native().name) == {}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"tracker": "127.0.0.1:1"}, "S1001"),
        ({"key": "board"}, "S1001"),
        ({"tracker": "nowhere", "key": "board"}, "S1001"),
        ({"tracker": "127.0.0.1:1", "key": "board"}, "S1204"),
        ({"target": "c"}, "S1203"),
        ({"target": "wasm32", "tracker": "127.0.0.1:1", "key": "board"}, "S1203"),
        ({"target": "cortex-a72"}, "S1203"),
    ],
)
def test_what_cannot_be_tuned(graph: specc.Graph, tmp_path: Path, options: dict[str, Any], code: str) -> None:
    with pytest.raises(SpeccError, match=code):
        tune(graph, tmp_path / "records", **options)
    assert not (tmp_path / "records").exists()


# ---- on this machine ------------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "ROUND_SECONDS", 0.3)
    monkeypatch.setattr(tuner, "LAST_SECONDS", 0.3)
    monkeypatch.setattr(tuner, "WIDTH", 12)


@pytest.mark.slow  # it measures: what else runs here can hide the gain
def test_a_bad_default_is_undone(
    short: None, graph: specc.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked = tiles._ranked
    monkeypatch.setattr(tiles, "_ranked", lambda *given, **more: (tiles.Tile(1, 1), *ranked(*given, **more)))
    path = tmp_path / "records"
    outcome = tune(graph, path, trials=24)
    assert outcome.gain > 0.2 and outcome.better > 0 and outcome.failed == 0
    best = records.read(path).best(targets.native().name)
    assert any(configuration.get("tile", "1x1") != "1x1" for configuration in best.values())
    artifact, plain = specc.compile(graph, tuning=path), specc.compile(graph, tuning="none")
    assert artifact.manifest.facts["tuning"] == {"kernels": best, "outdated": []}
    assert plain.manifest.facts["tuning"] == {"kernels": {}, "outdated": []}
    assert artifact.contents.library != plain.contents.library
    assert artifact.contents.library == specc.compile(graph, tuning=path).contents.library
    artifact.self_test()


def test_records_of_other_choices_are_not_used(graph: specc.Graph, formula: Any, tmp_path: Path) -> None:
    formula(by_choice)
    path = tmp_path / "records"
    tune(graph, path, trials=60)
    text = path.read_text().replace('"unroll"', '"unrolled"')
    path.write_text(text)
    best = records.read(path).best(targets.native().name)
    artifact = specc.compile(graph, tuning=path)
    assert artifact.manifest.facts["tuning"] == {"kernels": {}, "outdated": sorted(best)}
    assert artifact.contents.library == specc.compile(graph, tuning="none").contents.library


def test_the_process_that_measures_may_crash_or_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def library(name: str, body: str) -> Path:
        source = tmp_path / f"{name}.c"
        source.write_text(f"#include <stdlib.h>\n#include <unistd.h>\nint __tvm_ffi_measure(void) {{ {body} }}\n")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / f"{name}.so", source], check=True)
        return tmp_path / f"{name}.so"

    def job(path: Path) -> Job:
        weights = tmp_path / "weights"
        weights.write_bytes(b"\0" * 64)
        return Job((path,), (weights,), np.zeros(1, np.uint8), 1, 1, 1, 0.0, 1, 1)

    here = measure.Here()
    try:
        with pytest.raises(Failed, match="crashed"):
            here.measure(job(library("crashes", "abort();")))
        with pytest.raises(Failed):
            here.measure(job(tmp_path / "absent.so"))
        monkeypatch.setattr(measure, "LIMIT", 1.0)
        with pytest.raises(Failed, match="hangs"):
            here.measure(job(library("hangs", "for (;;) sleep(1);")))
    finally:
        here.close()


def test_the_command(
    short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.specc").write_text(TEXT)
    ran = Ran(capsys, "tune", "net.specc", "--tuning", "records", "--trials", "4", "--threads", "1", "--json")
    assert ran.code == 0
    assert ran.json["tried"] == len(set(keys(tmp_path / "records"))) == 4 and ran.json["threads"] == 1
    assert "4 tried" in ran.err, "progress is told line by line where there is no terminal"
    ran = Ran(capsys, "compile", "net.specc", "--tuning", "records", "-o", "net.artifact")
    best = records.read(tmp_path / "records").best(targets.native().name)
    found = f", {len(best)} of them tuned," if best else ""  # so small a network may have nothing to gain
    assert ran.code == 0 and f"3 kernels{found} for" in ran.err


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_best_gain_is_seen_beside_the_bar(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with _progress("mobilenetv3_large_100", 1.0) as tell:
        tell(tuner.Standing(seconds=20.0, default_ms=2.0, best_ms=1.5, tried=1234, better=11, kernels=38))
    shown = terminal.getvalue()
    assert "best gain 25.0%" in shown and "0:00:0" in shown
