"""How much memory a piece of work takes at its peak, beyond what the process holds when it begins (Linux).

    growth = Growth()
    work()
    growth.peak()        # bytes, or None where the system does not say

It is the resident memory that grows: pages that are allocated and never touched do not count, and neither do pages of
files (code, mapped weights). What is free in the C library's heap is given back first: it would hide what is taken of
it. The peak comes from the kernel, which forgets the former one on request (proc(5), clear_refs).
"""

from __future__ import annotations

import ctypes
from pathlib import Path

_SELF = Path("/proc/self")


class Growth:
    """Begins where it is made."""

    def __init__(self) -> None:
        self._start: dict[str, int] | None = None
        try:
            ctypes.CDLL(None).malloc_trim(0)
            (_SELF / "clear_refs").write_text("5")
            self._start = _status()
        except (OSError, AttributeError, KeyError):  # another system, or one that does not tell
            pass

    def peak(self) -> int | None:
        """Bytes at the peak since the start, beyond those at the start."""
        if self._start is None:
            return None
        now = _status()
        files = sum(now[key] - self._start[key] for key in ("RssFile", "RssShmem"))
        return max(now["VmHWM"] - self._start["VmRSS"] - files, 0)


def _status() -> dict[str, int]:
    """The sizes in /proc/self/status, in bytes."""
    lines = (line.split() for line in (_SELF / "status").read_text().splitlines())
    found = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}
    return {key: found[key] for key in ("VmHWM", "VmRSS", "RssFile", "RssShmem")}
