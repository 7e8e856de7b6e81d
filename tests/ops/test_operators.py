"""Every operator record against its PyTorch reference. The table is walked: a new record is tested at once."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specc import ops
from specc.ir.body import Body
from specc.ir.dims import Symbolic, substitute, symbol
from specc.ir.dtypes import DTYPES, HALVES
from specc.ir.graph import Graph
from specc.ir.text import parse_graph, print_graph
from specc.ir.types import TensorType
from specc.ir.verify import verify
from specc.ops.record import REQUIRED, TRAITS, Illegal, Operator
from specc.testing import operator_calls

NAMES = sorted(ops.OPERATORS)
COMPUTED = [name for name in NAMES if name not in ("input", "param")]
FUZZ = settings(max_examples=25, deadline=None)


def tensors(record: Operator, types: list[TensorType], attrs: dict[str, Any]) -> list[Any]:
    """Numbers between 0.5 and 1.5, or in the domain of the operator."""
    generator = torch.Generator().manual_seed(0)
    domain = record.domain(types, attrs) if record.domain else {}
    made = []
    for position, t in enumerate(types):
        dtype = getattr(torch, "float32" if t.dtype in HALVES else t.dtype)
        part = torch.rand(t.concrete, generator=generator, dtype=torch.float64)
        least, greatest = domain.get(position, (0.5, 1.5))
        numbers = least + part * (min(greatest, least + 4) - least)
        made.append(numbers.to(dtype) if dtype.is_floating_point else numbers.round().to(dtype))
    return made


def floating(types: list[TensorType], dtype: str) -> list[TensorType]:
    """The types with another floating type."""
    return [replace(t, dtype=dtype) if t.dtype.startswith("float") else t for t in types]


def reference(record: Operator, types: list[TensorType], attrs: dict[str, Any]) -> tuple[TensorType, ...]:
    result = record.torch(*tensors(record, types, attrs), **attrs)
    results = result if isinstance(result, tuple) else (result,)
    return tuple(TensorType(tuple(r.shape), str(r.dtype).removeprefix("torch.")) for r in results)


def agrees(record: Operator, types: list[TensorType], attrs: dict[str, Any], inferred: tuple[TensorType, ...]) -> bool:
    """Whether PyTorch gives the types that were inferred; what names its type computes in that at hand, and numbers of
    16 bits are float32 there."""
    given = reference(record, types, attrs)
    if "typed" in record.traits:
        given = tuple(replace(g, dtype=i.dtype) if g.dtype == "float64" else g for g, i in zip(given, inferred))
    wide = (replace(t, dtype="float32") if t.dtype in HALVES else t for t in inferred)
    given = tuple(replace(g, dtype="float32") if g.dtype in HALVES else g for g in given)
    return given == tuple(replace(t, layout="") for t in wide)


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_consistent(name: str) -> None:
    record = ops.get(name)
    assert record.name == name and record.summary
    assert record.weights <= len(record.operands)
    assert record.traits <= TRAITS.keys()
    assert ("source" in record.traits) == (not record.operands)
    own_kernel = "body" in record.traits or name in ("input", "param")
    assert record.scalar or record.compute or own_kernel, "no backend can compute it"
    optional = [operand.endswith("?") for operand in record.operands]
    assert optional == sorted(optional), "an operand that may be absent stands before one that may not"
    for argument in (*record.attributes, *record.signature):
        assert argument.kind.removesuffix("?") in ops.KINDS
        if argument.default is not REQUIRED:
            ops.normal_form(argument, argument.default)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", COMPUTED)
@given(data=st.data())
@FUZZ
def test_infer_says_what_torch_gives(name: str, dtype: str, data: st.DataObject) -> None:
    record = ops.get(name)
    types, attrs = data.draw(operator_calls(name))
    if "body" not in record.traits:  # a body has types of its own
        types = floating(types, dtype)
    assert agrees(record, types, attrs, ops.infer(record, types, attrs))


@pytest.mark.parametrize("name", [name for name in COMPUTED if ops.get(name).training])
@given(data=st.data())
@FUZZ
def test_training_keeps_the_type(name: str, data: st.DataObject) -> None:
    record = ops.get(name)
    types, attrs = data.draw(operator_calls(name))
    elements = types[0].elements
    channels = types[0].shape[1] if types[0].rank > 1 else 1
    assume(
        isinstance(elements, int) and isinstance(channels, int) and elements > channels
    )  # a statistic of one is none
    assert record.training is not None
    result = record.training(*tensors(record, types, attrs), **attrs)
    results = result if isinstance(result, tuple) else (result,)
    assert [tuple(r.shape) for r in results] == [t.concrete for t in ops.infer(record, types, attrs)]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@FUZZ
def test_normal_form_is_a_fixpoint(name: str, data: st.DataObject) -> None:
    record = ops.get(name)
    _, attrs = data.draw(operator_calls(name))
    assert ops.complete(record, attrs) == attrs
    assert list(attrs) == [argument.name for argument in record.attributes]
    hash(tuple(attrs.values()))


@pytest.mark.parametrize("name", COMPUTED)
@given(data=st.data())
@FUZZ
def test_text_of_one_node_round_trips(name: str, data: st.DataObject) -> None:
    types, attrs = data.draw(operator_calls(name))
    graph = Graph("One")
    graph.outputs = [graph.apply(name, [graph.input(f"x{i}", t) for i, t in enumerate(types)], attrs, path="a.b.0")]
    verify(graph)
    text = print_graph(graph)
    again = parse_graph(text)
    assert print_graph(again) == text
    assert again.node(again.outputs[0].node) == graph.node(graph.outputs[0].node)


def _perturbed(rng: random.Random, t: TensorType) -> TensorType:
    shape = list(t.shape)
    match rng.randrange(5):
        case 0 if shape:
            shape[rng.randrange(len(shape))] = rng.choice((1, 2, 3, 5))
        case 1 if shape:
            shape.pop(rng.randrange(len(shape)))
        case 2:
            shape.insert(rng.randint(0, len(shape)), rng.choice((1, 2, 3)))
        case 3:
            return replace(t, dtype=rng.choice(list(DTYPES)))
        case _:
            rng.shuffle(shape)
    return replace(t, shape=tuple(shape))


@pytest.mark.parametrize("name", COMPUTED)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_other_operands_are_refused_or_right(name: str, data: st.DataObject) -> None:
    """A call of operands at random is `Illegal` with a reason, or what PyTorch does."""
    record = ops.get(name)
    types, attrs = data.draw(operator_calls(name))
    rng = random.Random(data.draw(st.integers(0, 2**32 - 1)))
    if types:
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(types))
            types[at] = _perturbed(rng, types[at])
    if rng.random() < 0.2:
        types = types[:-1] if rng.random() < 0.5 else [*types, TensorType((2,))]
    _refused_or_right(record, types, attrs)


@pytest.mark.parametrize("name", [name for name in COMPUTED if ops.get(name).attributes])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_other_attributes_are_refused_or_right(name: str, data: st.DataObject) -> None:
    record = ops.get(name)
    types, attrs = data.draw(operator_calls(name))
    rng = random.Random(data.draw(st.integers(0, 2**32 - 1)))
    chosen = rng.choice(record.attributes).name
    attrs[chosen] = _other(rng, attrs[chosen])
    _refused_or_right(record, types, attrs)


def _other(rng: random.Random, value: Any) -> Any:
    if isinstance(value, tuple):
        changed = [_other(rng, v) if rng.random() < 0.5 else v for v in value]
        return tuple(changed[:-1] if rng.random() < 0.1 else [*changed, 1] if rng.random() < 0.1 else changed)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.randint(-3, 5)
    if isinstance(value, float):
        return rng.choice((-1.0, 0.0, 0.5, 1.0, 2.0))
    if isinstance(value, Body):
        return Body.of(value.graph.copy()) if rng.random() < 0.5 else None
    return rng.choice((None, "none", "float64", "int32", "NCHW4c"))


def _refused_or_right(record: Operator, types: list[TensorType], attrs: dict[str, Any]) -> None:
    try:
        attrs = ops.complete(record, attrs)
        inferred = ops.infer(record, types, attrs)
    except Illegal as problem:
        assert problem.reason[-1] != "." and len(problem.reason) > 10
        assert problem.operand is None or 0 <= problem.operand < len(types)
        names = {argument.name for argument in record.attributes}
        assert problem.argument is None or problem.argument in names
        return
    assert agrees(record, types, attrs, inferred)


@pytest.mark.parametrize("name", [name for name in COMPUTED if ops.get(name).operands])
@given(data=st.data())
@FUZZ
def test_symbolic_types_agree_with_numbers(name: str, data: st.DataObject) -> None:
    """Inferring with symbols and putting numbers in gives what inferring with the numbers gives."""
    record = ops.get(name)
    types, attrs = data.draw(operator_calls(name))
    expected = ops.infer(record, types, attrs)
    extents = sorted({e for t in types for e in t.shape if isinstance(e, int) and e > 1})
    assume(extents)
    chosen = data.draw(st.sets(st.sampled_from(extents), min_size=1))
    symbolic = [replace(t, shape=tuple(symbol(f"s{e}") if e in chosen else e for e in t.shape)) for t in types]
    try:
        inferred = ops.infer(record, symbolic, attrs)
    except Illegal:
        return
    bindings = {f"s{e}": e for e in chosen}
    assert tuple(t.substitute(bindings) for t in inferred) == expected


@pytest.mark.parametrize("name", [name for name in COMPUTED if ops.get(name).macs])
@given(data=st.data())
@FUZZ
def test_macs_are_a_positive_number(name: str, data: st.DataObject) -> None:
    record = ops.get(name)
    types, attrs = data.draw(operator_calls(name))
    assert record.macs is not None
    count = record.macs(types, attrs)
    assert isinstance(count, int) and count > 0
    batched = len(record.call_operands) if record.weights else 1  # a weight has no batch
    symbolic = [replace(t, shape=(symbol("n"), *t.shape[1:])) if t.shape[:1] == (1,) else t for t in types[:batched]]
    symbolic += types[batched:]
    if types[0].rank > 1 and types[0].shape[0] == 1 and "body" not in record.traits:
        grown = record.macs(symbolic, attrs)
        assert isinstance(grown, Symbolic) and substitute(grown, {"n": 3}) == 3 * count


CALLS: list[tuple[str, list[tuple[int, ...]], dict[str, Any], str]] = [
    ("conv2d", [(1, 6, 5, 5)], {"out": 4, "groups": 3}, "3 groups do not divide the result's channels, 4"),
    ("conv2d", [(1, 6, 5, 5)], {"out": 4, "k": 8, "p": 0}, "does not fit"),
    ("conv2d", [(6, 5, 5)], {"out": 4}, "takes [n, c, h, w]"),
    ("conv2d", [(1, 6, 5, 5)], {"out": 0}, "`out` is at least 1"),
    ("conv2d", [(1, 6, 5, 5)], {"out": "4"}, "`out` is an integer"),
    ("conv2d", [(1, 6, 5, 5)], {"out": 4, "kernel": 3}, "there is no argument `kernel`"),
    ("linear", [(2, 3)], {}, "the argument `out` is missing"),
    ("batch_norm", [(4,)], {}, "takes [n, c, ...]"),
    ("max_pool2d", [(1, 2, 8, 8)], {"k": 2, "p": 2}, "is not below the window"),
    ("softmax", [(2, 3)], {"axis": 2}, "no dimension 2 in a tensor of rank 2"),
    ("add", [(2, 3), (2, 4)], {}, "3 and 4 differ at dimension 1"),
    ("add", [(2, 3)], {}, "takes 2 operands"),
]


@pytest.mark.parametrize("op, shapes, arguments, reason", CALLS)
def test_a_wrong_call_says_why(op: str, shapes: list[Any], arguments: dict[str, Any], reason: str) -> None:
    graph = Graph("Wrong")
    operands = [graph.input(f"x{i}", TensorType(shape)) for i, shape in enumerate(shapes)]
    before = len(graph)
    with pytest.raises(Illegal) as problem:
        graph.call(op, operands, arguments, "here")
    assert reason in problem.value.reason
    assert len(graph) == before
