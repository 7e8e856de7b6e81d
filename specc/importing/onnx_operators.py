"""ONNX's operations --> operators: one entry for each, called with its inputs and its attributes.

An input is a value of the graph, an array (a constant), a tuple of dimensions (what `Shape` gives, and what is computed
from it), or None where it is left out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from specc.importing.builder import Builder, Convert, Unsupported
from specc.importing.onnx_movements import MOVEMENTS
from specc.importing.onnx_numbers import dimensions, number, short
from specc.importing.onnx_spatial import SPATIAL
from specc.ir.dims import floordiv
from specc.ir.graph import Value


def _batch_norm(b: Builder, x: Value, weight: Value, bias: Value, mean: Value, var: Value, **a: Any) -> Value:
    if a.get("training_mode", 0):
        raise Unsupported("a batch norm in training mode")
    momentum = round(1 - a.get("momentum", 0.9), 6)
    return b.apply("batch_norm", x, mean, var, weight, bias, eps=short(a.get("epsilon", 1e-5)), momentum=momentum)


def _gemm(b: Builder, x: Value, weight: Value, bias: Value | None = None, **a: Any) -> Value:
    if a.get("alpha", 1.0) != 1 or a.get("beta", 1.0) != 1 or a.get("transA", 0):
        raise Unsupported("a product with factors, or of a transposed left side")
    if not a.get("transB", 0):
        weight = b.permute(weight, (1, 0))
    return b.apply("linear", x, weight, *(() if bias is None else (bias,)))


def _matmul(b: Builder, x: Value, y: Value) -> Value:
    if len(b.shape(y)) == 2 and b.graph.is_frozen(y.node):
        return b.apply("linear", x, b.permute(y, (1, 0)))
    return b.apply("matmul", x, y)


def _binary(op: str) -> Convert:
    def convert(b: Builder, x: Any, y: Any) -> Any:
        if not isinstance(x, Value) and not isinstance(y, Value):
            return _dims(op, x, y)
        sides = [_operand(b, x, y), _operand(b, y, x)]
        if op == "add":
            biased = _biased(b, *sides) or _biased(b, *sides[::-1])
            if biased is not None:
                return biased
        if op == "mul":
            gelu = _gelu(b, x, y) or _gelu(b, y, x)
            if gelu is not None:
                return gelu
        return b.apply(op, *sides)

    return convert


def _operand(b: Builder, x: Any, other: Any) -> Value:
    if isinstance(x, Value):
        return x
    if isinstance(x, np.ndarray) and x.size == 1:
        return b.constant(short(x.item()), other)
    raise Unsupported("arithmetic of a tensor with dimensions")


def _dims(op: str, x: Any, y: Any) -> Any:
    """Arithmetic on dimensions."""
    rules = {"add": lambda p, q: p + q, "sub": lambda p, q: p - q, "mul": lambda p, q: p * q, "div": floordiv}
    left, right = dimensions(x), dimensions(y)
    if op not in rules:
        raise Unsupported("arithmetic on dimensions")
    count = max(len(left), len(right))
    pairs = zip(left * (count // len(left)), right * (count // len(right)))
    return tuple(rules[op](p, q) for p, q in pairs)


def _biased(b: Builder, x: Value, bias: Value) -> Value | None:
    """`linear(x) + bias` as one."""
    node, record = b.graph.node(x.node), b.graph.node(bias.node)
    operands = b.graph.operands(x.node)
    fits = node.op == "linear" and len(operands) == 2 and record.op == "param" and b.shape(bias) == b.shape(x)[-1:]
    if not fits or b.graph.uses(x):
        return None
    b.graph.remove([x.node])
    return b.graph.apply("linear", [*operands, bias], {}, node.path)


def _gelu(b: Builder, x: Any, half: Any) -> Value | None:
    """`x * (erf(x / sqrt(2)) + 1) * 0.5`, in the order in which exporters write it."""
    g = b.graph
    if not isinstance(x, Value) or number(b, half) != 0.5 or g.op(x) != "mul":
        return None
    for inner, outer in (g.operands(x.node), g.operands(x.node)[::-1]):
        if g.op(outer) != "add" or number(b, g.operands(outer.node)[1]) != 1:
            continue
        erf = g.operands(outer.node)[0]
        if g.op(erf) != "erf":
            continue
        scaled = g.operands(erf.node)[0]
        factor = number(b, g.operands(scaled.node)[1]) if g.op(scaled) in ("div", "mul") else None
        expected = math.sqrt(2) if g.op(scaled) == "div" else math.sqrt(0.5)
        if factor is not None and abs(factor - expected) < 1e-6 and g.operands(scaled.node)[0] == inner:
            return b.apply("gelu", inner)
    return None


def _clip(b: Builder, x: Value, low: Any = None, high: Any = None, **a: Any) -> Value:
    least = a.get("min") if low is None else number(b, low)
    most = a.get("max") if high is None else number(b, high)
    if least == 0 and most in (6, None):
        return b.apply("relu" if most is None else "relu6", x)
    for op, bound in (("maximum", least), ("minimum", most)):
        if bound is not None:
            x = b.apply(op, x, b.constant(bound, x))
    return x


def _hard_sigmoid(b: Builder, x: Value, **a: Any) -> Value:
    if abs(a.get("alpha", 0.2) - 1 / 6) > 1e-6 or a.get("beta", 0.5) != 0.5:
        raise Unsupported("a hard sigmoid of another slope than 1/6")
    return b.apply("hard_sigmoid", x)


def _reduce(op: str) -> Convert:
    def convert(b: Builder, x: Value, axes: Any = None, **a: Any) -> Value:
        rank = len(b.shape(x))
        chosen = a.get("axes") if axes is None else [int(str(axis)) for axis in dimensions(axes)]
        normal = tuple(sorted(axis % rank for axis in (chosen or range(rank))))
        keep = bool(a.get("keepdims", 1))
        return b.mean(x, normal, keep) if op == "mean" else b.apply(op, x, axes=normal, keep=keep)

    return convert


def _layer_norm(b: Builder, x: Value, weight: Value, bias: Value | None = None, **a: Any) -> Value:
    rank = len(b.shape(x))
    if a.get("axis", -1) % rank != rank - 1:
        raise Unsupported("a layer norm over several dimensions")
    weights = (weight,) if bias is None else (weight, bias)
    return b.apply("layer_norm", x, *weights, axis=-1, eps=short(a.get("epsilon", 1e-5)))


def _pow(b: Builder, x: Any, exponent: Any) -> Value:
    match number(b, exponent):
        case 2:
            return b.apply("mul", x, x)
        case 0.5:
            return b.apply("sqrt", x)
    return b.apply("pow", _operand(b, x, exponent), _operand(b, exponent, x))


def _softmax(b: Builder, x: Value, **a: Any) -> Value:
    rank = len(b.shape(x))
    axis = a.get("axis", -1)
    return b.apply("softmax", x, axis=-1 if axis % rank == rank - 1 else axis)


_DTYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 11: "float64"}
"""Element types, by their numbers in `onnx.TensorProto`."""


def _cast(b: Builder, x: Any, **a: Any) -> Any:
    if not isinstance(x, Value):
        return x
    if a["to"] not in _DTYPES:
        raise Unsupported(f"elements of the type {a['to']}")
    dtype = _DTYPES[a["to"]]
    return x if b.graph.type(x).dtype == dtype else b.apply("cast", x, dtype=dtype)


def _where(b: Builder, condition: Value, x: Any, y: Any) -> Value:
    if not isinstance(condition, Value):
        raise Unsupported("a choice that is known beforehand")
    like = next((v for v in (x, y) if isinstance(v, Value)), None)
    return b.apply("where", condition, _operand(b, x, like), _operand(b, y, like))


def _least(b: Builder, x: Value, axes: Any = None, **a: Any) -> Value:
    return b.apply("neg", _reduce("amax")(b, b.apply("neg", x), axes, **a))


def _place(op: str | None) -> Convert:
    def convert(b: Builder, x: Value, **a: Any) -> Value:
        if a.get("select_last_index", 0):
            raise Unsupported("the last of equal elements")
        axis = a.get("axis", 0) % len(b.shape(x))
        return b.apply("argmax", b.apply(op, x) if op else x, axis=axis, keep=bool(a.get("keepdims", 1)))

    return convert


def _cumsum(b: Builder, x: Value, axis: Any, **a: Any) -> Value:
    if a.get("exclusive", 0) or a.get("reverse", 0):
        raise Unsupported("a running sum without its element, or from behind")
    return b.apply("cumsum", x, axis=int(str(dimensions(axis)[0])) % len(b.shape(x)))


def _prelu(b: Builder, x: Value, slope: Any) -> Value:
    below = b.apply("minimum", x, b.constant(0, x))
    return b.apply("add", b.apply("relu", x), b.apply("mul", below, _operand(b, slope, x)))


def _instance_norm(b: Builder, x: Value, weight: Value, bias: Value, **a: Any) -> Value:
    groups = b.shape(x)[1]
    if not isinstance(groups, int):
        raise Unsupported("a norm of channels that are not known")
    return b.apply("group_norm", x, weight, bias, groups=groups, eps=short(a.get("epsilon", 1e-5)))


def _unary(op: str) -> Convert:
    return lambda b, x, **a: b.apply(op, x)


def _several(op: str) -> Convert:
    def convert(b: Builder, *xs: Any, **a: Any) -> Any:
        result = xs[0]
        for x in xs[1:]:
            result = _binary(op)(b, result, x)
        return result

    return convert


TABLE: dict[str, Convert] = {
    **MOVEMENTS,
    **SPATIAL,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Relu": _unary("relu"),
    "LeakyRelu": lambda b, x, **a: b.apply("leaky_relu", x, slope=short(a.get("alpha", 0.01))),
    "Clip": _clip,
    "HardSwish": _unary("hard_swish"),
    "HardSigmoid": _hard_sigmoid,
    "Sigmoid": _unary("sigmoid"),
    "Gelu": lambda b, x, **a: b.apply("gelu", x, approximate=a.get("approximate", "none")),
    "Tanh": _unary("tanh"),
    "Erf": _unary("erf"),
    "Exp": _unary("exp"),
    "Sqrt": _unary("sqrt"),
    "Log": _unary("log"),
    "Sin": _unary("sin"),
    "Cos": _unary("cos"),
    "Floor": _unary("floor"),
    "Ceil": _unary("ceil"),
    "Round": _unary("round"),
    "Sign": _unary("sign"),
    "Not": _unary("logical_not"),
    "Mish": _unary("mish"),
    "Softplus": _unary("softplus"),
    "Softsign": _unary("softsign"),
    "Elu": lambda b, x, **a: b.apply("elu", x, alpha=short(a.get("alpha", 1.0))),
    "Celu": lambda b, x, **a: b.apply("celu", x, alpha=short(a.get("alpha", 1.0))),
    "PRelu": _prelu,
    "Reciprocal": lambda b, x: b.apply("div", b.constant(1, x), x),
    "Abs": _unary("abs"),
    "Neg": _unary("neg"),
    "Pow": _pow,
    "Softmax": _softmax,
    "Add": _binary("add"),
    "Sub": _binary("sub"),
    "Mul": _binary("mul"),
    "Div": _binary("div"),
    "Max": _several("maximum"),
    "Min": _several("minimum"),
    "Sum": _several("add"),
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "ReduceMax": _reduce("amax"),
    "ReduceMin": _least,
    "ArgMax": _place(None),
    "ArgMin": _place("neg"),
    "CumSum": _cumsum,
    "GatherElements": lambda b, x, places, **a: b.apply("gather", x, places, axis=a.get("axis", 0) % len(b.shape(x))),
    "Where": _where,
    "Greater": _binary("greater"),
    "GreaterOrEqual": _binary("greater_equal"),
    "Less": _binary("less"),
    "LessOrEqual": _binary("less_equal"),
    "Equal": _binary("equal"),
    "And": _binary("logical_and"),
    "Or": _binary("logical_or"),
    "Cast": _cast,
    "Identity": lambda b, x: x,
    "Dropout": lambda b, x, *_, **a: x,
}
"""Every operation that is understood, by its type in the domain of ONNX itself."""
