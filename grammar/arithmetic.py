"""Operators between compile-time values, bounded: no result may grow without end.

    64 * 2 == 128      h // 2 stays a dimension      [2] * 3 == [2, 2, 2]      "m" + "1" == "m1"

Whether two dimensions are equal, or which is greater, is answered where their difference is a number; else it is an
error, since the answer would depend on sizes that are fixed only when the network is compiled.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from specc.grammar.values import Family, Tensor, Unfit, Value, described, is_integer, kind
from specc.ir.dims import Symbolic, floordiv, product

GREATEST = 2**63 - 1
LONGEST_LIST = 100_000
LONGEST_TEXT = 10_000
MOST_TERMS = 64
LONGEST_FORMULA = 2_000
"""Characters of a dimension. Floors do not add up, so a formula of two of them can double at every step of a loop."""

_ARITHMETIC: dict[str, Callable[..., int | float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_COMPARISON: dict[str, Callable[..., bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def unary(symbol: str, value: Value) -> Value:
    """`-value` or `not value`."""
    if symbol == "not":
        return not truth(value)
    if isinstance(value, (int, float, Symbolic)) and not isinstance(value, bool):
        return bounded(-value)
    raise Unfit("S0402", f"`-` does not apply to {kind(value)}")


def truth(value: Value) -> bool:
    """The value of a condition, which must be true or false."""
    if isinstance(value, bool):
        return value
    notes = ["`where(condition, x, y)` chooses between elements of tensors"] if isinstance(value, Tensor) else []
    raise Unfit("S0402", f"a condition is true or false; this is {described(value)}", *notes)


def binary(symbol: str, left: Value, right: Value) -> Value:
    """`left symbol right` for compile-time values (`and` and `or` are evaluated where they stand)."""
    left, right = _listed(left), _listed(right)
    if symbol == "==":
        return equal(left, right)
    if symbol == "!=":
        return not equal(left, right)
    if symbol == "in":
        return _contains(right, left)
    if symbol == "not in":
        return not _contains(right, left)
    if symbol in _COMPARISON:
        return _compare(symbol, left, right)
    if _numeric(left) and _numeric(right):
        return bounded(_numbers(symbol, left, right))
    if symbol == "+" and isinstance(left, tuple) and isinstance(right, tuple):
        return bounded(left + right)
    if symbol == "+" and isinstance(left, str) and isinstance(right, str):
        return bounded(left + right)
    if symbol == "*" and isinstance(left, tuple) and is_integer(right):
        if len(left) * max(right, 0) > LONGEST_LIST:
            raise Unfit("S0406", f"a list of more than {LONGEST_LIST:,} elements")
        return left * right
    texts = symbol == "+" and any(isinstance(side, str) for side in (left, right)) and any(map(_numeric, (left, right)))
    notes = ("`str(i)` makes a text of a number",) if texts else ()
    raise Unfit("S0402", f"`{symbol}` does not apply to {kind(left)} and {kind(right)}", *notes)


def equal(left: Value, right: Value) -> bool:
    """Whether two values are the same; values of different kinds are not."""
    left, right = _listed(left), _listed(right)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(equal(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        raise Unfit("S0402", "tensors have no values yet that could be compared")
    if isinstance(left, Symbolic) or isinstance(right, Symbolic):
        if not (_numeric(left) and _numeric(right)):
            return False
        return _difference("==", left, right) == 0
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    return left == right


def bounded(value: Value) -> Value:
    """`value` itself, unless it has grown too large."""
    if is_integer(value) and abs(value) > GREATEST:
        raise Unfit("S0406", "this integer does not fit into 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise Unfit("S0406", "this number is too large")
    if isinstance(value, Symbolic) and len(value.terms) > MOST_TERMS:
        raise Unfit("S0406", f"this dimension is a sum of more than {MOST_TERMS} terms")
    if isinstance(value, Symbolic) and len(str(value)) > LONGEST_FORMULA:
        raise Unfit("S0406", f"the formula of this dimension has more than {LONGEST_FORMULA:,} characters")
    if isinstance(value, tuple) and len(value) > LONGEST_LIST:
        raise Unfit("S0406", f"a list of more than {LONGEST_LIST:,} elements")
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise Unfit("S0406", f"a text of more than {LONGEST_TEXT:,} characters")
    return value


def known_int(value: Value, what: str) -> int:
    """`value` as an int of Python; raises `Unfit` for anything else."""
    if isinstance(value, Symbolic):
        raise Unfit("S0405", f"{what} must be known now, and `{value}` is fixed only when the network is compiled")
    if not is_integer(value):
        raise Unfit("S0402", f"{what} is an integer; this is {described(value)}")
    return value


def _numeric(value: Value) -> bool:
    return isinstance(value, (int, float, Symbolic)) and not isinstance(value, bool)


def _listed(value: Value) -> Value:
    return value.listed() if isinstance(value, Family) else value


def _numbers(symbol: str, left: Value, right: Value) -> Value:
    try:
        if isinstance(left, Symbolic) or isinstance(right, Symbolic):
            return _dimensions(symbol, left, right)
        if symbol == "**":
            return _power(left, right)
        return _ARITHMETIC[symbol](left, right)
    except ZeroDivisionError:
        raise Unfit("S0402", "division by zero") from None
    except OverflowError:
        raise Unfit("S0406", "this number is too large") from None


def _dimensions(symbol: str, left: Value, right: Value) -> Value:
    if isinstance(left, float) or isinstance(right, float):
        text = f"`{left} {symbol} {right}`"
        raise Unfit("S0405", f"{text} has no value yet: dimensions are computed with integers until they are fixed")
    assert isinstance(left, (int, Symbolic)) and isinstance(right, (int, Symbolic))
    match symbol:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//":
            if isinstance(right, int) and right < 0:
                raise Unfit("S0402", "a dimension is divided by positive numbers only")
            return floordiv(left, right)
        case "%":
            if isinstance(right, int) and right < 0:
                raise Unfit("S0402", "a dimension is divided by positive numbers only")
            return left - floordiv(left, right) * right
        case "**" if isinstance(right, int) and 0 <= right <= 4:
            return product([left] * right)
    message = f"`{left} {symbol} {right}` has no value before the dimensions are fixed"
    raise Unfit("S0405", message, "`//` divides dimensions")


def _power(left: Value, right: Value) -> int | float:
    assert isinstance(left, (int, float)) and isinstance(right, (int, float))
    if isinstance(left, int) and isinstance(right, int) and right >= 0:
        if left.bit_length() * right > 4 * 64:
            raise Unfit("S0406", "this integer does not fit into 64 bits")
        return int(left**right)
    result = left**right
    if isinstance(result, complex):
        raise Unfit("S0402", f"{left} ** {right} is no real number")
    return float(result)


def _difference(symbol: str, left: Value, right: Value) -> int | float:
    assert isinstance(left, (int, float, Symbolic)) and isinstance(right, (int, float, Symbolic))
    if not isinstance(left, float) and not isinstance(right, float):
        difference = left - right
        if isinstance(difference, int):
            return difference
    if symbol != "==":
        note = "no bounds of a dimension are known: give it a number in the input's type, or compare parameters"
    elif _is_named(left) and _is_named(right):
        note = f"dimensions that must be equal have one name in the inputs of the network: `[{left}, {left}]`"
    else:
        note = "`require h % 8 == 0` makes known by what a dimension of the network is divided"
    message = (
        f"whether `{left} {symbol} {right}` holds depends on sizes that are fixed only when the network is compiled"
    )
    raise Unfit("S0405", message, note)


def _is_named(value: int | float | Symbolic) -> bool:
    return isinstance(value, Symbolic) and str(value).isidentifier()


def _compare(symbol: str, left: Value, right: Value) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return _COMPARISON[symbol](left, right)
    if not (_numeric(left) and _numeric(right)):
        raise Unfit("S0402", f"`{symbol}` does not apply to {kind(left)} and {kind(right)}")
    if isinstance(left, Symbolic) or isinstance(right, Symbolic):
        return _COMPARISON[symbol](_difference(symbol, left, right), 0)
    return _COMPARISON[symbol](left, right)


def _contains(container: Value, item: Value) -> bool:
    if isinstance(container, tuple):
        return any(equal(item, member) for member in container)
    if isinstance(container, str) and isinstance(item, str):
        return item in container
    raise Unfit("S0402", f"`in` asks for a list on its right; this is {described(container)}")
