"""Where the numbers of a profile come from: the artifact, the machine, the moment and the command."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from specc.manifest import Size
from specc.profile import Profile
from specc.runtime import Artifact
from specc.waterline import gaps
from specc.waterline.axes import amount
from specc.waterline.gaps import Blocks


@dataclass(frozen=True)
class Origin:
    """The network; in a line and in several, by what they say, where the numbers come from; and the spec's blocks."""

    network: str
    summary: str
    facts: Mapping[str, str]
    blocks: Blocks


def origin(artifact: Artifact, size: Size, path: str | Path, found: Profile, command: str) -> Origin:
    """What is to be said of `found`, which was measured just now of the artifact at `path`, at one of its sizes."""
    manifest, facts = artifact.manifest, artifact.manifest.facts
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    roofs = found.roofs
    cached = ", ".join(f"{rate / 1e9:.0f} GB/s for {amount(size, 'B')} again and again" for size, rate in roofs.cached)
    lines = {
        "Command": command,
        "Date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "Artifact": f"{Path(path).name}, {amount(os.path.getsize(path), 'B')}, BLAKE2b-128 {digest}",
        "Compiled": f"by specc {manifest.specc} at -O{facts['level']} for {manifest.machine.target}",
        "Inputs": ", ".join(map(str, size.inputs)) or "none",
        "Machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores for this process",
        "Threads": str(found.threads),
        "Other load": f"{os.getloadavg()[0]:.1f} programs at work on average in the last minute, this one among them",
        "Roofs": f"{gaps.roofs(found)}; {roofs.bytes / 1e9:.1f} GB/s from memory, {cached}",
        "Memory": f"{amount(size.facts['memory']['arena'], 'B')} for the tensors between kernels",
    }
    threads = f"{found.threads} thread{'s' * (found.threads > 1)}"
    summary = (
        f"{lines['Machine'].partition(',')[0]}, {threads}, compiled for {manifest.machine.target}, {lines['Date']}"
    )
    return Origin(manifest.network, summary, lines, facts["spec"]["blocks"])


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()
