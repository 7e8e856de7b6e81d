"""The module against modules that PyTorch itself has: names, initial values, training, exports."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save_file

from specc.backends.torch import evaluate, to_inference, to_torch
from specc.diagnostics import Span, SpeccError
from specc.ir.dims import symbol
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.testing import graphs
from specc.weights import random_inputs, random_weights

n, h, w = map(symbol, ("n", "h", "w"))


class Hand(torch.nn.Module):
    """The network of `network()`, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.GELU())
        self.mixer = torch.nn.ModuleDict({"dw": torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)})
        self.drop = torch.nn.Dropout(0.2)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        x = self.drop(x + self.mixer["dw"](x))
        return self.head(x.mean((2, 3)))


def network() -> Graph:
    graph = Graph("Net")
    x = graph.input("image", TensorType((n, 3, h, w)))
    x = graph.call("conv2d", [x], {"out": 8, "k": 3, "s": 2}, "stem.0")
    x = graph.apply("gelu", [graph.call("batch_norm", [x], {}, "stem.1")])
    branch = graph.call("conv2d", [x], {"out": 8, "k": 3, "groups": 8, "bias": False}, "mixer.dw")
    x = graph.apply("dropout", [graph.apply("add", [x, branch])], {"p": 0.2})
    graph.outputs = [graph.call("linear", [graph.apply("global_avg_pool", [x])], {"out": 5}, "head")]
    return graph


def same_state(a: Any, b: Any) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0, msg=key)


def test_a_seed_gives_the_parameters_of_the_modules_made_by_hand() -> None:
    torch.manual_seed(3)
    hand = Hand().state_dict()
    torch.manual_seed(3)
    same_state(to_torch(network()).state_dict(), hand)


def test_names_are_the_hierarchy() -> None:
    module, hand = to_torch(network()), Hand()
    assert {k: v.shape for k, v in module.named_parameters()} == {k: v.shape for k, v in hand.named_parameters()}
    assert {k: v.shape for k, v in module.named_buffers()} == {k: v.shape for k, v in hand.named_buffers()}
    assert set(dict(module.named_modules())) == {"", "stem", "stem.0", "stem.1", "mixer", "mixer.dw", "head"}
    assert type(module).__name__ == "Net" and repr(module).startswith("Net(")


