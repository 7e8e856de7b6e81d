"""The files that the commands and scripts of this folder name: name --> how it is made.

A case that needs another file gives it a name here; `made.FILES[name](path)` writes it.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny

from specc import artifact as container
from specc import signature
from specc.manifest import Machine
from specc.weights import random_weights

Maker = Callable[[Path], object]


def write(path: str | Path) -> None:
    """Makes the file that is called as `path` is."""
    FILES[Path(path).name](Path(path))


# ---- checkpoints of `tiny.specc:small`


def weights(**changes: Any) -> dict[str, Any]:
    """Weights that fit; with `key=None` one is left out, dots of a key are written as `__`."""
    found: dict[str, Any] = dict(random_weights(tiny.graph()))
    for key, value in changes.items():
        found.pop(key.replace("__", "."), None)
        if value is not None:
            found[key.replace("__", ".")] = value
    return found


def safetensors(make: Callable[[], dict[str, Any]]) -> Maker:
    def maker(path: Path) -> None:
        from safetensors.numpy import save_file

        save_file(make(), path)

    return maker


def pickle(make: Callable[[], Any]) -> Maker:
    def maker(path: Path) -> None:
        import torch

        torch.save(make(), path)

    return maker


def _tensor() -> Any:
    import torch

    return torch.ones(2)


class Code:
    """What no checkpoint should hold."""


# ---- artifacts


@cache
def artifact() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        tiny.artifact().save(f"{folder}/tiny.artifact")
        return Path(f"{folder}/tiny.artifact").read_bytes()


def changed(change: Callable[[bytearray], Any]) -> Maker:
    """The artifact after something happened to its bytes."""

    def maker(path: Path) -> None:
        data = bytearray(artifact())
        change(data)
        path.write_bytes(data)

    return maker


def written(change: Callable[[container.Contents], container.Contents]) -> Maker:
    """An artifact that is whole, and has other contents than the compiler gives it."""
    return lambda path: container.write(path, change(tiny.artifact().contents))


def foreign(contents: container.Contents) -> container.Contents:
    machine = Machine("cortex-z1", "aarch128", ())
    return replace(contents, manifest=replace(contents.manifest, machine=machine))


def other_sample(contents: container.Contents) -> container.Contents:
    doubled = [array * np.float32(2) for array in contents.samples[0].outputs]
    return replace(contents, samples=[replace(contents.samples[0], outputs=doubled)])


def pem(seed: int, private: bool) -> Maker:
    """One half of the key that grows from `seed`."""

    def maker(path: Path) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

        key = Ed25519PrivateKey.from_private_bytes(bytes([seed] * 32))
        if private:
            path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        else:
            path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    return maker


def signed(path: Path) -> None:
    """The artifact with a signature of `private.pem`."""
    pem(1, private=True)(key := path.with_name("key"))
    container.write(path, tiny.artifact().contents, signature.signing(key))
    key.unlink()


@cache
def tokens() -> Any:
    import specc
    from specc import grammar

    text = "specc 1\nnetwork Tokens(tokens: [n = 1, l = 3] int64) -> [n, l, 4]:\n"
    return specc.compile(grammar.loads(f"{text}    table = embedding(tokens, 50, 4)\n    return table\n"))


# ---- arrays


def npz(**arrays: Any) -> Maker:
    return lambda path: np.savez(path, **arrays)


IMAGE = tiny.image()


def npy(shape: str, dtype: str = "<f4", data: bytes = b"") -> bytes:
    """One array's file, whose header says what it likes."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def zipped(members: dict[str, bytes], flags: int = 0) -> Maker:
    """A zip file; `flags` of each member say more than is true."""

    def maker(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name, data in members.items():
                file.writestr(name, data)
        data = bytearray(path.read_bytes())
        for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.find(mark) + place] |= flags
        path.write_bytes(data)

    return maker


def with_manifest(change: Callable[[bytes], bytes], digest: bool) -> Maker:
    """The artifact with its manifest edited by hand, by someone who knows of the digest or not."""

    def maker(path: Path) -> None:
        data = artifact()
        *start, length, _, found = container._HEADER.unpack(data[: container._HEADER.size])
        end = container._HEADER.size + length
        text = change(data[container._HEADER.size : end])
        head = container._HEADER.pack(*start, len(text), len(data) - length + len(text), b"")[:32]
        path.write_bytes(head + (container._digest([head, text]) if digest else found) + text + data[end:])

    return maker


def _around(path: Path) -> None:
    """The block B, which uses the file that uses it."""
    path.write_text("specc 1\nuse around_a: A\n\nblock B(x: [n, c]) -> [n, c]:\n    y = A(x)\n    return y\n")


def using(module: str) -> Maker:
    text = f"specc 1\nuse {module}: B\n\nblock A(x: [n, c]) -> [n, c]:\n    y = B(x)\n    return y\n\n"
    network = "network N(x: [n = 1, 3]):\n    y = A(x)\n    return y\n"
    return lambda path: path.write_text(text + network)


NET = '''"""Modules that `specc import` is asked for."""

import torch
from torch import nn

number = 3


def gives_a_number():
    return 3


def fails():
    raise ValueError("no such thing")


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, x):
        return self.conv(x)


class Decides(Net):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Sorts(Net):
    def forward(self, x):
        return torch.sort(self.conv(x))[0]


class Counts(Net):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls
'''

