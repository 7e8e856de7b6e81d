"""examples/deploy/c: an unpacked artifact in a program that knows neither Python nor TVM."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import programs
import pytest

import specc
from specc import artifact as container
from specc.cli import execute
from specc.diagnostics import SpeccError
from specc.files import filling
from specc.unpack import unpack

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE = EXAMPLES / "deploy" / "c" / "classify.c"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy")
    specc.compile(specc.load(EXAMPLES / "digits.specc")).save(folder / "digits.artifact")
    assert execute(["unpack", str(folder / "digits.artifact"), "-o", str(folder / "digits")]) == 0
    return folder


@pytest.fixture(scope="module")
def program(digits: Path) -> Path:
    """The example, built by the command in its comment."""
    comment = SOURCE.read_text(encoding="utf-8").partition("*/")[0]
    (command,) = (line.strip() for line in comment.splitlines() if line.strip().startswith("gcc "))
    command = command.replace("examples/deploy", str(EXAMPLES / "deploy"))
    warnings = "-std=c11 -Wall -Wextra -Wpedantic -Werror"
    subprocess.run(["bash", "-c", command.replace("gcc ", f"gcc {warnings} ", 1)], cwd=digits, check=True)
    return digits / "classify"


def run(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *words], cwd=program.parent, capture_output=True, text=True, check=False)


def test_it_says_what_the_reference_says(program: Path, digits: Path) -> None:
    done = run(program, "digits/weights.bin", "digits/sample/image.bin")
    assert done.returncode == 0, done.stderr
    (expected,) = container.read(digits / "digits.artifact").samples[0].outputs
    best = int(expected.argmax())
    text, _, score = done.stdout.strip().rpartition(", ")
    assert text == f"Digits: class {best} of 10"
    assert abs(float(score) - expected.max()) <= 1e-4 * np.abs(expected).max()


def test_it_needs_libc_and_threads_alone(program: Path) -> None:
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True)
    names = {line.split()[0].rpartition("/")[2].partition(".so")[0] for line in done.stdout.splitlines()}
    assert names <= {"linux-vdso", "libnetwork", "libc", "libm", "libgomp", "libpthread", "ld-linux-x86-64", "libdl"}


@pytest.mark.parametrize("network", ["digits", pytest.param("zoo:repvit/m1_1", marks=pytest.mark.slow)])
def test_every_output_is_the_reference_s(network: str, tmp_path: Path) -> None:
    """And the library needs libc, libm and OpenMP's runtime alone: `programs.build`."""
    spec = network if network.startswith("zoo:") else EXAMPLES / f"{network}.specc"
    artifact = specc.compile(specc.load(spec))
    programs.build(artifact, tmp_path)
    programs.check(artifact, tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "usage: "),
        (("digits/specc.h", "digits/sample/image.bin"), "not the weights that the network was compiled with"),
        (("absent", "digits/sample/image.bin"), "No such file"),
        (("digits/weights.bin", "digits/specc.h"), "`image` takes 256"),
    ],
)
def test_wrong_words(program: Path, words: tuple[str, ...], message: str) -> None:
    done = run(program, *words)
    assert done.returncode in (1, 2)
    assert message in done.stderr


def test_the_header_is_c_and_cpp(digits: Path) -> None:
    text = '#include "specc.h"\nint main(void) { return specc_describe()->input_count != 1; }\n'
    for compiler, suffix in (("gcc", "c"), ("g++", "cc")):
        (digits / f"one.{suffix}").write_text(text)
        command = [compiler, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Idigits", f"one.{suffix}", "-Ldigits"]
        subprocess.run([*command, "-lnetwork", "-Wl,-rpath,$ORIGIN/digits", "-o", "one"], cwd=digits, check=True)
        assert subprocess.run([str(digits / "one")], check=False).returncode == 0


def test_a_folder_that_is_there_is_left_alone(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    contents = container.read(digits / "digits.artifact")
    for goal in ("kept", "kept/file", "absent/new", ""):
        with pytest.raises(SpeccError) as caught:
            unpack(contents, tmp_path / goal if goal else "")
        assert caught.value.diagnostics[0].code == "S0002"
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "file"]


def test_a_folder_that_is_not_finished_vanishes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), filling(tmp_path / "new") as folder:
        (folder / "file").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_static_library(tmp_path: Path) -> None:
    """`--emit static`: the example again, in one program without a library of ours beside it, nor a name of TVM's."""
    goal = tmp_path / "digits"
    assert execute(["compile", str(EXAMPLES / "digits.specc"), "--emit", "static", "-o", str(goal)]) == 0
    command = ["nm", "-g", "--defined-only", str(goal / "libnetwork.a")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = {line.split()[-1] for line in lines if " T " in line}
    functions = ("describe", "open", "close", "set_threads", "set_shapes", "get_size", "run", "profile", "message")
    assert names == {f"specc_{name}" for name in functions}
    command = ["gcc", "-O2", "-Idigits", str(SOURCE), "digits/libnetwork.a", "-fopenmp", "-lm", "-o", "classify"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = run(tmp_path / "classify", "digits/weights.bin", "digits/sample/image.bin")
    expected = np.fromfile(goal / "sample" / "output.bin", "float32")
    assert done.stdout.startswith(f"Digits: class {expected.argmax()} of 10, "), done.stderr


def test_onnx(tmp_path: Path) -> None:
    """`--emit onnx`: ONNX Runtime gives what the spec gives, and the branches are merged."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    goal = tmp_path / "digits.onnx"
    assert execute(["compile", str(EXAMPLES / "digits.specc"), "--emit", "onnx", "-o", str(goal)]) == 0
    model = onnx.load(goal)
    assert [node.op_type for node in model.graph.node].count("Conv") == 6
    assert ([each.name for each in model.graph.input], [each.name for each in model.graph.output]) == (
        ["image"],
        ["output"],
    )
    image = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype("float32")
    (found,) = onnxruntime.InferenceSession(goal, providers=["CPUExecutionProvider"]).run(None, {"image": image})
    (expected,) = specc.compile(specc.load(EXAMPLES / "digits.specc"))(image)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_emit_refuses_before_it_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    spec = str(EXAMPLES / "digits.specc")
    for words, code in [
        (["--emit", "c", "-o", str(tmp_path / "kept")], 1),
        (["--emit", "c", "--target", "armv7", "-o", str(tmp_path / "new")], 2),
        (["--emit", "static", "--target", "wasm32", "-o", str(tmp_path / "new")], 2),
        (["--emit", "static", "--target", "cortex-m7", "-o", str(tmp_path / "new")], 2),
        (["--emit", "onnx", "--passes", "reparam", "-o", str(tmp_path / "new")], 2),
        (["--emit", "onyx", "-o", str(tmp_path / "new")], 2),
    ]:
        assert execute(["compile", spec, *words]) == code
        assert "kernels for" not in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "file"]
