"""examples/deploy/microcontroller: a network in C on a Cortex-M7 without an operating system, the whole board emulated.

`make arm-test` installs what this needs and runs it; the default tests leave it out.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from specc.cli import execute
from specc.compare import difference

pytestmark = pytest.mark.cross
EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE = EXAMPLES / "deploy" / "microcontroller" / "main.c"


@pytest.fixture(scope="module", params=[[], ["--shapes", "h=any,w=any"]], ids=["fixed", "open"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built by the commands in its comment; it runs the sample where dimensions are open."""
    folder = tmp_path_factory.mktemp("microcontroller")
    goal = folder / "digits"
    words = ["compile", str(EXAMPLES / "digits.specc"), "--emit", "c", "--target", "cortex-m7", *request.param]
    assert execute([*words, "-o", str(goal)]) == 0
    comment = SOURCE.read_text(encoding="utf-8").partition("*/")[0]
    _, copy, enter, build, _ = (line.strip() for line in comment.splitlines() if line.startswith("       "))
    script = " && ".join([copy.replace("examples/deploy", str(EXAMPLES / "deploy")), enter, f"{build} -Werror -Wall"])
    subprocess.run(["bash", "-c", script], cwd=folder, check=True)
    return goal


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    comment = SOURCE.read_text(encoding="utf-8").partition("*/")[0]
    (command,) = (line.strip() for line in comment.splitlines() if "qemu-system-arm" in line)
    words = ["bash", "-c", f"{command} 2>&1"]  # qemu writes what the program says to stderr
    return subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, text=True, check=False, timeout=120)


def test_it_computes_what_the_reference_computes(folder: Path) -> None:
    done = run(folder)
    assert done.returncode == 0, done.stdout
    expected = np.fromfile(folder / "sample" / "output.bin", "float32")
    assert done.stdout == f"Digits: class {expected.argmax()} of 10\n"
    assert difference(np.fromfile(folder / "output.bin", "float32"), expected) <= 1e-5


def test_nothing_is_allocated(folder: Path) -> None:
    command = ["arm-none-eabi-nm", "digits.elf"]
    lines = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()
    names = {line.split()[-1] for line in lines}
    assert "specc_run" in names
    assert not names & {"malloc", "_malloc_r", "free", "_free_r", "posix_memalign", "_sbrk"}


def test_a_missing_input_ends_the_program(folder: Path) -> None:
    image = folder / "sample" / "image.bin"
    kept = image.rename(image.with_suffix(".kept"))
    try:
        done = run(folder)
    finally:
        kept.rename(image)
    assert done.returncode == 1
    assert "sample/image.bin cannot be read" in done.stdout
