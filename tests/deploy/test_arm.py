"""Networks for ARM cores, in a C program under an emulator that has the instructions of the named core and no others.

`make arm-test` installs what this needs and runs it; the default tests leave it out.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import specc
from specc.cli import execute
from specc.runtime import Artifact
from specc.unpack import unpack

pytestmark = pytest.mark.cross
EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE = EXAMPLES / "deploy" / "c" / "classify.c"
TOOLS = {"aarch64": ("aarch64-linux-gnu", "qemu-aarch64"), "armv7l": ("arm-linux-gnueabihf", "qemu-arm")}
"""For each architecture, the name of its tools and libraries, and its emulator."""


def build(artifact: Artifact, folder: Path) -> None:
    unpack(artifact.contents, folder / "net")
    tools, _ = TOOLS[artifact.manifest.machine.architecture]
    command = [f"{tools}-gcc", "-O2", "-Inet", str(SOURCE), "-Lnet", "-lnetwork", "-Wl,-rpath,$ORIGIN/net"]
    subprocess.run([*command, "-o", "classify"], cwd=folder, check=True)


def emulate(folder: Path, core: str, architecture: str) -> subprocess.CompletedProcess[str]:
    tools, emulator = TOOLS[architecture]
    command = [emulator, "-cpu", core, "-L", f"/usr/{tools}", "./classify", "net/weights.bin", "net/sample/image.bin"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def check(folder: Path, artifact: Artifact, core: str) -> None:
    done = emulate(folder, core, artifact.manifest.machine.architecture)
    assert done.returncode == 0, done.stderr
    (expected,) = artifact.contents.samples[0].outputs
    text, _, score = done.stdout.strip().rpartition(", ")
    assert text.split(": ")[1] == f"class {int(expected.argmax())} of {expected.size}"
    assert abs(float(score) - expected.max()) <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("target", "cores"),
    [
        ("aarch64", ("cortex-a53", "cortex-a72", "neoverse-n1", "max")),
        ("cortex-a53", ("cortex-a53",)),
        ("cortex-a72", ("cortex-a72", "max")),
        ("cortex-a76", ("cortex-a76", "max")),
        ("neoverse-n1", ("neoverse-n1", "max")),
        ("armv7", ("cortex-a7", "max")),
    ],
)
def test_digits(target: str, cores: tuple[str, ...], tmp_path: Path) -> None:
    artifact = specc.compile(specc.load(EXAMPLES / "digits.specc"), target=target)
    build(artifact, tmp_path)
    for core in cores:
        check(tmp_path, artifact, core)


@pytest.mark.parametrize(("target", "cores"), [("cortex-a72", ("cortex-a72", "max")), ("armv7", ("cortex-a7",))])
def test_repvit(target: str, cores: tuple[str, ...], tmp_path: Path) -> None:
    artifact = specc.compile(specc.load("zoo:repvit/m1_1"), target=target)
    build(artifact, tmp_path)
    for core in cores:
        check(tmp_path, artifact, core)


def test_a_core_that_lacks_an_extension_is_told_before_a_kernel_runs(tmp_path: Path) -> None:
    artifact = specc.compile(specc.load(EXAMPLES / "digits.specc"), target="neoverse-n1")
    build(artifact, tmp_path)
    done = emulate(tmp_path, "cortex-a53", "aarch64")
    assert done.returncode == 1
    assert "lacks an extension" in done.stderr


def test_an_artifact_for_another_processor_is_refused_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specc.compile(specc.load(EXAMPLES / "digits.specc"), target="aarch64").save(tmp_path / "arm.artifact")
    assert execute(["run", str(tmp_path / "arm.artifact"), "--self-test"]) == 1
    assert "S0904" in capsys.readouterr().err
