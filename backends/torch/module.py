"""A graph -> a PyTorch module that trains, whose state_dict is the checkpoint.

The parameters stand in a hierarchy of sub-modules that follows their keys, so `load_state_dict` takes a public
checkpoint as it is and `state_dict` gives it back. The forward is generated (see `source`), once for training mode,
where an operator's `training` reference stands for it, and once for inference.
"""

from __future__ import annotations

import copy
import linecache
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from specc.backends.torch.initialize import initialize
from specc.backends.torch.interface import bind, by_position
from specc.backends.torch.judge import freeze
from specc.backends.torch.source import forward_source, functions, input_names, place
from specc.diagnostics import Label, error
from specc.ir.dims import Symbolic
from specc.ir.graph import Graph, Value
from specc.ir.specialize import specialize
from specc.ir.types import TensorType


def to_torch(graph: Graph, dtype: Any = None) -> GraphModule:
    """A trainable module of the graph, with fresh parameters drawn from torch's generator.

    `dtype` ("float64" or torch.float64) stands for every floating type of the graph.
    """
    module = _blank(graph)
    for identity in graph.order():
        node = graph.node(identity)
        if node.op != "param":
            continue
        tensor = torch.empty(node.types[0].concrete, dtype=_dtype(node.types[0], dtype))
        initialize(graph, identity, tensor)
        if node.attrs["trainable"]:
            module.put(node.attrs["key"], torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
        else:
            module.put(node.attrs["key"], tensor)
    parameters = graph.parameters
    for key, type in graph.checkpoint.items():
        if key not in parameters:
            module.put(key, torch.zeros(type.concrete, dtype=_dtype(type, None)))
    for identity, name in _constants(graph).items():
        node = graph.node(identity)
        module.put(name, _exact(graph, identity).to(_dtype(node.types[0], dtype)), persistent=False)
    return module


def to_inference(graph: Graph, weights: Mapping[str, Any], dtype: Any = None) -> GraphModule:
    """A module that only infers: what depends on no input is computed now, in float64, and held as buffers.

    It is what `torch.onnx.export` and `torch.compile` are given where the merged network is to be run by a peer.
    """
    frozen = freeze(graph, weights)
    held = {value: f"frozen__{value.node}_{value.result}" for value in frozen}
    module = _blank(graph, held)
    for value, array in frozen.items():
        # a copy, so that the module does not stand on the caller's memory, which may be a file's
        module.put(held[value], torch.tensor(np.asarray(array), dtype=_dtype(graph.type(value), dtype)))
    module.eval()
    return module


class Scope(torch.nn.Module):  # type: ignore[misc]
    """A level of the checkpoint's keys: it holds parameters, buffers and further levels.

    Where it has the name of a method of the module around it (`half`, `train`), it is what that name gives, because
    `torch.export` finds modules as attributes; and it can be called as the method, because PyTorch does so.
    """

    def shadow(self, module: torch.nn.Module, name: str) -> None:
        """Makes `module.name` this level, and a call of it the method of that name."""
        self.__dict__["_shadowed"] = (module, name)  # past __setattr__: the module around is no part of this one
        module.__dict__[name] = self

    def __call__(self, *given: Any, **named: Any) -> Any:
        module, name = self._shadowed
        return getattr(type(module), name)(module, *given, **named)


class GraphModule(torch.nn.Module):  # type: ignore[misc]
    """A graph, runnable: takes the inputs by position or by name, gives a tensor, or a tuple for several outputs.

    `network` is the graph that it runs, `source` the text of its forwards (the exporters of PyTorch take an attribute
    `graph` or `code` for something of theirs). Every module has a class of its own, named as the
    network, because Python keeps a forward's signature with the class.
    """

    network: Graph
    source: str

    def __call__(self, *given: Any, **named: Any) -> Any:
        # A tracing compiler sees the bare forward: what it records must not depend on the extents of one input.
        if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            given, named = tuple(by_position(self.network, given, named)), {}
            self._check(given)
        return super().__call__(*given, **named)

    def put(self, key: str, tensor: Any, persistent: bool = True) -> None:
        """Stores a parameter or buffer under its key, making the levels that are missing."""
        *scopes, role = key.split(".")
        level: Any = self
        if "training" in key.split("."):
            raise error("S0704", f"`training` in the key `{key}` is what PyTorch calls the mode of a module")
        for scope in scopes:
            if scope in level._parameters or scope in level._buffers:
                raise error("S0704", f"`{scope}` in the key `{key}` is a parameter itself")
            if scope not in level._modules:
                level._modules[scope] = Scope()
                # `forward` of the network itself stays what it is: whoever follows the module reads its code.
                if callable(getattr(type(level), scope, None)) and (level is not self or scope != "forward"):
                    level._modules[scope].shadow(level, scope)
            level = level._modules[scope]
        if role in level._modules or role in level._parameters or role in level._buffers:
            raise error("S0704", f"the parameter `{key}` has the name of another parameter or of a block")
        # Past register_parameter: it refuses the names of a module's methods, which a spec may use (`half`, `type`).
        if isinstance(tensor, torch.nn.Parameter):
            level._parameters[role] = tensor
        else:
            level._buffers[role] = tensor
            if not persistent:
                level._non_persistent_buffers_set.add(role)

    def adopt(self, tensor: Any) -> Any:
        """A tensor, in the floating type of the module where it is no other."""
        return tensor.to(self._computation() or torch.float32) if tensor.is_floating_point() else tensor

    def _check(self, tensors: tuple[Any, ...]) -> None:
        nodes = [self.network.node(i) for i in self.network.inputs]
        for node, tensor in zip(nodes, tensors):
            name, wanted = node.attrs["name"], getattr(torch, node.types[0].dtype)
            labels = [Label(node.span)] if node.span else []
            if not isinstance(tensor, torch.Tensor):
                message = f"the input `{name}` is to be a torch tensor, and is given as {type(tensor).__name__}"
                raise error("S0907", message, *labels)
            if wanted.is_floating_point and tensor.is_floating_point():
                wanted = self._computation() or tensor.dtype
                wanted = tensor.dtype if torch.is_autocast_enabled() else wanted
            if tensor.dtype != wanted:
                said = [str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, wanted)]
                raise error("S0907", f"the input `{name}` is {said[0]}, and the module takes {said[1]}", *labels)
        values = bind(self.network, [tensor.shape for tensor in tensors])
        case = tuple(sorted(values.items()))
        if values and case not in self._sizes:
            specialize(self.network, values)  # raises where an operator does not take the extents that follow
            self._sizes.add(case)

    def _computation(self) -> Any:
        """The floating type that the module computes in now (`module.double()` changes it); None: whatever comes."""
        held = (tensor for tensors in (self.parameters(), self.buffers()) for tensor in tensors)
        return next((tensor.dtype for tensor in held if tensor.is_floating_point()), None)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        # A constant is rounded once, from its exact value to the type at hand: not to float32 on the way to float64.
        for identity, name in self._constant_names.items():
            old = self._buffers[name]
            self._buffers[name] = _exact(self.network, identity).to(dtype=old.dtype, device=old.device)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        result = self.__class__.__new__(self.__class__)
        memo[id(self)] = result
        memo[id(self.network)] = self.network  # nothing changes it
        result.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _blank, (self.network, self._names), self.__dict__


