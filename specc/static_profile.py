"""How fast an artifact's kernels can be on a core that is not here: their inner loops, counted by llvm-mca.

    library --specc.disassembly--> loops --llvm-mca--> cycles for an iteration, and what takes them

llvm-mca runs a loop through LLVM's model of a core: which instructions start in which cycle, on which of its units, and
how long each takes. It takes every load for a hit in the first-level cache and every branch for well predicted.

A loop is as long as the longest of three: its instructions by how many the core takes in a cycle, the work of its
busiest unit, and the chain of instructions that wait for each other. The first two are counted; where the loop takes
longer than both, it waits.

A loop is counted without the loops in it. The hot one of a kernel is, of the innermost ones, that with the most
multiply-adds. A call of a kernel makes as many iterations as its multiply-adds take, if the whole kernel went at that
loop's rate; that is the estimate. It leaves out caches and memory, narrower tiles at borders, lanes that pad channels,
epilogues, and what it costs to start threads: it is for one core, and a bound from below. A kernel without
multiply-adds has no estimate.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from specc.artifact import Contents
from specc.diagnostics import error
from specc.disassembly import Instruction, Loop, disassemble, tool
from specc.manifest import Size
from specc.targets import TARGETS, Target

ITERATIONS = 200
_WIDTH = {"4s": 4, "2s": 2, "8h": 8, "4h": 4, "2d": 2}


@dataclass(frozen=True)
class LoopCount:
    """One loop by llvm-mca: all numbers are for one iteration.

    `macs` are multiply-adds of numbers, not of vectors, and `peak` is how many of them the core can start in a cycle.
    `bottleneck` says what the loop is as long as.
    """

    address: int
    instructions: int
    cycles: float
    macs: int
    peak: float
    bottleneck: str

    @property
    def rate(self) -> float:
        """Multiply-adds in a cycle."""
        return self.macs / self.cycles


@dataclass(frozen=True)
class KernelCount:
    """A kernel, its innermost loops with the hot one first, and its calls. `cycles` is the estimate for one call."""

    kernel: str
    path: str
    calls: int
    macs: int
    loops: tuple[LoopCount, ...]

    @property
    def hot(self) -> LoopCount | None:
        return self.loops[0] if self.loops else None

    @property
    def cycles(self) -> float | None:
        hot = self.hot
        return self.macs / hot.rate if hot and hot.macs and self.macs else None


@dataclass(frozen=True)
class StaticProfile:
    """The kernels in the order in which they first run; `core` is the model that `tool` counted by."""

    target: str
    core: str
    tool: str
    kernels: tuple[KernelCount, ...]

    @property
    def cycles(self) -> float:
        """The estimates of all calls, added up."""
        return sum(kernel.calls * (kernel.cycles or 0) for kernel in self.kernels)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `--json`."""
        kernels = [
            {
                "kernel": kernel.kernel,
                "path": kernel.path,
                "calls": kernel.calls,
                "macs": kernel.macs,
                "cycles": kernel.cycles,
                "loops": [{**asdict(loop), "macs_per_cycle": loop.rate} for loop in kernel.loops],
            }
            for kernel in self.kernels
        ]
        return {"target": self.target, "core": self.core, "tool": self.tool, "cycles": self.cycles, "kernels": kernels}


def static_profile(contents: Contents, size: Size, core: str | None = None) -> StaticProfile:
    """Counts the loops of every kernel that runs at `size`, for `core` or that of the artifact's target.

    Raises S1005 where LLVM's programs are not installed, S1006 for an artifact that holds no machine code or for a core
    of whose timing LLVM knows nothing.
    """
    machine = contents.manifest.machine
    target = TARGETS.get(machine.target)
    if target is None or contents.manifest.library != "shared" or target.gpu or machine.architecture == "wasm32":
        message = f"`{contents.manifest.network}` for {machine.target} holds no machine code to count"
        raise error("S1006", message, notes=("compile it for a named core, such as --target cortex-a72",))
    calls: dict[str, list[Mapping[str, Any]]] = {}
    for call in size.facts["kernels"]:
        calls.setdefault(call["kernel"], []).append(call)
    found = disassemble(contents.library, target, list(calls))
    core = core or target.model or target.cpu
    chosen = {kernel: hot_loops(outer, target) for kernel, outer in found.items()}
    counted = iter(count([loop.own() for loops in chosen.values() for loop in loops], target, core))
    kernels = []
    for kernel, own in chosen.items():
        loops = sorted((next(counted) for _ in own), key=lambda loop: (-loop.macs, -loop.instructions))
        first = calls[kernel][0]
        kernels.append(KernelCount(kernel, first["path"], len(calls[kernel]), first["macs"], tuple(loops)))
    return StaticProfile(target.name, core, tool_version(), tuple(kernels))


def hot_loops(outer: Sequence[Loop], target: Target) -> list[Loop]:
    """The loops that are worth counting: the innermost ones with multiply-adds; where none of these has one, others
    that have; where none has, the innermost ones."""
    loops = [loop for each in outer for loop in each.all()]
    working = [loop for loop in loops if any(multiply_adds(one, target) for one in loop.own())]
    innermost = [loop for loop in loops if not loop.inner]
    return [loop for loop in working if not loop.inner] or working or innermost


