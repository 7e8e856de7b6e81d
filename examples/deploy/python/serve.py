"""A web service around an artifact: an image comes in, and classes go out. It needs numpy and specc's runtime alone.

    python examples/deploy/python/serve.py digits.artifact --port 8000
    curl --data-binary @digits/sample/image.bin -H 'Content-Type: application/octet-stream' localhost:8000/classify

    GET  /          what the network takes and gives
    GET  /health    whether it serves
    POST /classify  the image as application/json ({"image": [[...]]}), as application/x-npy (what numpy.save writes) or
                    as application/octet-stream (dense, little-endian); answers {"class": 7, "probability": 0.98, ...}

What is wrong with a request is answered with a status of 400 and more, and {"error": "..."}. Before it serves, it opens
the artifact, with all its checks, and passes its self-test: the first request is as fast as any other. SIGTERM and
Ctrl-C end it when the requests that have come are answered.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from specc import runtime
from specc.diagnostics import SpeccError
from specc.ir.array import Array
from specc.manifest import TensorSpec


class Refused(Exception):
    """A request that is wrong, and the status of the answer."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = status


# ---- the body of a request -> the image ------------------------------------------------------------------------------


def from_json(body: bytes, spec: TensorSpec) -> Array:
    """The image from {"image": nested lists of numbers}, under the name that the network gives it."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise Refused(f"the body is no JSON: {problem}") from None
    if not isinstance(value, dict) or set(value) != {spec.name}:
        raise Refused(f'the body is an object with one member, "{spec.name}"')
    try:
        array = np.array(value[spec.name])
    except (ValueError, OverflowError, RecursionError):
        raise Refused(f"`{spec.name}` has rows of unequal lengths, or too many dimensions") from None
    if array.dtype.kind not in "iuf":
        raise Refused(f"`{spec.name}` is made of lists of numbers")
    return array.astype(spec.dtype)


def from_npy(body: bytes, spec: TensorSpec) -> Array:
    """The image from what `numpy.save` writes; neither unpickled nor allocated on the header's word alone."""
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(body) - file.tell():
            raise ValueError("its length is not what its header says")
        array: Array = np.load(io.BytesIO(body), allow_pickle=False)
    except Exception as problem:  # what a damaged header raises, numpy does not say
        raise Refused(f"the body is no array of numpy's: {problem}") from None
    if array.dtype.kind not in "iuf":
        raise Refused(f"`{spec.name}` is {spec.dtype}, not {array.dtype}")
    return array.astype(spec.dtype)


def from_bytes(body: bytes, spec: TensorSpec) -> Array:
    """The image from its elements, one behind the other."""
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    expected = math.prod(spec.shape) * dtype.itemsize
    if len(body) != expected:
        raise Refused(f"the body has {len(body)} bytes, and {spec} takes {expected}")
    return np.frombuffer(body, dtype).reshape(spec.shape).astype(spec.dtype)


FORMS = {"application/json": from_json, "application/x-npy": from_npy, "application/octet-stream": from_bytes}


# ---- the network -----------------------------------------------------------------------------------------------------


class Classifier:
    """A network from one image to scores, in so many instances: as many requests are computed at the same time."""

    def __init__(self, path: str, instances: int, threads: int, signed_by: str | None = None) -> None:
        opened = [runtime.open(path, threads, signed_by) for _ in range(instances)]
        self.manifest = opened[0].manifest
        if len(self.manifest.inputs) != 1 or len(self.manifest.outputs) != 1:
            raise SystemExit(f"{path}: {opened[0]} does not go from one image to scores")
        (self.image,) = self.manifest.inputs
        self._free: queue.SimpleQueue[runtime.Artifact] = queue.SimpleQueue()
        for artifact in opened:
            artifact.self_test()
            self._free.put(artifact)

    def about(self) -> dict[str, Any]:
        """What the network takes and gives."""
        (scores,) = self.manifest.outputs
        return {"network": self.manifest.network, "input": str(self.image), "output": str(scores)}

    def __call__(self, image: Array) -> dict[str, Any]:
        """The class with the greatest score, and the probabilities of all."""
        missing = len(self.image.shape) - image.ndim
        if missing > 0 and image.shape == self.image.shape[missing:] and set(self.image.shape[:missing]) == {1}:
            image = image.reshape(self.image.shape)  # without the dimension of the batch, for one
        if not np.isfinite(image).all():
            raise Refused(f"`{self.image.name}` has elements that are infinite or no numbers")
        artifact = self._free.get()
        try:
            start = time.perf_counter()
            (scores,) = artifact(image)
            milliseconds = (time.perf_counter() - start) * 1e3
        except SpeccError as problem:  # another shape, for one
            raise Refused(problem.diagnostics[0].message) from None
        finally:
            self._free.put(artifact)
        weights = np.exp(scores.ravel().astype(np.float64) - scores.max())
        probabilities = weights / weights.sum()
        best = int(probabilities.argmax())
        return {
            "class": best,
            "probability": float(probabilities[best]),
            "probabilities": probabilities.tolist(),
            "milliseconds": milliseconds,
        }


