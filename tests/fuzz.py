"""Grows random networks for as long as it is told to, and holds every pass and every pipeline to its relations.

    make fuzz MINUTES=20

Every second one is a network of pictures, whose parts kernels join (`specc.testing.pictures`): it is compiled for this
machine as well, and has to give what the reference gives.

Every network has a number; a failure prints it, with the smallest network found that still fails. The same number
grows the same network: `python tests/fuzz.py --number 4711`.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import Pool

import torch

import specc
from specc.ir.graph import Graph
from specc.ir.text import parse_graph, print_graph
from specc.ir.types import TensorType
from specc.passes.registry import LEVELS, PASSES, Pass, pipeline
from specc.reduce import reduce
from specc.targets import TARGETS, native
from specc.testing import cache_of, check_pass, grow, pictures

BATCH = 16
"""Networks between two looks at the clock."""


def network(number: int) -> Graph:
    """The network of that number: up to 14 steps on one or two pictures."""
    rng = random.Random(number)
    seeds = [rng.getrandbits(32) for _ in range(rng.randint(1, 14))]
    extents = (1, 2, 3, 5, 7, 8, 9)
    types = [
        TensorType((rng.choice((1, 2)), rng.choice((1, 2, 3, 4, 8, 16, 17)), rng.choice(extents), rng.choice(extents)))
        for _ in range(rng.randint(1, 2))
    ]
    return grow(seeds, types, rng.randint(1, 3))


def check(graph: Graph) -> None:
    """AssertionError, or what else goes wrong, where a relation does not hold."""
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph), "the text form does not read back"
    for name in PASSES:
        check_pass(PASSES[name](), graph)
    for target in TARGETS.values():
        for level in LEVELS:
            check_pass(_together(pipeline(level, target)), graph, idempotent=False)


def _together(passes: Sequence[Pass]) -> Callable[[Graph], Graph]:
    """Several passes as one."""

    def run(graph: Graph) -> Graph:
        for each in passes:
            graph = each(graph)
        return graph

    return run


def check_pictures(cache: int, graph: Graph) -> None:
    """AssertionError, or what else goes wrong, where a network of pictures gives other results beside such a cache."""
    machine = replace(native(), l2_bytes=cache)
    check_pass(_together(pipeline(2, machine)), graph, idempotent=False)
    specc.compile(graph, target=machine, tuning="none").self_test()


def attempt(number: int) -> str | None:
    """What fails on the network of that number, reduced; None where all holds."""
    torch.set_num_threads(1)
    graph = pictures(number) if number % 2 else network(number)
    holds = partial(check_pictures, cache_of(number)) if number % 2 else check
    problem = _problem(graph, holds)
    if problem is None:
        return None
    smallest = reduce(graph, lambda part: type(_problem(part, holds)) is type(problem))
    return f"network {number} fails: {problem}\n\nreduced:\n{print_graph(smallest)}"


def _problem(graph: Graph, holds: Callable[[Graph], None]) -> Exception | None:
    try:
        holds(graph)
    except Exception as problem:
        return problem
    return None


def main() -> int:
    """The exit code: 1 for a failure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--number", type=int, help="this network alone")
    words = parser.parse_args()
    if words.number is not None:
        found = attempt(words.number)
        print(found or f"network {words.number} holds")
        return int(found is not None)
    first = number = random.SystemRandom().getrandbits(40)
    deadline = time.monotonic() + 60 * words.minutes
    with Pool(len(os.sched_getaffinity(0))) as pool:
        while time.monotonic() < deadline:
            batch = range(number, number + BATCH)
            failures = [found for found in pool.imap_unordered(attempt, batch) if found]
            number += BATCH
            if failures:
                print("\n\n".join(failures))
                return 1
    print(f"{number - first} networks hold, from number {first} on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
