"""Writing one kernel: the function's frame, loops, tensors read at logical indices, and a group's pointwise steps.

Kernels are written straight into TIR (no schedule): a template knows its loops. A vector is a `vectorized` loop over
lanes around a whole tile; what is inside is written for one lane and TVM widens it, also through serial loops.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choice, Value
from specc.backends.tvm.expression import (
    CONVERSIONS,
    CoarseMath,
    Form,
    Math,
    Scalar,
    narrowed,
    widened,
    with_imports,
    writing,
    writing_c,
)
from specc.backends.tvm.group import Group, Part, Step
from specc.backends.tvm.halves import stored
from specc.backends.tvm.packing import Packing, of_type
from specc.ir.dims import Dim, Symbolic, floordiv, symbol
from specc.ir.dtypes import HALVES
from specc.ir.types import TensorType, block_of, valued

_ARITHMETIC = {tirx.Add: operator.add, tirx.Sub: operator.sub, tirx.Mul: operator.mul, tirx.FloorDiv: floordiv}
"""What the expressions of a dimension are made of."""

Index = tuple[Any, ...]
Found = TypeVar("Found")
Leaf = Callable[[int, Index], Scalar]


@dataclass(frozen=True)
class Kernel:
    """A group in TIR: `function(*symbols, *inputs, *results, *temporaries)`, and how each input is stored.

    `symbols` are the dimensions whose values the caller gives. Frozen inputs are stored as they are packed. Temporaries
    are memory that nobody else reads. For reports: `template` names the module that wrote it, `parallel` the iterations
    of each loop that threads share, `configuration` what was chosen. The result may be written over each of the inputs
    `overwrites`. `scratch` are the tensors with open dimensions for which it asks for memory while it runs.
    """

    function: Any
    packings: tuple[Packing, ...]
    template: str = ""
    parallel: tuple[int, ...] = ()
    temporaries: tuple[TensorType, ...] = ()
    configuration: Mapping[str, Value] = field(default_factory=dict)
    symbols: tuple[str, ...] = ()
    overwrites: tuple[int, ...] = ()
    scratch: tuple[TensorType, ...] = ()


@dataclass(frozen=True)
class Template:
    """How a group is to be computed: `write` puts the statements into a function whose inputs lie as `packings` say.

    An input that is not in `packings` lies as its type says. `space` is what was chosen for it, and from what.
    `once` says that each element of the result is computed once, and that what pointwise steps read at its index is
    read before it is written: the result may be written over such an operand. `over` are inputs that an anchor reads,
    and over which the result may be written all the same.
    """

    write: Callable[[Emitter], None]
    packings: Mapping[int, Packing] = field(default_factory=dict)
    space: tuple[Choice, ...] = ()
    once: bool = False
    over: tuple[int, ...] = ()

    @property
    def configuration(self) -> dict[str, Value]:
        """All choices by name: with this configuration, the template is the same one."""
        return {choice.name: choice.taken for choice in self.space}


class Again(Exception):
    """Raised by a template that learned something while writing: the function is to be written once more."""


def kernel_of(
    group: Group,
    template: Template,
    form: Form = "vectors",
    conversions: frozenset[str] = CONVERSIONS,
    keeps_nan: bool = False,
) -> Kernel:
    """The kernel of `group` as `template` writes it, to become `form`: in C, a loop over lanes is a loop.

    `conversions`  the types that the target converts as is (`Target.conversions`)
    `keeps_nan`    whether its maxima and minima keep NaN (`Target.keeps_nan`)
    """
    while True:
        emitter = Emitter(group, template.packings)
        try:
            with writing(form, conversions, keeps_nan) as imports:
                with emitter.open():
                    template.write(emitter)
                function = with_imports(emitter.function, imports)
            name = template.write.__module__.rpartition(".")[2]
            return Kernel(
                function,
                emitter.packings,
                name,
                tuple(emitter.shared),
                tuple(emitter.temporaries),
                template.configuration,
                group.symbols,
                tuple(n for n in range(len(group.inputs)) if n in template.over or (template.once and group.beside(n))),
                tuple(emitter.scratch),
            )
        except Again:
            continue


class Tensor:
    """A buffer of the function, read and written at logical indices; numbers of 16 bits are float32 outside of it."""

    def __init__(self, buffer: Any, type: TensorType, simplify: Callable[[Any], Any]) -> None:
        self.buffer, self.type, self.simplify = buffer, type, simplify
        self.block = block_of(type.layout)

    def position(self, index: Index) -> list[Any]:
        """The physical index of a logical one."""
        if not self.block:
            return [self.simplify(i) for i in index]
        n, c, y, x = index
        block = self.simplify(tirx.floordiv(_expr(c), self.block))
        lane = self.simplify(tirx.floormod(_expr(c), self.block))
        return [self.simplify(n), block, self.simplify(y), self.simplify(x), lane]

    def __call__(self, *index: Any) -> Scalar:
        return Scalar(self.at(*self.position(index)), reads=True)

    def at(self, *position: Any) -> Any:
        """The element at a physical index, as an expression."""
        return widened(tirx.BufferLoad(self.buffer, list(position)), self.type.dtype)

    def put(self, value: Any, position: Sequence[Any]) -> None:
        """Writes an element at a physical index; one of 16 bits is rounded already."""
        expr = value.expr if isinstance(value, Scalar) else value
        if self.type.dtype in HALVES:
            expr = narrowed(T.Bind(expr), self.type.dtype)
        T.buffer_store(self.buffer, expr, list(position))


def on_stack(shape: tuple[int, ...], dtype: str) -> Any:
    """A small buffer in the frame of the function that runs the loop around."""
    scope = "global" if writing_c() else "local"
    return T.alloc_buffer(shape, dtype, scope=scope, annotations={"disable_lower_builtin": True})


class Registers:
    """Vectors that live in registers, for their numbers are known when the function is written.

    Each is a buffer of its own: TVM puts a buffer of 1024 bytes or more on the heap, with two calls for every tile, and
    LLVM cannot keep it in registers then.
    """

    def __init__(self, count: int, lanes: int, dtype: str) -> None:
        self.vectors = [on_stack((lanes,), dtype) for _ in range(count)]

    def __getitem__(self, position: tuple[int, Any]) -> Any:
        number, lane = position
        return self.vectors[number][lane]


class Emitter:
    """Writes the function of one group. Used as a context manager around the statements; then `function` is complete.

    `packings` overrides how frozen inputs are stored: such an input is left to the template to read, as `buffers[i]`.
    """

    def __init__(self, group: Group, packings: Mapping[int, Packing]) -> None:
        self.group = group
        self.math, self.coarse = Math(), CoarseMath()
        self.packings = tuple(packings.get(i) or of_type(operand.type) for i, operand in enumerate(group.inputs))
        self._analyzer = tvm.sym.Analyzer()
        self.buffers: list[Any] = []
        self.outputs: list[Any] = []
        self.shared: list[int] = []
        self.temporaries: list[TensorType] = []
        self.scratch: list[TensorType] = []
        self.threads = True
        """Whether loops may be shared out to threads: not inside of one that is, nor at every step of a short one."""
        self.function: Any = None
        self._variables: dict[str, Any] = {}
        self._values: dict[Dim, Any] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """The frame of the function."""
        with IRBuilder() as builder, T.prim_func(s_tir=True), valued(self.value):
            T.func_name("kernel")
            T.func_attr({"tirx.noalias": True})
            for name in self.group.symbols:
                self._variables[name] = variable = T.arg(f"{name}_extent", T.int32())
                self._analyzer.bind(variable, tvm.ir.Range.from_min_extent(_expr(1), _expr(2**31 - 2)))
            for i, (operand, packing) in enumerate(zip(self.group.inputs, self.packings, strict=True)):
                shape = operand.type.concrete if packing.kind == "plain" else packing.shape(operand.type.concrete)
                kind = "float32" if packing.wide else stored(operand.type.dtype)
                if packing.kind == "pairs":
                    shape, kind = (*shape[:-1], shape[-1] // 2), "uint32"
                self.buffers.append(T.arg(f"v{i}", T.buffer(shape, kind)))
            for i, value in enumerate(self.group.results):
                type = self.group.type(value)
                self.outputs.append(T.arg(f"result{i}", T.buffer(type.physical, stored(type.dtype))))
            yield
        self.function = builder.get()

    def value(self, dim: Dim) -> Any:
        """A dimension as an expression of the function's; the same one for equal dimensions, itself for one that is."""
        if not isinstance(dim, Symbolic):
            return dim
        if dim not in self._values:
            total: Any = 0
            for atoms, coefficient in dim.terms:
                term: Any = coefficient
                for atom in atoms:
                    if isinstance(atom, str):
                        term = term * self._variables[atom]
                    else:
                        term = term * tirx.floordiv(_expr(self.value(atom.numerator)), _expr(self.value(atom.divisor)))
                total = total + term
            self._values[dim] = self._analyzer.simplify(total)
        return self._values[dim]

    def dimension(self, extent: Any) -> Dim:
        """The dimension that an expression of the function's stands for: the inverse of `value`."""
        if isinstance(extent, int):
            return extent
        if isinstance(extent, tirx.IntImm):
            return int(extent)
        if isinstance(extent, tirx.Var):
            return symbol(next(name for name, variable in self._variables.items() if variable.same_as(extent)))
        found: Dim = _ARITHMETIC[type(extent)](self.dimension(extent.a), self.dimension(extent.b))
        return found

    def attributes(self, step: Step) -> dict[str, Any]:
        """The attributes of a step, as its `compute` takes them."""
        return {name: self.value(v) if isinstance(v, Symbolic) else v for name, v in step.attributes}

    # ---- loops ----------------------------------------------------------------------------------------------------

    def simplify(self, index: Any) -> Any:
        """An index in simpler terms, by the ranges of the loops around."""
        return index if isinstance(index, int) else self._analyzer.simplify(index)

    @contextmanager
    def _loop(self, kind: Callable[..., Any], extent: Any, start: Any = 0) -> Iterator[Any]:
        if isinstance(extent, int) and extent == 1:
            yield start
            return
        with kind(0, extent) as variable:
            yield self.bind(variable, extent) + start

    def bind(self, variable: Any, extent: Any) -> Any:
        """`variable`, known to be one of 0 to `extent` - 1."""
        self._analyzer.bind(variable, tvm.ir.Range.from_min_extent(_expr(0), _expr(extent)))
        return variable

    def serial(self, extent: Any, start: Any = 0) -> Any:
        """A loop from `start` over `extent` iterations; none at all where the extent is known to be 1.

        In TIR it counts from 0: a loop from a start that itself varies came out wrong from TVM 0.27's lowering.
        """
        return self._loop(T.serial, extent, start)

    def parallel(self, extent: int) -> Any:
        """A loop whose iterations are dealt out to the threads in contiguous runs."""
        if self.threads and isinstance(extent, int) and extent > 1:
            self.shared.append(extent)
        return self._loop(T.parallel if self.threads else T.serial, extent)

    def lanes(self, extent: int) -> Any:
        """A loop that becomes vector instructions."""
        return self._loop(T.serial if writing_c() else T.vectorized, extent)

    @contextmanager
    def strip(self, rows: int, strips: int, number: Any) -> Iterator[Any]:
        """A loop over the rows of strip `number` out of `strips`, as equal as they can be."""
        size = -(-rows // strips)
        first = number * size
        if size * strips == rows:
            count: Any = size
        else:
            count = T.Bind(tirx.max(0, tirx.min(size, rows - first)))
        with self.serial(count, first) as row:
            yield row

    def divmod(self, value: Any, divisor: int) -> tuple[Any, Any]:
        """Quotient and remainder, rounded down, in simple terms."""
        if isinstance(value, int):
            return divmod(value, divisor)
        return self.simplify(tirx.floordiv(value, divisor)), self.simplify(tirx.floormod(value, divisor))

    # ---- memory ---------------------------------------------------------------------------------------------------

    def input(self, number: int) -> Tensor:
        """An input of the group that is stored as its type says."""
        return Tensor(self.buffers[number], self.group.inputs[number].type, self.simplify)

    def load(self, number: int, *position: Any) -> Any:
        """The element of an input at an index of its buffer, however it is packed; one of 16 bits as a float32."""
        dtype = "float32" if self.packings[number].wide else self.group.inputs[number].type.dtype
        return widened(tirx.BufferLoad(self.buffers[number], list(position)), dtype)

    def result(self, number: int = 0) -> Tensor:
        """A result of the group."""
        return Tensor(self.outputs[number], self.group.type(self.group.results[number]), self.simplify)

    def temporary(self, type: TensorType) -> Tensor:
        """Memory for what a part of the function writes and a later one reads; the function's own where loops are not
        shared out, since there may be one around."""
        if not self.threads:
            return Tensor(T.alloc_buffer(type.physical, stored(type.dtype)), type, self.simplify)
        buffer = T.arg(f"temporary{len(self.temporaries)}", T.buffer(type.physical, stored(type.dtype)))
        self.temporaries.append(type)
        return Tensor(buffer, type, self.simplify)

    def part(self, part: Part, packings: Mapping[int, Packing], made: Mapping[int, Any], result: Any) -> Emitter:
        """What writes a part of the group into the same function, its result to the buffer `result`; values of the
        group that are no inputs of it lie in the buffers `made`."""
        inner = Emitter(part.group, packings)
        inner.buffers = [made[v] if v in made else self.buffers[v] for v in part.values]
        inner.outputs = [result]
        inner.temporaries, inner.shared, inner.threads = self.temporaries, self.shared, self.threads
        return inner

    @staticmethod
    def store(buffer: Any, value: Any, position: Sequence[Any]) -> None:
        """Writes `value` to `buffer` at `position`."""
        if isinstance(buffer, Registers):
            buffer, position = buffer.vectors[position[0]], position[1:]
        T.buffer_store(buffer, value.expr if isinstance(value, Scalar) else value, list(position))

    # ---- pointwise steps ------------------------------------------------------------------------------------------

    def finish(self, anchor: int, total: Scalar, index: Index) -> None:
        """Applies the pointwise steps to an element of the anchor, and stores that of the result at the same index."""

        def leaf(number: int, position: Index) -> Scalar:
            return total if number == anchor else self.input(number)(*position)

        result = self.result()
        result.put(self.evaluate(self.group.last, index, leaf), result.position(index))

    def evaluate(self, value: int, index: Index, leaf: Leaf) -> Scalar:
        """The element of a value at a logical index; what no step computes that is pointwise or moves elements, `leaf`
        gives."""
        group, known = self.group, {}

        def at(number: int, position: Index) -> Scalar:
            shape = group.type(number).concrete
            own = tuple(0 if e == 1 else i for e, i in zip(shape, position[len(position) - len(shape) :], strict=True))
            key = (number, tuple(map(id, own)))
            if key not in known:
                known[key] = (element(number, own), own)
            return known[key][0]

        def element(number: int, position: Index) -> Scalar:
            step = group.step(number) if number >= len(group.inputs) else None
            if step is not None and step.moves:
                return self.moved(step, position, lambda *index: at(step.operands[0], index))
            if step is None or not step.pointwise:
                return leaf(number, position)
            if step.op == "constant":
                return self.math.const(step.attrs["value"], step.attrs["dtype"])
            operands = [at(operand, position) for operand in step.operands]
            if step.op == "convert_layout":
                return operands[0]
            assert step.record.scalar is not None
            math = self.coarse if group.rounded(number) else self.math
            return self.math.let(step.record.scalar(math, *operands, **step.attrs))

        return at(value, index)

    def moved(self, step: Step, index: Index, access: Callable[..., Found]) -> Found:
        """`access` at the index of the operand whose element a step moves to `index`."""
        compute = step.record.compute
        assert compute is not None
        types = [self.group.type(step.operands[0])]
        found: Found = compute(self.math, types, access, **self.attributes(step))(*index)
        return found


def _expr(value: Any) -> Any:
    return tirx.const(value, "int32") if isinstance(value, int) else value
