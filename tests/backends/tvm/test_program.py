"""What a program says of its calls: bytes that have to be moved, places in the spec, loops that threads share."""

from __future__ import annotations

import pytest
import tiny

import specc
from specc import driver
from specc.backends.tvm.group import extract
from specc.backends.tvm.program import Call, Part, Program, Storage
from specc.grammar import loads
from specc.ir.types import TensorType

X, W = Storage("input", 0), Storage("weight", 0)
A, B, C = (Storage("buffer", number) for number in range(3))
TYPES = tuple(TensorType((1, extent), "float32") for extent in (32, 32, 64))


def program(*calls: Call, parts: dict[Storage, Part] | None = None) -> Program:
    """x of 128 bytes, a weight of 4096, a and b of 128, c of 256."""
    return Program("n", ("x",), ("y",), TYPES[:1], (4096,), TYPES, calls, TYPES[1:2], (B,), parts or {})


@pytest.mark.parametrize(
    ("call", "moved", "weights"),
    [
        (Call("k", (X,), (A,)), 256, 0),
        (Call("k", (X, W), (A,)), 128 + 4096 + 128, 4096),
        (Call("k", (X, X), (A,)), 256, 0),
        (Call("k", (X, W, W), (A,)), 128 + 4096 + 128, 4096),
        (Call("k", (W, X), (A,), reads=(512, None)), 512 + 128 + 128, 512),
        (Call("k", (W, W), (A,), reads=(512, None)), 4096 + 128, 4096),
        (Call("k", (X,), (A, B)), 3 * 128, 0),
        (Call("k", (A,), (A,)), 256, 0),
    ],
)
def test_every_byte_is_moved_once(call: Call, moved: int, weights: int) -> None:
    assert program().traffic(call) == (moved, weights)


def test_a_part_beside_its_whole_is_read_once() -> None:
    shared = program(parts={A: Part(C, 0), B: Part(C, 128)})
    assert shared.traffic(Call("k", (A, C), (B,)))[0] == 256 + 128
    assert shared.traffic(Call("k", (A, B), (C,)))[0] == 256 + 256


def test_of_a_table_the_rows_that_are_picked_are_read() -> None:
    text = "specc 1\nnetwork N(t: [n = 2] int64) -> [n, 4]:\n    e = embedding(t, 1000, 4)\n    return e\n"
    graph = driver.specialize(loads(text))
    group, outside, _ = extract(graph, [graph.outputs[0].node], graph.frozen())
    reads = {graph.op(value): group.read(number) for number, value in enumerate(outside)}
    assert reads == {"input": 2 * 4 * 8, "param": 2 * 4 * 4}
    (call,) = specc.compile(graph).manifest.sizes[0].facts["kernels"]
    assert (call["bytes"], call["weights"]) == (2 * 8 + 2 * 16 + 2 * 16, 2 * 16)


def test_the_manifest_says_where_in_the_spec_a_kernel_comes_from() -> None:
    manifest = tiny.artifact().manifest
    lines = tiny.TEXT.splitlines()
    blocks = manifest.facts["spec"]["blocks"]
    assert {path: block for path, (block, _) in blocks.items()} == {
        "": "Tiny",
        "stem": "ConvBN",
        "mix": "Branches",
        "mix.conv3": "ConvBN",
        "mix.conv1": "ConvBN",
    }
    for path, word in (("", "network Tiny"), ("stem", "stem = "), ("mix", "mix = "), ("mix.conv1", "conv1 = ")):
        assert word in lines[int(blocks[path][1].rpartition(":")[2]) - 1]
    kernels = manifest.sizes[0].facts["kernels"]
    first = kernels[0]
    assert first["path"].startswith("stem") and first["place"].startswith("std/conv.specc:")
    assert first["operands"][0] == "float32[1, 3, 8, 8]" and first["operands"][1] == "float32[4, 3, 3, 3]"
    assert len(first["results"]) == 1 and first["template"] == "convolution"
    assert first["element"] == "float32" and "tile" in first["configuration"]
    assert all(extent > 1 for call in kernels for extent in call["parallel"])


def test_each_weight_of_a_network_without_shared_ones_is_read_by_one_call() -> None:
    artifact = tiny.artifact()
    calls = artifact.manifest.sizes[0].facts["kernels"]
    assert sum(call["weights"] for call in calls) == sum(array.nbytes for array in artifact.contents.weights)
    assert all(call["weights"] < call["bytes"] for call in calls)


def test_places_do_not_depend_on_the_folder_that_compiles(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    path = tiny.write(tmp_path)
    away = specc.compile(specc.load(path, variant="small"), level=0).manifest.facts["spec"]["blocks"]
    monkeypatch.chdir(tmp_path)
    here = specc.compile(specc.load("tiny.specc", variant="small"), level=0).manifest.facts["spec"]["blocks"]
    assert away == here
    assert away["stem"][1].startswith("tiny.specc:")
