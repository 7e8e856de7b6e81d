"""Measuring variants of a network: each is a library with other kernels; all run in turns, timed call by call.

A kernel is measured where it will run: in its network, its operands left by the kernels before it, its weights as far
away as they are then, by the driver and the threads of the artifact. Variants take turns in changing order, so that
what else happens on the machine meets all alike. A turn is a run to warm up and a few that are timed; of these the
least time of each call is taken.

Where it happens is a process of its own, which may crash or hang without harm: one here (`Here`), or one that TVM's RPC
server starts on a board, which a tracker lends (`Boards`).
"""

from __future__ import annotations

import os
import pickle
import secrets
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from specc.diagnostics import SpeccError, error

RUNS = 3
"""Timed runs in a turn."""
LIMIT = 120.0
"""Seconds after which a job is given up, beyond what it was to take."""


@dataclass(frozen=True)
class Job:
    """What is to be measured: a library for each variant, with the file of its weights; the inputs' bytes.

    It lasts `seconds`, but at least `least` turns of every variant and at most `most`. `threads` below 1 are as many as
    there are cores.
    """

    libraries: tuple[Path, ...]
    weights: tuple[Path, ...]
    inputs: NDArray[np.uint8]
    output_bytes: int
    calls: int
    threads: int
    seconds: float
    least: int
    most: int


@dataclass(frozen=True)
class Times:
    """`seconds[v, t, c]` is what call c took in turn t of variant v; `outputs[v]` the bytes of its outputs."""

    seconds: NDArray[np.float64]
    outputs: tuple[NDArray[np.uint8], ...]
    threads: int


class Failed(Exception):
    """A job came to no end: the process crashed, hung, or could not be reached."""


def timed(job: Job, load: Callable[[Path], Any], device: Any) -> Times:
    """Runs a job with modules that `load` loads, on tensors of `device`."""
    import tvm

    def tensor(array: NDArray[Any]) -> Any:
        return tvm.runtime.tensor(array, device)

    functions = [load(path)["measure"] for path in job.libraries]
    weights = {path: tensor(np.fromfile(path, np.uint8)) for path in dict.fromkeys(job.weights)}
    inputs = tensor(job.inputs)
    outputs = [tensor(np.zeros(max(1, job.output_bytes), np.uint8)) for _ in functions]
    seconds = tensor(np.zeros((RUNS, max(1, job.calls))))
    found: list[list[NDArray[np.float64]]] = [[] for _ in functions]
    threads = 1
    begin = time.perf_counter()
    turn = 0
    while turn < job.least or (turn < job.most and time.perf_counter() - begin < job.seconds):
        for offset in range(len(functions)):
            number = (turn + offset) % len(functions)
            path = job.weights[number]
            status = int(functions[number](weights[path], inputs, outputs[number], seconds, RUNS, job.threads))
            if status >= 0:
                raise Failed(f"a run of the network fails with {status}")
            threads = -status
            found[number].append(seconds.numpy().min(axis=0)[: job.calls])
        turn += 1
    return Times(np.array(found), tuple(output.numpy() for output in outputs), threads)


class Here:
    """Measures on this machine, in a process that is started when it is needed and ends when this one does."""

    parallel, ahead = 1, 0
    """How many jobs can run at once; how many more may be made ready while they do."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def measure(self, job: Job) -> Times:
        """Runs a job; raises Failed."""
        process = self._process = self._process or _start()
        assert process.stdin is not None and process.stdout is not None
        try:
            _send(process.stdin, job)
            answer = _receive(process.stdout, job.seconds + LIMIT)
        except (OSError, EOFError, TimeoutError) as problem:
            self.close()
            raise Failed(str(problem) or "the process that measures has crashed") from None
        if isinstance(answer, str):
            raise Failed(answer)
        found: Times = answer
        return found

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _start() -> subprocess.Popen[bytes]:
    """The process: a session of its own, so that Ctrl-C is for this one alone."""
    command = [sys.executable, "-c", "from specc.backends.tvm import measure; measure.serve()"]
    # As in an artifact's runtime: threads that wait give up their core soon.
    environment = {"GOMP_SPINCOUNT": "1000"} | os.environ
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True, env=environment)


def serve() -> None:
    """What the process does: runs jobs until nobody asks any more."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints is no answer
    import tvm

    while True:
        try:
            job = _receive(requests)
        except EOFError:
            return
        try:
            answer: Times | str = timed(job, lambda path: tvm.runtime.load_module(str(path)), tvm.cpu())
        except Exception as problem:
            answer = str(problem)
        _send(answers, answer)