def _blank(graph: Graph, held: dict[Value, str] | None = None) -> GraphModule:
    """The module without its tensors; `held` are values that it is to keep instead of computing them."""
    constants = {} if held is not None else _constants(graph)
    if held is None:
        names = {Value(identity): place(name, "_buffers") for identity, name in constants.items()}
        for identity in graph.order():
            node = graph.node(identity)
            if node.op == "param":
                kind = "_parameters" if node.attrs["trainable"] else "_buffers"
                names[Value(identity)] = place(node.attrs["key"], kind)
    else:
        names = {value: place(name, "_buffers") for value, name in held.items()}
    arguments = ", ".join(["self", *input_names(graph)])
    texts = [forward_source(graph, names, False, "infer"), forward_source(graph, names, held is None, "train")]
    texts.append(f"def forward({arguments}):\n    return (train if self.training else infer)({arguments})\n")
    code = "\n\n".join(texts)
    file = f"<{graph.name} as PyTorch {id(code):x}>"
    space: dict[str, Any] = functions(graph, names.keys())
    exec(compile(code, file, "exec"), space)
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)  # for tracebacks and compilers
    module: GraphModule = type(graph.name, (GraphModule,), {"forward": space["forward"], "__doc__": None})()
    module.network, module.source = graph.copy(), code
    module._names, module._sizes, module._constant_names = held, set(), constants
    return module


def _constants(graph: Graph) -> dict[int, str]:
    """The nodes that are numbers by themselves, and the names of the buffers that hold them."""
    found = {}
    for identity in graph.order():
        node = graph.node(identity)
        fixed = not any(isinstance(v, Symbolic) for part in node.attrs.values() for v in _parts(part))
        if "source" in node.record.traits and node.op not in ("input", "param") and fixed:
            found[identity] = f"constant__{identity}"
    return found


def _parts(attribute: Any) -> tuple[Any, ...]:
    return attribute if isinstance(attribute, tuple) else (attribute,)


def _exact(graph: Graph, identity: int) -> Any:
    node = graph.node(identity)
    return node.record.torch(**node.attrs)


def _dtype(type: TensorType, dtype: Any) -> Any:
    own = getattr(torch, type.dtype)
    if dtype is None or not own.is_floating_point:
        return own
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise error("S0704", f"a module computes in a floating type such as float64, not {dtype!r}")
    return found
