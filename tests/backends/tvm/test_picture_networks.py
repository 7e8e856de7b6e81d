"""Random networks of pictures, whose parts the caches of small machines join, give what PyTorch gives in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import specc
from specc import grammar
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.group import Group, extract, pieces
from specc.backends.tvm.kernels import general, select
from specc.ir.graph import Graph
from specc.optimize import run_passes
from specc.passes.registry import pipeline
from specc.runtime import Artifact
from specc.targets import Target, native
from specc.testing import cache_of, pictures


def machine(target: Target, number: int) -> Target:
    """The target with the cache that goes with a network."""
    return replace(target, l2_bytes=cache_of(number))


def check(graph: Graph, target: Target, precision: str = "float32") -> Artifact:
    """Compiles a network and compares it with the reference. With one thread and with two it gives the same, and behind
    a run on NaN, which leaves NaN wherever it computes: so what is read before it is written shows."""
    artifact = specc.compile(graph, target=target, precision=precision)
    artifact.self_test()
    (sample,) = artifact.contents.samples
    nothing = [np.full_like(each, np.nan) for each in sample.inputs]
    first: list[np.ndarray[Any, Any]] | None = None
    for threads in (1, 2):
        opened = Artifact(artifact.contents, threads)
        for _ in range(2):
            opened(*nothing)
            found = opened(*sample.inputs)
            first = found if first is None else first
            assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, found, strict=True))
    return artifact


@pytest.mark.parametrize("number", range(10))
def test_equals_torch(number: int) -> None:
    check(pictures(number), machine(native(), number))


FEW = """specc 1

network Few(x: [2, 10, 112, 100], y: [2, 32, 56, 50]) -> ([2, 10, 56, 50], [16, 96, 1, 1]):
    filtered = conv2d(x, 10, k=3, groups=10)
    one = conv2d(filtered, 12)
    other = conv2d(x, 12)
    mixed = relu(one) + other
    halved = conv2d(mixed, 12, k=5, s=2, groups=12)
    first = conv2d(halved, 64, k=3)
    second = conv2d(y, 64, k=3)
    wide = first + second
    narrow = conv2d(wide, 10)
    places = conv2d(reshape(max_pool2d(wide, k=28, s=28), [16, 16, 1, 1]), 96, groups=2)
    return narrow, places
"""


def test_few_plain_channels_and_images_of_one_place() -> None:
    graph = grammar.loads(FEW)
    target = native()
    templates = {select.template(each, target, Choices()).write.__module__ for each in groups(graph, target)}
    names = {name.rpartition(".")[2] for name in templates}
    assert names >= {"planes", "mixing", "grouped_linear"} and ("conversion" in names) == (target.lanes == 16), names
    check(graph, target)


def groups(graph: Graph, target: Target) -> list[Group]:
    """The groups that the passes make of a network."""
    optimized, _ = run_passes(graph, pipeline(2, target), verify_each=True)
    frozen = optimized.frozen()
    found = pieces(optimized, [identity for identity in optimized.live() if identity not in frozen])
    return [extract(optimized, members, frozen)[0] for members in found]


def joined(group: Group) -> bool:
    """Whether a group has several convolutions, or one beside a mean or behind a product, on a picture."""
    pictures = [step for step in group.steps if step.type.rank == 4 and step.type.concrete[2:] != (1, 1)]
    convolutions = [step for step in pictures if step.op == "conv2d"]
    behind = any(step.operands[0] >= len(group.inputs) for step in convolutions)
    return len(convolutions) > 1 or (len(convolutions) == 1 and (behind or len(group.anchors) > 1))


@pytest.mark.parametrize("first", [0, 60])
def test_what_is_joined_has_a_kernel_of_its_own(first: int) -> None:
    """What a pass joins and no template takes would be computed element by element."""
    found = 0
    for number in range(first, first + 60):
        target = machine(native(), number)
        for group in groups(pictures(number), target):
            if joined(group):
                template = select.template(group, target, Choices())
                assert template.write.__module__ != general.__name__, f"network {number}: {group.title}"
                found += 1
    assert found > 20
