"""Sums over the calls of a run: by kernel and by block of the spec; and the kernel to look at first, with the reason.

A kernel's gap is its time beyond the ideal one, summed over its calls: what there is to win. A block's sums are those
of all calls below it; a call belongs to the innermost block that its path names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from specc.profile import KernelTime, Profile
from specc.waterline.axes import duration

BRIEF = 15.0
"""Microseconds: a call as brief is mostly begun and ended. Waking the threads and meeting at the end takes 2 to 5."""

NEAR = 0.8
"""The share of a roof from which on a kernel counts as near it."""

FAR = 0.25
"""The share of a roof below which a kernel is far from it: moving fewer bytes would not make it faster."""


@dataclass(frozen=True)
class Sum:
    """The calls of a kernel or of a block, by their numbers in the run, and their sums; times in microseconds."""

    numbers: tuple[int, ...]
    calls: tuple[KernelTime, ...]

    @property
    def microseconds(self) -> float:
        return sum(call.microseconds for call in self.calls)

    @property
    def ideal(self) -> float:
        return sum(call.ideal for call in self.calls)

    @property
    def gap(self) -> float:
        return sum(call.gap for call in self.calls)

    @property
    def operations(self) -> int:
        return sum(call.operations for call in self.calls)

    @property
    def bytes(self) -> int:
        return sum(call.bytes for call in self.calls)

    @property
    def share(self) -> float:
        """Of the roofline."""
        return self.ideal / self.microseconds if self.microseconds else 0.0

    @property
    def operators(self) -> str:
        """What the first call computes, as its operators' names."""
        return str(self.calls[0].about["operators"])


def by_kernel(calls: Sequence[KernelTime]) -> list[Sum]:
    """The kernels, that with the largest gap first; among equals, that which takes longest."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, call in enumerate(calls):
        numbers[call.kernel].append(number)
    sums = [Sum(tuple(some), tuple(calls[i] for i in some)) for some in numbers.values()]
    return sorted(sums, key=lambda kernel: (-kernel.gap, -kernel.microseconds))


# ---- blocks ---------------------------------------------------------------------------------------------------------

Blocks = Mapping[str, Sequence[str]]
"""For the path of each call of a block: its name, and where it is called, as file:line. The network is ""."""


@dataclass
class Block:
    """A block of the spec and all calls below it. `name` and `place` are empty where the spec calls no block."""

    path: str
    label: str
    name: str = ""
    place: str = ""
    total: Sum = field(default_factory=lambda: Sum((), ()))
    inner: list[Block] = field(default_factory=list)

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Block]]:
        """This block and all below it, each with its depth, in the order of the network."""
        yield depth, self
        for block in self.inner:
            yield from block.walk(depth + 1)


def by_block(calls: Sequence[KernelTime], blocks: Blocks, network: str) -> Block:
    """The tree of the blocks that have calls, below the network itself."""
    members: dict[str, list[int]] = defaultdict(list)
    tree: dict[str, Block] = {}

    def made(path: str) -> Block:
        if path in tree:
            return tree[path]
        name, place = blocks.get(path, ("", ""))
        above = _parent(path)
        tree[path] = block = Block(path, network if not path else path[len(above) :].lstrip("."), name, place)
        if path:
            made(above).inner.append(block)
        return block

    made("")
    for number, call in enumerate(calls):
        path = home(call.path, blocks)
        made(path)
        while True:
            members[path].append(number)
            if not path:
                break
            path = _parent(path)
    for path, block in tree.items():
        block.total = Sum(tuple(members[path]), tuple(calls[number] for number in members[path]))
    return tree[""]


def home(path: str, blocks: Blocks) -> str:
    """The path of the innermost block around an operator; the operator's own where no block but the network is."""
    found = path
    while found and found not in blocks:
        found = _parent(found)
    return found or path


def place(call: KernelTime, blocks: Blocks) -> str:
    """Where in the spec the innermost block around a call is called, or its operator where there is none; or ""."""
    inside = home(call.path, blocks)
    if inside and inside in blocks:
        return str(blocks[inside][1])
    return str(call.about["place"] or "")


def _parent(path: str) -> str:
    """The path without its last name; a number belongs to the name before it."""
    parts = path.split(".")
    while parts and parts.pop().isdigit():
        pass
    return ".".join(parts)


