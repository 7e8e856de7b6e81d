"""Blocks and threads: the grid of one launch, memory that a block shares, barriers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.emitter import Emitter, Index
from specc.backends.tvm.expression import Scalar

WARP = 32
BLOCK = 256
"""Threads of a block, where nothing speaks for another number: eight blocks fill a multiprocessor of all targets."""


@contextmanager
def grid(emitter: Emitter, blocks: int, threads: int) -> Iterator[tuple[Any, Any]]:
    """One launch: what stands inside is done by every thread of every block; the numbers of both."""
    with T.launch_thread("blockIdx.x", blocks) as block, T.launch_thread("threadIdx.x", threads) as thread:
        yield emitter.bind(block, blocks), emitter.bind(thread, threads)


def barrier() -> None:
    """Threads of the block wait for each other here, and see what the others have written."""
    T.evaluate(tirx.call_intrin("int32", "tirx.tvm_storage_sync", "shared"))


def exchanged(value: Scalar, lanes: int) -> Scalar:
    """What the thread of the warp has whose number differs in the bits `lanes`: all of the warp's threads come here."""
    return Scalar(T.Bind(tirx.call_extern("float32", "specc_exchanged", value.expr, lanes)))


def shared(shape: tuple[int, ...], dtype: str) -> Any:
    """Memory of the block."""
    return T.alloc_buffer(shape, dtype, scope="shared")


def local(count: int, dtype: str) -> Any:
    """Memory of the thread: registers, if every index is a number once its loops are unrolled."""
    return T.alloc_buffer((count,), dtype, scope="local")


@contextmanager
def only_if(condition: Any) -> Iterator[None]:
    """What stands inside is done by the threads for which `condition` holds."""
    if condition is True:
        yield
        return
    with T.If(condition), T.Then():
        yield


@contextmanager
def unrolled(emitter: Emitter, extent: int) -> Iterator[Any]:
    """A loop that the compiler unrolls."""
    with T.unroll(extent) if extent > 1 else nullcontext(0) as variable:
        yield emitter.bind(variable, extent) if extent > 1 else 0


def unravel(emitter: Emitter, place: Any, shape: tuple[int, ...]) -> Index:
    """The index in a row-major tensor of `shape` of element number `place`."""
    index: list[Any] = []
    for extent in reversed(shape[1:]):
        place, rest = emitter.divmod(place, extent)
        index.insert(0, rest)
    if shape:
        index.insert(0, 0 if shape[0] == 1 else emitter.simplify(place))
    return tuple(index)
