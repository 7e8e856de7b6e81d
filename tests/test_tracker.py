"""Tuning on machines that a tracker of TVM's lends: here a tracker and two servers on this one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from specc import grammar, records, tuning
from specc.diagnostics import SpeccError
from specc.tuning import tuner

pytestmark = pytest.mark.slow

NET = """specc 1

network Net(image: [1, 32, h = 56, w = 56]) -> [1, 48, _, _]:
    first = conv2d(image, 64, k=3, s=2)
    second = conv2d(relu(first), 48, k=3, s=2)
    return second
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Farm:
    """A tracker and two servers: processes of their own groups, each with a log."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, list[subprocess.Popen[bytes]]()
        self.port = free_port()
        self.tracker = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Farm:
        return self

    def start(self) -> None:
        self._start("tracker", "rpc_tracker", self.port)
        self._wait(lambda: "bind to" in self.log("tracker"))
        for name in ("one", "two"):
            self._start(name, "rpc_server", free_port(), "--tracker", self.tracker, "--key", "board")
        self._wait(lambda: len(self._servers()) == 2)

    def _start(self, name: str, program: str, port: int, *options: str) -> None:
        ports = ("--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1))
        with open(self.folder / name, "wb") as log:
            command = [sys.executable, "-m", f"tvm.exec.{program}", *ports, *options]
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

    def _servers(self) -> list[object]:
        from tvm import rpc

        host, port = self.tracker.split(":")
        found: list[object] = rpc.connect_tracker(host, int(port)).summary()["server_info"]
        return found

    def _wait(self, ready: object) -> None:
        assert callable(ready)
        end = time.monotonic() + 120
        while not ready():
            assert time.monotonic() < end, {name: self.log(name) for name in os.listdir(self.folder)}
            time.sleep(0.5)

    def log(self, name: str) -> str:
        return (self.folder / name).read_text()

    def __exit__(self, *problem: object) -> None:
        for process in self.processes:
            os.killpg(process.pid, signal.SIGKILL)  # with what the process has started: it would keep the port
            process.wait()


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    pytest.importorskip("tornado", reason="TVM's tracker needs it")
    pytest.importorskip("psutil", reason="TVM's servers need it")
    with Farm(tmp_path_factory.mktemp("farm")) as started:
        started.start()
        yield started


def test_two_machines_tune_one_network(farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "WIDTH", 6)
    monkeypatch.setattr(tuner, "ROUND_SECONDS", 0.5)
    monkeypatch.setattr(tuner, "LAST_SECONDS", 0.5)
    path = tmp_path / "records"
    outcome = tuning.tune(grammar.loads(NET), tuning=path, trials=24, threads=1, tracker=farm.tracker, key="board")
    assert outcome.tried == 24 and outcome.failed == 0 and outcome.threads == 1
    found = records.read(path).records
    assert len({(r.kernel, *sorted(r.configuration.items())) for r in found}) == 24
    assert {r.machine for r in found} == {f"board of {farm.tracker}"}
    assert all(farm.log(name).count("load_module") >= 3 for name in ("one", "two")), "both were used"


def test_a_key_that_nobody_has(farm: Farm, tmp_path: Path) -> None:
    with pytest.raises(SpeccError, match="S1204") as caught:
        tuning.tune(grammar.loads(NET), tuning=tmp_path / "records", tracker=farm.tracker, key="phone")
    assert caught.value.diagnostics[0].notes == ("it has board",)
