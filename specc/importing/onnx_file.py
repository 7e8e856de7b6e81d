"""An ONNX file --> a graph and its weights.

Modules are read off the names that exporters give: `/layer1/layer1.0/conv1/Conv` happens in `layer1.0.conv1`, and so
does what has `pkg.torch.onnx.name_scopes` say so. A weight has the name that it has in the file if that is one of a
state_dict, `layer1.0.conv1.weight`; else the name of its module with its role, since `onnx::Conv_193` says nothing. The
file does not say the classes of modules; members of one container, and modules of one name, are taken for one class.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np

from specc.diagnostics import error
from specc.files import check_regular
from specc.grammar.writer import sayable
from specc.importing.builder import Builder, Imported, Unsupported, settle, unsupported
from specc.importing.onnx_operators import TABLE
from specc.ir.array import Array
from specc.ir.dims import Dim, symbol
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType

_DIMENSIONS = {4: "nchw", 3: "nlc", 2: "nc", 1: "n"}
_ROLES = {
    "Conv": ("", "weight", "bias"),
    "Gemm": ("", "weight", "bias"),
    "MatMul": ("weight", "weight"),
    "Add": ("bias", "bias"),
    "BatchNormalization": ("", "weight", "bias", "running_mean", "running_var"),
    "LayerNormalization": ("", "weight", "bias"),
    "InstanceNormalization": ("", "weight", "bias"),
    "ConvTranspose": ("", "weight", "bias"),
}
"""What the inputs of an operation are called in a state_dict."""
_TRANSPOSED = ("MatMul", "Gemm")


def from_onnx(path: str | Path) -> Imported:
    """The network in an ONNX file.

    Raises S0001 where there is no such file, S1104 where it holds no network, S1005 where the package `onnx` is not
    there, S1103 for operations that specc has no operators for.
    """
    return _Reader(_read(Path(path)), Path(path).stem).read()


def _read(path: Path) -> Any:
    try:
        import onnx
    except ImportError:
        raise error("S1005", "reading ONNX files takes the package `onnx`: pip install onnx") from None
    try:
        check_regular(path)
        data = path.read_bytes()
    except OSError as problem:
        raise error("S0001", f"{path} cannot be read: {problem.strerror or problem}") from None
    try:
        model = onnx.load_model_from_string(data)
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except Exception as problem:  # protobuf's, the checker's, and those of missing files of weights
        first = next((line.strip() for line in str(problem).splitlines() if line.strip()), "")
        raise error("S1104", f"{path} holds no network", notes=(f"{type(problem).__name__}: {first}"[:300],)) from None
    return model


class _Reader:
    def __init__(self, model: Any, stem: str) -> None:
        from onnx import numpy_helper

        self.graph = model.graph
        name = "".join(part[:1].upper() + part[1:] for part in re.split(r"\W+|_", stem) if part)
        self.builder = Builder(Graph(sayable(name or "Network")))
        self.constants: dict[str, Array] = {i.name: numpy_helper.to_array(i) for i in self.graph.initializer}
        self.weights: dict[str, Array] = {}
        self.values: dict[str, Any] = {}
        self.paths: list[str] = []
        self.classes: dict[str, str] = {"": name}
        self.uses: dict[str, int] = {}
        for node in self.graph.node:
            for source in node.input:
                self.uses[source] = self.uses.get(source, 0) + 1

    def read(self) -> Imported:
        self._refuse_unknown()
        for value in self.graph.input:
            if value.name not in self.constants:
                self.values[value.name] = self._input(value)
        for number, node in enumerate(self.graph.node):
            self._call(node, number)
        graph = self.builder.graph
        graph.outputs = [self._output(value.name) for value in self.graph.output]
        settle(graph)
        graph.defaults = {"n": 1} if "n" in graph.symbols() else {}
        parameters = graph.parameters
        self._guess_classes()
        return Imported(graph, {key: self.weights[key] for key in parameters}, self.classes)

    def _refuse_unknown(self) -> None:
        found: dict[str, list[str]] = {}
        for number, node in enumerate(self.graph.node):
            if node.op_type not in (*TABLE, "Constant") or node.domain not in ("", "ai.onnx"):
                name = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
                found.setdefault(name, []).append(self._path(node, number))
        if found:
            raise unsupported(found, f"`{self.builder.graph.name}`")

    def _output(self, name: str) -> Value:
        value = self.values.get(name)
        if not isinstance(value, Value):
            raise error("S1103", f"the result `{name}` is no tensor that is computed from the inputs")
        return value

    def _input(self, value: Any) -> Value:
        from onnx import TensorProto

        kind = value.type.tensor_type
        if kind.elem_type != TensorProto.FLOAT:
            what = TensorProto.DataType.Name(kind.elem_type).lower()
            raise error("S1103", f"the input `{value.name}` is {what}, and a spec's inputs are float32")
        names = _DIMENSIONS.get(len(kind.shape.dim), "")
        dims: list[Dim] = []
        for axis, dim in enumerate(kind.shape.dim):
            if dim.HasField("dim_value"):
                dims.append(dim.dim_value)
                continue
            given = dim.dim_param if dim.dim_param.isidentifier() and sayable(dim.dim_param) == dim.dim_param else ""
            dims.append(symbol(names[axis] if axis < len(names) else given or f"d{axis}"))
        name = sayable(value.name.replace(".", "_"))
        return self.builder.graph.input(name, TensorType(tuple(dims)))

    # ---- nodes

    def _call(self, node: Any, number: int) -> None:
        from onnx import helper, numpy_helper

        attributes = {a.name: _plain(helper.get_attribute_value(a)) for a in node.attribute}
        if node.op_type == "Constant":
            tensor = next((a.t for a in node.attribute if a.name == "value"), None)
            other = next(iter(attributes.values()), None)
            self.constants[node.output[0]] = numpy_helper.to_array(tensor) if tensor is not None else np.array(other)
            return
        path = self.builder.path = self._path(node, number)
        self.paths.append(path)
        inputs = [self._value(node, at, path) for at in range(len(node.input))]
        if node.op_type == "Split":
            attributes["outputs"] = len(node.output)
        try:
            found = TABLE[node.op_type](self.builder, *inputs, **attributes)
        except (Unsupported, TypeError, AttributeError) as problem:
            reason = str(problem) if isinstance(problem, Unsupported) else "with these inputs"
            raise unsupported({f"{node.op_type} ({reason})": [path]}, f"`{self.builder.graph.name}`") from None
        several = node.op_type == "Split"
        for name, value in zip(node.output, found if several else [found]):
            self.values[name] = value

    def _value(self, node: Any, at: int, path: str) -> Any:
        """An input of a node: what was computed, a constant, or a weight, which becomes a parameter."""
        name = node.input[at]
        if not name:
            return None
        if name in self.values:
            return self.values[name]
        array = self.constants.get(name)
        if array is None:
            raise error("S1104", f"`{name}` is read and nothing makes it")
        roles = _ROLES.get(node.op_type, ())
        number = array.size == 1 and not (at < len(roles) and roles[at] and array.ndim)
        if array.dtype.kind != "f" or number or node.op_type in ("Clip", "Pow", "Pad", "Resize"):
            return array
        key = self._key(name, path, roles[at] if at < len(roles) else "weight")
        stored = array.astype(np.float32)
        self.weights[key] = stored
        value = self.builder.graph.parameter(key, TensorType(tuple(stored.shape)))
        if self._backwards(node, at, array) and self.uses[name] == 1:  # kept as `linear` reads it
            self.weights[key] = np.ascontiguousarray(stored.T)
            straight = self.builder.graph.parameter(f"{key}", TensorType(tuple(stored.shape[::-1])))
            return self.builder.permute(straight, (1, 0))
        self.values[name] = value
        return value

    def _backwards(self, node: Any, at: int, array: Array) -> bool:
        """Whether a matrix stands as [in, out] in the file."""
        if node.op_type not in _TRANSPOSED or at != 1 or array.ndim != 2:
            return False
        return not any(a.name == "transB" and a.i for a in node.attribute)

    def _key(self, name: str, path: str, role: str) -> str:
        if "." in name and re.fullmatch(r"[A-Za-z_0-9]+(\.[A-Za-z_0-9]+)+", name):
            return name
        stem = f"{path}.{role}".lstrip(".")
        return next(k for k in (stem, *(f"{stem}_{i}" for i in range(2, 9999))) if k not in self.weights)

    # ---- modules

    def _path(self, node: Any, number: int) -> str:
        told = {p.key: p.value for p in node.metadata_props}
        scopes = told.get("pkg.torch.onnx.name_scopes")
        if scopes:
            names = [str(name) for name in ast.literal_eval(scopes)][:-1]
            kinds = ast.literal_eval(told.get("pkg.torch.onnx.class_hierarchy", "[]"))
            for name, kind in zip(names, kinds):
                self.classes[name] = str(kind).rpartition(".")[2]
            return names[-1] if names else ""
        if node.name.startswith("/"):
            path = ""
            for part in node.name.strip("/").split("/")[:-1]:
                inside = path.rpartition(".")[2]
                path = (
                    f"{path.rpartition('.')[0]}.{part}"
                    if inside and part.startswith(f"{inside}.")
                    else f"{path}.{part}"
                )
                path = path.strip(".")
            return path
        weight = next((i for i in node.input if "." in i and i in self.constants and ":" not in i), "")
        if weight:
            return str(weight.rpartition(".")[0])
        owns = any(name in self.constants for name in node.input[1:]) and node.op_type in _ROLES
        return f"{node.op_type.lower()}_{number}" if owns else ""

    def _guess_classes(self) -> None:
        """A class for each module, where the file names none."""
        if len(self.classes) > 1:
            return
        children: dict[str, set[str]] = {}
        for path in self.paths:
            parts = path.split(".") if path else []
            for length in range(len(parts)):
                children.setdefault(".".join(parts[:length]), set()).add(parts[length])
        own = set(self.paths)
        for path, inner in children.items():
            parts = [part for part in path.split(".") if not part.isdigit()]
            if not path:
                continue
            if all(part.isdigit() for part in inner) and path not in own:
                self.classes[path] = "Sequential"
            elif parts:
                word = re.sub(r"\d+$", "", parts[-1]).title().replace("_", "") or "Part"
                self.classes[path] = f"{word}Block" if path.rpartition(".")[2].isdigit() else word


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
