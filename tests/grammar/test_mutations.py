"""A spec with something deleted, doubled, swapped or replaced: a located message or a graph, no traceback, no hang."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hypothesis import given
from hypothesis import strategies as st
from profiles import examples

from specc import grammar
from specc.diagnostics import SpeccError
from specc.ir.verify import verify
from specc.testing import mutated_specs

HERE = Path(__file__).parent
WRONG = [
    (HERE / "everything.specc").read_text(),
    *(path.read_text() for path in sorted((HERE.parent / "errors").glob("*.specc")) if "endless" not in path.stem),
]

SECONDS = 4
"""Of the processor: what may take two seconds on a core of its own takes longer beside another program on that core."""

MEGABYTES = 500


@contextmanager
def bounded() -> Iterator[None]:
    """What takes too long, or too much memory, raises there and then."""

    def out_of_time(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still at work after {SECONDS} seconds")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, out_of_time)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEGABYTES * 2**20, before[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGPROF, handler)


def survives(text: str) -> None:
    """Checks the text as `specc check` does; anything but graphs or located messages fails the test."""
    with bounded():
        try:
            reports = grammar.checks(text, directory=HERE)
        except SpeccError as problem:
            assert problem.render()
            assert all(d.labels or d.code == "S0503" for d in problem.diagnostics), problem.render()
            return
        for report in reports:
            if report.failures:
                assert SpeccError(*report.failures, sources=report.sources).render()
                assert all(diagnostic.labels for diagnostic in report.failures)
    for report in reports:
        if report.graph is not None:
            verify(report.graph)


@examples(60)
@given(mutated_specs())
def test_mutated_specs_of_the_house(text: str) -> None:
    survives(text)


@examples(400)
@given(mutated_specs(WRONG))
def test_mutated_specs_that_were_wrong_before(text: str) -> None:
    survives(text)


@examples(200)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    survives(text)
    survives(f"specc 1\n{text}")
    survives(f"specc 1\nnetwork N(x: [n, 3]):\n    y = {text}\n    return x\n")
