"""The roofs over every kernel on this machine, measured: multiply-adds from registers, and reads from its memories.

    multiplications   vectors that never leave the registers, enough of them to hide the latency of a multiply-add;
                      of float32, of float16 where kernels add up in it, and of integers of 8 bits and bfloat16 where
                      the target has products for them, by the fastest that it has: of tiles where there are tiles,
                      whatever a kernel is made of
    traffic           the sum of an array, read again and again: of a small one from a cache, of a large one from memory

A kernel that does F operations and moves B bytes takes at least max(F / operations, B / bytes) seconds (Williams,
Waterman and Patterson, "Roofline", CACM 52:4, 2009). What a cache holds is read faster than memory can give it, so
there is a roof for each size of what is read again (Ilic, Pratas and Sousa, "Cache-aware roofline model", IEEE Computer
Architecture Letters 13:1, 2014).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Barrier
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.emitter import Emitter, Registers
from specc.backends.tvm.kernels import amx, dots, pairs
from specc.backends.tvm.library import tvm_target
from specc.backends.tvm.translation import translate
from specc.targets import Target

_STEPS, _VECTORS = 1 << 20, 12
_TILE_STEPS, _TILES = 1 << 16, amx.TILES - 2
"""A product of tiles takes 18 cycles. Two tiles hold the factors, all others sums."""

_ARRAY = 1 << 24
"""float32 in the array that a thread reads: 64 MB, which no cache holds."""

_WINDOWS = (1 << 16, 1 << 18, 1 << 20)
"""float32 in what a thread reads again and again: 256 kB, 1 MB, 4 MB. Most processors have a second-level cache of 256
kB to 2 MB, and a third-level one of some MB a core."""

_TILE_SUMS = {"bfloat16": "float32", "uint8": "int32"}
"""What products of tiles are added up in, by the type of activations."""

_CHAINS = 8
"""Sums side by side: an addition has to wait for the one before it in the same sum."""

_ROUNDS = 4


@dataclass(frozen=True)
class Roofs:
    """What all threads do in a second: operations (a multiply-add is two), and bytes that they read from memory.

    `cached` are the bytes that they read in a second where they read so many, all of them together, again and again,
    `others` the operations on factors of other types than float32.
    """

    operations: float
    bytes: float
    cached: tuple[tuple[int, float], ...] = ()
    others: tuple[tuple[str, float], ...] = ()

    def multiplying(self, element: str) -> float:
        """The operations in a second on factors of this type: those of float32 where nothing else is known."""
        return dict(self.others).get(element, self.operations)

    def rate(self, again: int) -> float:
        """The bytes in a second from a set of `again` bytes: that of the largest set measured that is no larger.

        So no cache is taken to be slower than it is. Sets that are larger than all of them come from memory where they
        are twice as large, as caches are measured in powers of two.
        """
        if not self.cached or again >= 4 * self.cached[-1][0]:
            return self.bytes
        return next((rate for size, rate in reversed(self.cached) if size <= again), self.cached[0][1])

    def seconds(
        self, operations: float, moved: int, weights: int = 0, network: int = 0, element: str = "float32"
    ) -> float:
        """The least time for a call of a kernel that does so many operations and moves so many bytes.

        `weights` of them are weights, which were read a whole run of the network ago: they come from where all data of
        the network, `network` bytes, fit. What else it reads or writes can be where its own bytes fit.
        """
        traffic = (moved - weights) / self.rate(moved) + weights / self.rate(max(network, moved))
        return max(operations / self.multiplying(element), traffic)

    def best(self, other: Roofs) -> Roofs:
        """The higher one of each roof: what disturbs a measurement makes it lower."""
        cached = tuple((size, max(a, b)) for (size, a), (_, b) in zip(self.cached, other.cached, strict=True))
        others = tuple((kind, max(a, b)) for (kind, a), (_, b) in zip(self.others, other.others, strict=True))
        return Roofs(max(self.operations, other.operations), max(self.bytes, other.bytes), cached, others)


class Meter:
    """Measures the roofs of `threads` threads, each on a core of its own, as often as it is asked."""

    def __init__(self, target: Target, threads: int) -> None:
        self.threads = threads
        result = np.zeros((threads, target.lanes), np.float32)
        arrays = [tvm.runtime.tensor(np.zeros(_ARRAY, np.float32)) for _ in range(threads)]
        results = [tvm.runtime.tensor(row) for row in result]
        multiply = _compiled(target, _multiply(target))
        self._multiply = [lambda r=r: multiply(r) for r in results]
        self._reads = []
        for window in (*_WINDOWS, _ARRAY):
            read = _compiled(target, _read(target, window))
            self._reads.append([lambda a=a, r=r, read=read: read(a, r) for a, r in zip(arrays, results)])
        self._operations = 2 * _STEPS * _VECTORS * target.lanes
        self._others: list[tuple[str, int, list[Callable[[], Any]]]] = []
        """Types of factors, the operations of a call, and the calls of all threads that multiply them."""
        if target.half_sums:
            work = self._products(target, _multiply(target, "float16"), (2 * target.lanes,), "float16")
            self._others.append(("float16", 2 * self._operations, work))
        if target.tile_product:
            for element, sums in _TILE_SUMS.items():
                work = self._products(target, _multiply_tiles(element), (1 + _TILES, amx.ROWS, amx.ROWS), sums)
                products = amx.ROWS * amx.ROWS * amx.DEPTHS[element]
                self._others.append((element, 2 * _TILE_STEPS * _TILES * products, work))
            return
        vectors = (2, target.lanes)
        if target.dot_product:
            work = self._products(target, _multiply_integers(target), vectors, "int32")
            self._others.append(("uint8", dots.DEPTH * self._operations, work))
        if target.pair_product:
            work = self._products(target, _multiply_pairs(target), vectors, "float32")
            self._others.append(("bfloat16", pairs.DEPTH * self._operations, work))

    def _products(self, target: Target, function: Any, shape: tuple[int, ...], dtype: str) -> list[Callable[[], Any]]:
        """The calls of all threads of a function that multiplies; each has an array of ones."""
        multiply = _compiled(target, function)
        arrays = [tvm.runtime.tensor(np.ones(shape, dtype)) for _ in range(self.threads)]
        return [partial(multiply, array) for array in arrays]

    def measure(self) -> Roofs:
        """The roofs now; takes about a fifth of a second."""
        with _Team(self.threads) as team:
            operations = team.rate(self._multiply, self._operations)
            others = [(element, team.rate(work, amount)) for element, amount, work in self._others]
            rates = [team.rate(read, 4 * _ARRAY) for read in self._reads]
        sizes = [4 * window * self.threads for window in _WINDOWS]
        return Roofs(operations, rates[-1], tuple(zip(sizes, rates)), tuple(others))


class _Team:
    """Threads, each on a core of its own, that begin together."""

    def __init__(self, threads: int) -> None:
        self._cores = sorted(os.sched_getaffinity(0))[:threads]

    def __enter__(self) -> _Team:
        self._barrier = Barrier(len(self._cores))
        self._pool = ThreadPoolExecutor(len(self._cores))
        list(self._pool.map(self._settle, self._cores))
        return self

    def __exit__(self, *problem: object) -> None:
        self._pool.shutdown()

    def _settle(self, core: int) -> None:
        """Binds this thread to a core; the barrier sees to it that every thread of the pool comes here once."""
        os.sched_setaffinity(0, {core})
        self._barrier.wait()

    def rate(self, work: Sequence[Callable[[], Any]], amount: int) -> float:
        """What all threads do in a second that each do `amount`: in the best of some rounds, begun together."""

        def timed(call: Callable[[], Any]) -> float:
            self._barrier.wait()
            begin = time.perf_counter()
            call()
            return time.perf_counter() - begin

        return max(sum(amount / seconds for seconds in self._pool.map(timed, work)) for _ in range(_ROUNDS))


class Cores:
    """Which part of a core of its own each of `threads` threads has at the moment that it is called.

    That is what all threads multiply and add in a second, from registers, in parts of `threads` times the most that one
    has done at any call: 1 where each has a core (a little less where the clock is slower for many), 1 / 2 where two
    share one, as two virtual cores do that are one real core's threads.
    """

    def __init__(self, target: Target, threads: int) -> None:
        multiply = _compiled(target, _multiply(target))
        held = min(threads, len(os.sched_getaffinity(0)))
        results = [tvm.runtime.tensor(np.zeros(target.lanes, np.float32)) for _ in range(held)]
        self._work, self._threads = [partial(multiply, result) for result in results], threads
        self._most = 0.0

    def __call__(self) -> float:
        """Takes about 20 ms."""
        rates = []
        for count in (1, len(self._work)):
            with _Team(count) as team:
                rates.append(team.rate(self._work[:count], 1))
        alone, together = rates
        self._most = max(self._most, alone)
        return together / (self._threads * self._most)


def _compiled(target: Target, function: Any) -> Any:
    return translate({"kernel": function}, tvm_target(target))["kernel"]


def _multiply(target: Target, element: str = "float32") -> Any:
    """(result): multiplies and adds vectors of `element` in registers for a while and stores their sum."""
    lanes = target.vector_bits // (8 * np.dtype(element).itemsize)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        result = T.arg("result", T.buffer((lanes,), element))
        registers = Registers(_VECTORS, lanes, element)
        with T.vectorized(0, lanes) as lane:
            factor = T.Bind(result[lane])
            for i in range(_VECTORS):
                Emitter.store(registers, tirx.const(float(i), element), (i, lane))
            with T.serial(0, _STEPS):
                for i in range(_VECTORS):
                    Emitter.store(registers, registers[i, lane] * factor + factor, (i, lane))
            total = sum((registers[i, lane] for i in range(1, _VECTORS)), registers[0, lane])
            Emitter.store(result, total, (lane,))
    return builder.get()


def _multiply_integers(target: Target) -> Any:
    """(factors and result): as `_multiply`, four products of 8 bits a lane in one instruction."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        factors = T.arg("factors", T.buffer((2, target.lanes), "int32"))
        registers, own = Registers(_VECTORS, target.lanes, "int32"), dots.Dots(target)
        four = tirx.Broadcast(T.Bind(factors[0, 0]), own.width)
        vector = tirx.BufferLoad(factors, [tirx.const(0, "int32"), tirx.Ramp(0, 1, own.width)])
        bytes = T.Bind(tirx.reinterpret(f"int8x{dots.DEPTH * own.width}", vector))
        sums = own.registers(registers, _VECTORS)
        own.start(sums, range(_VECTORS), None, 0, None)
        with T.serial(0, _STEPS):
            for i in range(_VECTORS):
                own.add(sums, i, four, [bytes] * own.parts)
        own.gathered(sums, registers, _VECTORS)
        with T.vectorized(0, target.lanes) as lane:
            total = sum((registers[i, lane] for i in range(1, _VECTORS)), registers[0, lane])
            Emitter.store(factors, total, (1, lane))
    return builder.get()


