"""Holds every network of the zoo to its checks, and writes docs/zoo.md.

    python tests/zoo/report.py [--jobs 2] [--keep FILE] [NAME...]

`--keep` is a file of results: what stands in it for specs and indices that have not changed is not computed again, so
that a run may be stopped and continued. With names, the page is not written, since it tells of all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch

from specc import targets

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
HEAD = """# The zoo

Every network of `examples/` beside an implementation in PyTorch. `make zoo` runs these checks and writes this page:

- **names**: the spec parses, its `check` lines hold, and the names and shapes of its weights are those of the
  reference's `state_dict`;
- **float64**: the greatest difference between the spec, run by PyTorch, and the reference, both in float64, with random
  weights and statistics of batch norm away from 0 and 1, beside the greatest number of the result;
- **compiled**: the same difference for the artifact, which computes in float32, for the target `{target}` here. These
  two are of a small network of the same kind, or of a small image.

Parameters and multiply-accumulate operations are those of the first variant; operators are those of the small network
as it is written, and kernels what its artifact calls. Lines are those of the spec, checks and comments left out, and of
the Python that makes up the reference. References that begin with `here:` are written for these tests, in
`tests/zoo/references/`, since no library has them.
"""
COLUMNS = "| network | reference | names | float64 | compiled | parameters | MACs | operators | kernels | lines |"


@dataclass
class Row:
    """What the checks of an entry found; `failed` says which one did not hold, and why."""

    name: str
    digest: str
    failed: str = ""
    float64: float = 0.0
    compiled: float = 0.0
    written: int = 0
    kernels: int = 0


def digest(name: str) -> str:
    """Of all that an entry's results depend on in `examples/`."""
    from specc import zoo

    entry = zoo.entries()[name]
    facts = json.dumps([entry.small, dict(entry.variants), dict(entry.options)], sort_keys=True, default=dict)
    return hashlib.sha256(facts.encode() + entry.path.read_bytes()).hexdigest()[:16]


def examine(name: str) -> Row:
    """Runs the four checks of an entry, in a process of its own."""
    os.nice(5)
    torch.set_num_threads(1)
    import checks

    from specc import zoo
    from specc.importing.source import module_of

    timm = module_of("timm")
    entry = zoo.entries()[name]
    row = Row(name, digest(name))
    step = "names"
    try:
        checks.named_as_the_reference(timm, entry, next(iter(entry.variants)), with_lines=True)
        step = "float64"
        pair = checks.Pair(timm, entry)
        row.float64 = pair.difference()
        assert row.float64 <= pair.tolerance, f"a difference of {row.float64:.1e}"
        step = "compiled"
        artifact, row.compiled = pair.compiled()
        assert row.compiled <= checks.COMPILED, f"a difference of {row.compiled:.1e}"
        row.written = len(pair.graph.live())
        row.kernels = len(artifact.manifest.sizes[0].facts["kernels"])
    except Exception as problem:  # whatever it is, the page tells of it, and the other networks go on
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        row.failed = f"{step}: {lines[0]}"
    return row


def table(rows: dict[str, Row]) -> str:
    """The page's table, family by family, and what it comes to."""
    from specc import zoo

    parts = []
    entries = zoo.entries()
    for family in dict.fromkeys(entry.family for entry in entries.values()):
        lines = [f"## {family}", "", COLUMNS, "|---|---|---|--:|--:|--:|--:|--:|--:|--:|"]
        for entry in entries.values():
            if entry.family != family:
                continue
            row, variant = rows[entry.name], next(iter(entry.variants))
            counts = zoo.counts(entry.path)[variant]
            found = [row.failed, "", "", "", ""]
            if not row.failed:
                found = ["equal", f"{row.float64:.1e}", f"{row.compiled:.1e}", str(row.written), str(row.kernels)]
            cells = [
                f"[{entry.system}](../examples/{entry.file})",
                f"`{entry.variants[variant]}`",
                *found[:3],
                counts.params,
                counts.macs,
                *found[3:],
                f"{entry.spec_lines} / {entry.lines}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    files = {entry.file: entry for entry in entries.values()}.values()
    ratio = statistics.median(entry.spec_lines / entry.lines for entry in files)
    variants = sum(len(entry.variants) for entry in entries.values())
    others = sum(not next(iter(entry.variants.values())).startswith("here:") for entry in entries.values())
    failed = sum(bool(row.failed) for row in rows.values()) or "none"
    parts.append(
        f"{len(entries)} networks with {variants} variants, {others} of them beside an implementation of a library; "
        f"{failed} with a check that does not hold. The median spec has {ratio:.2f} of the lines of its reference."
    )
    return "\n\n".join(parts)


def main() -> int:
    """Examines what the command line names; writes the page where that is all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="these alone")
    parser.add_argument("--jobs", type=int, default=2, help="how many at the same time")
    parser.add_argument("--keep", type=Path, help="a file of results to continue")
    options = parser.parse_args()
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from specc import zoo

    names = options.names or list(zoo.entries())
    rows: dict[str, Row] = {}
    if options.keep and options.keep.exists():
        for line in options.keep.read_text().splitlines():
            row = Row(**json.loads(line))
            if row.name in names and row.digest == digest(row.name) and not row.failed:
                rows[row.name] = row
    left = [name for name in names if name not in rows]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=8) as pool,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("zoo", total=len(left))
        for row in pool.imap_unordered(examine, left):
            rows[row.name] = row
            bar.update(task, advance=1, description=row.name)
            if row.failed:
                bar.console.print(f"{row.name}: {row.failed}")
            if options.keep:
                with options.keep.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
    if not options.names:
        head = HEAD.format(target=targets.native().name)
        PAGE.write_text(f"{head}\n{table(rows)}\n", encoding="utf-8")
    return int(any(row.failed for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