def _send(pipe: IO[bytes], value: Any) -> None:
    text = pickle.dumps(value)
    pipe.write(struct.pack("<Q", len(text)) + text)
    pipe.flush()


def _receive(pipe: IO[bytes], limit: float | None = None) -> Any:
    """The next value of a pipe; raises EOFError at its end and TimeoutError when `limit` seconds have passed."""
    end = None if limit is None else time.monotonic() + limit

    def exactly(count: int) -> bytes:
        found = b""
        while len(found) < count:
            if end is not None and not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("the process that measures hangs")
            more = os.read(pipe.fileno(), min(count - len(found), 1 << 20))
            if not more:
                raise EOFError
            found += more
        return found

    return pickle.loads(exactly(struct.unpack("<Q", exactly(8))[0]))


class Boards:
    """Measures on machines that a tracker of TVM's lends, as many at a time as it knows by the name `key`.

    Raises S1204 where the tracker cannot be reached, or knows none.
    """

    ahead = 1

    def __init__(self, tracker: str, key: str) -> None:
        self._host, self._port, self._key = *_address(tracker), key
        servers = self._tracker().summary()["server_info"]
        keys = [server["key"].removeprefix("server:") for server in servers]
        self.parallel = keys.count(key)
        if not self.parallel:
            known = ", ".join(sorted(set(keys))) or "none at all"
            raise error("S1204", f"the tracker at {tracker} has no machine `{key}`", notes=(f"it has {known}",))

    def _tracker(self) -> Any:
        from tvm import rpc

        try:
            # TVM itself would try for a minute.
            socket.create_connection((self._host, self._port), timeout=10).close()
            return rpc.connect_tracker(self._host, self._port)
        except (RuntimeError, OSError) as problem:
            where = f"{self._host}:{self._port}"
            raise error("S1204", f"the tracker at {where} cannot be reached", notes=(_first_line(problem),)) from None

    def measure(self, job: Job) -> Times:
        """Runs a job on one of the machines; raises Failed."""
        try:
            limit = int(job.seconds + LIMIT)
            session = self._tracker().request(self._key, session_timeout=limit, max_retry=2)
            return self._measure(job, session)
        except SpeccError as problem:
            raise Failed(problem.diagnostics[0].message) from None
        except (RuntimeError, OSError, ValueError) as problem:
            raise Failed(_first_line(problem)) from None

    def _measure(self, job: Job, session: Any) -> Times:
        token, sent = secrets.token_hex(6), list[str]()

        def load(path: Path) -> Any:
            name = f"specc-{token}-{len(sent)}.so"
            sent.append(name)
            session.upload(str(path), target=name)
            return session.load_module(name)

        try:
            return timed(job, load, session.cpu())
        finally:
            with suppress(Exception):
                for name in sent:
                    session.remove(name)

    def close(self) -> None:
        """Nothing stays open."""


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def _address(tracker: str) -> tuple[str, int]:
    """`HOST:PORT`; raises S1001."""
    host, colon, port = tracker.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise error("S1001", f"--tracker is `{tracker}`, and should be HOST:PORT, as in 192.168.1.5:9190")
    return host, int(port)


def packed(arrays: Sequence[NDArray[Any]], places: Sequence[int], size: int) -> NDArray[np.uint8]:
    """The bytes of `arrays`, each at its place, in `size` bytes, or one where that is none."""
    blob = np.zeros(max(1, size), np.uint8)
    for array, first in zip(arrays, places, strict=True):
        blob[first : first + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return blob
