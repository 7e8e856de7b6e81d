"""The command line: data, messages, exit codes, and what a person meets when something is wrong."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from specc import driver, files, targets, terminal
from specc.artifact import read
from specc.cli import execute
from specc.diagnostics import SpeccError

SPECC = [sys.executable, "-m", "specc"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write(tmp_path_factory.mktemp("spec")))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("artifact") / "tiny.artifact"
    tiny.artifact().save(path)
    return str(path)


class Ran:
    """A command that ran in this process: its exit code and what it wrote."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        capsys.readouterr()
        self.code = execute(words)
        self.out, self.err = capsys.readouterr()
        assert "Traceback" not in self.err

    @property
    def json(self) -> dict[str, object]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


# ---- looking


def test_help_is_quick_and_names_the_commands() -> None:
    program = (
        "import sys; from specc.cli import execute; code = execute(['--help'])\n"
        "heavy = {'numpy', 'torch', 'tvm', 'networkx', 'lark', 'rich'} & set(sys.modules)\n"
        "sys.exit(code or ', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("check", "show", "compile", "run", "verify", "bench", "profile"):
        assert f"\n  {command} " in done.stdout


def test_check_counts_and_holds(capsys: pytest.CaptureFixture[str], spec: str) -> None:
    ran = Ran(capsys, "check", f"{spec}:small")
    assert ran.code == terminal.FINE
    assert ran.err == ""
    assert "317 parameters" in ran.out
    assert "params == 317: 317, holds" in ran.out


def test_check_says_everything_as_json(capsys: pytest.CaptureFixture[str], spec: str) -> None:
    found = Ran(capsys, "check", spec, "--json", "--shapes", "n=2").json
    assert found["holds"] is True
    small, large = found["reports"]  # type: ignore[misc]
    assert (small["variant"], large["variant"]) == ("small", "large")
    assert small["fixed_inputs"] == {"image": "float32[2, 3, 8, 8]"}
    assert small["params"] == 317
    assert large["macs"] > small["macs"] > 0


def test_check_fails_for_a_number_that_is_different(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tiny.write(tmp_path, tiny.TEXT.replace("== 317", "== 318"))
    ran = Ran(capsys, "check", f"{path}:small")
    assert ran.code == terminal.FAILED
    assert "318: 317, does not hold" in ran.out
    assert "error[S0506]" in ran.err
    assert Ran(capsys, "check", str(path), "--json").json["holds"] is False


def test_check_asks_the_merges(capsys: pytest.CaptureFixture[str], tmp_path: Path, spec: str) -> None:
    assert "ensure ... merges into: 1 hold" in Ran(capsys, "check", spec).out
    path = tiny.write(tmp_path, tiny.TEXT.replace("+ conv1 + x", "+ conv1 + gelu(x)"))
    ran = Ran(capsys, "check", f"{path}:large")
    assert ran.code == terminal.FAILED
    assert "not all hold" in ran.out
    assert f"--> {path}:9:5" in ran.err
    assert "in Branches" in ran.err


def test_colours_are_for_terminals(tmp_path: Path) -> None:
    import pty

    wrong = [*SPECC, "check", str(tmp_path / "absent.specc")]
    for extra, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        ours, theirs = pty.openpty()
        environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"} | extra
        subprocess.run(wrong, stderr=theirs, env=environment, check=False)
        os.close(theirs)
        text = os.read(ours, 10_000)
        os.close(ours)
        assert b"error[S0001]" in text
        assert (b"\x1b[" in text) == coloured
    plain = subprocess.run(wrong, capture_output=True, check=False)
    assert b"\x1b[" not in plain.stderr


def test_check_shows_every_mistake_with_its_place(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tiny.write(tmp_path, tiny.TEXT.replace("relu(", "rellu(").replace("linear(", "linnear("))
    ran = Ran(capsys, "check", str(path))
    assert ran.code == terminal.FAILED
    assert f"--> {path}:" in ran.err
    assert "did you mean `relu`" in ran.err
    assert "did you mean `linear`" in ran.err


def test_a_syntax_error_is_json_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tiny.write(tmp_path, "specc 1\nnetwork N(:\n")
    ran = Ran(capsys, "check", str(path), "--json")
    assert ran.code == terminal.FAILED
    (diagnostic,) = ran.json["diagnostics"]  # type: ignore[misc]
    assert diagnostic["code"].startswith("S01")


@pytest.mark.parametrize("command", ["check", "show", "verify", "compile", "bench", "run"])
def test_every_command_that_fails_says_so_as_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    path = tiny.write(tmp_path, "specc 1\nnetwork N(:\n")
    words = ["-o", str(tmp_path / "out")] if command == "compile" else []
    ran = Ran(capsys, command, str(path), "--json", *words)
    assert ran.code == terminal.FAILED
    assert ran.json["holds"] is False
    (diagnostic,) = ran.json["diagnostics"]  # type: ignore[misc]
    assert diagnostic["code"] == ("S0901" if command == "run" else "S0101")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--target", "cortex-a72"], "S1203"),
        (["--target", "c"], "S1203"),
        (["--threads", "0"], "S0909"),
        (["--against", "torch,torch"], "S1001"),
    ],
)
def test_bench_compiles_nothing_that_it_cannot_measure(
    capsys: pytest.CaptureFixture[str], spec: str, words: list[str], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "compile", None)
    ran = Ran(capsys, "bench", f"{spec}:small", "--seconds", "0", *words)
    assert ran.code == terminal.FAILED
    assert f"error[{code}]" in ran.err


@pytest.mark.parametrize("chosen", [["--target", "native"], ["-O1"], ["--shapes", "n=2"]])
def test_bench_chooses_nothing_for_an_artifact(
    capsys: pytest.CaptureFixture[str], artifact: str, chosen: list[str]
) -> None:
    ran = Ran(capsys, "bench", artifact, "--seconds", "0", *chosen)
    assert ran.code == terminal.FAILED
    assert "S1006" in ran.err


def test_show_is_a_table(capsys: pytest.CaptureFixture[str], spec: str) -> None:
    ran = Ran(capsys, "show", f"{spec}:small")
    assert ran.code == terminal.FINE
    rows = {line.split()[0]: line for line in ran.out.splitlines() if line}
    assert "float32[1, 4, 4, 4]" in rows["mix.conv3"]
    assert ran.out.endswith("317 parameters, 4.31k MACs\n")
    assert "stem.bn" in Ran(capsys, "show", f"{spec}:small", "--depth", "3").out


def test_show_at_a_pass_is_text_that_reads_back(capsys: pytest.CaptureFixture[str], spec: str) -> None:
    from specc.ir.text import parse_graph

    before = parse_graph(Ran(capsys, "show", f"{spec}:small", "--at", "spec").out)
    after = parse_graph(Ran(capsys, "show", f"{spec}:small", "--at", "reparam", "--shapes", "n=3").out)
    assert (before.count("batch_norm"), after.count("batch_norm")) == (3, 0)
    assert after.type(after.outputs[0]).shape == (3, 5)


def test_show_as_json_is_the_graph(capsys: pytest.CaptureFixture[str], spec: str) -> None:
    found = Ran(capsys, "show", f"{spec}:small", "--json").json
    nodes = {node["id"]: node for node in found["nodes"]}  # type: ignore[attr-defined]
    assert sum(node["op"] == "conv2d" for node in nodes.values()) == 3
    assert all(edge["source"] in nodes and edge["target"] in nodes for edge in found["edges"])  # type: ignore[attr-defined]
    assert found["outputs"][0]["node"] in nodes  # type: ignore[index]


def test_explain_shows_a_computed_weight_as_one_thing(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("show", f"{spec}:small", "--explain", "canonicalize")
    ran = Ran(capsys, *words)
    assert ran.code == 0
    assert "global_avg_pool(x) => mean(x, [2, 3]): done" in ran.out
    assert "of stem.bn.bias, stem.bn.running_mean" in ran.out and "computed once, by the compiler" in ran.out
    found = json.loads(Ran(capsys, *words, "--json").out)
    assert any(each.get("weights") == ["stem.bn.running_var", "stem.bn.weight", "stem.c.weight"] for each in found)


def test_convolutions_of_all_dimensions_are_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One that becomes another with the same work is no difference; `conv1d` becomes `conv2d` of height 1."""
    path = tmp_path / "row.specc"
    path.write_text("specc 1\nnetwork Row(x: [1, 4, 32]) -> [1, 8, 32]:\n    y = conv1d(x, 8, k=3)\n    return y\n")
    ran = Ran(capsys, "compile", str(path), "-o", str(tmp_path / "a"), "--target", "c")
    assert ran.code == terminal.FINE
    assert "\ncanonicalize: 1 nodes into 3 (" in ran.err


@pytest.mark.parametrize(("asked", "title"), [("s0301", "S0301: "), ("Conv2D", "conv2d(x, "), ("REPARAM", "reparam: ")])
def test_explain_does_not_mind_capitals(capsys: pytest.CaptureFixture[str], asked: str, title: str) -> None:
    assert Ran(capsys, "explain", asked).out.startswith(title)


def test_show_of_an_artifact(capsys: pytest.CaptureFixture[str], artifact: str) -> None:
    assert "3 convolutions into 2" in Ran(capsys, "show", artifact).out
    assert Ran(capsys, "show", artifact, "--json").json["network"] == "Tiny_small"


# ---- making and running


def test_compile_writes_an_artifact_that_runs(capsys: pytest.CaptureFixture[str], spec: str, tmp_path: Path) -> None:
    goal, dump = tmp_path / "a", tmp_path / "dump"
    ran = Ran(capsys, "compile", f"{spec}:Tiny.small", "-o", str(goal), "-O1", "--dump", str(dump), "--json")
    assert ran.code == terminal.FINE
    assert "weights are drawn" in ran.err or "drawn from seed" in ran.err
    assert "3 convolutions into 2" in ran.err
    assert ran.json["bytes"] == goal.stat().st_size
    assert len(list(dump.iterdir())) == 5
    assert Ran(capsys, "run", str(goal), "--self-test").code == terminal.FINE


def test_run_with_arrays(capsys: pytest.CaptureFixture[str], artifact: str, tmp_path: Path) -> None:
    given, got = str(tmp_path / "in.npz"), str(tmp_path / "out.npz")
    np.savez(given, image=tiny.image())
    ran = Ran(capsys, "run", artifact, "--inputs", given, "--outputs", got, "--threads", "1")
    assert ran.code == terminal.FINE
    assert ran.err == ""
    with np.load(got) as file:
        assert np.array_equal(file["output"], tiny.artifact()(tiny.image())[0])
        moved = file["output"] * 1.01
    assert Ran(capsys, "run", artifact, "--inputs", given, "--assert-outputs", got).code == terminal.FINE
    np.savez(got, output=moved)
    ran = Ran(capsys, "run", artifact, "--inputs", given, "--assert-outputs", got, "--json")
    assert ran.code == terminal.FAILED
    assert "error[S1004]" in ran.err
    assert ran.json["holds"] is False
    loose = ("--tolerance", "0.1")
    assert Ran(capsys, "run", artifact, "--inputs", given, "--assert-outputs", got, *loose).code == terminal.FINE


def test_run_without_inputs_says_so(capsys: pytest.CaptureFixture[str], artifact: str) -> None:
    ran = Ran(capsys, "run", artifact, "--json")
    assert "drawn from seed 0" in ran.err
    assert ran.json["output"]["type"] == "float32[1, 5]"  # type: ignore[index]


def test_verify_judges(capsys: pytest.CaptureFixture[str], spec: str) -> None:
    ran = Ran(capsys, "verify", f"{spec}:small", "--per-pass", "--json")
    assert ran.code == terminal.FINE
    assert ran.json["holds"] is True
    verdicts: Any = ran.json["verdicts"]
    judged = [verdict["subject"].partition("{")[0] for verdict in verdicts]
    passes = ["canonicalize", "phases", "frames", "reparam", "canonicalize", "rows", "layout", "fusion"]
    assert judged == [*passes, f"artifact for {targets.native().name}"]


def test_verify_fails_where_the_tolerance_is_missed(capsys: pytest.CaptureFixture[str], spec: str) -> None:
    ran = Ran(capsys, "verify", f"{spec}:small", "--tolerance", "0")
    assert ran.code == terminal.FAILED
    assert "error[S0706]" in ran.err
    assert "DIFFERENT" in ran.out


def test_bench_measures_a_spec_beside_its_peers(capsys: pytest.CaptureFixture[str], spec: str) -> None:
    names = "torch,onnxruntime,openvino"
    ran = Ran(capsys, "bench", f"{spec}:small", "--threads", "1", "--seconds", "0", "--json", "--against", names)
    assert ran.code == terminal.FINE
    ours, *peers = ran.json["timings"]  # type: ignore[misc]
    assert (ours["name"], ours["ratio"]) == ("specc", 1.0)
    assert ",".join(peer["name"] for peer in peers) == names
    for timing in (ours, *peers):
        assert timing["error"] < 1e-4
        assert timing["calls"] >= 10
        assert 0 < timing["p10_ms"] <= timing["median_ms"] <= timing["p90_ms"]
        assert 0 <= timing["run_memory_bytes"] < 64e6


def test_kernels_round_no_coarser_than_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = tmp_path / "wide.specc"
    head = "network Wide(x: [1, 64, 24, 24]) -> [1, 64, 24, 24]:"
    spec.write_text(f"specc 1\n{head}\n    return conv2d(x, 64, k=3)\n")
    sizes = {}
    for bound in ("8", "1"):
        path = tmp_path / f"{bound}.artifact"
        ran = Ran(capsys, "compile", str(spec), "-o", str(path), "--target", "x86-64-v4", "--rounding", bound)
        assert ran.code == 0, ran.err
        contents = read(path)
        assert contents.manifest.facts["rounding"] == float(bound)
        sizes[bound] = sum(weight.nbytes for weight in contents.weights)
    assert sizes["8"] > 3 * sizes["1"], "weights at 36 places in place of 9"
    assert Ran(capsys, "compile", str(spec), "-o", str(tmp_path / "x"), "--rounding", "nan").code == 2


@pytest.mark.slow
def test_bench_measures_torch_compiled(capsys: pytest.CaptureFixture[str], artifact: str) -> None:
    ran = Ran(capsys, "bench", artifact, "--seconds", "0", "--json", "--against", "inductor")
    assert ran.code == terminal.FINE
    (_, peer) = ran.json["timings"]  # type: ignore[misc]
    assert peer["name"] == "inductor" and 0 <= peer["error"] < 1e-4


@pytest.mark.parametrize("name", ["strips", "quantize", "halve"])
def test_passes_that_options_ask_for_are_explained(capsys: pytest.CaptureFixture[str], spec: str, name: str) -> None:
    for option in ("--explain", "--at"):
        assert Ran(capsys, "show", f"{spec}:small", option, name).code == terminal.FINE


def test_bench_measures_an_artifact(capsys: pytest.CaptureFixture[str], artifact: str) -> None:
    ran = Ran(capsys, "bench", artifact, "--against", "torch", "--seconds", "0")
    assert ran.code == terminal.FINE
    assert [line.split()[0] for line in ran.out.splitlines()[2:4]] == [
        "specc",
        "torch",
    ]  # a line on shared cores may follow


def test_bench_of_a_quick_network_is_quick(capsys: pytest.CaptureFixture[str], artifact: str) -> None:
    begin = time.perf_counter()
    ran = Ran(capsys, "bench", artifact, "--against", "", "--seconds", "1", "--threads", "1")
    assert ran.code == terminal.FINE and ", 1 thread, milliseconds" in ran.out
    assert time.perf_counter() - begin < 10


def test_profile_tells_of_every_call(capsys: pytest.CaptureFixture[str], artifact: str) -> None:
    found = Ran(capsys, "profile", artifact, "--threads", "1", "--seconds", "0", "--json").json
    assert found["network"] and found["threads"] == 1
    calls = found["calls"]
    assert isinstance(calls, list) and len(calls) == len(tiny.artifact().manifest.sizes[0].facts["kernels"])
    assert all(call["us"] > 0 and call["bytes"] > 0 and call["share"] > 0 for call in calls)
    assert any(call["operations"] > 0 and call["path"] for call in calls)
    assert found["operations_per_second"] > found["bytes_per_second"] / 8 > 1e8  # type: ignore[operator]
    sizes = [roof["bytes"] for roof in found["cached_bytes_per_second"]]  # type: ignore[union-attr,index]
    assert len(sizes) > 1 and sizes == sorted(sizes)
    assert all(call["gap_us"] == max(0, call["us"] - call["ideal_us"]) for call in calls)


def test_profile_shows_a_row_for_each_kernel_or_call(capsys: pytest.CaptureFixture[str], artifact: str) -> None:
    calls = tiny.artifact().manifest.sizes[0].facts["kernels"]
    table = Ran(capsys, "profile", artifact, "--seconds", "0").out.splitlines()
    assert len(table) == len({call["kernel"] for call in calls}) + 3
    assert table[-1].startswith(("Look first at ", "No kernel takes longer"))
    assert len(Ran(capsys, "profile", artifact, "--seconds", "0", "--by-call").out.splitlines()) == len(calls) + 3


def test_bench_compares_results_for_equal_weights_alone(
    capsys: pytest.CaptureFixture[str], artifact: str, tmp_path: Path
) -> None:
    from safetensors.numpy import save_file

    from specc.weights import random_weights

    for seed in (0, 1):
        save_file(random_weights(tiny.graph(), seed), tmp_path / "w")
        ran = Ran(
            capsys, "bench", artifact, "--against", "torch", "--seconds", "0", "--weights", f"{tmp_path}/w", "--json"
        )
        assert ran.code == terminal.FINE
        assert ("results are not compared" in ran.err) == (seed == 1)
        assert (ran.json["timings"][1]["error"] is None) == (seed == 1)  # type: ignore[index]


# ---- wrong uses


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["check"],
        ["compile", "x.specc"],
        ["compile", "x.specc", "-o", "y", "-O3"],
        ["show", "x.specc", "--shapes", "n"],
        ["run", "x", "--tolerance", "nan"],
        ["run", "x", "--tolerance", "inf"],
        ["bench", "x", "--seconds", "nan"],
        ["show", "x.specc", "--shapes", "n=1,n=2"],
        ["show", "x.specc", "--shapes", "n=-1"],
        ["show", "x.specc", "--at", "spec", "--explain", "reparam"],
        ["show", "x.specc", "--json", "--depth", "3"],
        ["show", "x.specc", "--target", "native"],
        ["show", "x.specc", "--passes", "reparam"],
        ["show", "x.specc", "--at", "spec", "-O1"],
        ["show", "x.specc", "--at", "reparam", "--passes", "reparam", "-O1"],
        ["compile", "x.specc", "-o", "y", "--emit", "onnx", "-O1"],
        ["compile", "x.specc", "-o", "y", "--emit", "onnx", "--strips", "1"],
        ["compile", "x.specc", "-o", "y", "--emit", "onnx", "--bound", "0.1"],
        ["run", "x", "--self-test", "--inputs", "y.npz"],
        ["run", "x", "--threads", "many"],
    ],
)
def test_wrong_command_lines(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    ran = Ran(capsys, *words)
    assert ran.code == terminal.USAGE
    assert ran.err.startswith("Usage: specc")


def test_nothing_that_is_read_is_written_over(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, artifact: str
) -> None:
    spec, parts, arrays = tiny.write(tmp_path), tmp_path / "parts.specc", tmp_path / "in.npz"
    parts.write_text("specc 1\n\nblock Same(x: [n, c]) -> [n, c]:\n    return x\n")
    spec.write_text(spec.read_text().replace("use std.conv", "use parts: Same\nuse std.conv"))
    np.savez(arrays, image=tiny.image())
    (tmp_path / "link").symlink_to(spec)
    copy = tmp_path / "tiny.artifact"
    copy.write_bytes(Path(artifact).read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    compile_, run = ["compile", f"{spec}:small"], ["run", str(copy), "--inputs", str(arrays)]
    for words in (
        [*compile_, "-o", str(spec)],
        [*compile_, "-o", str(tmp_path / "link")],
        [*compile_, "-o", str(parts)],
        [*compile_, "--weights", str(arrays), "-o", str(arrays)],
        [*run, "--outputs", str(arrays)],
        [*run, "--outputs", str(copy)],
    ):
        ran = Ran(capsys, *words)
        assert ran.code == terminal.FAILED and "error[S0002]" in ran.err and "what this command reads" in ran.err
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_without_a_network_is_said_to_be_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "parts.specc"
    path.write_text("specc 1\n")
    ran = Ran(capsys, "check", str(path))
    assert ran.code == terminal.FINE and ran.out == f"{path} is right, and has no network\n"


def test_a_full_disk_is_not_our_mistake(spec: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*SPECC, "check", spec], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == terminal.FAILED
    assert done.stderr == "error[S0002]: the output cannot be written: No space left on device\n"


def test_a_full_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SpeccError) as caught, files.scratch() as folder:
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.render() == (
        f"error[S0002]: the temporary folder {tmp_path} cannot be written: No space left on device\n"
        "  = TMPDIR names another one"
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError), files.scratch():
        raise FileNotFoundError(errno.ENOENT, "another problem")


def test_a_closed_stdin_is_no_mistake_of_specc() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *SPECC, "fmt", "-"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (terminal.FAILED, "", "error[S0001]: stdin is closed\n")


def test_tuning_makes_no_folder_for_its_records(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "tune", spec, "--tuning", str(tmp_path / "absent" / "records.jsonl"))
    assert ran.code == terminal.FAILED and "error[S0002]" in ran.err and "there is no folder" in ran.err
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    "problem",
    [MemoryError("Unable to allocate 23.8 GiB"), RuntimeError("[...] DefaultCPUAllocator: can't allocate memory: ...")],
)
def test_too_little_memory_is_no_mistake_of_specc(
    problem: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import specc.grammar

    def greedy(*_: object) -> None:
        raise problem

    monkeypatch.setattr(specc.grammar, "check", greedy)
    ran = Ran(capsys, "check", "x.specc")
    assert ran.code == terminal.FAILED
    assert ran.err == "error[S0804]: there is less memory than this needs\n   = --shapes makes it smaller\n"


def test_our_own_mistakes_are_called_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import specc.grammar

    def broken(*_: object) -> None:
        raise ZeroDivisionError("one by none")

    monkeypatch.setattr(specc.grammar, "check", broken)
    ran = Ran(capsys, "check", "x.specc")
    assert ran.code == terminal.OUR_FAULT
    assert "error[S1099]: specc made a mistake: ZeroDivisionError: one by none" in ran.err
    assert "SPECC_DEBUG=1" in ran.err
    monkeypatch.setenv("SPECC_DEBUG", "1")
    capsys.readouterr()
    assert execute(["check", "x.specc"]) == terminal.OUR_FAULT
    assert "Traceback" in capsys.readouterr().err


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal gives it: a shell starts what runs in its background, with all children, deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_nothing(spec: str, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, or another signal, while kernels are compiled, into an empty cache so that there are some."""
    goal, scratch = tmp_path / "goal" / "a", tmp_path / "scratch"
    goal.parent.mkdir()
    scratch.mkdir()
    environment = {**os.environ, "SPECC_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(scratch)}
    command = [*SPECC, "compile", f"{spec}:large", "--shapes", "h=64,w=64", "-o", str(goal)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("fusion"):
            break
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 128 + number, rest
    assert rest.endswith("interrupted\n")
    assert "Traceback" not in rest
    assert [*goal.parent.iterdir(), *scratch.iterdir()] == []


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("after", ["weights", "kernels"])
def test_an_interrupt_that_is_dropped_still_ends_the_command(
    spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """As a Ctrl-C is dropped that comes in a destructor: its KeyboardInterrupt goes no further."""
    compile = driver.compile

    def interrupted(*arguments: Any, progress: driver.Observer, **options: Any) -> Any:
        def observe(now: driver.Progress) -> None:
            progress(now)
            if now.stage == after:
                with contextlib.suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)

        return compile(*arguments, progress=observe, **options)

    monkeypatch.setattr(driver, "compile", interrupted)
    ran = Ran(capsys, "compile", f"{spec}:small", "-o", str(tmp_path / "a"))
    assert (ran.code, ran.err.splitlines()[-1]) == (terminal.INTERRUPTED, "interrupted")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_reader_that_goes_away_is_no_mistake(spec: str) -> None:
    command = [*SPECC, "show", f"{spec}:small", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == terminal.FAILED


# ---- formatting


def test_fmt_writes_the_canonical_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inner").mkdir()
    spec = tmp_path / "inner" / "a.specc"
    spec.write_text("specc 1 # first\nblock F(x:[n]):\n  return relu( x )\n")
    canonical = "specc 1  # first\n\nblock F(x: [n]):\n    return relu(x)\n"
    checked = Ran(capsys, "fmt", "--check", str(tmp_path))
    assert (checked.code, checked.out) == (1, f"{spec}\n")
    assert spec.read_text() != canonical
    written = Ran(capsys, "fmt", str(tmp_path))
    assert (written.code, written.out) == (0, "") and str(spec) in written.err
    assert spec.read_text() == canonical
    again = Ran(capsys, "fmt", "--check", str(spec))
    assert (again.code, again.out) == (0, "")


def test_fmt_leaves_what_does_not_parse_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, right = tmp_path / "a.specc", tmp_path / "b.specc"
    wrong.write_text("specc 1\nblock F(\n")
    right.write_text("specc   1\n")
    ran = Ran(capsys, "fmt", str(wrong), str(right), str(tmp_path / "c.specc"))
    assert ran.code == 1 and "S0101" in ran.err and "S0001" in ran.err
    assert (wrong.read_text(), right.read_text()) == ("specc 1\nblock F(\n", "specc 1\n")
    assert Ran(capsys, "fmt", str(tmp_path / "inner")).code == 1


def test_fmt_is_a_filter() -> None:
    ran = subprocess.run([*SPECC, "fmt", "-"], input="specc   1 # é\n", capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "specc 1  # é\n", "")
