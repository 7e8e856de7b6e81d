"""The example that the demo trains (tests/zoo is about the others)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from specc import grammar
from specc.ir.verify import verify

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_checks_of_digits_hold() -> None:
    (report,) = grammar.check(EXAMPLES / "digits.specc")
    report.raise_failures()
    assert report.graph is not None and report.expected
    verify(report.graph)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """These networks are small: on a busy machine, two threads wait for each other longer than they compute."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_digits_trains(one_thread: None) -> None:
    import torch
    from sklearn import datasets

    from specc.backends.torch import to_torch

    torch.manual_seed(0)
    data = datasets.load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, held_out = order[:1437], order[1437:]
    module = to_torch(grammar.load(EXAMPLES / "digits.specc")).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(6):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(images[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        right = (module.eval()(images[held_out]).argmax(1) == labels[held_out]).double().mean()
    assert right > 0.97
