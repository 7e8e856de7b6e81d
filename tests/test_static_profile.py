"""`specc profile --static`: loops whose cycles are known by how they are made, from the text to the table."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny

import specc
from specc import disassembly, driver
from specc.cli import execute
from specc.diagnostics import SpeccError
from specc.disassembly import Instruction, disassemble, loops
from specc.static_profile import count, multiply_adds, static_profile
from specc.targets import TARGETS

HAVE = all(shutil.which(name) or shutil.which(f"{name}-19") for name in ("llvm-mca", "llvm-objdump"))
counting = pytest.mark.skipif(not HAVE, reason="LLVM's programs are not installed (make arm-test installs them)")
A57 = "cortex-a57"
"""Its model is the same in every version of LLVM: one multiply-add and one load of 128 bits in a cycle."""


def code(*lines: str, start: int = 0x100) -> list[Instruction]:
    return [Instruction(start + 4 * i, line) for i, line in enumerate(lines)]


# ---- loops -----------------------------------------------------------------------------------------------------------

LISTING = """
library.so:	file format elf64-littleaarch64

Disassembly of section .text:

0000000000000f00 <specc_run>:
     f00:      	b	0xf00 <specc_run>

0000000000001000 <__tvm_ffi_conv_1>:
    1000:      	bl	0x1010 <conv_1_compute_>

0000000000001010 <conv_1_compute_>:
    1010:      	mov	x8, #0x8                // =8
    1014:      	ldr	q0, [x0], #0x10
    1018:      	fmla	v1.4s, v0.4s, v2.s[0]
    101c:      	subs	x8, x8, #0x1
    1020:      	b.ne	0x1018 <conv_1_compute_+0x8>
    1024:      	cbz	x9, 0x102c <conv_1_compute_+0x1c>
    1028:      	b	0x1014 <conv_1_compute_+0x4>
    102c:      	ret
    1030: 2c 00 00 00  	.word	0x0000002c

0000000000001040 <__tvm_ffi_main>:
    1040:      	b	0x1040 <__tvm_ffi_main>
"""


def test_a_listing_becomes_loops_within_loops() -> None:
    functions = dict(disassembly._parsed(LISTING))
    (outer,) = loops(functions["conv_1_compute_"])
    assert (outer.address, len(outer.body), outer.body[-1].text) == (0x1014, 6, "b loop")
    (inner,) = outer.inner
    assert [one.text for one in inner.body] == ["fmla v1.4s, v0.4s, v2.s[0]", "subs x8, x8, #0x1", "b.ne loop"]
    assert [one.address for one in outer.own()] == [0x1014, 0x1024, 0x1028]
    assert outer.all() == [outer, inner]


def test_loops_side_by_side_and_with_two_ways_back() -> None:
    branches = {0x108: 0x100, 0x110: 0x10C, 0x118: 0x10C}
    instructions = [Instruction(at, "b loop", branches.get(at)) for at in range(0x100, 0x120, 4)]
    found = loops(instructions)
    assert [(loop.address, loop.body[-1].address, loop.inner) for loop in found] == [
        (0x100, 0x108, ()),
        (0x10C, 0x118, ()),
    ]
    assert loops([]) == []


def test_an_inner_loop_that_ends_behind_the_outer_one_s_branch() -> None:
    branches = {0x10C: 0x100, 0x118: 0x104}
    (outer,) = loops([Instruction(at, "b loop", branches.get(at)) for at in range(0x100, 0x120, 4)])
    (inner,) = outer.inner
    assert (outer.address, outer.body[-1].address) == (0x100, 0x118)
    assert (inner.address, inner.body[-1].address) == (0x104, 0x118)


@pytest.mark.parametrize(
    ("target", "text", "expected"),
    [
        ("cortex-a72", "fmla v0.4s, v1.4s, v2.s[0]", 4),
        ("cortex-a72", "fmla v0.2s, v1.2s, v2.s[0]", 2),
        ("cortex-a72", "fmadd s0, s1, s2, s3", 1),
        ("cortex-a72", "fadd v0.4s, v1.4s, v2.4s", 0),
        ("cortex-a76", "sdot v0.4s, v1.16b, v2.4b[0]", 16),
        ("neoverse-v1", "fmla z0.s, p0/m, z1.s, z2.s", 8),
        ("armv7", "vfma.f32 q0, q1, q2", 4),
        ("armv7", "vmla.f32 d0, d1, d2", 2),
        ("armv7", "vadd.f32 q0, q1, q2", 0),
        ("x86-64-v4", "vfmadd231ps (%rax){1to16}, %zmm1, %zmm2", 16),
        ("x86-64-v3", "vfmadd213ps %ymm0, %ymm1, %ymm2", 8),
        ("x86-64-v3", "vfmadd213ss %xmm0, %xmm1, %xmm2", 1),
        ("x86-64-v4-amx", "vfmadd231ph (%rax){1to32}, %zmm1, %zmm2", 32),
        ("x86-64-v4", "vpdpbusd %zmm0, %zmm1, %zmm2", 64),
        ("x86-64-v4", "vmulps %zmm0, %zmm1, %zmm2", 0),
        ("riscv64", "fmadd.s fa0, fa1, fa2, fa0", 1),
        ("riscv64-v", "vfmacc.vf v8, fa0, v9", 4),
    ],
)
def test_multiply_adds(target: str, text: str, expected: int) -> None:
    assert multiply_adds(Instruction(0, text), TARGETS[target]) == expected


# ---- cycles ----------------------------------------------------------------------------------------------------------


@counting
def test_as_many_cycles_as_multiply_adds() -> None:
    body = code(*(f"fmla v{i}.4s, v30.4s, v31.4s" for i in range(16)), "subs x8, x8, #1", "b.ne loop")
    (found,) = count([body], TARGETS["cortex-a72"], A57)
    assert found.cycles == pytest.approx(16, rel=0.02)
    assert (found.instructions, found.macs, found.peak) == (18, 64, 4)
    assert found.bottleneck.startswith("multiply-adds (")
    assert found.rate == pytest.approx(4, rel=0.02)


@counting
def test_multiply_adds_that_wait_for_each_other() -> None:
    body = code("fmla v0.4s, v0.4s, v1.4s", "fmla v0.4s, v0.4s, v1.4s")
    once, twice = count([body[:1], body], TARGETS["cortex-a72"], A57)
    assert (once.bottleneck, twice.bottleneck) == ("latency", "latency")
    assert twice.cycles == pytest.approx(2 * once.cycles, rel=0.02)
    assert once.cycles > 4


@counting
def test_loads_that_come_one_in_a_cycle() -> None:
    body = code(*(f"ldr q{i}, [x0, #{16 * i}]" for i in range(12)), "fmla v30.4s, v31.4s, v29.4s")
    (found,) = count([body], TARGETS["cortex-a72"], A57)
    assert found.cycles == pytest.approx(12, rel=0.02)
    assert found.bottleneck.startswith("loads (")


@counting
def test_more_instructions_than_the_core_takes_in_a_cycle() -> None:
    body = code(*(f"fmla v{i}.4s, v30.4s, v31.4s" for i in range(4)), *(f"mov x{i}, #{i}" for i in range(8)),
                *(f"ldr q{i}, [x0, #{16 * i}]" for i in range(16, 20)))  # fmt: skip
    (found,) = count([body], TARGETS["cortex-a72"], A57)
    assert found.cycles == pytest.approx(16 / 3, rel=0.05)
    assert found.bottleneck == "issue (3 a cycle)"


ASSEMBLY = """
.text
.globl __tvm_ffi_known
__tvm_ffi_known:
  mov $100, %ecx
  call known_compute_
  ret
