"""A spec with a token deleted, doubled, swapped or replaced: a located message or a graph, no traceback, no hang."""

from __future__ import annotations

import re
import time
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from specc import grammar
from specc.diagnostics import SpeccError
from specc.ir.verify import verify

HERE = Path(__file__).parent
SEEDS = [
    (HERE / "everything.specc").read_text(),
    (HERE.parents[1] / "examples" / "digits.specc").read_text(),
    *(path.read_text() for path in sorted((HERE.parent / "errors").glob("*.specc")) if "endless" not in path.stem),
]
TOKEN = re.compile(
    r'"""[\s\S]*?"""|"(?:[^"\\\n]|\\.)*"|#[^\n]*|\n[ \t]*|[A-Za-z_]\w*|[\d.]+\w*|->|\|>|\*\*|//|[=!<>]=|\S'
)
FOREIGN = (
    "(",
    ")",
    "[",
    "]",
    ":",
    "=",
    ",",
    "|>",
    "x",
    "0",
    "-1",
    "1e400",
    "99999999999",
    "for",
    "in",
    "\n",
    "\n    ",
    '"',
    "none",
)


def mutated(text: str, kind: str, at: int, other: int) -> str:
    """`text` with its token number `at` deleted, doubled, swapped with the next one, or replaced."""
    found = list(TOKEN.finditer(text))
    i = at % len(found)
    first = found[i]
    match kind:
        case "delete":
            return text[: first.start()] + text[first.end() :]
        case "double":
            return text[: first.end()] + " " + first[0] + text[first.end() :]
        case "swap" if i + 1 < len(found):
            second = found[i + 1]
            return "".join(
                [text[: first.start()], second[0], text[first.end() : second.start()], first[0], text[second.end() :]]
            )
        case "copy":
            return text[: first.start()] + found[other % len(found)][0] + text[first.end() :]
    return text[: first.start()] + FOREIGN[other % len(FOREIGN)] + text[first.end() :]


def survives(text: str) -> None:
    """Checks the text as `specc check` does; anything but graphs or located messages fails the test."""
    begin = time.perf_counter()
    try:
        reports = grammar.checks(text, directory=HERE)
    except SpeccError as problem:
        assert problem.render()
        assert all(d.labels or d.code == "S0503" for d in problem.diagnostics), problem.render()
    else:
        for report in reports:
            if report.graph is not None:
                verify(report.graph)
            if report.failures:
                assert SpeccError(*report.failures, sources=report.sources).render()
                assert all(diagnostic.labels for diagnostic in report.failures)
    assert time.perf_counter() - begin < 10


mutations = st.tuples(
    st.sampled_from(("delete", "double", "swap", "copy", "foreign")), st.integers(0, 2000), st.integers(0, 2000)
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(SEEDS), mutations)
@example(SEEDS[0], ("delete", 0, 0))
def test_one_mutation(seed: str, mutation: tuple[str, int, int]) -> None:
    survives(mutated(seed, *mutation))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS[:2]), st.lists(mutations, min_size=2, max_size=4))
def test_several_mutations(seed: str, several: list[tuple[str, int, int]]) -> None:
    for mutation in several:
        seed = mutated(seed, *mutation)
    survives(seed)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    survives(text)
    survives(f"specc 1\n{text}")
    survives(f"specc 1\nnetwork N(x: [n, 3]):\n    y = {text}\n    return x\n")
