"""Changes the passes' source in one place at a time, and says which changes no test notices.

    make mutate                            a sample of every module of passes/
    make mutate MODULES=pieces SAMPLE=0    every change of one module

The changes are mutmut's (a `<` into a `<=`, an `and` into an `or`, an argument into None, a number into the next), in
functions and beside them: rules are data of their modules. Texts for people are left alone. A sample is drawn with the
same seed every time.

Every change has a process of its own, which begins before any pass is imported, so that the rules that a module builds
when it is imported are built of the changed source. It runs the tests of tests/passes that reach the changed line, the
quickest first; of a line that runs at import, the tests that reach any line of the module. Where they all pass, the
type checker looks at the changed source: `make test` runs it too.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import libcst as cst
import networkx  # noqa: F401
import numpy  # noqa: F401
import pytest
import torch
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import create_mutations

import specc.backends.torch
import specc.testing  # noqa: F401  (imported once, for all processes)

ROOT = Path(__file__).parents[1]
PASSES = ROOT / "specc" / "passes"
TESTS = ROOT / "tests" / "passes"
PYTEST = ("-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", "--no-header", "--tb=no", "--no-summary")
SEED = 4
PATIENCE = 20.0
"""Seconds of computing beyond three times what the tests took before: then a change rewrites for ever."""


@dataclass(frozen=True)
class Change:
    """A changed source: the module, the place of the change, what stood there and what stands there now."""

    module: str
    first: int
    last: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"passes/{self.module}.py:{self.first}: {_short(self.before)}  ->  {_short(self.after)}"


def _short(code: str) -> str:
    return " ".join(code.split())


def changes(module: str, sample: int) -> tuple[int, list[Change]]:
    """How many changes of a module's source there are, and `sample` of them; all of them for 0."""
    text = (PASSES / f"{module}.py").read_text(encoding="utf-8")
    tree, mutations, _, _ = create_mutations(f"{module}.py", text)
    places = MetadataWrapper(tree, unsafe_skip_copy=True).resolve(PositionProvider)
    pairs = [(mutation.original_node, mutation.mutated_node) for mutation in mutations]
    pairs = [pair for pair in pairs if not (isinstance(pair[0], cst.SimpleString) and " " in pair[0].value)]
    count = len(pairs)
    random.Random(f"{SEED} {module}").shuffle(pairs)
    found = []
    for before, after in pairs[: sample or count]:
        place = places[before]
        source = tree.deep_replace(before, after)
        shown = (tree.code_for_node(node) for node in (before, after))
        found.append(Change(module, place.start.line, place.end.line, *shown, source.code))
    return count, found


class _Changed(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Imports one module from a changed source."""

    def __init__(self, change: Change) -> None:
        super().__init__(f"specc.passes.{change.module}", str(PASSES / f"{change.module}.py"))
        self.change = change

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def get_code(self, fullname: str) -> Any:
        return compile(self.change.source, self.path, "exec")


@dataclass
class Reached:
    """What one test runs: how long it takes, and which lines of which modules."""

    seconds: float
    lines: dict[str, set[int]]


class _Watch:
    """A plugin of pytest that records the lines of passes/ that each test runs."""

    def __init__(self) -> None:
        self.found: dict[str, Reached] = {}
        self._modules = {str(path): path.stem for path in PASSES.glob("*.py")}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        lines: dict[str, set[int]] = {}

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            module = self._modules.get(frame.f_code.co_filename)
            if module is None:
                return None
            lines.setdefault(module, set()).add(frame.f_lineno)
            return trace

        begin = time.process_time()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(None)
        self.found[item.nodeid] = Reached(time.process_time() - begin, lines)


def _fork(run: Callable[[BinaryIO], int], seconds: float) -> tuple[int, bytes]:
    """The exit code of `run` in a process of its own, which ends after so much time, and what it writes to its pipe."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.close(reading)
            os.chdir(ROOT)
            spent = time.process_time()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(spent + seconds), math.ceil(spent + seconds) + 1))
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            torch.set_num_threads(1)
            with os.fdopen(writing, "wb") as pipe:
                code = run(pipe)
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


def reached() -> dict[str, Reached]:
    """What every test of tests/passes reaches; they all have to pass."""

    def run(pipe: BinaryIO) -> int:
        watch = _Watch()
        code = pytest.main([*PYTEST, str(TESTS)], plugins=[watch])
        found = {
            name: (r.seconds, {m: sorted(lines) for m, lines in r.lines.items()}) for name, r in watch.found.items()
        }
        pipe.write(json.dumps(found).encode())
        return int(code)

    code, said = _fork(run, 3600)
    if code != 0:
        raise SystemExit(f"the tests of {TESTS} fail without any change")
    found = json.loads(said)
    return {name: Reached(s, {m: set(lines) for m, lines in by.items()}) for name, (s, by) in found.items()}


def tests_of(change: Change, tests: dict[str, Reached]) -> list[str]:
    """The tests that reach a change, the quickest first."""
    wanted = set(range(change.first, change.last + 1))
    here = [name for name, test in tests.items() if wanted & test.lines.get(change.module, set())]
    here = here or [name for name, test in tests.items() if change.module in test.lines]
    return sorted(here, key=lambda name: tests[name].seconds)


def noticed(change: Change, tests: dict[str, Reached]) -> bool:
    """Whether a test fails, or does not end, under a change."""
    chosen = tests_of(change, tests)

    def run(pipe: BinaryIO) -> int:
        sys.meta_path.insert(0, _Changed(change))
        return int(pytest.main([*PYTEST, *chosen]))

    usual = sum(tests[name].seconds for name in chosen)
    code, _ = _fork(run, PATIENCE + 3 * usual)
    return code != 0


def well_typed(change: Change | None, cache: Path) -> bool:
    """Whether the type checker finds nothing wrong with the sources under a change."""
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(cache)]
    if change is not None:
        changed = cache / "changed.py"
        changed.write_text(change.source, encoding="utf-8")
        command += ["--shadow-file", f"specc/passes/{change.module}.py", str(changed)]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 where fewer than 85 % of the changes are noticed."""
    modules = sorted(path.stem for path in PASSES.glob("*.py") if path.stem != "__init__")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--modules", nargs="+", choices=modules, default=modules, metavar="MODULE")
    parser.add_argument("--sample", type=int, default=24, help="changes of each module; 0 for all of them")
    parser.add_argument("--jobs", type=int, default=1)
    words = parser.parse_args(arguments)
    tests = reached()
    with tempfile.TemporaryDirectory() as folder:
        return measured(words.modules, words.sample, words.jobs, tests, Path(folder))


def measured(modules: Sequence[str], sample: int, jobs: int, tests: dict[str, Reached], cache: Path) -> int:
    """Prints what was noticed of each module; the exit code."""
    if not well_typed(None, cache):
        raise SystemExit("the type checker fails without any change")
    total = good = 0
    print("module          changes  tried  noticed")
    for module in modules:
        count, tried = changes(module, sample)
        with ThreadPoolExecutor(jobs) as pool:
            seen = list(pool.map(lambda change: noticed(change, tests), tried))
        seen = [found or not well_typed(change, cache) for change, found in zip(tried, seen)]
        total, good = total + len(tried), good + sum(seen)
        print(f"{module:<14} {count:8} {len(tried):6} {sum(seen):8}", flush=True)
        left = (change for change, found in zip(tried, seen) if not found)
        for change in sorted(left, key=lambda change: change.first):
            print(f"    {change}", flush=True)
    print(f"{good} of {total} noticed: {100 * good / total:.1f} %")
    return int(good < 0.85 * total)


if __name__ == "__main__":
    sys.exit(main())
