"""The artifact: contents <-> one file, and every check that the file is whole.

    header    64 bytes, little endian: magic (8), format version (u32), length of the seal (u32), length of the
              manifest (u64), length of the file (u64), digest (32) of the header's first 32 bytes and of the manifest
    manifest  JSON in one canonical form; says of each member where it lies and what its digest is
    library   a shared library: kernels, and the program that calls them
    weights   the packed parameters, in the order in which the program takes them
    sample    for each size, inputs, and the outputs that the reference computed for them
    seal      of a signed artifact, 128 bytes: public key (32), signature of the header (64), digest (32) of the two

Members, and the tensors within them, begin at multiples of 64 bytes, so that a memory-mapped weight is as aligned as
the kernels' vectors need it. Gaps are zero. A network at several sizes (batches, resolutions) has one library and one
run of weights for all of them. No byte is without cover: the header's digest covers header and manifest,
the manifest's digests cover the members, gaps and the length are compared. Digests are BLAKE2b of 32 bytes; they show
damage, not forgery: an artifact is a program, and is run only if its origin is trusted. `specc.signature` makes seals
and holds them to a key; here, a seal is only compared with its digest.

The same contents give the same bytes. This module knows neither the compiler nor the machine.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from specc.diagnostics import SpeccError, error
from specc.ir.array import Array
from specc.ir.dtypes import STORED
from specc.magic import MAGIC
from specc.manifest import Manifest, dtype_of, natural, shape_of

VERSION = 4
ALIGNMENT = 64
MEMBERS = ("library", "weights", "sample")
KEY_BYTES, SIGNATURE_BYTES, DIGEST_BYTES = 32, 64, 32
SEAL_BYTES = KEY_BYTES + SIGNATURE_BYTES + DIGEST_BYTES
_HEADER = struct.Struct("<8sIIQQ32s")


@dataclass(frozen=True, slots=True)
class Seal:
    """Who says to have signed an artifact, and the signature of its header: raw bytes of Ed25519 (RFC 8032)."""

    key: bytes
    signature: bytes


Sign = Callable[[bytes], Seal]
"""The seal for a header."""
Check = Callable[[str, bytes, Seal | None], None]
"""Raises for the artifact of that name, with that header, where its seal is missing or does not hold."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs at one size, and the outputs that the reference computed for them."""

    inputs: Sequence[Array]
    outputs: Sequence[Array]


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything in an artifact; `samples` has one for each size."""

    manifest: Manifest
    library: bytes
    weights: Sequence[Array]
    samples: Sequence[Sample]
    signed_by: bytes = b""
    """The public key in the seal, which nobody has checked unless `read` was told to; empty where there is no seal."""


# ---- writing --------------------------------------------------------------------------------------------------------


def write(path: str | Path, contents: Contents, sign: Sign | None = None) -> int:
    """Writes the artifact to `path`, which appears whole or not at all; its length in bytes. Raises S0002.

    Without `sign` it has no seal, whatever `contents` was read from.
    """
    from specc.files import replacing

    payloads: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
        "library": ([], [contents.library]),
        "weights": _pack(contents.weights),
        "sample": _pack(array for sample in contents.samples for array in (*sample.inputs, *sample.outputs)),
    }
    described = {
        name: {
            "length": sum(map(_size, pieces)),
            "digest": _digest(pieces).hex(),
            "tensors": tensors,
        }
        for name, (tensors, pieces) in payloads.items()
    }
    manifest = _canonical({**contents.manifest.to_json(), "members": described})
    ends = _HEADER.size + len(manifest)
    for name in MEMBERS:
        ends = _aligned(ends) + sum(map(_size, payloads[name][1]))
    seal_length = SEAL_BYTES if sign else 0
    ends += seal_length
    start = _HEADER.pack(MAGIC, VERSION, seal_length, len(manifest), ends, b"")[:32]
    header = start + _digest([start, manifest])
    with replacing(path) as file:
        file.write(header + manifest)
        for name in MEMBERS:
            file.write(bytes(_aligned(file.tell()) - file.tell()))
            for piece in payloads[name][1]:
                file.write(piece)
        if sign:
            seal = sign(header)
            file.write(seal.key + seal.signature + _digest([seal.key, seal.signature]))
    return ends


def _pack(arrays: Iterable[Array]) -> tuple[list[dict[str, Any]], list[Any]]:
    """The table of the arrays and the pieces of bytes that hold them, each array at a multiple of the alignment."""
    table: list[dict[str, Any]] = []
    pieces: list[Any] = []
    position = 0
    for array in arrays:
        gap = _aligned(position) - position
        flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        pieces += [bytes(gap), flat.data]
        table.append({"dtype": array.dtype.name, "shape": list(array.shape), "offset": position + gap})
        position += gap + flat.nbytes
    return table, pieces


def _size(piece: Any) -> int:
    return memoryview(piece).nbytes


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _digest(pieces: Iterable[Any]) -> bytes:
    state = hashlib.blake2b(digest_size=32)
    for piece in pieces:
        state.update(piece)
    return state.digest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


# ---- reading --------------------------------------------------------------------------------------------------------


def read(path: str | Path, check: Check | None = None) -> Contents:
    """The contents of the artifact at `path`; tensors are views of its memory map, the library is a copy.

    `check` is asked about the seal. Raises what it raises, S0001 (cannot be read), S0901 (no artifact), S0902 (damaged)
    or S0903 (another format). Nothing is executed.
    """
    try:
        with open(path, "rb") as file:
            return _Reader(str(path), file).contents(check)
    except OSError as problem:
        raise error("S0001", f"{path} cannot be read: {problem.strerror or problem}") from None


def _not_compiled(path: str, head: bytes) -> tuple[str, ...]:
    """What to do about a file that is no artifact, where it looks like a spec."""
    if not (path.endswith(".specc") or head.startswith(b"specc ")):
        return ()
    return (f"it is a spec: `specc compile {path} -o {Path(path).stem}.artifact` makes an artifact of it",)


class _Reader:
    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path = path
        self.length = os.fstat(file.fileno()).st_size
        head = file.read(_HEADER.size)
        if not head.startswith(MAGIC):
            raise error("S0901", f"{path} is not an artifact of specc", notes=_not_compiled(path, head))
        if len(head) < _HEADER.size:
            self.damaged(f"it ends after {len(head)} bytes")
        _, self.version, self.seal_length, self.manifest_length, self.said_length, self.digest = _HEADER.unpack(head)
        if self.version != VERSION:
            age = "a newer" if self.version > VERSION else "an older"
            raise error(
                "S0903",
                f"{path} is of format {self.version}, and this specc reads format {VERSION}",
                notes=(f"{age} specc wrote it, or the file is damaged",),
            )
        if self.seal_length not in (0, SEAL_BYTES):
            self.damaged(f"there is no seal of {self.seal_length} bytes")
        if self.length != self.said_length:
            self.damaged(f"it has {self.length} bytes, and its header says {self.said_length}")
        # A private map: tensors are writable, as DLPack demands, and what would be written never reaches the file.
        self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.bytes = memoryview(self.map)

    def damaged(self, reason: str) -> NoReturn:
        raise error("S0902", f"{self.path} is damaged: {reason}", notes=("nothing in it was executed",))

    def contents(self, check: Check | None) -> Contents:
        end = _HEADER.size + self.manifest_length
        if end > self.length - self.seal_length:
            self.damaged("its manifest reaches beyond its end")
        text = bytes(self.bytes[_HEADER.size : end])
        if _digest([self.bytes[:32], text]) != self.digest:
            self.damaged("header and manifest do not have the digest that the header gives")
        seal = self._seal()
        if check:
            check(self.path, bytes(self.bytes[: _HEADER.size]), seal)
        try:
            value = json.loads(text)
            if _canonical(value) != text:  # a repeated key, for one
                raise ValueError("it is not in canonical form")
            members = value.pop("members")
            if sorted(members) != sorted(MEMBERS):
                raise ValueError(f"its members are {', '.join(sorted(members))}")
            spans, manifest = self._spans(members, end), Manifest.from_json(value)
            library = bytes(self._member("library", members, spans))
            weights = list(self._tensors(members, spans, "weights"))
            sampled = list(self._tensors(members, spans, "sample"))
        except SpeccError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as problem:
            # The digest holds, so the writer wrote it so: no damage that happens, but it is refused all the same.
            self.damaged(f"its manifest is malformed: {type(problem).__name__}: {problem}")
        return Contents(manifest, library, weights, self._samples(manifest, sampled), seal.key if seal else b"")

    def _seal(self) -> Seal | None:
        if not self.seal_length:
            return None
        whole = bytes(self.bytes[self.length - SEAL_BYTES :])
        seal = Seal(whole[:KEY_BYTES], whole[KEY_BYTES:-DIGEST_BYTES])
        if _digest([seal.key, seal.signature]) != whole[-DIGEST_BYTES:]:
            self.damaged("its seal does not have the digest that it gives")
        return seal

    def _spans(self, members: Mapping[str, Any], end: int) -> dict[str, tuple[int, int]]:
        """Where each member begins and ends, one behind the other; the last one ends with the file, or at the seal."""
        spans = {}
        for name in MEMBERS:
            start = _aligned(end)
            if any(self.bytes[end:start]):
                self.damaged(f"the gap before its {name} is not empty")
            end = start + natural(members[name]["length"])
            spans[name] = start, end
        if end != self.length - self.seal_length:
            self.damaged(f"its members end at byte {end} of {self.length - self.seal_length}")
        return spans

    def _member(self, name: str, members: Mapping[str, Any], spans: Mapping[str, tuple[int, int]]) -> memoryview:
        start, end = spans[name]
        member = self.bytes[start:end]
        if _digest([member]).hex() != members[name]["digest"]:
            self.damaged(f"the digest of its {name} is not the one that the manifest gives")
        return member

    def _tensors(self, members: Mapping[str, Any], spans: Mapping[str, tuple[int, int]], name: str) -> Iterator[Array]:
        member = self._member(name, members, spans)
        position = 0
        for entry in members[name]["tensors"]:
            shape, dtype, offset = shape_of(entry["shape"]), dtype_of(entry["dtype"]), natural(entry["offset"])
            if offset != _aligned(position):
                raise ValueError(f"a tensor lies at byte {offset} of its {name}")
            position = offset + math.prod(shape) * STORED[dtype]
            if position > len(member):
                raise ValueError(f"a tensor reaches beyond its {name}")
            yield np.frombuffer(member, np.uint8)[offset:position].view(dtype).reshape(shape)
        if position != len(member):
            raise ValueError(f"its {name} has {len(member) - position} bytes too many")

    def _samples(self, manifest: Manifest, tensors: Sequence[Array]) -> list[Sample]:
        specs = [spec for size in manifest.sizes for spec in (*size.inputs, *size.outputs)]
        if [(t.shape, t.dtype.name) for t in tensors] != [(s.shape, s.dtype) for s in specs]:
            self.damaged("its sample does not fit its interface")
        samples, rest = [], iter(tensors)
        for size in manifest.sizes:
            inputs = list(islice(rest, len(size.inputs)))
            samples.append(Sample(inputs, list(islice(rest, len(size.outputs)))))
        return samples
