"""The table of targets: which of them this machine is, by what its system says of it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from specc import targets

RISCV = "processor\t: 0\nhart\t: 1\nisa\t: rv64imafdc{v}_zicsr_zba\nmmu\t: sv39\n"
X86 = f"processor\t: 0\nflags\t\t: fpu sse2 {' '.join(targets.TARGETS['x86-64-v4'].requires)} {{more}}\n"
AMX = "avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16"
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm asimdhp asimddp {sve}\n"


@pytest.mark.parametrize(
    ("architecture", "files", "expected"),
    [
        ("x86_64", {"/proc/cpuinfo": X86.format(more="")}, "x86-64-v4"),
        ("x86_64", {"/proc/cpuinfo": X86.format(more="avx512_vnni")}, "x86-64-v4-vnni"),
        ("x86_64", {"/proc/cpuinfo": X86.format(more="avx512_vnni avx512_bf16 amx_bf16")}, "x86-64-v4-bf16"),
        ("x86_64", {"/proc/cpuinfo": X86.format(more=AMX)}, "x86-64-v4-amx"),
        ("x86_64", {"/proc/cpuinfo": X86.format(more=AMX), "refused": ""}, "x86-64-v4-bf16"),
        ("riscv64", {"/proc/cpuinfo": RISCV.format(v="")}, "riscv64"),
        ("riscv64", {"/proc/cpuinfo": RISCV.format(v="v")}, "riscv64-v"),
        ("aarch64", {"/proc/cpuinfo": "Features\t: fp asimd evtstrm\n"}, "aarch64"),
        ("aarch64", {"/proc/cpuinfo": ARM.format(sve="")}, "cortex-a76"),
        (
            "aarch64",
            {"/proc/cpuinfo": ARM.format(sve="sve"), "/proc/sys/abi/sve_default_vector_length": "16\n"},
            "cortex-a76",
        ),
        (
            "aarch64",
            {"/proc/cpuinfo": ARM.format(sve="sve"), "/proc/sys/abi/sve_default_vector_length": "32\n"},
            "cortex-a76",
        ),
        (
            "aarch64",
            {"/proc/cpuinfo": ARM.format(sve="sve bf16 i8mm"), "/proc/sys/abi/sve_default_vector_length": "32\n"},
            "neoverse-v1",
        ),
    ],
)
def test_native(
    architecture: str, files: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def read_text(path: Path, *_: object) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(platform, "machine", lambda: architecture)
    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(targets, "_tiles_permitted", lambda: "refused" not in files)
    targets.cpu_features.cache_clear()
    try:
        assert targets.native().name == expected
    finally:
        targets.cpu_features.cache_clear()


def test_only_machines_without_a_system_take_no_memory() -> None:
    assert [name for name, target in targets.TARGETS.items() if target.bare] == ["cortex-m7"]
    assert [name for name, target in targets.TARGETS.items() if not target.vectors] == ["c", "cortex-m7"]
