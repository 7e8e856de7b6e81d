"""The program of a compiled network, as data: which kernel is called on what, in order.

A *storage* is a run of bytes that an operand or a result lies in: an input, a packed weight, or a buffer that the
program itself needs. Views of a tensor are no storage of their own. A buffer may be *part* of another storage: a piece
of a concatenation is written where the whole is read (`sharing`). `memory.plan` gives buffers their places, and
`driver` writes the program as tables for C.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from specc.diagnostics import Span
from specc.ir.placement import aligned, size
from specc.ir.types import TensorType

if TYPE_CHECKING:
    from specc.backends.tvm.emitter import Kernel

Space = Literal["input", "weight", "buffer"]


class Storage(NamedTuple):
    """Number `number` of the inputs, of the weights, or of the buffers."""

    space: Space
    number: int


class Part(NamedTuple):
    """The bytes of `host` from `offset` on."""

    host: Storage
    offset: int


@dataclass(frozen=True)
class Call:
    """`kernel(*operands, *results)`; every result is a buffer that this call alone writes.

    `overwrites` are the positions of operands in whose place the first result may be written: of its size, and no
    element of them is read when that of the result is written (`Kernel.overwrites`). `joins` says of a call that only
    puts its operands one behind the other at which bytes of its result each begins, `begins` of one that copies a part
    of its operand at which byte that begins; None for any other call. For reports: `path` is where in the network the
    call comes from, `title` the operators that it computes, `macs` its multiply-accumulate operations, `span` the place
    in the spec of that operator which does most of them and `element` the type of what it multiplies, `types` the
    operands' types, and `reads` the most bytes of each operand that are read (None, or nothing at all: all of them).
    """

    kernel: str
    operands: tuple[Storage, ...]
    results: tuple[Storage, ...]
    overwrites: tuple[int, ...] = ()
    joins: tuple[int, ...] | None = None
    begins: int | None = None
    path: str = ""
    title: str = ""
    macs: int = 0
    span: Span | None = None
    element: str = ""
    types: tuple[TensorType, ...] = ()
    reads: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class Program:
    """`inputs`, `outputs` and `buffers` are given by their types as stored, `weights` by their sizes in bytes.

    `results` are the storages that the outputs are taken from, in order. `parts` are the buffers that lie in another
    storage, of which several can lie in one. The names are for those who use the library. One that is `alone` is run
    by one thread, however many there are (`teams`).
    """

    name: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    inputs: tuple[TensorType, ...]
    weights: tuple[int, ...]
    buffers: tuple[TensorType, ...]
    calls: tuple[Call, ...]
    outputs: tuple[TensorType, ...]
    results: tuple[Storage, ...]
    parts: Mapping[Storage, Part] = field(default_factory=dict)
    alone: bool = False

    def root(self, storage: Storage) -> Part:
        """The storage that is part of no other in which one lies, and where in it: itself for most."""
        offset = 0
        while storage in self.parts:
            storage, begin = self.parts[storage]
            offset += begin
        return Part(storage, offset)

    def size(self, storage: Storage) -> int:
        """Bytes of a storage."""
        if storage.space == "weight":
            return self.weights[storage.number]
        return size((self.inputs if storage.space == "input" else self.buffers)[storage.number])

    def traffic(self, call: Call) -> tuple[int, int]:
        """The bytes that a call has to move, and how many of these are weights: each is read or written once."""
        reads = call.reads or (None,) * len(call.operands)
        seen: dict[Storage, list[tuple[int, int]]] = {}
        for storage, most in zip(call.operands, reads, strict=True):
            host, begin = self.root(storage)
            whole = self.size(storage)
            seen.setdefault(host, []).append((begin, begin + (whole if most is None else min(whole, most))))
        read = {host: _covered(runs) for host, runs in seen.items()}
        weights = sum(count for host, count in read.items() if host.space == "weight")
        return sum(read.values()) + sum(map(self.size, call.results)), weights

    def describe(self, kernels: Mapping[str, Kernel], place: Callable[[Span], str]) -> list[dict[str, Any]]:
        """The calls for the manifest: kernel, operators, and what they work on; `place` says a place in the spec.

        `bytes` have to be moved, `weights` of them weights. Threads share the iterations of each loop in `parallel`; of
        a program that one thread runs, no loop is.
        """
        rows = []
        for call in self.calls:
            moved, weights = self.traffic(call)
            kernel = kernels[call.kernel]
            rows.append(
                {
                    "kernel": call.kernel,
                    "operators": call.title,
                    "path": call.path,
                    "place": place(call.span) if call.span else None,
                    "macs": call.macs,
                    "element": call.element,
                    "bytes": moved,
                    "weights": weights,
                    "operands": [str(type) for type in call.types],
                    "results": [str(self.buffers[storage.number]) for storage in call.results],
                    "template": kernel.template,
                    "parallel": [] if self.alone else list(kernel.parallel),
                    "configuration": dict(kernel.configuration),
                }
            )
        return rows


def _covered(runs: list[tuple[int, int]]) -> int:
    """How many bytes lie in one of the runs (first, behind the last), or in several."""
    count = end = 0
    for first, last in sorted(runs):
        count += max(0, last - max(first, end))
        end = max(end, last)
    return count


def offsets(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where runs of these sizes lie one behind the other, each aligned, and where the last one ends."""
    places, end = [], 0
    for run in sizes:
        places.append(aligned(end))
        end = places[-1] + run
    return places, end
