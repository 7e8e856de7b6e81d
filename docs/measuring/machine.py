"""The machine that results are of: described as the system tells it, and named so that its results find each other.

What a processor calls itself may say little (`Intel(R) Xeon(R) Processor`), and behind a hypervisor its family, model
and stepping may be those of another one. So the name holds all that tells machines apart, and the description the
features that kernels use.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

FEATURES = ("avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16")
"""What matters to kernels, in /proc/cpuinfo's words."""
_VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}
_CALLED = {
    **dict.fromkeys((("Intel", 6, 85, stepping) for stepping in (5, 6, 7)), "Cascade Lake"),
    **dict.fromkeys((("Intel", 6, 143, stepping) for stepping in range(16)), "Sapphire Rapids"),
    **dict.fromkeys((("Intel", 6, 173, stepping) for stepping in range(16)), "Granite Rapids"),
}
"""Intel's names for vendor, family, model and stepping, as far as they are the processor's own."""


@dataclass(frozen=True)
class Machine:
    """A processor, the cores of it that a process may use, and the cache and the `FEATURES` that the system tells."""

    processor: str
    vendor: str
    family: int
    model: int
    stepping: int
    cores: int
    cache_kb: int
    features: tuple[str, ...]

    @property
    def name(self) -> str:
        """What its files are called: `intel-6-85-7-2.50ghz-2-cores`."""
        parts = [self.vendor.lower(), self.family, self.model, self.stepping, self.clock.lower()]
        parts += ["amx" * self.has("amx_tile"), self.cores, "cores" if self.cores > 1 else "core"]
        return "-".join(str(part) for part in parts if part != "")

    @property
    def title(self) -> str:
        """What people call it: `Cascade Lake at 2.50GHz`, `Intel 6-167-1 with AMX`."""
        numbers = (self.family, self.model, self.stepping)
        called = _CALLED.get((self.vendor, *numbers), f"{self.vendor} {'-'.join(map(str, numbers))}")
        return called + f" at {self.clock}" * bool(self.clock) + " with AMX" * self.has("amx_tile")

    @property
    def clock(self) -> str:
        """What its name says of the clock, such as `2.50GHz`; often nothing."""
        found = re.search(r"@ ([\d.]+GHz)", self.processor)
        return found[1] if found else ""

    def has(self, feature: str) -> bool:
        """Whether it has one of `FEATURES`."""
        return feature in self.features

    def __str__(self) -> str:
        model = f"family {self.family}, model {self.model}, stepping {self.stepping}"
        features = ", ".join(f"`{feature}`" for feature in self.features)
        about = f"{self.processor} ({model}), {self.cores} virtual cores, {self.cache_kb} KB of cache"
        return f"{about}, {features}" if features else about


def here() -> Machine:
    """The machine that this process runs on."""
    return told(Path("/proc/cpuinfo").read_text(), len(os.sched_getaffinity(0)))


def told(text: str, cores: int) -> Machine:
    """The machine that a /proc/cpuinfo of x86 describes, of which a process may use so many cores."""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    vendor = facts["vendor_id"]
    flags = frozenset(facts["flags"].split())
    return Machine(
        facts["model name"],
        _VENDORS.get(vendor, vendor),
        int(facts["cpu family"]),
        int(facts["model"]),
        int(facts["stepping"]),
        cores,
        int(facts["cache size"].partition(" ")[0]),
        tuple(feature for feature in FEATURES if feature in flags),
    )


def read(path: Path) -> Machine:
    """The machine that `write` has described."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    return Machine(**{**facts, "features": tuple(facts["features"])})


def write(path: Path, machine: Machine) -> None:
    """Describes a machine in a file."""
    path.write_text(json.dumps(asdict(machine), indent=1) + "\n", encoding="utf-8")
