"""examples/deploy/python: a web service that computes with the runtime alone."""

from __future__ import annotations

import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specc import runtime

SOURCE = Path(__file__).parents[2] / "examples" / "deploy" / "python" / "serve.py"
WITHOUT = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "tvm", "tvm_ffi", "networkx", "lark"):
            raise ImportError(name + " is refused")

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a program in a process in which the compiler and PyTorch cannot be imported."""


@dataclass
class Service:
    process: subprocess.Popen[str]
    port: int

    def ask(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json", **headers: str
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, {"Content-Type": kind, **headers})
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found


def start(artifact: Path, *words: str) -> Service:
    command = [sys.executable, "-c", WITHOUT, str(SOURCE), str(artifact), "--port", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    line = process.stdout.readline()
    found = re.fullmatch(r"Digits is served at http://127\.0\.0\.1:(\d+)/\n", line)
    assert found, line
    return Service(process, int(found[1]))


@pytest.fixture(scope="module")
def service(digits_artifact: Path) -> Iterator[Service]:
    found = start(digits_artifact)
    yield found
    found.process.terminate()
    assert found.process.wait(30) == 0


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def test_every_form_of_an_image_gives_the_network_s_answer(service: Service, trained, digits_artifact: Path) -> None:
    artifact = runtime.open(digits_artifact, 1)
    for image in trained.samples[:3]:
        scores = artifact(image)[0].ravel().astype("float64")
        expected = np.exp(scores) / np.exp(scores).sum()
        forms = {
            "application/json": json.dumps({"image": image[0, 0].tolist()}).encode(),
            "application/json; charset=utf-8": json.dumps({"image": image.tolist()}).encode(),
            "application/x-npy": npy(image.astype("float64")[0]),
            "application/octet-stream": image.tobytes(),
        }
        for kind, body in forms.items():
            status, answer = service.ask("POST", "/classify", body, kind)
            assert status == 200, answer
            assert answer["class"] == expected.argmax()
            assert np.abs(np.array(answer["probabilities"]) - expected).max() < 1e-6
            assert answer["probability"] == max(answer["probabilities"])
            assert answer["milliseconds"] > 0


def test_it_says_what_it_is(service: Service) -> None:
    assert service.ask("GET", "/health") == (200, {"status": "ok"})
    expected = {"network": "Digits", "input": "image: float32[1, 1, 8, 8]", "output": "output: float32[1, 10]"}
    assert service.ask("GET", "/") == (200, expected)


IMAGE = np.zeros((1, 1, 8, 8), "float32")
LYING = npy(np.zeros(4, "float32")).replace(b"(4,)", b"(99999999999,)")
JSON, NPY, RAW = "application/json", "application/x-npy", "application/octet-stream"


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        (JSON, b"{", 400, "no JSON"),
        (JSON, b"\xff\xfe\xfd", 400, "no JSON"),
        (JSON, b"[" * 4000, 400, "no JSON"),
        (JSON, b"[]", 400, 'one member, "image"'),
        (JSON, b'{"picture": [1]}', 400, 'one member, "image"'),
        (JSON, b'{"image": [[1, 2], [3]]}', 400, "unequal lengths"),
        (JSON, b'{"image": "seven"}', 400, "lists of numbers"),
        (JSON, b'{"image": [true]}', 400, "lists of numbers"),
        (JSON, b'{"image": [[1, 2], [3, 4]]}', 400, "takes the shape [1, 1, 8, 8], not [2, 2]"),
        (JSON, json.dumps({"image": [[float("nan")] * 8] * 8}).encode(), 400, "no numbers"),
        (NPY, b"not numpy's", 400, "no array of numpy's"),
        (NPY, npy(IMAGE)[:-1], 400, "its length is not what its header says"),
        (NPY, LYING, 400, "its length is not what its header says"),
        (NPY, npy(np.array([{}])), 400, "its length is not what its header says"),
        (NPY, npy(np.zeros((8, 8), "complex64")), 400, "is float32, not complex64"),
        (NPY, npy(np.zeros((2, 1, 8, 8), "float32")), 400, "not [2, 1, 8, 8]"),
        (RAW, IMAGE.tobytes()[4:], 400, "has 252 bytes"),
        (RAW, b"", 400, "has 0 bytes"),
        (RAW, bytes(100_000), 413, "more than an image takes"),
        ("image/png", b"\x89PNG", 415, "not image/png"),
    ],
)
def test_what_is_wrong_is_refused_with_a_reason(
    service: Service, kind: str, body: bytes, status: int, message: str
) -> None:
    found, answer = service.ask("POST", "/classify", body, kind)
    assert found == status
    assert set(answer) == {"error"}
    assert message in answer["error"]


def test_other_paths_and_lengths(service: Service) -> None:
    assert service.ask("GET", "/classify")[0] == 404
    assert service.ask("POST", "/", b"{}")[0] == 404
    assert service.ask("POST", "/classify", b"", RAW, **{"Content-Length": "-1"})[0] == 411


def test_many_at_once(service: Service, trained) -> None:
    expected = [service.ask("POST", "/classify", image.tobytes(), RAW)[1]["probabilities"] for image in trained.samples]
    wrong: list[int] = []

    def work(number: int) -> None:
        for digit in [*range(number, 10), *range(number)]:
            _, answer = service.ask("POST", "/classify", trained.samples[digit].tobytes(), RAW)
            if answer.get("probabilities") != expected[digit]:
                wrong.append(digit)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_neither_torch_nor_tvm_is_in_its_process(service: Service, trained) -> None:
    """Nor could they be imported: see `WITHOUT`."""
    assert service.ask("POST", "/classify", trained.samples[0].tobytes(), RAW)[0] == 200
    files = {Path(line.split()[-1]).name for line in Path(f"/proc/{service.process.pid}/maps").read_text().splitlines()}
    assert any(name.startswith("_multiarray_umath") for name in files)  # the list is that of the right process
    assert not [name for name in files if re.match(r"lib(torch|tvm|c10|mlc|LLVM)", name)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_what_has_come_is_answered(digits_artifact: Path, number: int) -> None:
    service = start(digits_artifact)
    idle = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    idle.request("GET", "/health")
    assert idle.getresponse().read()  # it stays open, for a further request
    body = IMAGE.tobytes()
    head = f"POST /classify HTTP/1.1\r\nContent-Type: {RAW}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(head + body)
        assert connection.recv(12) == b"HTTP/1.1 200"
        service.process.send_signal(number)
        assert service.process.wait(20) == 0
    assert service.process.stdout and service.process.stdout.read() == "all requests are answered\n"
    idle.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", service.port), timeout=5)


def test_what_is_no_artifact_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("nothing")
    command = [sys.executable, str(SOURCE), str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error[S0901]: ")
    assert "Traceback" not in done.stderr
