"""Recurrent layers and state-space models of the library against torch.nn and plain loops, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import specc
from specc import grammar
from specc.weights import random_inputs, random_weights


def network(module: str, block: str, call: str, inputs: str, parameters: str = "") -> Any:
    lines = "".join(f"    {line}\n" for line in parameters.splitlines())
    return grammar.loads(f"specc 1\nuse std.{module}: {block}\n\nnetwork N({inputs}):\n{lines}    return {call}\n")


@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "bias": False}], ids=str
)
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_layer_of_torch(name: str, options: dict[str, Any]) -> None:
    """Its checkpoint is taken as it is; results, last states and gradients are the same."""
    reference = getattr(torch.nn, name)(6, 7, batch_first=True, **options).double()
    said = "".join(f", {key.removeprefix('num_')}={str(value).lower()}" for key, value in options.items())
    graph = network("rnn", name, f"{name}(x, 7{said})", "x: [n = 2, l = 5, 6]")
    module = specc.to_torch(graph, dtype="float64")
    assert sorted(module.state_dict()) == sorted(reference.state_dict())
    module.load_state_dict(reference.state_dict())
    x = torch.randn(3, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results, last = reference(x)
    expected = (results, *(last if isinstance(last, tuple) else (last,)))
    found = module(x)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and torch.allclose(a, b, atol=1e-12)
    found[0].square().sum().backward()
    expected[0].square().sum().backward()
    gradients = dict(reference.named_parameters())
    for key, parameter in module.named_parameters():
        assert torch.allclose(parameter.grad, gradients[key].grad, atol=1e-9)


def test_a_compiled_layer() -> None:
    reference = torch.nn.LSTM(19, 24, num_layers=2, bidirectional=True, batch_first=True)
    graph = network("rnn", "LSTM", "LSTM(x, 24, layers=2, bidirectional=true)", "x: [n = 2, l = 5, 19]")
    artifact = specc.compile(graph, weights=dict(reference.state_dict()))
    x = np.random.default_rng(0).standard_normal((2, 5, 19)).astype(np.float32)
    with torch.no_grad():
        results, (h, c) = reference(torch.tensor(x))
    for a, b in zip(artifact(x), (results, h, c), strict=True):
        assert np.abs(a - b.numpy()).max() < 1e-5


def selective_scan(u: Any, delta: Any, b: Any, c: Any, a: Any) -> Any:
    """The recurrence of Mamba, written out: arXiv:2312.00752, equations 2a and 2b with the step of section 3.3.2."""
    state, rows = torch.zeros(u.shape[0], *a.shape, dtype=u.dtype), []
    for t in range(u.shape[1]):
        step = delta[:, t, :, None]
        state = torch.exp(step * a) * state + step * b[:, t, None, :] * u[:, t, :, None]
        rows.append((state * c[:, t, None, :]).sum(-1))
    return torch.stack(rows, 1)


def test_selective_scan() -> None:
    inputs = "u: [n = 2, l = 6, 5], delta: [n, l, 5], b: [n, l, 3], c: [n, l, 3]"
    parameters = "param a: [5, 3] init normal(1)"
    graph = network("ssm", "SelectiveScan", "SelectiveScan(u, softplus(delta), b, c, -exp(a))", inputs, parameters)
    weights, given = random_weights(graph), random_inputs(graph)
    u, delta, b, c = (torch.tensor(array, dtype=torch.float64) for array in given.values())
    a = -torch.exp(torch.tensor(weights["a"], dtype=torch.float64))
    expected = selective_scan(u, torch.nn.functional.softplus(delta), b, c, a).numpy()
    (found,) = specc.backends.torch.evaluate(graph, weights, given)
    assert np.abs(found - expected).max() < 1e-12
    (compiled,) = specc.compile(graph, weights=weights)(*given.values())
    assert np.abs(compiled - expected).max() < 1e-5 * np.abs(expected).max()


def test_mamba() -> None:
    """The mixer against its reference's forward, with torch's own convolution, and the names of its checkpoint."""
    graph = network("ssm", "Mamba", "Mamba(x, states=4)", "x: [n = 2, l = 6, 20]")
    module = specc.to_torch(graph, dtype="float64")
    names = ["A_log", "D", "conv1d.weight", "conv1d.bias", "in_proj.weight", "x_proj.weight"]
    assert sorted(module.state_dict()) == sorted([*names, "dt_proj.weight", "dt_proj.bias", "out_proj.weight"])
    w = module.state_dict()
    assert tuple(w["conv1d.weight"].shape) == (40, 1, 4)
    x = torch.randn(2, 6, 20, dtype=torch.float64)
    u, z = (x @ w["in_proj.weight"].T).chunk(2, -1)
    u = torch.nn.functional.conv1d(u.transpose(1, 2), w["conv1d.weight"], w["conv1d.bias"], padding=3, groups=40)
    u = torch.nn.functional.silu(u[..., :6].transpose(1, 2))
    dt, b, c = (u @ w["x_proj.weight"].T).split([2, 4, 4], -1)
    delta = torch.nn.functional.softplus(dt @ w["dt_proj.weight"].T + w["dt_proj.bias"])
    y = selective_scan(u, delta, b, c, -torch.exp(w["A_log"])) + u * w["D"]
    expected = (y * torch.nn.functional.silu(z)) @ w["out_proj.weight"].T
    assert torch.allclose(module.eval()(x), expected, atol=1e-12)


def test_gated_linear_attention() -> None:
    inputs = "q: [n = 2, l = 5, 3, 4], k: [n, l, 3, 4], v: [n, l, 3, 6], g: [n, l, 3, 4]"
    graph = network("ssm", "GatedLinearAttention", "GatedLinearAttention(q, k, v, sigmoid(g))", inputs)
    given = random_inputs(graph)
    q, k, v, g = (np.asarray(array, np.float64) for array in given.values())
    state, rows = np.zeros((2, 3, 4, 6)), []
    for t in range(5):
        state = state / (1 + np.exp(-g[:, t, :, :, None])) + k[:, t, :, :, None] * v[:, t, :, None, :]
        rows.append(np.einsum("nhk,nhkv->nhv", q[:, t], state))
    expected = np.stack(rows, 1)
    (found,) = specc.backends.torch.evaluate(graph, {}, given)
    assert np.abs(found - expected).max() < 1e-12
    (compiled,) = specc.compile(graph)(*given.values())
    assert np.abs(compiled - expected).max() < 1e-5 * np.abs(expected).max()


def test_wkv() -> None:
    """Against the sums themselves, without the shift that keeps them in range."""
    parameters = "param decay: [4] init ones\nparam bonus: [4] init normal(1)"
    graph = network("ssm", "WKV", "WKV(k, v, exp(decay), bonus)", "k: [n = 2, l = 5, 4], v: [n, l, 4]", parameters)
    weights, given = random_weights(graph), random_inputs(graph)
    k, v = (np.asarray(array, np.float64) for array in given.values())
    decay, bonus = np.exp(weights["decay"].astype(np.float64)), weights["bonus"].astype(np.float64)
    rows = []
    for t in range(5):
        past = [np.exp(k[:, i] - (t - 1 - i) * decay) for i in range(t)]
        now = np.exp(k[:, t] + bonus)
        above = sum((p * v[:, i] for i, p in enumerate(past)), now * v[:, t])
        rows.append(above / sum(past, now))
    expected = np.stack(rows, 1)
    (found,) = specc.backends.torch.evaluate(graph, weights, given)
    assert np.abs(found - expected).max() < 1e-12
    (compiled,) = specc.compile(graph, weights=weights)(*given.values())
    assert np.abs(compiled - expected).max() < 1e-5 * np.abs(expected).max()
