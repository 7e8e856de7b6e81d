"""Checkpoints: every format read and written, every damage refused with a message, every misfit in one table."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from specc.backends.torch import intermediates
from specc.diagnostics import SpeccError
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.testing import graphs
from specc.weights import (
    Checkpoint,
    in_memory,
    match,
    random_inputs,
    random_weights,
    read_checkpoint,
    write_safetensors,
)


def network() -> Graph:
    graph = Graph("Net")
    x = graph.input("x", TensorType((1, 3, 8, 8)))
    x = graph.call("conv2d", [x], {"out": 4, "k": 3}, "stem.conv")
    x = graph.call("batch_norm", [x], {}, "stem.bn")
    graph.outputs = [graph.call("linear", [graph.apply("global_avg_pool", [x])], {"out": 2}, "head")]
    return graph


def code_of(path: Path, **options: Any) -> tuple[str, str]:
    with pytest.raises(SpeccError) as problem:
        checkpoint = read_checkpoint(path, **options)
        dict(checkpoint)
    return problem.value.diagnostics[0].code, str(problem.value)


def same(a: Any, b: Any) -> None:
    assert set(a) == set(b)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


# ---- formats --------------------------------------------------------------------------------------------------------


def tensors() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    made = {
        f"f.{dtype}": torch.randn(2, 3, generator=generator).to(getattr(torch, dtype))
        for dtype in ("float64", "float32")
    }
    made |= {
        f"f.{dtype}": torch.randn(5, generator=generator).to(getattr(torch, dtype)) for dtype in ("float16", "bfloat16")
    }
    made |= {f"i.{dtype}": torch.arange(-3, 4).to(getattr(torch, dtype)) for dtype in ("int64", "int32", "int8")}
    return made | {"scalar": torch.tensor(7), "flag": torch.tensor([True, False]), "none": torch.zeros(0, 3)}


def expected() -> dict[str, Any]:
    return {k: (v.float() if v.dtype == torch.bfloat16 else v).numpy() for k, v in tensors().items()}


def test_safetensors_are_mapped(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "w.safetensors", metadata={"format": "pt"})
    checkpoint = read_checkpoint(tmp_path / "w.safetensors")
    same(checkpoint, expected())
    array = checkpoint["f.float32"]
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap) and not array.flags.writeable


def test_pickles_are_read(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "w.pt")
    torch.save(tensors(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("w.pt", "old.pth"):
        same(read_checkpoint(tmp_path / name), expected())


def test_archives_of_numpy_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **expected())
    same(read_checkpoint(tmp_path / "w.npz"), expected())


def test_the_content_says_the_format(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "weights.bin")
    save_file(tensors(), tmp_path / "weights.pt")
    for name in ("weights.bin", "weights.pt"):
        same(read_checkpoint(tmp_path / name), expected())


def test_writing_is_the_inverse_of_reading(tmp_path: Path) -> None:
    weights = random_weights(network())
    weights["strided"] = np.arange(6.0).reshape(2, 3).T
    write_safetensors(tmp_path / "w.safetensors", weights)
    same(read_checkpoint(tmp_path / "w.safetensors"), weights)
    assert os.listdir(tmp_path) == ["w.safetensors"]
    with pytest.raises(SpeccError, match=r"S0002.*cannot be written"):
        write_safetensors(tmp_path / "nowhere" / "w.safetensors", weights)


def test_a_dictionary_one_level_down(tmp_path: Path) -> None:
    path = tmp_path / "train.pt"
    torch.save({"state_dict": tensors(), "epoch": 90, "optimizer": {"lr": 0.1}}, path)
    checkpoint = read_checkpoint(path)
    same(checkpoint, expected())
    assert checkpoint.origin == f"{path} under `state_dict`"
    torch.save({"model": tensors(), "ema": {"a": torch.ones(1)}}, path)
    code, text = code_of(path)
    assert code == "S0602" and "holds several networks: `model`, `ema`" in text
    same(read_checkpoint(path, under="ema"), {"a": np.ones(1)})
    code, text = code_of(path, under="modle")
    assert code == "S0602" and "did you mean `model`?" in text
    torch.save({"epoch": 90, "lr": 0.1}, path)
    code, text = code_of(path)
    assert code == "S0602" and "but a dictionary of `epoch`, `lr`" in text
    torch.save(torch.ones(3), path)
    assert code_of(path)[0] == "S0602"


# ---- what is no checkpoint ------------------------------------------------------------------------------------------


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"w": Trap(sprung)}))
    torch.save({"w": torch.ones(1), "trap": Trap(sprung)}, tmp_path / "zip.pt")
    torch.save({"trap": Trap(sprung)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "w.npz", w=np.array([Trap(sprung)], dtype=object))
    for name, code in (("plain.pt", "S0605"), ("zip.pt", "S0605"), ("old.pt", "S0605"), ("w.npz", "S0602")):
        assert code_of(tmp_path / name)[0] == code, name
    assert not sprung.exists()


def test_a_whole_module_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    code, text = code_of(tmp_path / "module.pt")
    assert code == "S0605" and "`torch.nn.modules.linear.Linear`" in text and "state_dict" in text


@pytest.mark.parametrize(
    "content, code, words",
    [
        (b"", "S0602", "is no checkpoint"),
        (b"graph Net\n", "S0602", "it is a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "S0602", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\0", "S0602", "is no checkpoint"),
        (b"PK\x03\x04 and nothing more", "S0602", "is damaged"),
        (b"\x80\x02 and nothing more", "S0605", "something else than tensors"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, code: str, words: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content)
    given_code, text = code_of(path)
    assert given_code == code and words in text


@pytest.mark.parametrize(
    "tensor, words",
    [
        (torch.ones(2).to(torch.float8_e4m3fn), "`w` has elements of type float8_e4m3fn"),
        (torch.ones(2, device="meta"), "`w` has no values"),
    ],
    ids=["eight bits", "meta"],
)
def test_tensors_that_numpy_cannot_hold_are_refused(tmp_path: Path, tensor: Any, words: str) -> None:
    torch.save({"w": tensor}, tmp_path / "w.pt")
    code, text = code_of(tmp_path / "w.pt")
    assert code == "S0602" and words in text
    with pytest.raises(SpeccError, match="S0602"):
        in_memory({"w": tensor})["w"]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pt")
    code, text = code_of(tmp_path / "w.pt")
    assert code == "S0601" and "a pipe" in text


def test_reading_a_pickle_warns_of_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"w": 1}, protocol=4))
    assert code_of(tmp_path / "w.pt")[0] == "S0605"
    assert not list(recwarn)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    assert code_of(tmp_path / "w.safetensors")[0] == "S0601"
    assert code_of(tmp_path)[0] == "S0601"


def header(**entry: Any) -> bytes:
    text = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


@pytest.mark.parametrize(
    "content, words",
    [
        (header()[:-1], "would stand at bytes 0 to 8 of 7"),
        (header(shape=[3]), "and takes 12"),
        (header(shape=[-2]), "does not describe"),
        (header(shape="2"), "does not describe"),
        (header(shape=[2.0]), "does not describe"),
        (header(data_offsets=[8, 0]), "would stand"),
        (header(data_offsets=[0, 2**70]), "would stand"),
        (header(data_offsets=[0]), "does not describe"),
        (header(dtype="F8_E4M3"), "elements of type F8_E4M3"),
        (header(dtype=["F32"]), "does not describe"),
        ((2**62).to_bytes(8, "little") + b"{}", "its header would have"),
        (b"\x02\0\0\0\0\0\0\0[]", "no JSON object"),
        (b"\x02\0\0\0\0\0\0\0{]", "is damaged"),
        (b"\x02\0\0", "its header would have"),
        ((100000).to_bytes(8, "little") + b"[" * 100000, "is damaged"),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    code, text = code_of(path)
    assert code == "S0602" and words in text


def test_a_damaged_name_in_an_archive_is_told(tmp_path: Path) -> None:
    """The directory at the end says that names are UTF-8, and one is not."""
    path = tmp_path / "w.npz"
    np.savez(path, name=np.ones(3))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 9] |= 0x08
    content[content.rindex(b"name.npy")] = 0xFF
    path.write_bytes(content)
    assert code_of(path)[0] == "S0602"


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_never_gives_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(("safetensors", "pt", "npz")))
    path = tmp_path / f"w.{format}"
    small = {"a": torch.arange(4.0), "b.c": torch.ones(2, 2)}
    if format == "safetensors":
        save_file(small, path)
    elif format == "pt":
        torch.save(small, path)
    else:
        np.savez(path, **{key: tensor.numpy() for key, tensor in small.items()})
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        del content[at:]
    path.write_bytes(content)
    try:
        dict(read_checkpoint(path))
    except SpeccError as problem:
        assert problem.diagnostics[0].code in ("S0601", "S0602", "S0605")


# ---- matching -------------------------------------------------------------------------------------------------------


def refused(graph: Graph, checkpoint: Any) -> tuple[str, str]:
    with pytest.raises(SpeccError) as problem:
        match(graph, checkpoint)
    assert len(problem.value.diagnostics) == 1
    return problem.value.diagnostics[0].code, str(problem.value)


def test_weights_that_fit_are_taken() -> None:
    graph = network()
    weights = random_weights(graph)
    same(match(graph, weights), weights)
    assert match(graph, weights)["head.weight"] is weights["head.weight"]
    del weights["stem.bn.num_batches_tracked"]  # state that training alone reads may be absent
    same(match(graph, weights), weights)


def test_other_floats_become_the_graphs() -> None:
    graph = network()
    weights = random_weights(graph)
    for dtype in (np.float64, np.float16):
        given_ = {k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in weights.items()}
        for key, array in match(graph, given_).items():
            assert array.dtype == weights[key].dtype
            np.testing.assert_allclose(array, weights[key], rtol=1e-3, atol=1e-3)


def test_all_misfits_stand_in_one_table() -> None:
    graph = network()
    weights = random_weights(graph)
    weights["head.weight"] = np.ones((5, 4), np.float32)
    weights["head.bias"] = np.ones(2, np.int64)
    weights["stem.cnv.weight"] = weights.pop("stem.conv.weight")
    code, text = refused(graph, Checkpoint("w.pt under `model`", {k: lambda v=v: v for k, v in weights.items()}))
    assert code == "S0603"
    assert "w.pt under `model` does not fit `Net`: 1 key is missing, 1 key is unexpected, 2 keys have the wrong" in text
    rows = [line.replace(" = ", "   ").split() for line in text.splitlines()[1:6]]
    assert rows == [
        ["key", "Net", "checkpoint", "nearest"],
        ["stem.conv.weight", "float32[4,", "3,", "3,", "3]", "-", "stem.cnv.weight"],
        ["head.weight", "float32[2,", "4]", "float32[5,", "4]"],
        ["head.bias", "float32[2]", "int64[2]"],
        ["stem.cnv.weight", "-", "float32[4,", "3,", "3,", "3]"],
    ]
    lines = text.splitlines()[1:5]
    assert len({lines[0].index("Net"), *(line.index("float32[") for line in lines[1:4])}) == 1
    assert len({lines[0].index("key"), *(line.index(row[0]) for line, row in zip(lines[1:], rows[1:]))}) == 1


def test_many_misfits_are_counted() -> None:
    graph = network()
    for i in range(100):
        graph.parameter(f"more.{i}.weight", TensorType((1,)))
    code, text = refused(graph, {f"other.{i}": np.ones(1) for i in range(60)})
    assert code == "S0603" and "108 keys are missing" in text and "60 keys are unexpected" in text
    assert "and 144 more" in text and len(text.splitlines()) < 32


@pytest.mark.parametrize("prefix", ["module.", "model.backbone."])
def test_a_common_prefix_is_suggested_and_not_stripped(prefix: str) -> None:
    graph = network()
    code, text = refused(graph, {prefix + key: array for key, array in random_weights(graph).items()})
    assert code == "S0603" and f"all of the checkpoint's keys begin with `{prefix}`" in text
    assert ("DataParallel" in text) == (prefix == "module.")


@pytest.mark.parametrize("wild", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(wild: float) -> None:
    graph = network()
    weights = random_weights(graph)
    weights["head.bias"][1] = wild
    code, text = refused(graph, weights)
    assert code == "S0604" and "`head.bias`" in text


def test_a_number_too_large_for_the_graphs_type_is_refused(recwarn: pytest.WarningsRecorder) -> None:
    graph = network()
    weights = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in random_weights(graph).items()}
    weights["head.bias"][1] = 1e300
    code, text = refused(graph, weights)
    assert code == "S0604" and "`head.bias`" in text
    assert not list(recwarn)


# ---- random weights -------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_numbers_everywhere() -> None:
    weights = random_weights(network(), 5)
    assert weights["head.bias"].tolist() == HEAD_BIAS
    assert weights["stem.bn.running_var"].tolist() == RUNNING_VAR
    assert random_inputs(network(), 5)["x"][0, 0, 0, :2].tolist() == INPUT
    other = random_weights(network(), 6)
    assert all((weights[key] != other[key]).any() for key in weights if key != "stem.bn.num_batches_tracked")


HEAD_BIAS = [-0.023222604766488075, -0.05212748050689697]
RUNNING_VAR = [2.53320574760437, 1.9222722053527832, 0.3961494266986847, 0.5724458694458008]
INPUT = [-0.43082186579704285, 1.0577186346054077]


def test_a_key_is_drawn_alike_whatever_else_is_there() -> None:
    graph = network()
    weights = random_weights(graph)
    graph.outputs.append(graph.call("linear", [graph.outputs[0]], {"out": 3}, "more"))
    again = random_weights(graph)
    same({key: again[key] for key in weights}, weights)


def test_statistics_are_not_the_fresh_ones() -> None:
    graph = Graph("Wide")
    graph.outputs = [graph.call("batch_norm", [graph.input("x", TensorType((1, 512)))], {}, "bn")]
    weights = random_weights(graph)
    variance, scale = weights["bn.running_var"], weights["bn.weight"]
    assert variance.min() > 0.2 and (np.abs(np.log(variance)) > 0.3).all()
    assert (scale > 0).mean() > 0.3 and (scale < 0).mean() > 0.3 and 0 < (scale == 0).mean() < 0.2
    assert np.abs(weights["bn.bias"]).max() > 0.15 and np.abs(weights["bn.running_mean"]).max() > 0.15


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "hard_swish"])
def test_a_deep_network_neither_dies_nor_explodes_and_tells_inputs_apart(activation: str) -> None:
    graph = Graph("Deep")
    value = graph.input("x", TensorType((1, 16, 8, 8)))
    for block in range(40):
        branch = graph.call("conv2d", [value], {"out": 16, "k": 3}, f"{block}.conv")
        branch = graph.apply(activation, [graph.call("batch_norm", [branch], {}, f"{block}.bn")])
        value = graph.apply("add", [value, branch]) if block % 2 else branch
    graph.outputs = [graph.apply("global_avg_pool", [value])]
    weights = random_weights(graph)
    values, others = (intermediates(graph, weights, random_inputs(graph, seed)) for seed in (0, 1))
    for node, array in values.items():
        if graph.op(node) in ("conv2d", "batch_norm"):
            assert 0.02 < np.sqrt((array**2).mean()) < 100, graph.node(node.node).path
    first, second = values[graph.outputs[0]], others[graph.outputs[0]]
    assert np.abs(first - second).max() > 0.03 * np.abs(first).max(), "the signal drowns in biases"


@given(graph=graphs())
@settings(max_examples=50, deadline=None)
def test_a_random_checkpoint_fits(graph: Graph) -> None:
    weights = random_weights(graph)
    same(match(graph, weights), weights)
    assert weights.keys() == graph.checkpoint.keys()
    assert all(np.isfinite(array).all() for array in intermediates(graph, weights, random_inputs(graph)).values())


def test_reading_safetensors_needs_no_torch(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "w.safetensors", {"a": np.ones(2, np.float32)})
    program = (
        "import sys; from specc.weights import read_checkpoint\n"
        f"assert dict(read_checkpoint({str(tmp_path / 'w.safetensors')!r}))['a'].tolist() == [1, 1]\n"
        "assert 'torch' not in sys.modules and 'tvm' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