.type known_compute_, @function
known_compute_:
1:
FMAS
  dec %ecx
  jne 1b
  ret
.globl __tvm_ffi_main
__tvm_ffi_main:
2: jmp 2b
"""


@counting
def test_a_library_s_kernel(tmp_path: Path) -> None:
    """Ten multiply-adds without a dependency, two in a cycle: five cycles, of 80 multiply-adds of numbers."""
    fmas = "\n".join(f"  vfmadd231ps %ymm14, %ymm15, %ymm{i}" for i in range(10))
    (tmp_path / "known.s").write_text(ASSEMBLY.replace("FMAS", fmas))
    subprocess.run(["gcc", "-shared", "-nostdlib", "-o", "known.so", "known.s"], cwd=tmp_path, check=True)
    target = TARGETS["x86-64-v3"]
    library = (tmp_path / "known.so").read_bytes()
    (loop,) = disassemble(library, target, ["known"])["known"]
    (found,) = count([loop.own()], target, "haswell")
    assert (found.instructions, found.macs, found.peak) == (12, 80, 16)
    assert found.cycles == pytest.approx(5, rel=0.03)
    with pytest.raises(SpeccError) as caught:
        disassemble(library, target, ["unknown"])
    assert caught.value.diagnostics[0].code == "S1006"


@counting
def test_the_estimate_is_the_calls_work_at_the_loop_s_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = specc.compile(tiny.graph(), target="x86-64-v3")
    path = str(tmp_path / "tiny.artifact")
    artifact.save(path)
    calls = artifact.manifest.sizes[0].facts["kernels"]
    found = static_profile(artifact.contents, artifact.manifest.sizes[0])
    assert sum(kernel.calls for kernel in found.kernels) == len(calls)
    assert sum(kernel.calls * kernel.macs for kernel in found.kernels) == sum(call["macs"] for call in calls)
    counted = [kernel for kernel in found.kernels if kernel.cycles is not None]
    assert counted
    for kernel in counted:
        assert kernel.hot is not None and kernel.hot.macs == max(loop.macs for loop in kernel.loops)
        assert kernel.cycles == pytest.approx(kernel.macs / kernel.hot.macs * kernel.hot.cycles)
    assert execute(["profile", path, "--static", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["core"] == "x86-64-v3"
    assert [kernel["kernel"] for kernel in shown["kernels"]] == [kernel.kernel for kernel in found.kernels]
    assert execute(["profile", path, "--static", "--core", "znver3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["kcycles", "part"]
    assert "its model of znver3" in lines[-1]


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_counted_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = driver.compile(tiny.graph(), "c")
    source.save(tmp_path / "c.artifact")
    assert execute(["profile", str(tmp_path / "c.artifact"), "--static"]) == 1
    assert "holds no machine code to count" in capsys.readouterr().err
    tiny.artifact().save(tmp_path / "tiny.artifact")
    assert execute(["profile", str(tmp_path / "tiny.artifact"), "--core", "cortex-a72"]) == 2
    assert execute(["profile", str(tmp_path / "tiny.artifact"), "--static", "--scaling"]) == 2
    if HAVE:
        words = ["profile", str(tmp_path / "tiny.artifact"), "--static", "--core", "generic-rv64"]
        capsys.readouterr()
        assert execute(words) == 1
        said = capsys.readouterr().err.splitlines()
        assert "S1006" in said[0] and len(said) == len(set(said))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert execute(["profile", str(tmp_path / "tiny.artifact"), "--static"]) == 1
    message = capsys.readouterr().err
    assert "S1005" in message
    assert "apt install llvm" in message
