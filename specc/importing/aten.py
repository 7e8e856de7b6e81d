"""PyTorch's operations --> operators: one entry for each, by its name in ATen, with ATen's own parameters.

In-place forms (`relu_`) have the entry of the plain one. What belongs to pictures stands in aten_spatial.py, what has
to do with indices in aten_index.py. See `specc.importing.builder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specc.importing.aten_index import INDEXING
from specc.importing.aten_spatial import SPATIAL
from specc.importing.builder import Builder, Convert, Unsupported, whole
from specc.ir.dims import Dim, product
from specc.ir.graph import Value


def _same(b: Builder, x: Value, *_: Any, **__: Any) -> Value:
    return x


def _batch_norm(
    b: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    var: Value | None,
    training: bool,
    momentum: float | None,
    eps: float,
    *_: Any,
) -> Value:
    if training or mean is None or var is None:
        raise Unsupported("a batch norm in training mode")
    affine = () if weight is None or bias is None else (weight, bias)
    return b.apply("batch_norm", x, mean, var, *affine, eps=eps, momentum=0.1 if momentum is None else momentum)


def _layer_norm(
    b: Builder,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    if len(shape) != 1:
        raise Unsupported("a layer norm over several dimensions")
    return b.apply("layer_norm", x, *(v for v in (weight, bias) if v is not None), axis=-1, eps=eps)


def _group_norm(
    b: Builder, x: Value, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Value:
    return b.apply("group_norm", x, *(v for v in (weight, bias) if v is not None), groups=groups, eps=eps)


def _binary(op: str) -> Convert:
    def convert(b: Builder, x: Any, y: Any, alpha: float = 1, rounding_mode: Any = None) -> Any:
        if rounding_mode is not None:
            raise Unsupported("a division that rounds")
        if not isinstance(x, Value) and not isinstance(y, Value):
            raise Unsupported("arithmetic on numbers")
        x, y = (v if isinstance(v, Value) else b.constant(v, w) for v, w in ((x, y), (y, x)))
        if alpha != 1:
            y = b.apply("mul", y, b.constant(alpha, y))
        return b.apply(op, x, y)

    return convert


def _clamp(b: Builder, x: Value, low: Any = None, high: Any = None) -> Value:
    if low == 0 and high in (6, None):
        return b.apply("relu" if high is None else "relu6", x)
    for op, bound in (("maximum", low), ("minimum", high)):
        if bound is not None:
            x = b.apply(op, x, bound if isinstance(bound, Value) else b.constant(bound, x))
    return x


def _pow(b: Builder, x: Any, exponent: Any) -> Value:
    if not isinstance(x, Value) or isinstance(exponent, Value):
        return b.apply(
            "pow", *(v if isinstance(v, Value) else b.constant(v, w) for v, w in ((x, exponent), (exponent, x)))
        )
    match exponent:
        case 2:
            return b.apply("mul", x, x)
        case 0.5:
            return b.apply("sqrt", x)
        case -0.5:
            return b.apply("rsqrt", x)
    return b.apply("pow", x, b.constant(exponent, x))


def _dropout(b: Builder, x: Value, p: float, training: bool) -> Value:
    return b.apply("dropout", x, p=p) if 0 < p < 1 else x


def _prelu(b: Builder, x: Value, slope: Value) -> Value:
    channels = b.shape(slope)[0]
    if channels != 1:
        slope = b.reshape(slope, [channels, *[1] * (len(b.shape(x)) - 2)])
    zero = b.constant(0, x)
    return b.apply("add", b.apply("relu", x), b.apply("mul", b.apply("minimum", x, zero), slope))


def _elu(b: Builder, x: Value, alpha: float = 1.0, scale: float = 1.0, inner: float = 1.0) -> Value:
    if scale != 1 or inner != 1:
        raise Unsupported("an `elu` with scales of its own")
    return b.apply("elu", x, alpha=alpha)


def _softplus(b: Builder, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    if threshold != 20:
        raise Unsupported("a `softplus` with a threshold of its own")
    return b.apply("softplus", x, beta=beta)


def _cast(b: Builder, x: Value, *rest: Any, **named: Any) -> Value:
    """Another element type; between floating ones there is nothing to do, since the graph has one of them."""
    import torch

    dtype = next((v for v in (*rest, *named.values()) if isinstance(v, torch.dtype)), None)
    goal = "" if dtype is None else str(dtype).removeprefix("torch.")
    goal = "float32" if goal.startswith(("float", "bfloat")) else goal
    return x if goal in ("", b.graph.type(x).dtype) else b.apply("cast", x, dtype=goal)


def _spread(correction: float) -> Convert:
    """The variance with `correction` fewer terms than there are."""

    def convert(b: Builder, x: Value, axes: Any = None, *_: Any, keepdim: bool = False, **named: Any) -> Value:
        fewer = named.get("correction", correction)
        rank = len(b.shape(x))
        chosen = range(rank) if axes is None else [axes] if isinstance(axes, int) else axes
        normal = tuple(sorted(axis % rank for axis in chosen))
        count = product(b.shape(x)[axis] for axis in normal)
        if fewer not in (0, None) and not isinstance(count, int):
            raise Unsupported("a variance over a number of elements that is not known")
        node = b.apply("var_mean", x, axes=normal, keep=keepdim)
        factor = count / (count - fewer) if fewer and isinstance(count, int) else 1
        return node if factor == 1 else b.apply("mul", node, b.constant(factor, x))

    return convert


def _softmax(b: Builder, x: Value, axis: int, *_: Any) -> Value:
    return b.apply("softmax", x, axis=-1 if axis % len(b.shape(x)) == len(b.shape(x)) - 1 else axis)


def _view(b: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    if -1 in shape:
        known = product(e for e in shape if e != -1)
        shape = [b.graph.type(x).elements // known if e == -1 else e for e in shape]
    return b.reshape(x, shape)


def _transpose(b: Builder, x: Value, first: int, second: int) -> Value:
    order = list(range(len(b.shape(x))))
    order[first], order[second] = order[second], order[first]
    return b.permute(x, order)


def _squeeze(b: Builder, x: Value, axes: Any = None) -> Value:
    shape = b.shape(x)
    chosen = range(len(shape)) if axes is None else [axes] if isinstance(axes, int) else axes
    gone = {axis % len(shape) for axis in chosen if shape[axis] == 1}
    node = b.graph.node(x.node)
    if gone == {2, 3} and node.op == "global_avg_pool":
        return b.flatten(x, 1, -1)
    return b.reshape(x, [extent for axis, extent in enumerate(shape) if axis not in gone])


def _unsqueeze(b: Builder, x: Value, axis: int) -> Value:
    shape = list(b.shape(x))
    shape.insert(axis % (len(shape) + 1), 1)
    return b.reshape(x, shape)


def _slice(b: Builder, x: Value, axis: int = 0, start: Any = None, stop: Any = None, step: int = 1) -> Value:
    extent = b.shape(x)[axis]
    bounds: list[Dim] = []
    for bound, default in ((start, 0), (stop, extent)):
        if bound is None or (isinstance(bound, int) and bound >= 2**62):
            bound = default
        elif isinstance(bound, int) and bound < 0:
            bound = extent + bound
        if isinstance(bound, int) and isinstance(extent, int):
            bound = max(0, min(bound, extent))
        bounds.append(bound)
    return b.part(x, axis, bounds[0], bounds[1], step)


def _select(b: Builder, x: Value, axis: int, index: int) -> Value:
    shape = b.shape(x)
    axis %= len(shape)
    start = index if index >= 0 else shape[axis] + index
    part = b.part(x, axis, start, start + 1)
    return b.reshape(part, [*shape[:axis], *shape[axis + 1 :]])


def _chunk(b: Builder, x: Value, parts: int, axis: int = 0) -> tuple[Value, ...]:
    return b.parts(x, [whole(b.shape(x)[axis], parts)] * parts, axis)


def _split(b: Builder, x: Value, sizes: Any, axis: int = 0) -> tuple[Value, ...]:
    extent = b.shape(x)[axis]
    if isinstance(sizes, int):
        if not isinstance(extent, int):
            raise Unsupported("a split of a dimension that is not known")
        sizes = [min(sizes, extent - start) for start in range(0, extent, sizes)]
    return b.parts(x, sizes, axis)


def _unbind(b: Builder, x: Value, axis: int = 0) -> tuple[Value, ...]:
    extent = b.shape(x)[axis]
    if not isinstance(extent, int):
        raise Unsupported("parts of a dimension that is not known")
    return tuple(_select(b, x, axis, index) for index in range(extent))


def _cat(b: Builder, xs: Sequence[Value], axis: int = 0) -> Value:
    return xs[0] if len(xs) == 1 else b.apply("concat", *xs, axis=axis % len(b.shape(xs[0])))


def _stack(b: Builder, xs: Sequence[Value], axis: int = 0) -> Value:
    return _cat(b, [_unsqueeze(b, x, axis) for x in xs], axis % (len(b.shape(xs[0])) + 1))


def _expand(b: Builder, x: Value, shape: Sequence[Dim], implicit: bool = False) -> Value:
    own = b.shape(x)
    new = len(shape) - len(own)
    goal = [e if i < new or e != own[i - new] else -1 for i, e in enumerate(shape)]
    return x if not new and all(e == -1 for e in goal) else b.apply("expand", x, shape=tuple(goal))


def _reduce(op: str) -> Convert:
    def convert(b: Builder, x: Value, axes: Any = None, keep: bool = False, dtype: Any = None) -> Value:
        rank = len(b.shape(x))
        chosen = tuple(range(rank)) if not axes and axes != 0 else (axes,) if isinstance(axes, int) else tuple(axes)
        if op == "mean":
            return b.mean(x, chosen, keep)
        return b.apply(op, x, axes=tuple(sorted(axis % rank for axis in chosen)), keep=keep)

    return convert


def _attention(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    if causal or enable_gqa:
        raise Unsupported("attention with a causal mask" if causal else "attention with groups of queries")
    return b.attention(q, k, v, mask, scale)


def _unary(op: str, *names: str) -> Convert:
    """An operator of one operand; ATen's further positional arguments are its attributes `names`."""

    def convert(b: Builder, x: Value, *rest: Any, **named: Any) -> Value:
        return b.apply(op, x, **dict(zip(names, rest)), **{n: v for n, v in named.items() if n in names})

    return convert


