"""An `nn.Module`, or a program that `torch.export` saved --> a graph and its weights.

`torch.export` follows the module once and gives ATen's operations in order, each with the modules that it happened in.
Extents that may vary do: batch, height and width are exported as symbols where the module allows it, and the graph has
its numbers where it does not, or where an operation needs them. A parameter has the name that it has in the state_dict.
"""

from __future__ import annotations

import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from specc.diagnostics import SpeccError, error
from specc.importing.aten import ASSERTIONS, TABLE
from specc.importing.builder import Builder, Imported, Unsupported, settle, unsupported
from specc.ir.array import Array
from specc.ir.dims import Dim, floordiv, symbol
from specc.ir.dtypes import DECLARED
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import Node

_NAMES = {4: "nchw", 3: "nlc", 2: "nc", 1: "n", 5: "ncdhw"}
"""What the dimensions of an input are called, by its rank."""
_ARITHMETIC = {
    operator.add: lambda a, b: a + b,
    operator.sub: lambda a, b: a - b,
    operator.mul: lambda a, b: a * b,
    operator.floordiv: floordiv,
}


def from_module(module: torch.nn.Module, example_inputs: Sequence[Any]) -> Imported:
    """The network that `module` computes in inference, as far as possible for other extents than the example's too.

    Raises S1102 where `torch.export` cannot follow the module, S1103 for operations that specc has no operators for.
    """
    inputs = tuple(example_inputs)
    program = None
    for varied in (True, False):
        try:
            program = _export(module, inputs, varied)
            return from_program(program, inputs)
        except SpeccError:
            if not varied:
                raise
    raise AssertionError("one of the two ends the loop")


def from_program(program: ExportedProgram, example_inputs: Sequence[Any] | None = None) -> Imported:
    """The network of an exported program; the extents of the example inputs are the defaults of its dimensions."""
    return _Reader(program, example_inputs).read()


def _export(module: torch.nn.Module, inputs: tuple[Any, ...], varied: bool) -> ExportedProgram:
    import torch
    from torch.export import Dim as Extent

    given, shapes = inputs, None
    if varied:  # an extent of 1 is never exported as a symbol
        given = tuple(torch.cat([x, x]) if x.ndim > 1 and x.shape[0] == 1 else x for x in inputs)
        shapes = tuple({axis: Extent.AUTO for axis in range(x.ndim) if axis != 1} for x in given)
    with _inference(module), torch.no_grad(), _silence():
        try:
            return torch.export.export(module, given, dynamic_shapes=shapes)
        except Exception as problem:  # whatever the module or the tracer raises
            first = next((line for line in str(problem).splitlines() if line.strip()), "")
            reason = f"{type(problem).__name__}: {first.strip()}".rstrip(": ")
            name = type(module).__name__
            said = " and ".join("x".join(map(str, x.shape)) for x in inputs) or "none"
            hint = f"its example inputs are {said}: `--input 1x3x64x64` gives the shape of one, once for each"
            notes = (reason[:300], hint)
            raise error("S1102", f"torch.export cannot follow `{name}`", notes=notes) from None


def check_same(imported: Imported, module: torch.nn.Module, example_inputs: Sequence[Any]) -> None:
    """Raises S1105 where the graph computes something else than the module for the example inputs."""
    import torch

    from specc.backends.torch import evaluate
    from specc.compare import TOLERANCE, difference

    graph = imported.graph
    names = [graph.node(i).attrs["name"] for i in graph.inputs]
    found = evaluate(graph, imported.weights, dict(zip(names, map(_array, example_inputs), strict=True)))
    with _inference(module), torch.no_grad():
        expected = [_array(value) for value in _flat(module(*example_inputs)) if isinstance(value, torch.Tensor)]
    apart = [difference(a, b) for a, b in zip(found, expected, strict=True)]
    if not all(distance <= TOLERANCE for distance in apart):
        message = f"what is imported of `{type(module).__name__}` differs from it by {max(apart):.3g} of its results"
        raise error("S1105", message)


