"""Tuning records: a file of lines, each what was measured of one configuration of one kernel for one target.

    {"specc_tuning": 1, "target": "x86-64-v4", "kernel": "conv2d_relu_5d0c...", "configuration": {"tile": "9x3", ...},
     "better": true, "ratio": 0.91, "microseconds": 84.1, "threads": 2, "machine": "..."}

A kernel's name ends in the digest of all that it computes, so a record holds in every network with that kernel. Of the
records that are `better`, the last one for a kernel and a target counts, unless a later one takes it back. Lines are
only ever added: files are merged by writing one behind the other, and what an interrupted run has measured is in the
file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specc import cache
from specc.diagnostics import SpeccError, error
from specc.files import check_regular

VERSION = 1
NONE = "none"
"""In place of a file: no records at all."""

Configuration = Mapping[str, bool | int | str]


@dataclass(frozen=True)
class Record:
    """What one configuration of one kernel took.

    `better`: it was faster than the best one before in two measurements. `ratio` is its time as a part of that of the
    cost model's configuration, measured side by side; None where it failed. `microseconds` is for all calls of the
    kernel in a run of the network that was tuned, by `threads` threads of `machine`.
    """

    target: str
    kernel: str
    configuration: Configuration
    better: bool
    ratio: float | None
    microseconds: float | None
    threads: int
    machine: str

    def line(self) -> str:
        """The record as a line of the file."""
        return json.dumps({"specc_tuning": VERSION, **asdict(self)}, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Records:
    """All records of a file, in order: of two about one configuration, the later one holds."""

    records: tuple[Record, ...] = ()

    def best(self, target: str) -> dict[str, Configuration]:
        """The configuration that counts, by the name of its kernel."""
        found: dict[str, Configuration] = {}
        for record in self.tried(target):
            if record.better:
                found[record.kernel] = record.configuration
            elif found.get(record.kernel) == record.configuration:
                del found[record.kernel]
        return found

    def tried(self, target: str) -> Iterable[Record]:
        """What was measured for a target."""
        return (record for record in self.records if record.target == target)


def place(given: str | Path | None) -> Path | None:
    """The file of records that a command uses: `given`, else SPECC_TUNING, else one beside the cache; None: none."""
    chosen = os.fspath(given) if given is not None else os.environ.get("SPECC_TUNING") or None
    if chosen == NONE:
        return None
    if chosen is not None:
        return Path(chosen)
    try:
        return cache.root() / "tuning.jsonl"
    except RuntimeError:  # there is no home
        return None


def find(given: str | Path | None) -> Records:
    """The records that a compilation uses; `given` as for `place`.

    Raises S1201 where a file that is named is not there, S1202 for one that holds anything but records.
    """
    path = place(given)
    if path is None or (given is None and not path.exists()):
        return Records()
    return read(path)


def read(path: Path) -> Records:
    """The records of a file; raises S1201 and S1202, one message for each bad line.

    What stands behind the last end of a line was being written when its writer was stopped, and is no record.
    """
    try:
        check_regular(path)
        text = path.read_bytes()
    except OSError as problem:
        raise error("S1201", f"{path} cannot be read: {problem.strerror or problem}") from None
    found, problems = [], []
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        if not line.strip():
            continue
        try:
            found.append(_record(line))
        except ValueError as problem:
            problems.append((number, str(problem)))
    if problems:
        raise _damaged(path, problems)
    if text and not found and b"\n" not in text:
        raise _damaged(path, [(1, "it is no line of JSON")])
    return Records(tuple(found))


_MOST = 5
"""Bad lines that are told one by one."""


def _damaged(path: Path, problems: list[tuple[int, str]]) -> SpeccError:
    notes = [f"line {number}: {problem}" for number, problem in problems[:_MOST]]
    if len(problems) > _MOST:
        notes.append(f"and {len(problems) - _MOST} lines more")
    remedy = "take these lines out, or name another file with --tuning; --tuning none does without"
    return error("S1202", f"{path} holds what is no tuning record", notes=(*notes, remedy))


def _record(line: bytes) -> Record:
    """The record of a line; raises ValueError with the reason where it is none."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is no line of JSON") from None
    if not isinstance(fields, dict) or "specc_tuning" not in fields:
        raise ValueError("it is no tuning record")
    version = fields.pop("specc_tuning")
    if version != VERSION:
        raise ValueError(f"it has the version {json.dumps(version)[:20]}, and this specc reads {VERSION}")
    for name, holds in _FIELDS.items():
        if name not in fields:
            raise ValueError(f"it lacks `{name}`")
        if not holds(fields[name]):
            raise ValueError(f"`{name}` is {json.dumps(fields[name])[:40]}")
    return Record(**{name: fields[name] for name in _FIELDS})


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "target": lambda value: isinstance(value, str),
    "kernel": lambda value: isinstance(value, str),
    "configuration": lambda value: isinstance(value, dict) and all(type(v) in (bool, int, str) for v in value.values()),
    "better": lambda value: isinstance(value, bool),
    "ratio": lambda value: value is None or _positive(value),
    "microseconds": lambda value: value is None or _positive(value),
    "threads": lambda value: type(value) is int and value > 0,
    "machine": lambda value: isinstance(value, str),
}


class Log:
    """A file of records that grows. Each record is written at once and whole, so that several processes may share it.

    Raises S0002 where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            end = os.lseek(self._file, 0, os.SEEK_END)
            if end and os.pread(self._file, 1, end - 1) != b"\n":  # a writer was stopped in the middle of a line
                whole = os.pread(self._file, end, 0).rfind(b"\n") + 1
                os.ftruncate(self._file, whole)
        except OSError as problem:
            raise self._refused(problem) from None

    def add(self, record: Record) -> None:
        """Writes one record at the end."""
        try:
            os.write(self._file, record.line().encode())
        except OSError as problem:
            raise self._refused(problem) from None

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def _refused(self, problem: OSError) -> SpeccError:
        return error("S0002", f"{self.path} cannot be written: {problem.strerror or problem}")
