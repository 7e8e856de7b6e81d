"""The one table of targets: the machines that a network can be compiled for, by name.

A target says what the code generator may emit (LLVM's triple, core and features) and what the schedules need to know:
the width of a vector, how many there are, the sizes of the caches. `native` is the machine that the compiler runs on;
it is resolved to its vector extensions, so that an artifact says what it needs.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from specc.diagnostics import did_you_mean, error

ROUNDING = 8.0
"""So many times the rounding errors of direct sums a kernel may have, if nothing else is said."""


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to compile for.

    `vector_bits` and `vector_registers` bound the register tiles; `fma_per_cycle` vector multiply-adds and
    `loads_per_cycle` loads start in a cycle; a sum waits `fma_latency` cycles for the one before it. With
    `broadcast_registers`, a number that multiplies a vector takes a register of its own, and all of a tile's are loaded
    ahead; else it comes from memory. Cache sizes are bytes for one core; weights that every tile reads again come fast
    enough from the second one while they, those that follow and the image fill no more than `l2_share` of it.
    `requires` are the CPU features, in /proc/cpuinfo's words (and `sve256`: SVE's vectors have 256 bits at least), and
    the GPU's architecture, without which an artifact for this target is refused. `options` are LLVM's own. `model` is
    the core by whose timing `specc.static_profile` counts cycles, where LLVM knows none of `cpu` itself. `dot_product`
    is the instruction that adds four products of integers of 8 bits to each lane of 32, `pair_product` the one that
    adds two products of bfloat16 to each lane of float32, `tile_product` the unit that multiplies small matrices of
    both. `rounding` is asked of the kernels, not of the machine: their rounding errors may be so many times those of
    direct sums.

    With `gpu`, kernels run on an NVIDIA GPU of that architecture, and everything else on a processor as `triple` says:
    a vector is a warp, the first-level cache is what a multiprocessor has of shared memory and cache, the second is
    the GPU's, which has `processors` multiprocessors.
    """

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    vector_bits: int
    vector_registers: int
    l1_bytes: int
    l2_bytes: int
    requires: tuple[str, ...]
    fma_latency: int = 4
    fma_per_cycle: float = 2
    loads_per_cycle: int = 2
    broadcast_registers: bool = False
    l2_share: float = 1.0
    options: tuple[str, ...] = ()
    model: str = ""
    gpu: str = ""
    processors: int = 0
    dot_product: Literal["", "vpdpbusd", "sdot", "usdot"] = ""
    pair_product: Literal["", "vdpbf16ps", "bfdot"] = ""
    tile_product: Literal["", "amx"] = ""
    rounding: float = ROUNDING

    @property
    def form(self) -> Literal["vectors", "c", "cuda"]:
        """What kernels are written as."""
        return "cuda" if self.gpu else "vectors" if self.vectors else "c"

    @property
    def vectors(self) -> bool:
        """Whether kernels are made as machine code, with vectors; C code has none."""
        return self.triple != "c" and not self.bare

    @property
    def bare(self) -> bool:
        """Whether no operating system is there: kernels are C, and no memory is allocated."""
        return "-none-" in self.triple

    @property
    def architecture(self) -> str:
        """The processor's family, as `uname -m` prints it."""
        family = self.triple.partition("-")[0]
        return {"arm": "armv7l"}.get(family, family)

    @property
    def conversions(self) -> frozenset[str]:
        """The types that it converts as is: float16 from and to float32, bfloat16 from float32, int64 from and to both.

        32-bit ARM has functions for int64, which take a float32 in an integer register; LLVM 22 hands it to them in
        another one.
        """
        known = {
            "int64": self.architecture != "armv7l",
            "float16": "f16c" in self.requires or self.architecture == "aarch64",
            "bfloat16": "+avx512bf16" in self.features,
        }
        return frozenset(dtype for dtype, has in known.items() if has)

    @property
    def keeps_nan(self) -> bool:
        """Whether the maximum and the minimum of two numbers are one instruction each whose result is NaN where one of
        them is."""
        return self.vectors and not self.gpu and self.architecture in ("aarch64", "armv7l")

    @property
    def half_sums(self) -> bool:
        """Whether kernels add up products of float16 in float16 (`specc.ir.sums`), in twice the lanes of float32."""
        return not {"asimdhp", "avx512_fp16"}.isdisjoint(self.requires)

    @property
    def picture_macs(self) -> int | None:
        """A convolution of fewer than four channels is faster in bfloat16 than in float32, and in integers with tiles
        than without, where all channels of a pixel of the result take more products; None: it is not."""
        return 1 << 10 if self.tile_product == "amx" else None

    @property
    def lanes(self) -> int:
        """How many float32 a vector holds."""
        return self.vector_bits // 32

    @property
    def blocked_layout(self) -> str:
        """The activation layout whose blocks of channels fill a vector."""
        return f"NCHW{self.lanes}c"


_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


_RV64GC = ("+m", "+a", "+f", "+d", "+c")