# ---- reasons --------------------------------------------------------------------------------------------------------


def limit(kernel: Sum, profile: Profile) -> str:
    """What bounds the ideal time of a kernel: "compute" or "memory"."""
    computing = 1e6 * kernel.operations / roof(kernel, profile)
    return "compute" if computing >= 0.999 * kernel.ideal else "memory"


def roof(kernel: Sum, profile: Profile) -> float:
    """The operations in a second that are the most for factors of a kernel's type."""
    return profile.roofs.multiplying(kernel.calls[0].about["element"])


def roofs(profile: Profile) -> str:
    """The operations in a second that are the most, on float32 and on the other factors that kernels have."""
    kinds = {call.about["element"] for call in profile.calls}
    others = [f"{_rate(of, rate)} of {of}" for of, rate in profile.roofs.others if of in kinds]
    return ", ".join((_rate("float32", profile.roofs.operations), *others))


def _rate(element: str, operations: float) -> str:
    return f"{operations / 1e9:.0f} {'GOP/s' if 'int' in element else 'GFLOP/s'}"


def reason(kernel: Sum, profile: Profile) -> str:
    """What holds a kernel back, as far as a profile can tell, and what would help."""
    call, threads = kernel.calls[0], profile.threads
    bound = limit(kernel, profile)
    mean = kernel.microseconds / len(kernel.calls)
    if kernel.share >= NEAR:
        less = "fewer operations" if bound == "compute" else "fewer bytes, as fusion with a neighbour would move"
        return f"it is near its roof: only {less} would make it faster"
    if mean < BRIEF:
        return f"a call takes {mean:.0f} µs, of which beginning and ending it is a large part: fuse it with a neighbour"
    if threads > 1 and not call.about["parallel"]:
        return f"its loops are not shared out: one of {threads} threads works, the others wait"
    idle = 1 - busy(max(call.about["parallel"], default=1), threads)
    if idle >= 0.15:
        pieces = max(call.about["parallel"], default=1)
        return f"its loop has {pieces} pieces for {threads} threads, which leaves them idle {idle:.0%} of the time"
    moved = kernel.bytes / kernel.microseconds / 1e3
    done = (
        f"{kernel.operations / kernel.microseconds / 1e3:.0f} of {_rate(call.about['element'], roof(kernel, profile))}"
    )
    if bound == "compute":
        return f"computing bounds it, at {done}: another tile or template may come closer"
    if not kernel.operations:
        return (
            f"it moves {moved:.1f} GB/s without a multiply-add that is counted: fuse it with a neighbour, "
            "or its arithmetic (exponentials, comparisons, reductions) takes the time"
        )
    if kernel.share < FAR:
        return (
            f"neither computing, at {done}, nor moving data, at {moved:.1f} GB/s, explains its time: "
            "another tile or template may come closer"
        )
    return f"moving data bounds it, at {moved:.1f} GB/s: fuse it with a neighbour, so that less is moved"


def busy(pieces: int, threads: int) -> float:
    """The part of the threads' time that works, where they share out equal pieces in contiguous runs."""
    return pieces / (-(-pieces // threads) * threads)


def verdict(profile: Profile, blocks: Blocks) -> str:
    """Which kernel to look at first, and why, in a sentence or two; "" for a network without kernels."""
    kernels = by_kernel(profile.calls)
    if not kernels:
        return ""
    first = kernels[0]
    total = sum(call.microseconds for call in profile.calls)
    gaps = sum(kernel.gap for kernel in kernels)
    if not gaps:
        return "No kernel takes longer than its operations and bytes allow: there is no gap to close."
    worst = max(first.calls, key=lambda call: call.gap)
    where = place(worst, blocks)
    calls = f"{len(first.calls)} calls, most in `{worst.path}`" if len(first.calls) > 1 else f"`{worst.path}`"
    at = f"{calls}, {where}" if where else calls
    return (
        f"Look first at {first.operators} ({at}): {first.microseconds / total:.0%} of the time, and "
        f"{duration(first.gap)} of the {duration(gaps)} that all kernels take beyond their ideal time; "
        f"{reason(first, profile)}."
    )
