"""An artifact's library in a C program that runs it on files (`compute.c`), here or under an emulator."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np

from specc.compare import difference
from specc.runtime import Artifact
from specc.unpack import unpack

HERE = Path(__file__).parent
TOOLS = {
    "aarch64": ("aarch64-linux-gnu", "qemu-aarch64"),
    "armv7l": ("arm-linux-gnueabihf", "qemu-arm"),
    "riscv64": ("riscv64-linux-gnu", "qemu-riscv64"),
}
"""For each architecture but this machine's, the name of its tools and libraries, and its emulator."""
ROUNDING = 1e-5
"""How far float32 kernels are from float64, norm-wise."""
LIBRARIES = {"libc", "libm", "libgomp"}
"""What a library may need, beside the loader: libc and OpenMP's runtime."""


def build(artifact: Artifact, folder: Path, *options: str) -> None:
    """The program in `folder`, and what its library needs: `LIBRARIES` and no other."""
    unpack(artifact.contents, folder / "net")
    other = TOOLS.get(artifact.manifest.machine.architecture)
    prefix = f"{other[0]}-" if other else ""
    command = [f"{prefix}gcc", "-O2", "-Inet", str(HERE / "compute.c"), *options, "-Lnet", "-lnetwork"]
    subprocess.run([*command, "-Wl,-rpath,$ORIGIN/net", "-o", "compute"], cwd=folder, check=True)
    command = [f"{prefix}readelf", "-d", "net/libnetwork.so"]
    listing = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    needed = {name.partition(".so")[0] for name in re.findall(r"\(NEEDED\).*\[(.*)\]", listing)}
    assert "libc" in needed
    assert {name for name in needed if not name.startswith("ld-linux")} <= LIBRARIES


def run(artifact: Artifact, folder: Path, core: str = "") -> subprocess.CompletedProcess[str]:
    """The program on the artifact's sample; its outputs lie in `found-NAME`."""
    size = artifact.manifest.sizes[0]
    other = TOOLS.get(artifact.manifest.machine.architecture)
    emulated = [other[1], "-cpu", core, "-L", f"/usr/{other[0]}"] if other else []
    files = ["net/weights.bin", *(f"net/sample/{i.name}.bin" for i in size.inputs)]
    command = [*emulated, "./compute", *files, *(f"found-{o.name}" for o in size.outputs)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def check(artifact: Artifact, folder: Path, core: str = "", tolerance: float = ROUNDING) -> None:
    """Holds every output to the reference's."""
    for path in folder.glob("found-*"):
        path.unlink()
    done = run(artifact, folder, core)
    assert done.returncode == 0, done.stderr
    sample = artifact.contents.samples[0]
    for spec, expected in zip(artifact.manifest.sizes[0].outputs, sample.outputs, strict=True):
        found = np.fromfile(folder / f"found-{spec.name}", spec.dtype).reshape(spec.shape)
        assert difference(found, expected) <= tolerance