def _arm(name: str, cpu: str, l1: int, l2: int, per_cycle: int = 2) -> Target:
    """A 64-bit ARM core with NEON; from the A76 on, with half precision and dot products, too."""
    later = ("asimdhp", "asimddp") if cpu in ("cortex-a76", "neoverse-n1") else ()
    needs = ("fp", "asimd", *later)
    model = "neoverse-n1" if cpu == "cortex-a76" else ""  # the N1 is made from the A76
    return Target(
        *(name, "aarch64-linux-gnu", cpu, ("+neon",), 128, 32, l1, l2, needs),
        fma_per_cycle=per_cycle,
        loads_per_cycle=per_cycle,
        broadcast_registers=True,
        model=model,
        dot_product="sdot" if later else "",
    )


def _cuda(gpu: str, l1_bytes: int, l2_bytes: int, processors: int) -> Target:
    """A GPU beside an x86-64 processor of any kind; caches and multiprocessors as the A100, L40 and H100 have them."""
    name, triple = f"cuda:{gpu}", "x86_64-linux-gnu"
    return Target(
        name, triple, "x86-64", (), 32 * 32, 255, l1_bytes, l2_bytes, requires=(gpu,), gpu=gpu, processors=processors
    )


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("x86-64-v3", "x86_64-linux-gnu", "x86-64-v3", (), 256, 16, 32 << 10, 256 << 10, _V3),
        # LLVM prefers 256-bit vectors for this level unless it is told otherwise.
        Target("x86-64-v4", "x86_64-linux-gnu", "x86-64-v4", ("-prefer-256-bit",), 512, 32, 32 << 10, 1 << 20, _V4),
        # Dot products of integers of 8 bits: Cascade Lake, Ice Lake, Zen 4 and later.
        Target(
            *("x86-64-v4-vnni", "x86_64-linux-gnu", "x86-64-v4", ("-prefer-256-bit", "+avx512vnni")),
            *(512, 32, 32 << 10, 1 << 20),
            requires=(*_V4, "avx512_vnni"),
            dot_product="vpdpbusd",
        ),
        # Those, and products of bfloat16 in pairs: Cooper Lake, Zen 4 and later.
        Target(
            *("x86-64-v4-bf16", "x86_64-linux-gnu", "x86-64-v4", ("-prefer-256-bit", "+avx512vnni", "+avx512bf16")),
            *(512, 32, 32 << 10, 1 << 20),
            requires=(*_V4, "avx512_vnni", "avx512_bf16"),
            dot_product="vpdpbusd",
            pair_product="vdpbf16ps",
        ),
        # Those, and products of small matrices: Sapphire Rapids and later. `vdpbf16ps` starts in every second cycle
        # there and adds up half of what multiply-adds of float32 do in a second, so it is left out.
        Target(
            *("x86-64-v4-amx", "x86_64-linux-gnu", "x86-64-v4"),
            ("-prefer-256-bit", "+avx512vnni", "+avx512bf16", "+avx512fp16", "+amx-tile", "+amx-int8", "+amx-bf16"),
            *(512, 32, 48 << 10, 2 << 20),
            requires=(*_V4, *("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16")),
            l2_share=0.55,
            dot_product="vpdpbusd",
            tile_product="amx",
        ),
        # The small cores, and the A72, start one multiply-add of 128 bits and one load in a cycle.
        _arm("aarch64", "generic", 32 << 10, 256 << 10),
        _arm("cortex-a53", "cortex-a53", 32 << 10, 256 << 10, per_cycle=1),
        _arm("cortex-a72", "cortex-a72", 32 << 10, 512 << 10, per_cycle=1),
        _arm("cortex-a76", "cortex-a76", 64 << 10, 256 << 10),
        _arm("neoverse-n1", "neoverse-n1", 64 << 10, 1 << 20),
        # LLVM takes the Cortex-A7's multiply-adds for slow, as each waits for the one before it in its sum. It
        # multiplies, then adds, unless it is told otherwise. Here are sums enough.
        Target(
            *("armv7", "arm-linux-gnueabihf", "cortex-a7", ("+neon", "+vfp4", "-slowfpvfmx", "-vmlx-hazards")),
            *(128, 16, 32 << 10, 256 << 10),
            requires=("neon", "vfpv4"),
            fma_latency=8,
            fma_per_cycle=1,
            loads_per_cycle=1,
            broadcast_registers=True,
            model="cortex-a57",  # in its 32-bit state: of smaller cores LLVM knows the timing of a part of NEON only
        ),
        # LLVM takes vectors of known length for SVE's where it is told how long these are at least.
        Target(
            *("neoverse-v1", "aarch64-linux-gnu", "neoverse-v1", ("+sve",), 256, 32, 64 << 10, 1 << 20),
            requires=("fp", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve256"),
            broadcast_registers=True,
            options=("-aarch64-sve-vector-bits-min:uint=256",),
            dot_product="usdot",
            pair_product="bfdot",
        ),
        # Without vectors, four lanes are four registers, and each takes a multiply-add of its own.
        Target(
            *("riscv64", "riscv64-linux-gnu", "generic-rv64", _RV64GC, 128, 8, 32 << 10, 256 << 10),
            requires=("i", "m", "a", "f", "d", "c"),
            fma_per_cycle=0.25,
            model="sifive-u74",
        ),
        # V, with registers of 128 bits at least, by the names of its parts: what TVM knows by the name `v` are vectors
        # of a length that is open until the program runs.
        Target(
            *("riscv64-v", "riscv64-linux-gnu", "generic-rv64", (*_RV64GC, "+zve64d", "+zvl128b"), 128, 32),
            *(32 << 10, 256 << 10),
            requires=("i", "m", "a", "f", "d", "c", "v"),
            fma_per_cycle=2,
            model="sifive-p670",
        ),
        Target("wasm32", "wasm32-wasi", "generic", ("+simd128",), 128, 16, 32 << 10, 256 << 10, ()),
        _cuda("sm_80", 192 << 10, 40 << 20, 108),
        _cuda("sm_89", 128 << 10, 96 << 20, 142),
        _cuda("sm_90", 256 << 10, 50 << 20, 132),
        # C for a compiler that is not here: its channels lie in fours, and what is a vector elsewhere is a loop.
        Target("c", "c", "generic", (), 128, 16, 16 << 10, 128 << 10, ()),
        # A microcontroller: 32 registers of one float32, no second-level cache.
        Target(
            "cortex-m7", "thumbv7em-none-eabihf", "cortex-m7", (), 128, 8, 16 << 10, 16 << 10, (), fma_per_cycle=0.25
        ),
    )
}
"""Every target but `native`, by name."""


