"""Activation functions: elementwise, with the formulas and the names of torch.nn.functional."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from specc.ir.types import TensorType
from specc.ops.elementwise import HEAVY, draw_shape, functional, infer, torch_function, unary
from specc.ops.record import Argument, Attributes, Illegal, Operator, Types


def _const(k: Any, value: float, x: Any) -> Any:
    return k.const(value, x.dtype)


def _relu(k: Any, x: Any) -> Any:
    return k.max(x, _const(k, 0.0, x))


def _relu6(k: Any, x: Any) -> Any:
    return k.min(_relu(k, x), _const(k, 6.0, x))


def _hard_sigmoid(k: Any, x: Any) -> Any:
    return _relu6(k, x + _const(k, 3.0, x)) * _const(k, 1 / 6, x)


def _gelu(k: Any, x: Any, approximate: str) -> Any:
    """Hendrycks and Gimpel, arXiv:1606.08415, section 2: exact with erf, or their tanh approximation."""
    if approximate == "tanh":
        inner = _const(k, math.sqrt(8 / math.pi), x) * (x + _const(k, 0.044715, x) * x * x * x)
        return x * k.sigmoid(inner)  # 1 + tanh(z) = 2 * sigmoid(2 * z)
    return x * k.normal(x)


def _softplus(k: Any, x: Any, beta: float = 1.0) -> Any:
    """max(z, 0) + log(1 + exp(-|z|)) with z = beta x, in which nothing overflows."""
    z = x * _const(k, beta, x)
    log = k.log(_const(k, 1.0, x) + k.exp(_const(k, 0.0, x) - k.abs(z)))
    return (_relu(k, z) + log) * _const(k, 1 / beta, x)


def _mish(k: Any, x: Any) -> Any:
    """With e = exp(x) and n = e (e + 2), tanh(log(1 + e)) is n / (n + 2); it is 1 long before x is 20."""
    e = k.exp(k.min(x, _const(k, 20.0, x)))
    n = e * (e + _const(k, 2.0, x))
    return x * (n / (n + _const(k, 2.0, x)))


def _elu(k: Any, x: Any, alpha: float, slope: float = 1.0) -> Any:
    """Identity above 0, alpha (exp(slope x) - 1) below; the exponential never sees a positive number."""
    below = k.min(x, _const(k, 0.0, x)) * _const(k, slope, x)
    return _relu(k, x) + _const(k, alpha, x) * (k.exp(below) - _const(k, 1.0, x))


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
"""The fixed point of mean 0 and variance 1 (arXiv:1706.02515, equation 14)."""


def _positive(name: str) -> Callable[[Types, Attributes], tuple[TensorType, ...]]:
    def check(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
        if attrs[name] <= 0:
            raise Illegal(f"`{name}` is above 0, not {attrs[name]}", argument=name)
        return infer(types, attrs)

    return check


def _gelu_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    if attrs["approximate"] not in ("none", "tanh"):
        raise Illegal("`approximate` is none or tanh", argument="approximate")
    return infer(types, attrs)


def _dropout_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    if not 0 <= attrs["p"] < 1:
        raise Illegal(f"`p` is at least 0 and below 1, not {attrs['p']}", argument="p")
    return infer(types, attrs)


RECORDS = (
    unary("relu", "max(x, 0)", functional("relu"), _relu),
    unary("relu6", "min(max(x, 0), 6)", functional("relu6"), _relu6),
    unary(
        "leaky_relu",
        "x where x > 0, else slope * x",
        lambda x, slope: functional("leaky_relu")(x, negative_slope=slope),
        lambda k, x, slope: k.select(x > _const(k, 0.0, x), x, x * _const(k, slope, x)),
        (Argument("slope", "float", 0.01),),
    ),
    Operator(
        "gelu",
        "x * P(X <= x) for a standard normal X (arXiv:1606.08415)",
        ("x",),
        _gelu_infer,
        functional("gelu"),
        lambda rng: ([TensorType(draw_shape(rng))], {"approximate": rng.choice(("none", "tanh"))}),
        attributes=(Argument("approximate", "str", "none"),),
        scalar=_gelu,
        traits=HEAVY,
    ),
    unary("silu", "x * sigmoid(x) (arXiv:1606.08415)", functional("silu"), lambda k, x: k.silu(x)),
    unary("mish", "x * tanh(softplus(x)) (arXiv:1908.08681)", functional("mish"), _mish, traits=HEAVY),
    unary(
        "elu",
        "x where x > 0, else alpha * (exp(x) - 1) (arXiv:1511.07289)",
        functional("elu"),
        _elu,
        (Argument("alpha", "float", 1.0),),
    ),
    unary(
        "celu",
        "x where x > 0, else alpha * (exp(x / alpha) - 1) (arXiv:1704.07483)",
        functional("celu"),
        lambda k, x, alpha: _elu(k, x, alpha, 1 / alpha),
        (Argument("alpha", "float", 1.0),),
        infer=_positive("alpha"),
    ),
    unary(
        "selu",
        "scale * elu(x, alpha) with the constants of arXiv:1706.02515",
        functional("selu"),
        lambda k, x: _const(k, _SELU_SCALE, x) * _elu(k, x, _SELU_ALPHA),
    ),
    unary(
        "softplus",
        "log(1 + exp(beta * x)) / beta",
        lambda x, beta: functional("softplus")(x, beta=beta),
        _softplus,
        (Argument("beta", "float", 1.0),),
        infer=_positive("beta"),
        traits=HEAVY,
    ),
    unary(
        "log_sigmoid",
        "log(sigmoid(x))",
        functional("logsigmoid"),
        lambda k, x: _const(k, 0.0, x) - _softplus(k, _const(k, 0.0, x) - x),
    ),
    unary("softsign", "x / (1 + |x|)", functional("softsign"), lambda k, x: x / (_const(k, 1.0, x) + k.abs(x))),
    unary("sigmoid", "1 / (1 + exp(-x))", torch_function("sigmoid"), lambda k, x: k.sigmoid(x)),
    unary("hard_sigmoid", "relu6(x + 3) / 6 (arXiv:1905.02244)", functional("hardsigmoid"), _hard_sigmoid),
    unary(
        "hard_swish",
        "x * relu6(x + 3) / 6 (arXiv:1905.02244)",
        functional("hardswish"),
        lambda k, x: x * _hard_sigmoid(k, x),
    ),
    unary("tanh", "the hyperbolic tangent", torch_function("tanh"), lambda k, x: k.tanh(x), traits=HEAVY),
    Operator(
        "dropout",
        "In training, zeroes an element with probability p and divides the rest by 1 - p; at inference, x.",
        ("x",),
        _dropout_infer,
        lambda x, p: x,
        lambda rng: ([TensorType(draw_shape(rng))], {"p": rng.choice((0.0, 0.2))}),
        attributes=(Argument("p", "float", 0.5),),
        scalar=lambda k, x, p: x,
        training=lambda x, p: functional("dropout")(x, p=p, training=True),
    ),
)