# ---- the service -----------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """One thread for each connection; `close_gracefully` answers what has come, and ends."""

    daemon_threads = False

    def __init__(self, address: tuple[str, int], classifier: Classifier) -> None:
        self.classifier = classifier
        self.most = 16 * math.prod(classifier.image.shape) * np.dtype(classifier.image.dtype).itemsize + 4096
        self.connections: set[socket.socket] = set()
        super().__init__(address, Handler)

    def close_gracefully(self) -> None:
        """Takes no more connections, answers the requests that are on their way, and returns when all is done."""
        self.shutdown()
        for connection in list(self.connections):
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RD)  # who waits for a further request finds the end of them
        self.server_close()  # waits for the threads


class Handler(BaseHTTPRequestHandler):
    """The requests of one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        """What the network is."""
        if self.path == "/":
            self._answer(HTTPStatus.OK, self.server.classifier.about())
        elif self.path == "/health":
            self._answer(HTTPStatus.OK, {"status": "ok"})
        else:
            self._refuse(Refused(f"there is no {self.path}", HTTPStatus.NOT_FOUND))

    def do_POST(self) -> None:
        """An image, to be classified."""
        try:
            if self.path != "/classify":
                raise Refused(f"there is no {self.path} to post to", HTTPStatus.NOT_FOUND)
            kind = self.headers.get_content_type()
            if kind not in FORMS:
                raise Refused(f"an image is {', '.join(FORMS)}, not {kind}", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
            image = FORMS[kind](self._body(), self.server.classifier.image)
            self._answer(HTTPStatus.OK, self.server.classifier(image))
        except Refused as problem:
            self._refuse(problem)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise Refused("the request does not say how long it is", HTTPStatus.LENGTH_REQUIRED)
        if int(length) > self.server.most:
            message = f"{length} bytes are more than an image takes (at most {self.server.most})"
            raise Refused(message, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise Refused(f"the request ends after {len(body)} of {length} bytes")
        return body

    def _refuse(self, problem: Refused) -> None:
        self.close_connection = True  # the body may not have been read
        self._answer(problem.status, {"error": str(problem)})

    def _answer(self, status: HTTPStatus, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: Any) -> None:
        """One line for each request, on stderr."""
        print(f"{self.client_address[0]} {format % values}", file=sys.stderr)


def main(words: Sequence[str] | None = None) -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--instances", type=int, default=2, help="requests that are computed at the same time")
    parser.add_argument("--threads", type=int, default=1, help="of each instance")
    parser.add_argument("--require-signature", metavar="PEM", help="the public key that the artifact is signed with")
    options = parser.parse_args(words)
    try:
        classifier = Classifier(options.artifact, options.instances, options.threads, options.require_signature)
    except SpeccError as problem:
        raise SystemExit(problem.render()) from None
    server = Server((options.host, options.port), classifier)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    print(f"{classifier.manifest.network} is served at http://{options.host}:{server.server_port}/", flush=True)
    stop.wait()
    server.close_gracefully()
    thread.join()
    print("all requests are answered", flush=True)


if __name__ == "__main__":
    main()