def test_training_steps_equal_those_by_hand() -> None:
    torch.manual_seed(0)
    hand, module = Hand(), to_torch(network())
    module.load_state_dict(hand.state_dict(), strict=True)
    trainers = [torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9) for each in (hand, module)]
    for step in range(3):
        x, label = torch.randn(4, 3, 9, 8), torch.randint(0, 5, (4,))
        losses = []
        for each, trainer in zip((hand, module), trainers):
            torch.manual_seed(step)  # the same elements drop out
            trainer.zero_grad()
            loss = torch.nn.functional.cross_entropy(each(x), label)
            loss.backward()
            trainer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for key, value in hand.state_dict().items():
        torch.testing.assert_close(module.state_dict()[key], value, rtol=1e-5, atol=1e-6, msg=key)
    assert module.state_dict()["stem.1.num_batches_tracked"] == 3
    hand.eval(), module.eval()
    before = copy.deepcopy(module.state_dict())
    x = torch.randn(2, 3, 12, 7)
    torch.testing.assert_close(module(x), hand(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(module(x), module(image=x), rtol=0, atol=0)
    same_state(module.state_dict(), before)


def test_a_checkpoint_goes_there_and_back(tmp_path: Path) -> None:
    first = to_torch(network())
    save_file(first.state_dict(), tmp_path / "w.safetensors")
    second = to_torch(network())
    second.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)
    same_state(first.state_dict(), second.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        second.load_state_dict({**first.state_dict(), "more": torch.zeros(1)})


@given(graph=graphs(symbolic=True))
@settings(max_examples=40, deadline=None)
def test_the_module_and_the_judge_agree(graph: Graph) -> None:
    weights, inputs = random_weights(graph, 1), random_inputs(graph, 1)
    module = to_torch(graph, torch.float64).eval()
    state = {key: torch.from_numpy(value) for key, value in weights.items()}
    module.load_state_dict(state, strict=True)
    given_ = {name: torch.from_numpy(array).double() for name, array in inputs.items()}
    with torch.no_grad():
        results = module(**given_)
        fast = to_inference(graph, {k: v.astype("float64") for k, v in weights.items()}, "float64")(**given_)
    results, fast = (r if isinstance(r, tuple) else (r,) for r in (results, fast))
    for expected, result, other in zip(evaluate(graph, weights, inputs), results, fast, strict=True):
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(other.numpy(), expected, rtol=1e-5, atol=1e-5)  # frozen values are held in float32


def test_constants_follow_the_module_and_are_rounded_once() -> None:
    graph = Graph("Tenth")
    x = graph.input("x", TensorType((2,)))
    graph.outputs = [
        graph.apply("mul", [graph.apply("add", [x, graph.constant(0.1)]), graph.parameter("s", TensorType(()))])
    ]
    module = to_torch(graph)
    assert list(module.state_dict()) == ["s"]
    with torch.no_grad():
        module.get_parameter("s").fill_(1)
        assert module(torch.zeros(2)).dtype == torch.float32
        module.double()
        assert module(torch.zeros(2, dtype=torch.float64)).tolist() == [0.1, 0.1]
        module.half()
        assert module(torch.zeros(2, dtype=torch.float16)).dtype == torch.float16


def test_a_constant_of_symbolic_shape_takes_the_type_of_the_module() -> None:
    graph = Graph("Rows")
    x = graph.input("x", TensorType((n, 2)))
    scaled = graph.apply("mul", [x, graph.parameter("s", TensorType((2,)), "ones")])
    graph.outputs = [graph.apply("concat", [scaled, graph.constant(0.5, (n, 1))])]
    result = to_torch(graph)(torch.ones(3, 2))
    assert result.dtype == torch.float32 and result.tolist() == [[1, 1, 0.5]] * 3


def test_several_outputs_come_as_a_tuple_and_an_input_may_be_one() -> None:
    graph = Graph("Two")
    x = graph.input("x", TensorType((2,)))
    graph.outputs = [graph.apply("neg", [x]), x]
    result = to_torch(graph)(torch.tensor([1.0, -2.0]))
    assert isinstance(result, tuple) and [r.tolist() for r in result] == [[-1, 2], [1, -2]]


def test_names_that_a_module_uses_itself() -> None:
    graph = Graph("type")
    x = graph.input("self", TensorType((n, 2)))
    for path in ("half", "forward", "modules.0", "type", "network", "_apply", "a.parameters"):
        x = graph.call("linear", [x], {"out": 2}, path)
    graph.outputs = [graph.apply("add", [x, graph.input("v1", TensorType((n, 2)))])]
    module = to_torch(graph).train()
    assert module.state_dict().keys() == graph.checkpoint.keys()
    module.load_state_dict(module.state_dict(), strict=True)
    assert module(torch.ones(3, 2), torch.ones(3, 2)).shape == (3, 2)
    assert module.double()(torch.ones(3, 2).double(), v1=torch.ones(3, 2).double()).dtype == torch.float64


def test_a_module_whose_parts_are_named_as_its_methods_is_exported() -> None:
    graph = Graph("Net")
    x = graph.input("x", TensorType((n, 2)))
    for path in ("half", "train", "modules.0", "type", "a.parameters", "a.forward", "state_dict", "_apply"):
        x = graph.call("linear", [x], {"out": 2}, path)
    graph.outputs = [x]
    module, x = to_torch(graph).eval(), torch.randn(3, 2)
    for same in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        program = torch.export.export(same, (x,))
        assert program.state_dict.keys() == dict(same.named_parameters()).keys() == graph.checkpoint.keys()
        torch.testing.assert_close(same(x), module(x), rtol=0, atol=0)
    copied = copy.deepcopy(module)
    assert copied.half().train().training and not module.training
    assert all(tensor.dtype == torch.float16 for tensor in copied.parameters())
    assert all(tensor.dtype == torch.float32 for tensor in module.parameters())


def test_copies_and_pickles_are_modules_of_their_own() -> None:
    module = to_torch(network()).eval()
    x = torch.randn(1, 3, 8, 8)
    expected = module(x)
    pickled = pickle.loads(pickle.dumps(module))
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    for other in (copy.deepcopy(module), pickled, torch.load(saved, weights_only=False)):
        torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
        with torch.no_grad():
            other.get_parameter("head.bias").add_(1)
        torch.testing.assert_close(other(x), expected + 1)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=0)


def _inputs(case: str) -> tuple[list[Any], dict[str, Any]]:
    x = torch.zeros(2, 3, 8, 8)
    return {
        "none": ([], {}),
        "two": ([x, x], {}),
        "other name": ([], {"imag": x}),
        "twice": ([x], {"image": x}),
        "channels": ([x[:, :2]], {}),
        "rank": ([x[0]], {}),
        "double": ([x.double()], {}),
        "integers": ([x.long()], {}),
        "array": ([x.numpy()], {}),
        "empty": ([x[:0]], {}),
    }[case]


@pytest.mark.parametrize(
    "case, words",
    [
        ("none", "the input `image` is not given"),
        ("two", "2 inputs are given, and `Net` takes image"),
        ("other name", "did you mean `image`?"),
        ("twice", "the input `image` is given twice"),
        ("channels", "is given as [2, 2, 8, 8]: 2 at dimension 1 for 3"),
        ("rank", "3 dimensions for 4"),
        ("double", "is float64, and the module takes float32"),
        ("integers", "is int64, and the module takes float32"),
        ("array", "is given as ndarray"),
        ("empty", "`n` is at least 1, not 0"),
    ],
)
def test_wrong_inputs_are_named(case: str, words: str) -> None:
    positional, named = _inputs(case)
    with pytest.raises(SpeccError) as problem:
        to_torch(network())(*positional, **named)
    assert problem.value.diagnostics[0].code == "S0907"
    assert words in str(problem.value)


def test_inputs_that_disagree_are_named() -> None:
    graph = Graph("Pair")
    a, b = graph.input("a", TensorType((n, 2))), graph.input("b", TensorType((2 * n + 1, 2)))
    graph.outputs = [a, b]
    module = to_torch(graph)
    assert [tuple(r.shape) for r in module(torch.ones(3, 2), torch.ones(7, 2))] == [(3, 2), (7, 2)]
    with pytest.raises(SpeccError, match=r"6 at dimension 0 for 2\*n \+ 1 = 7, with n = 3 from `a`"):
        module(torch.ones(3, 2), torch.ones(6, 2))


def test_extents_that_an_operator_cannot_take_are_located() -> None:
    graph = Graph("Deep")
    x = graph.input("x", TensorType((1, 1, h, h)))
    span = Span("deep.specc", 4, 5, 4, 20)
    graph.outputs = [graph.apply("max_pool2d", [x], {"k": 5, "stride": 1}, span=span)]
    module = to_torch(graph)
    assert module(torch.ones(1, 1, 9, 9)).shape == (1, 1, 5, 5)
    with pytest.raises(SpeccError, match=r"error\[S0301\].*h = 3") as problem:
        module(torch.ones(1, 1, 3, 3))
    assert problem.value.diagnostics[0].labels[0].span == span


def test_a_parameter_cannot_hold_another() -> None:
    for first, second in (("a", "a.b"), ("a.b", "a"), ("a.b.c", "a.b")):
        graph = Graph("Clash")
        graph.outputs = [graph.parameter(first, TensorType((1,))), graph.parameter(second, TensorType((1,)))]
        with pytest.raises(SpeccError, match="S0704"):
            to_torch(graph)


def test_a_block_cannot_have_the_name_of_the_mode() -> None:
    graph = Graph("Mode")
    graph.outputs = [graph.parameter("training.weight", TensorType((1,)))]
    with pytest.raises(SpeccError, match=r"S0704.*what PyTorch calls the mode"):
        to_torch(graph)


@pytest.mark.parametrize("init", ["kaimin", "kaiming", "normal(x)"])
def test_an_impossible_beginning_is_named(init: str) -> None:
    graph = Graph("Init")
    graph.outputs = [graph.parameter("gain", TensorType((3,)), init)]
    with pytest.raises(SpeccError, match=r"S0704.*`gain` of 1 dimensions cannot begin as"):
        to_torch(graph)


def test_normal_parameters_have_their_deviation() -> None:
    graph = Graph("Normal")
    graph.outputs = [graph.parameter("table", TensorType((100, 100)), "normal(0.02)")]
    torch.manual_seed(0)
    table = to_torch(graph).get_parameter("table")
    assert table.std().item() == pytest.approx(0.02, rel=0.05) and abs(table.mean().item()) < 1e-3


def test_export_and_compile_see_plain_tensor_code() -> None:
    graph = network()
    (logits,) = graph.outputs
    picture = graph.operands(graph.operands(logits.node)[0].node)[0]
    extents = graph.type(picture).shape
    rows = graph.apply("reshape", [picture], {"shape": (n, 8, extents[2] * extents[3])})
    graph.outputs = [logits, graph.apply("softmax", [rows])]
    module = to_torch(graph).eval()
    x, other = torch.randn(2, 3, 16, 16), torch.randn(3, 3, 12, 20)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(module, (x,), dynamic_shapes={"image": {0: auto, 2: auto, 3: auto}}).module()
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=True)
    for each in (program, compiled):
        for given_ in (x, other):
            for a, b in zip(each(given_), module(given_), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_onnx_takes_the_module_and_the_frozen_one() -> None:
    import onnxruntime

    graph = network()
    module = to_torch(graph).eval()
    weights = random_weights(graph)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    x = torch.randn(2, 3, 8, 8)
    axes = {"image": {0: "n", 2: "h", 3: "w"}}
    for each in (module, to_inference(graph, weights)):
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("error", torch.jit.TracerWarning)
            torch.onnx.export(each, (x,), file, dynamo=False, input_names=["image"], dynamic_axes=axes)
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        for given_ in (x, torch.randn(1, 3, 10, 14)):
            (result,) = session.run(None, {"image": given_.numpy()})
            np.testing.assert_allclose(result, module(given_).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float33", "int32", torch.int64, 3])
def test_a_type_in_which_no_module_computes_is_refused(dtype: object) -> None:
    graph = Graph("N")
    graph.outputs = [graph.call("linear", [graph.input("x", TensorType((1, 3)))], {"out": 2}, "y")]
    with pytest.raises(SpeccError, match="S0704"):
        to_torch(graph, dtype)