def _multiply_pairs(target: Target) -> Any:
    """(factors and result): as `_multiply`, two products of bfloat16 a lane in one instruction."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        factors = T.arg("factors", T.buffer((2, target.lanes), "float32"))
        registers, own = Registers(_VECTORS, target.lanes, "float32"), pairs.Pairs(target)
        with pairs.imported(own):
            pair = tirx.Broadcast(T.Bind(tirx.reinterpret("uint32", factors[0, 0])), own.width)
            pair = pairs.Factors(pair, 0)
            vectors = [T.Bind(tirx.reinterpret(f"uint32x{own.width}", one)) for one in own.weights(factors, 0)]
            with T.vectorized(0, target.lanes) as lane:
                for i in range(_VECTORS):
                    Emitter.store(registers, tirx.const(float(i), "float32"), (i, lane))
            sums = own.registers(registers, _VECTORS)
            own.spread(registers, sums, _VECTORS)
            with T.serial(0, _STEPS):
                for i in range(_VECTORS):
                    own.add(sums, i, pair, vectors)
            own.gathered(sums, registers, _VECTORS)
            with T.vectorized(0, target.lanes) as lane:
                total = sum((registers[i, lane] for i in range(1, _VECTORS)), registers[0, lane])
                Emitter.store(factors, total, (1, lane))
    return builder.get()


def _multiply_tiles(element: str) -> Any:
    """(factors and results): products of tiles; the first one of the buffer is both factors of them all, and the sums
    of each tile are stored behind it."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        tiles = T.arg("tiles", T.buffer((1 + _TILES, amx.ROWS, amx.ROWS), _TILE_SUMS[element]))
        left, right = _TILES, _TILES + 1
        with amx.configured():
            for factor in (left, right):
                amx.load(factor, tiles, (0, 0, 0), amx.BYTES)
            for sums in range(_TILES):
                amx.zero(sums)
            with T.serial(0, _TILE_STEPS):
                for sums in range(_TILES):
                    amx.multiply(element, sums, left, right)
            for sums in range(_TILES):
                amx.store(sums, tiles, (1 + sums, 0, 0), amx.BYTES)
    return builder.get()


def _read(target: Target, window: int) -> Any:
    """(array, result): the sum of the first `window` elements, so often that `_ARRAY` are read."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        array = T.arg("array", T.buffer((_ARRAY,), "float32"))
        result = T.arg("result", T.buffer((target.lanes,), "float32"))
        registers = Registers(_CHAINS, target.lanes, "float32")
        with T.vectorized(0, target.lanes) as lane:
            for i in range(_CHAINS):
                Emitter.store(registers, tirx.const(0.0, "float32"), (i, lane))
            with T.serial(0, _ARRAY // window), T.serial(0, window // (_CHAINS * target.lanes)) as step:
                for i in range(_CHAINS):
                    at = (step * _CHAINS + i) * target.lanes + lane
                    Emitter.store(registers, registers[i, lane] + array[at], (i, lane))
            total = sum((registers[i, lane] for i in range(1, _CHAINS)), registers[0, lane])
            Emitter.store(result, total, (lane,))
    return builder.get()