def find(name: str | Target) -> Target:
    """The target called `name`; raises S0801 for an unknown one, S0802 where `native` is no machine in the table."""
    if isinstance(name, Target):
        return name
    if name == "native":
        return native()
    if not isinstance(name, str):
        note = "what stands behind the graph is the target; weights are given by name, as `weights=...`"
        raise error("S0801", f"a target is called by its name, and this is a {type(name).__name__}", notes=(note,))
    if name not in TARGETS:
        known = ["native", *TARGETS]
        raise error(
            "S0801", f"there is no target `{name}`; there are {', '.join(known)}", notes=did_you_mean(name, known)
        )
    return TARGETS[name]


def native() -> Target:
    """This machine: the widest target of the table that it can run, with its own cache sizes."""
    architecture, features = platform.machine(), cpu_features()
    fitting = [t for t in TARGETS.values() if t.architecture == architecture and features.issuperset(t.requires)]
    if not fitting:
        raise error(
            "S0802",
            f"no target fits this machine, an {architecture} without the vector extensions of "
            + ", ".join(name for name, target in TARGETS.items() if target.requires),
            notes=("name the machine that the artifact is for with --target",),
        )
    widest = max(fitting, key=lambda t: (t.vector_bits, t.vector_registers, len(t.requires)))
    sizes = _cache_sizes()
    return replace(widest, l1_bytes=sizes.get("1", widest.l1_bytes), l2_bytes=sizes.get("2", widest.l2_bytes))


def missing_features(architecture: str, requires: tuple[str, ...]) -> tuple[str, ...]:
    """What this machine lacks to run code for `architecture` that needs the features `requires`; empty: it can."""
    if platform.machine() != architecture:
        return (architecture,)
    return tuple(sorted(set(requires) - cpu_features()))


def shortfall(architecture: str, requires: tuple[str, ...]) -> str:
    """`is another processor`, `lacks avx512f`, or nothing: what keeps this machine from running such code."""
    missing = missing_features(architecture, requires)
    if not missing:
        return ""
    return "is another processor" if missing == (architecture,) else f"lacks {', '.join(missing)}"


@cache
def cpu_features() -> frozenset[str]:
    """The CPU features that the system reports for this machine, and lets this process use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            found = frozenset(value.split()) | _vector_length()
            return found if "amx_tile" not in found or _tiles_permitted() else found - _TILES
        if key.strip() == "isa":  # of RISC-V, such as rv64imafdcv_zicsr: letters, then words
            letters, *words = value.strip().split("_")
            return frozenset((*letters.removeprefix("rv64"), *words))
    return frozenset()


_TILES = frozenset(("amx_tile", "amx_int8", "amx_bf16"))
_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18


def _tiles_permitted() -> bool:
    """Asks Linux for the registers of AMX: it gives them to processes that have asked (Linux 5.16 and later)."""
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0)


def _vector_length() -> frozenset[str]:
    """`sve256` where SVE's vectors, whose length the system sets, have 256 bits at least."""
    try:
        length = int(Path("/proc/sys/abi/sve_default_vector_length").read_text())
    except (OSError, ValueError):
        return frozenset()
    return frozenset(("sve256",)) if 8 * length >= 256 else frozenset()


def _cache_sizes() -> Mapping[str, int]:
    """The sizes in bytes of the first core's data caches, by level, as far as the system tells them."""
    sizes: dict[str, int] = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and level in ("1", "2") and size.endswith("K"):
            sizes[level] = int(size[:-1]) << 10
    return sizes