TABLE: dict[str, Convert] = {
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "linear": lambda b, x, w, bias=None: b.apply("linear", x, w, *(() if bias is None else (bias,))),
    "matmul": lambda b, x, y: b.apply("matmul", x, y),
    "bmm": lambda b, x, y: b.apply("matmul", x, y),
    "scaled_dot_product_attention": _attention,
    "add": _binary("add"),
    "sub": _binary("sub"),
    "mul": _binary("mul"),
    "div": _binary("div"),
    "maximum": _binary("maximum"),
    "minimum": _binary("minimum"),
    "rsub": lambda b, x, y, alpha=1: _binary("sub")(b, y, x) if alpha == 1 else _never("rsub with alpha"),
    "clamp": _clamp,
    "clamp_min": lambda b, x, low: _clamp(b, x, low),
    "hardtanh": lambda b, x, low=-1, high=1: _clamp(b, x, low, high),
    "pow": _pow,
    "square": lambda b, x: b.apply("mul", x, x),
    "dropout": _dropout,
    "feature_dropout": _dropout,
    "relu": _unary("relu"),
    "relu6": _unary("relu6"),
    "leaky_relu": _unary("leaky_relu", "slope"),
    "gelu": lambda b, x, approximate="none": b.apply("gelu", x, approximate=approximate),
    "silu": _unary("silu"),
    "sigmoid": _unary("sigmoid"),
    "hardsigmoid": _unary("hard_sigmoid"),
    "hardswish": _unary("hard_swish"),
    "tanh": _unary("tanh"),
    "exp": _unary("exp"),
    "erf": _unary("erf"),
    "sqrt": _unary("sqrt"),
    "rsqrt": _unary("rsqrt"),
    "abs": _unary("abs"),
    "neg": _unary("neg"),
    **{
        name: _unary(name)
        for name in ("log", "sin", "cos", "floor", "ceil", "round", "sign", "selu", "mish", "softsign")
    },
    "celu": _unary("celu", "alpha"),
    "elu": _elu,
    "softplus": _softplus,
    "log_sigmoid": _unary("log_sigmoid"),
    "prelu": _prelu,
    "var": _spread(1),
    "addmm": lambda b, bias, x, y: b.apply("add", b.apply("matmul", x, y), bias),
    "mm": lambda b, x, y: b.apply("matmul", x, y),
    "softmax": _softmax,
    "_softmax": _softmax,
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    "amax": _reduce("amax"),
    "view": _view,
    "reshape": _view,
    "_unsafe_view": _view,
    "unflatten": lambda b, x, axis, sizes: _view(
        b, x, [*b.shape(x)[: axis % len(b.shape(x))], *sizes, *b.shape(x)[axis % len(b.shape(x)) + 1 :]]
    ),
    "flatten": lambda b, x, start=0, end=-1: b.flatten(x, start, end),
    "permute": lambda b, x, order: b.permute(x, order),
    "transpose": _transpose,
    "t": lambda b, x: _transpose(b, x, 0, 1),
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "slice": _slice,
    "narrow": lambda b, x, axis, start, length: b.part(x, axis, start, start + length),
    "select": _select,
    "chunk": _chunk,
    "split": _split,
    "split_with_sizes": _split,
    "unbind": _unbind,
    "cat": _cat,
    "stack": _stack,
    "expand": _expand,
    **dict.fromkeys(("contiguous", "clone", "detach", "alias", "lift_fresh_copy"), _same),
    **dict.fromkeys(("to", "_to_copy"), _cast),
    **SPATIAL,
    **INDEXING,
}
"""Every operation that is understood, by its name without namespace, overload and the mark of in-place forms."""

ASSERTIONS = frozenset(
    {"_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range_for_size", "sym_constrain_range"}
)
"""What states facts and computes nothing."""


def _never(reason: str) -> Any:
    raise Unsupported(reason)
