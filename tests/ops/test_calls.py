"""The way back from a node to a call, for every record: what `spell` makes of what is found is the node again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specc import ops
from specc.ir.types import TensorType
from specc.ops import calls
from specc.testing import operator_calls


@pytest.mark.parametrize("name", sorted(ops.OPERATORS))
@settings(max_examples=10)
@given(st.data())
def test_every_legal_node_is_a_call(name: str, data: st.DataObject) -> None:
    record = ops.get(name)
    types, attrs = data.draw(operator_calls(name))
    count = len(types) if record.variadic else min(len(types), len(record.call_operands))
    found = calls.arguments(record, types[:count], attrs, types[count:])
    assert found is not None
    spelling = ops.spell(record, types[:count], found)
    assert ops.complete(record, dict(spelling.attrs)) == attrs
    assert [weight.type for weight in spelling.weights] == types[count:]


def test_what_has_its_default_is_left_out() -> None:
    x, weight = TensorType((1, 8, 9, 9)), TensorType((8, 1, 3, 3))
    conv = ops.get("conv2d")
    attrs = ops.complete(conv, {"stride": 2, "padding": 1, "groups": 8})
    assert calls.arguments(conv, [x], attrs, [weight]) == {
        "out": 8,
        "k": (3, 3),
        "s": (2, 2),
        "groups": 8,
        "bias": False,
    }


def test_what_no_call_makes() -> None:
    x, weight = TensorType((1, 8, 9, 9)), TensorType((8, 1, 3, 3))
    assert calls.arguments(ops.get("conv2d"), [x], ops.complete(ops.get("conv2d"), {}), [weight]) is None
