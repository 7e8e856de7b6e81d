"""What every pass is held to: `check_pass(my_pass, graph)` raises AssertionError for the first relation that fails.

1. The verifier holds before and after.
2. The pass leaves the graph that it is given alone.
3. Inputs, outputs and their types stay; no parameter appears that the checkpoint lacks.
4. The outputs are the same numbers in float64.
5. The result depends on the graph alone: not on the order in which it was built, and not on the run.
6. Done twice, it changes nothing more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from specc.backends.torch import evaluate
from specc.ir.array import Array
from specc.ir.graph import Graph, Value
from specc.ir.text import print_graph
from specc.ir.verify import verify
from specc.weights import random_inputs, random_weights


def check_pass(
    run: Callable[[Graph], Graph],
    graph: Graph,
    *,
    seed: int = 0,
    weights: Mapping[str, Array] | None = None,
    inputs: Mapping[str, Array] | None = None,
    tolerance: float = 1e-9,
    idempotent: bool = True,
) -> Graph:
    """Holds the pass to all relations on `graph`, gives its result; draws weights and inputs where none are given.

    `tolerance` is relative to the greatest magnitude of an output, and to 1 below that.
    """
    verify(graph)
    before = print_graph(graph, spans=True)
    result = run(graph)
    assert print_graph(graph, spans=True) == before, f"the pass changed the graph that it was given:\n{before}"
    _verified(result, graph)
    _same_interface(graph, result)
    weights = random_weights(graph, seed) if weights is None else weights
    inputs = random_inputs(graph, seed) if inputs is None else inputs
    _same_numbers(graph, result, weights, inputs, tolerance)
    after = print_graph(result)
    assert print_graph(run(graph)) == after, f"a second run of the pass gives another graph, on\n{before}"
    other = renumbered(graph, random.Random(seed))
    assert print_graph(other) == print_graph(graph), "the same graph, built in another order, prints differently"
    assert print_graph(run(other)) == after, f"the pass depends on the order in which the graph was built:\n{before}"
    if idempotent:
        again = print_graph(run(result))
        assert again == after, f"done twice, the pass changes more; once:\n{after}\ntwice:\n{again}\nfrom:\n{before}"
    return result


def renumbered(graph: Graph, rng: random.Random) -> Graph:
    """The same graph with other node numbers and another order of insertion.

    Inputs keep their order, and so do nodes that no output needs: only these two are told apart by their numbers.
    """
    reached = graph.copy()
    reached.prune()
    fixed = [i for i in graph.structure if i not in reached.structure or graph.node(i).op == "input"]
    free = [i for i in graph.structure if i not in set(fixed)]
    rng.shuffle(free)
    order = sorted(fixed)
    for identity in free:
        order.insert(rng.randint(0, len(order)), identity)
    number = {identity: position for position, identity in enumerate(order)}
    result = Graph(graph.name, defaults=dict(graph.defaults), _next=len(order))
    for identity in rng.sample(order, len(order)):
        result.structure.add_node(number[identity], node=graph.node(identity))
    edges = list(graph.structure.edges(keys=True, data=True))
    for source, user, key, data in rng.sample(edges, len(edges)):
        result.structure.add_edge(number[source], number[user], key=key, **data)
    result.outputs = [Value(number[value.node], value.result) for value in graph.outputs]
    kept = [claim for claim in graph.claims if claim.value.node in number]
    result.claims = [replace(c, value=Value(number[c.value.node], c.value.result)) for c in kept]
    return result


def _verified(result: Graph, graph: Graph) -> None:
    try:
        verify(result)
    except Exception as problem:
        raise AssertionError(f"the pass breaks an invariant: {problem}\non\n{print_graph(graph)}") from problem


def _same_interface(graph: Graph, result: Graph) -> None:
    texts = f"of\n{print_graph(graph)}\nin\n{print_graph(result)}"
    for what, of in (("inputs", _inputs), ("outputs", _outputs)):
        assert of(graph) == of(result), f"the pass changes the {what} {of(graph)} to {of(result)}, {texts}"
    strange = {key: type for key, type in result.parameters.items() if graph.parameters.get(key) != type}
    assert not strange, f"the checkpoint has no such parameters: {strange}, {texts}"


def _inputs(graph: Graph) -> list[str]:
    return [f"{graph.node(i).attrs['name']}: {graph.node(i).types[0]}" for i in graph.inputs]


def _outputs(graph: Graph) -> list[str]:
    return [str(graph.type(value)) for value in graph.outputs]


def _same_numbers(
    graph: Graph, result: Graph, weights: Mapping[str, Array], inputs: Mapping[str, Array], tolerance: float
) -> None:
    expected, given = evaluate(graph, weights, inputs), evaluate(result, weights, inputs)
    for number, (a, b) in enumerate(zip(expected, given, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype, f"output {number}: {a.dtype}{a.shape} and {b.dtype}{b.shape}"
        assert np.array_equal(np.isfinite(a), np.isfinite(b)), f"output {number} is finite elsewhere"
        finite = np.isfinite(a)
        if not finite.any():
            continue
        a, b = a[finite].astype(np.float64), b[finite].astype(np.float64)
        difference, scale = float(np.abs(a - b).max()), max(1.0, float(np.abs(a).max()))
        assert difference <= tolerance * scale, (
            f"output {number} differs by {difference:.3g} of {scale:.3g}: the pass turns\n{print_graph(graph)}\ninto\n"
            f"{print_graph(result)}"
        )