def count(loops: Sequence[Sequence[Instruction]], target: Target, core: str) -> list[LoopCount]:
    """Each run of instructions, repeated, by llvm-mca; raises S1005 or S1006."""
    if not loops:
        return []
    # The length of vectors is a state of RISC-V's, which the loop finds as it is.
    length = "# LLVM-MCA-RISCV-LMUL M1\n# LLVM-MCA-RISCV-SEW E32\n" if "v" in target.requires else ""
    regions = [_region(number, loop, length) for number, loop in enumerate(loops)]
    command = [tool("llvm-mca"), f"-mtriple={target.triple}", f"-mcpu={core}", f"--iterations={ITERATIONS}", "--json"]
    features = [feature for feature in target.features if feature.startswith("+")]
    command += [f"-mattr={','.join(features)}"] if features else []
    done = subprocess.run(command, input="".join(regions), capture_output=True, text=True, check=False)
    if done.returncode:
        said = list(dict.fromkeys(done.stderr.splitlines()))
        line = next((line for line in said if "error" in line), "; ".join(said)[-300:])
        notes = ("--core names another one: `llvm-mca -mtriple=... -mcpu=help` lists them",)
        raise error("S1006", f"llvm-mca cannot count for {core}: {line.partition('error: ')[2] or line}", notes=notes)
    answer = json.loads(done.stdout)
    resources = answer["TargetInfo"]["Resources"]
    return [_loop_count(loop, region, resources, target) for loop, region in zip(loops, answer["CodeRegions"])]


def _region(number: int, body: Sequence[Instruction], length: str) -> str:
    lines = [instruction.text for instruction in body]
    text = "\n".join(lines).replace(" loop", f" loop{number}") if lines else ""
    return f"# LLVM-MCA-BEGIN {number}\n{length}loop{number}:\n{text}\n# LLVM-MCA-END\n"


def _loop_count(
    body: Sequence[Instruction], region: Mapping[str, Any], resources: Sequence[str], target: Target
) -> LoopCount:
    summary = region["SummaryView"]
    cycles = summary["TotalCycles"] / summary["Iterations"]
    info = region["InstructionInfoView"]["InstructionList"]
    widths = [multiply_adds(instruction, target) for instruction in body]
    # How often the widest multiply-add of the loop can start, by the model.
    rates = [(width / one["RThroughput"], width) for width, one in zip(widths, info) if width and one["RThroughput"]]
    return LoopCount(
        address=body[0].address,
        instructions=len(body),
        cycles=cycles,
        macs=sum(widths),
        peak=max(rates)[0] if rates else 0.0,
        bottleneck=_bottleneck(region, resources, widths, cycles),
    )


def _bottleneck(region: Mapping[str, Any], resources: Sequence[str], widths: Sequence[int], cycles: float) -> str:
    summary = region["SummaryView"]
    issue = summary["TotaluOps"] / summary["Iterations"] / summary["DispatchWidth"]
    work: dict[int, dict[str, float]] = {}
    for use in region["ResourcePressureView"]["ResourcePressureInfo"]:
        number = use["InstructionIndex"]
        if number >= len(widths):  # the sums of all instructions
            continue
        one = region["InstructionInfoView"]["InstructionList"][number]
        kind = (
            "multiply-adds"
            if widths[number]
            else "loads"
            if one["mayLoad"]
            else "stores"
            if one["mayStore"]
            else "other instructions"
        )
        kinds = work.setdefault(use["ResourceIndex"], {})
        kinds[kind] = kinds.get(kind, 0.0) + use["ResourceUsage"]
    busiest, kinds = max(work.items(), key=lambda item: sum(item[1].values()), default=(0, {}))
    busy = sum(kinds.values())
    if cycles > 1.15 * max(issue, busy):
        return "latency"
    if issue > busy:
        return f"issue ({summary['DispatchWidth']} a cycle)"
    return f"{max(kinds, key=lambda kind: kinds[kind])} ({re.sub(r'[^A-Za-z0-9_].*', '', resources[busiest])})"


def multiply_adds(instruction: Instruction, target: Target) -> int:
    """How many numbers an instruction multiplies and adds to others; 0 for any other instruction.

    Of RISC-V's vectors it is taken that they are as long as the target says.
    """
    name, _, operands = instruction.text.partition(" ")
    if target.architecture == "x86_64":
        if name.startswith("vfmadd"):
            width = 16 if "%zmm" in operands else 8 if "%ymm" in operands else 4
            return {"ss": 1, "ph": 2 * width}.get(name[-2:], width)
        parts = {"vdpbf16ps": 2, "vpdpbusd": 4, "vpdpbusds": 4}.get(name, 0)
        return parts * (16 if "%zmm" in operands else 8 if "%ymm" in operands else 4)
    if target.architecture == "riscv64":
        return target.lanes if re.match(r"vfm(acc|add)\.v[fv]$", name) else 1 if name == "fmadd.s" else 0
    if target.architecture == "armv7l":
        if name not in ("vfma.f32", "vmla.f32"):
            return 0
        return {"q": 4, "d": 2}.get(operands[:1], 1)
    if name in ("fmla", "fmlal", "fmad"):
        kind = re.match(r"[vz]\d+\.(\w+)", operands)
        if kind and operands.startswith("z"):
            return target.vector_bits // {"h": 16, "s": 32, "d": 64}[kind[1]]
        return _WIDTH[kind[1]] if kind else 0
    products = {"bfdot": 2, "sdot": 4, "udot": 4, "usdot": 4, "sudot": 4}.get(name, 0)
    if products:
        return products * _WIDTH["2s" if ".2s" in operands.partition(",")[0] else "4s"]
    return 1 if name == "fmadd" else 0


def tool_version() -> str:
    """What counts, for a reader."""
    done = subprocess.run([tool("llvm-mca"), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"LLVM version (\S+)", done.stdout)
    return f"llvm-mca {found[1] if found else 'of an unknown version'}"
