"""The compile-time functions: `len`, `range`, `round_channels` and the like.

Each takes evaluated arguments and returns a value, or raises `Unfit`. Its Python signature is its signature in the
language: names, defaults and all.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from specc.grammar.arithmetic import LONGEST_LIST, binary, bounded, known_int, truth
from specc.grammar.values import Family, Tensor, Unfit, Value, described, show
from specc.ir.dims import Symbolic


def _items(value: Value, what: str) -> tuple[Value, ...]:
    if isinstance(value, Family):
        return value.listed()
    if not isinstance(value, tuple):
        raise Unfit("S0402", f"{what} takes a list; this is {described(value)}")
    return value


def _real(value: Value, what: str) -> int | float:
    if isinstance(value, Symbolic):
        raise Unfit("S0405", f"{what} needs a number, and `{value}` is fixed only when the network is compiled")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unfit("S0402", f"{what} takes a number; this is {described(value)}")
    return value


def _len(values: Value) -> Value:
    """The number of elements of a list, or of characters of a text."""
    return len(values) if isinstance(values, str) else len(_items(values, "`len`"))


def _range(start: Value, stop: Value = None, step: Value = 1) -> Value:
    """The integers from start (0 if only one number is given) to below stop."""
    first, last = (0, start) if stop is None else (start, stop)
    numbers = [known_int(value, "the bound of a range") for value in (first, last, step)]
    if numbers[2] == 0:
        raise Unfit("S0402", "the step of a range is 0")
    result = range(*numbers)
    if len(result) > LONGEST_LIST:
        raise Unfit("S0406", f"a range of {len(result):,} numbers; the limit is {LONGEST_LIST:,}")
    return tuple(result)


def _enumerate(values: Value, start: Value = 0) -> Value:
    """Pairs of index and element."""
    return tuple((i, item) for i, item in enumerate(_items(values, "`enumerate`"), known_int(start, "`start`")))


def _zip(*lists: Value) -> Value:
    """The first elements of the lists together, then the second ones ...; all are of one length."""
    columns = [_items(values, "`zip`") for values in lists]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise Unfit("S0402", f"`zip` takes lists of one length; these have {' and '.join(map(str, lengths))} elements")
    return tuple(zip(*columns, strict=True))


def _reversed(values: Value) -> Value:
    """The list from its end."""
    return _items(values, "`reversed`")[::-1]


def _extreme(name: str, symbol: str, values: tuple[Value, ...]) -> Value:
    candidates = _items(values[0], f"`{name}`") if len(values) == 1 else values
    if not candidates:
        raise Unfit("S0402", f"`{name}` of an empty list")
    best = candidates[0]
    for value in candidates[1:]:
        if binary(symbol, value, best):
            best = value
    return best


def _min(*values: Value) -> Value:
    """The least of the values, or of the elements of one list."""
    return _extreme("min", "<", values)


def _max(*values: Value) -> Value:
    """The greatest of the values, or of the elements of one list."""
    return _extreme("max", ">", values)


def _sum(values: Value) -> Value:
    """The sum of the elements of a list."""
    total: Value = 0
    for item in _items(values, "`sum`"):
        total = binary("+", total, item)
    return total


def _round_channels(channels: Value, divisor: Value = 8, limit: Value = 0.9) -> Value:
    """The multiple of `divisor` nearest to `channels`, at least `divisor`, and never less than `limit` * channels."""
    wanted, step = _real(channels, "`round_channels`"), known_int(divisor, "`divisor`")
    if step < 1:
        raise Unfit("S0402", f"`divisor` is at least 1, not {step}")
    rounded = max(step, int(wanted + step / 2) // step * step)
    return bounded(rounded + step if rounded < _real(limit, "`limit`") * wanted else rounded)


def _floor(x: Value) -> Value:
    """The greatest integer that is not above x."""
    return x if isinstance(x, Symbolic) else math.floor(_real(x, "`floor`"))


def _ceil(x: Value) -> Value:
    """The least integer that is not below x."""
    return x if isinstance(x, Symbolic) else math.ceil(_real(x, "`ceil`"))


def _int(x: Value) -> Value:
    """The number without its fraction."""
    return x if isinstance(x, Symbolic) else int(_real(x, "`int`"))


def _float(x: Value) -> Value:
    """The number, as one with a fraction."""
    return float(_real(x, "`float`"))


def _str(x: Value) -> Value:
    """The text of an integer: names such as `self["layer" + str(i)]` are made of it."""
    return x if isinstance(x, str) else str(known_int(x, "`str`"))


def _abs(x: Value) -> Value:
    """The number without its sign."""
    return abs(_real(x, "`abs`"))


def _sqrt(x: Value) -> Value:
    """The square root of a number of at least 0."""
    value = _real(x, "`sqrt`")
    if value < 0:
        raise Unfit("S0402", f"`sqrt` takes a number of at least 0, not {show(value)}")
    return math.sqrt(value)


def _exp(x: Value) -> Value:
    """E to the power of x."""
    try:
        return math.exp(_real(x, "`exp`"))
    except OverflowError:
        raise Unfit("S0406", "this number is too large") from None


def _log(x: Value) -> Value:
    """The natural logarithm of a number above 0."""
    return math.log(_above_zero(x, "`log`"))


def _log2(x: Value) -> Value:
    """The logarithm of a number above 0 to the base 2."""
    return math.log2(_above_zero(x, "`log2`"))


def _above_zero(x: Value, what: str) -> int | float:
    value = _real(x, what)
    if value <= 0:
        raise Unfit("S0402", f"{what} takes a number above 0, not {show(value)}")
    return value


def _all(values: Value) -> Value:
    """Whether every element of a list is true."""
    return all([truth(item) for item in _items(values, "`all`")])


def _any(values: Value) -> Value:
    """Whether an element of a list is true."""
    return any([truth(item) for item in _items(values, "`any`")])


def _shape(x: Value) -> Value:
    """The extents of a tensor, as a list."""
    if not isinstance(x, Tensor):
        raise Unfit("S0402", f"`shape` takes a tensor; this is {described(x)}")
    return x.type.shape


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "len": _len,
    "range": _range,
    "enumerate": _enumerate,
    "zip": _zip,
    "reversed": _reversed,
    "min": _min,
    "max": _max,
    "sum": _sum,
    "round_channels": _round_channels,
    "floor": _floor,
    "ceil": _ceil,
    "int": _int,
    "float": _float,
    "str": _str,
    "abs": _abs,
    "sqrt": _sqrt,
    "exp": _exp,
    "log": _log,
    "log2": _log2,
    "all": _all,
    "any": _any,
    "shape": _shape,
}
"""Every compile-time function, by its name in the language."""


def call(name: str, arguments: tuple[Value, ...], keywords: dict[str, Value]) -> Value:
    """The result of the function `name`; raises `Unfit`."""
    function = FUNCTIONS[name]
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*arguments, **keywords)
    except TypeError:
        shown = ", ".join(_shown(parameter) for parameter in signature.parameters.values())
        raise Unfit("S0403", f"these are not the arguments of `{name}({shown})`") from None
    return bounded(function(*bound.args, **bound.kwargs))


def _shown(parameter: inspect.Parameter) -> str:
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"{parameter.name}, ..."
    default: Any = parameter.default
    return parameter.name if default is inspect.Parameter.empty else f"{parameter.name}={show(default)}"