@contextmanager
def _silence() -> Iterator[None]:
    """What the tracer prints of its attempts, one of which may succeed, is not shown: the error says what it met."""
    with redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
        before = logging.root.manager.disable
        logging.disable()
        try:
            yield
        finally:
            logging.disable(before)


@contextmanager
def _inference(module: torch.nn.Module) -> Iterator[None]:
    """The module as it is at inference; every part of it trains again afterwards if it did before."""
    training = [part for part in module.modules() if part.training]
    with suppress(NotImplementedError):  # what `torch.export` has made a module of is as it was exported
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


class _Reader:
    def __init__(self, program: ExportedProgram, example_inputs: Sequence[Any] | None) -> None:
        self.program, self.nodes = program, list(program.graph_module.graph.nodes)
        self.examples = list(example_inputs) if example_inputs is not None else None
        self.values: dict[Node, Any] = {}
        self.symbols: dict[str, Dim] = {}
        self.classes = self._classes()
        self.builder = Builder(Graph(self.classes.get("", "Network")))
        self.tensors: dict[str, Any] = {**program.state_dict, **program.constants}

    def _classes(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for node in self.nodes:
            for path, kind in (node.meta.get("nn_module_stack") or {}).values():
                name = kind if isinstance(kind, str) else kind.__qualname__
                found[_path(path)] = name.rpartition(".")[2]
        return found

    def read(self) -> Imported:
        self._refuse_unknown()
        kinds = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        for node in self.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node, kinds[node.name])
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._output(node)
        graph = self.builder.graph
        settle(graph)
        graph.defaults = {name: extent for name, extent in graph.defaults.items() if name in graph.symbols()}
        weights = {key: _array(self.tensors[key]) for key in graph.checkpoint if key in self.tensors}
        return Imported(graph, weights, self.classes)

    def _refuse_unknown(self) -> None:
        found: dict[str, list[str]] = {}
        for node in self.nodes:
            if node.op == "call_function" and not _is_known(node.target):
                found.setdefault(_name(node.target), []).append(_scope(node))
            elif node.op not in ("placeholder", "call_function", "output"):
                found.setdefault(node.op, []).append(_scope(node))
        if found:
            raise unsupported(found, f"`{self.builder.graph.name}`")

    def _placeholder(self, node: Node, spec: Any) -> Any:
        from torch.export.graph_signature import InputKind

        example = node.meta.get("val")
        if spec.kind is InputKind.USER_INPUT:
            return self._input(node, example)
        tensor = self.tensors.get(spec.target)
        if tensor is None or not tensor.dtype.is_floating_point:
            return None if tensor is None else tensor
        type_ = TensorType(tuple(tensor.shape))
        return self.builder.graph.parameter(spec.target, type_, trainable=spec.kind is InputKind.PARAMETER)

    def _input(self, node: Node, example: Any) -> Value:
        graph = self.builder.graph
        number = len(graph.inputs)
        names = _NAMES.get(example.ndim, "")
        dtype = "float32" if example.dtype.is_floating_point else str(example.dtype).removeprefix("torch.")
        if dtype not in DECLARED:
            raise error("S1103", f"the input `{node.name}` is {dtype}, which no tensor of a spec is")
        given = None if self.examples is None else self.examples[number].shape
        dims: list[Dim] = []
        for axis, extent in enumerate(example.shape):
            if isinstance(extent, int):
                dims.append(extent)
                continue
            known = self.symbols.get(str(extent))
            if known is None:
                name = names[axis] if axis < len(names) else f"d{axis}"
                known = symbol(name if name not in graph.defaults else f"{name}{number}")
                self.symbols[str(extent)] = known
                hint = int(given[axis]) if given is not None else int(extent.node.hint)
                graph.defaults[str(known)] = hint
            dims.append(known)
        return graph.input(_input_name(node.name, number), TensorType(tuple(dims), dtype))

    def _call(self, node: Node) -> None:
        target: Any = node.target
        self.builder.path = _scope(node)
        name = _plain(target)
        args, kwargs = self._known(node.args), self._known(node.kwargs)
        if target in _ARITHMETIC:
            self.values[node] = _ARITHMETIC[target](*args)
        elif target is operator.getitem:
            self.values[node] = args[0][args[1]]
        elif name == "sym_size":
            self.values[node] = self.builder.shape(args[0])[args[1]]
        elif name not in ASSERTIONS and not _compares(target):
            kwargs = {
                key: value
                for key, value in kwargs.items()
                if key not in ("layout", "device", "memory_format") and (key != "dtype" or name in _CASTS)
            }
            try:
                self.values[node] = TABLE[name](self.builder, *args, **kwargs)
            except (Unsupported, TypeError, AttributeError) as problem:
                reason = str(problem) if isinstance(problem, Unsupported) else "with these arguments"
                raise unsupported(
                    {f"{_name(target)} ({reason})": [_scope(node)]}, f"`{self.builder.graph.name}`"
                ) from None
            if name != _base(target):
                self._rebind(node)

    def _rebind(self, node: Node) -> None:
        """What an operation has changed in place has the new value from here on, under its old name too."""
        changed = node.args[0]
        if _plain(changed.target) in _VIEWS:
            reason = "of a part of another tensor"
            raise unsupported({f"{_name(node.target)} ({reason})": [_scope(node)]}, f"`{self.builder.graph.name}`")
        self.values[changed] = self.values[node]

    def _known(self, value: Any) -> Any:
        """Arguments with the nodes among them replaced by what these have become."""
        from torch.fx import Node

        if isinstance(value, Node):
            return self.values.get(value)
        if isinstance(value, (list, tuple)):
            return [self._known(item) for item in value]
        if isinstance(value, dict):
            return {key: self._known(item) for key, item in value.items()}
        return value

    def _output(self, node: Node) -> None:
        found = [value for value in _flat(self._known(node.args[0])) if isinstance(value, Value)]
        if not found:
            raise error("S1103", f"`{self.builder.graph.name}` returns no tensor")
        self.builder.graph.outputs = found