FILES: dict[str, Maker] = {
    "tiny.specc": lambda path: path.write_text(tiny.TEXT),
    "wide.specc": lambda path: path.write_text(tiny.TEXT.replace("== 317", "== 318")),
    "latin1.specc": lambda path: path.write_bytes("specc 1  # größer\n".encode("latin-1")),
    "folder.specc": lambda path: path.mkdir(),
    "folder": lambda path: path.mkdir(),
    "tiny.safetensors": safetensors(weights),
    "misnamed.safetensors": safetensors(lambda: weights(head__weight=None, haed__weight=np.ones((5, 4), "float32"))),
    "prefixed.safetensors": safetensors(lambda: {f"module.{key}": value for key, value in weights().items()}),
    "infinite.safetensors": safetensors(lambda: weights(head__bias=np.full(5, np.inf, "float32"))),
    "negative.safetensors": safetensors(lambda: weights(stem__bn__running_var=np.full(4, -1, "float32"))),
    "cut.safetensors": lambda path: path.write_bytes(struct.pack("<Q", 1000) + b'{"a": '),
    "two.pt": pickle(lambda: {"model": {"a": _tensor()}, "ema": {"a": _tensor()}}),
    "code.pt": pickle(lambda: {"model": Code()}),
    "tiny.artifact": lambda path: path.write_bytes(artifact()),
    "cut.artifact": changed(lambda data: data.__delitem__(slice(-100, None))),
    "start.artifact": changed(lambda data: data.__delitem__(slice(20, None))),
    "flipped.artifact": changed(lambda data: data.__setitem__(-1, data[-1] ^ 1)),
    "flipped_manifest.artifact": changed(lambda data: data.__setitem__(100, data[100] ^ 1)),
    "newer.artifact": changed(lambda data: struct.pack_into("<I", data, 8, container.VERSION + 1)),
    "foreign.artifact": written(foreign),
    "no_library.artifact": written(lambda contents: replace(contents, library=b"\x7fELF" + bytes(60))),
    "other_sample.artifact": written(other_sample),
    "signed.artifact": signed,
    "private.pem": pem(1, private=True),
    "public.pem": pem(1, private=False),
    "other.pem": pem(2, private=False),
    "tokens.artifact": lambda path: tokens().save(path),
    "image.npz": npz(image=IMAGE),
    "misnamed.npz": npz(imag=IMAGE),
    "misshapen.npz": npz(image=IMAGE[0]),
    "double.npz": npz(image=IMAGE.astype("float64")),
    "pickled.npz": npz(image=np.array([{}], object)),
    "empty.npz": npz(),
    "nan.npz": npz(image=np.full_like(IMAGE, np.nan)),
    "outputs.npz": npz(output=np.ones((1, 5), "float32")),
    "outputs_of_others.npz": npz(output=np.zeros((5, 1), "float32")),
    "tokens.npz": npz(tokens=np.array([[0, 1, 50]])),
    "members.npz": zipped({"image": b"abc"}),
    "endless.npz": zipped({"image.npy": npy("(1000000000000000,)")}),
    "overflowing.npz": zipped({"image.npy": npy("(4611686018427387904, 4611686018427387904)")}),
    "short.npz": zipped({"image.npy": npy("(1, 3, 8, 8)", data=b"abc")}),
    "encrypted.npz": zipped({"image.npy": npy("(1,)", data=bytes(4))}, flags=1),
    "header.npz": zipped({"image.npy": npy("print()")}),
    "letters.npz": npz(image=np.array(["a", "b"])),
    "letters_out.npz": npz(output=np.array([["a"] * 5])),
    "scalar.npz": npz(image=np.float32(3)),
    "pointer.safetensors": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "empty.safetensors": lambda path: path.write_bytes(b""),
    "transposed.safetensors": safetensors(lambda: weights(head__weight=np.ones((4, 5), "float32"))),
    "integers.safetensors": safetensors(lambda: weights(head__bias=np.ones(5, "int32"))),
    "empty.specc": lambda path: path.write_bytes(b""),
    "utf16.specc": lambda path: path.write_bytes("specc 1\n".encode("utf-16")),
    "dangling.specc": lambda path: path.symlink_to("nowhere.specc"),
    "circle.specc": lambda path: path.symlink_to("circle.specc"),
    "uses_latin1.specc": lambda path: (using("latin1")(path), write(path.with_name("latin1.specc"))),
    "uses_folder.specc": lambda path: (using("folder")(path), path.with_name("folder.specc").mkdir()),
    "uses_long.specc": using("a" * 300),
    "around_a.specc": lambda path: (using("around_b")(path), _around(path.with_name("around_b.specc"))),
    "unterminated.specc": lambda path: path.write_text("specc 1\r\n\r\nnetwork N(x: [n, 3]):\r\n    return relu(x"),
    "empty.artifact": lambda path: path.write_bytes(b""),
    "edited.artifact": with_manifest(lambda text: text.replace(b"Tiny", b"Tinz"), digest=False),
    "pretty.artifact": with_manifest(lambda text: text.replace(b",", b", "), digest=True),
    "grown.artifact": changed(lambda data: data.extend(bytes(64))),
    "records.jsonl": lambda path: path.write_text('{"specc_tuning": 1}\n\n{"specc_tuning": 2}\nx\n{"a": 1}\n'),
    "one.npy": lambda path: np.save(path, IMAGE),
    "nets_of_a_test.py": lambda path: path.write_text(NET),
    "cut.onnx": lambda path: path.write_bytes(b"\x08\x07\x12"),
}
