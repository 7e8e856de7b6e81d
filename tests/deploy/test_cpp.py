"""examples/deploy/cpp: many images, several threads, one copy of the weights."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from specc import artifact as container
from specc import runtime
from specc.unpack import unpack

SOURCE = Path(__file__).parents[2] / "examples" / "deploy" / "cpp" / "classify.cc"
WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"


@pytest.fixture(scope="module")
def program(digits_artifact: Path, trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built by the command in its comment, beside the unpacked artifact and an image of each digit."""
    folder = tmp_path_factory.mktemp("cpp")
    unpack(container.read(digits_artifact), folder / "digits")
    (command,) = (line[2:].strip() for line in SOURCE.read_text().splitlines() if line.strip("/ ").startswith("g++ "))
    command = command.replace("examples/deploy/cpp", str(SOURCE.parent)).replace("g++ ", f"g++ {WARNINGS} ", 1)
    subprocess.run(["bash", "-c", command], cwd=folder, check=True)
    for digit, image in enumerate(trained.samples):
        image.tofile(folder / f"{digit}.bin")
    return folder / "classify-images"


def run(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *words], cwd=program.parent, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_answers_are_the_runtime_s_in_the_order_of_the_files(
    program: Path, trained, digits_artifact: Path, threads: int
) -> None:
    order = [int(number) for number in np.random.default_rng(0).integers(0, 10, 100)]
    done = run(program, str(threads), "digits/weights.bin", *(f"{digit}.bin" for digit in order))
    assert done.returncode == 0, done.stderr
    artifact = runtime.open(digits_artifact)
    expected = []
    for digit in order:
        scores = artifact(trained.samples[digit])[0].ravel().astype("float64")
        probabilities = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        best = int(probabilities.argmax())
        expected.append((f"{digit}.bin: class {best}", probabilities[best]))
    for line, (start, probability) in zip(done.stdout.splitlines(), expected, strict=True):
        found, _, percent = line.rpartition(", ")
        assert found == start
        assert abs(float(percent.removesuffix(" %")) / 100 - probability) < 2e-4
    assert f"100 images with {threads} threads" in done.stderr


def test_it_recognizes_digits(program: Path) -> None:
    lines = run(program, "2", "digits/weights.bin", *(f"{digit}.bin" for digit in range(10))).stdout.splitlines()
    right = sum(line.startswith(f"{digit}.bin: class {digit},") for digit, line in enumerate(lines))
    assert right >= 8


def test_it_needs_libc_and_threads_alone(program: Path) -> None:
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True)
    names = {line.split()[0].rpartition("/")[2].partition(".so")[0] for line in done.stdout.splitlines()}
    cpp = {"libstdc++", "libgcc_s"}
    assert names <= cpp | {"linux-vdso", "libnetwork", "libc", "libm", "libgomp", "libpthread", "ld-linux-x86-64"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "usage: "),
        (("none", "digits/weights.bin", "1.bin"), "usage: "),
        (("2", "digits/specc.h", "1.bin"), "not the weights that the network was compiled with"),
        (("2", "absent", "1.bin"), "absent: No such file"),
        (("2", "digits/weights.bin", "1.bin", "absent"), "absent cannot be read"),
        (("2", "digits/weights.bin", "1.bin", "digits/specc.h"), "`image` takes 256"),
    ],
)
def test_wrong_words(program: Path, words: tuple[str, ...], message: str) -> None:
    done = run(program, *words)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert not done.stdout