_CASTS = frozenset({"to", "_to_copy"})
_VIEWS = frozenset({"slice", "select", "narrow", "chunk", "split", "unbind", "view", "permute", "transpose", "expand"})


def _is_known(target: Any) -> bool:
    if target in _ARITHMETIC or target is operator.getitem or _compares(target):
        return True
    return _plain(target) in TABLE or _plain(target) in ASSERTIONS or _plain(target) == "sym_size"


def _compares(target: Any) -> bool:
    return target in (operator.eq, operator.ne, operator.ge, operator.gt, operator.le, operator.lt)


def _name(target: Any) -> str:
    return str(target)


def _base(target: Any) -> str:
    schema = getattr(target, "_schema", None)
    return str(schema.name).rpartition("::")[2] if schema is not None else getattr(target, "__name__", str(target))


def _plain(target: Any) -> str:
    """`aten::relu_` as `relu`."""
    base = _base(target)
    return base.removesuffix("_") if not base.startswith("__") else base


def _scope(node: Node) -> str:
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    return _path(list(stack.values())[-1][0]) if stack else ""


def _path(path: str) -> str:
    """The path of a module; `@1` marks a second call of it."""
    return path.partition("@")[0]


def _input_name(name: str, number: int) -> str:
    return name if (name.isidentifier() and len(name) > 1) or name == "x" else f"x{number}"


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, Mapping):
        yield from _flat(list(value.values()))
    else:
        yield value


def _array(tensor: Any) -> Array:
    array = tensor.detach().cpu()
    result: Array = (array.float() if array.dtype.is_floating_point else array).numpy()
    return np.array(result)
