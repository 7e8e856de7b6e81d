"""`specc zoo`: the networks that come with specc."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import click

from specc.cli.options import json_option, print_json
from specc.terminal import say


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--lines", is_flag=True, help="Lines of each spec beside those of its reference's model code.")
@json_option
def zoo(names: Sequence[str], lines: bool, as_json: bool) -> None:
    """List the networks that come with specc.

    `zoo:NAME/VARIANT` stands for one wherever a spec is asked for.
    """
    from specc import report
    from specc import zoo as index

    chosen = [index.entry(name) for name in names] if names else list(index.entries().values())
    rows = list(_lengths(chosen)) if lines else [row for found in chosen for row in _variants(found)]
    if as_json:
        print_json(rows)
        return
    shown = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    click.echo(report.table(shown, right=("params", "macs", "lines", "reference lines", "ratio")))
    if lines:
        ratios = [row["ratio"] for row in rows]
        say(f"median ratio {median(ratios):.2f}, greatest {max(ratios):.2f}")


def _variants(entry: Any) -> Iterator[dict[str, Any]]:
    """A row for each variant: its counts are those that the spec's checks hold it to."""
    from specc.zoo import Counts, counts

    found = counts(entry.path)
    for variant, reference in entry.variants.items():
        numbers = found.get(variant, Counts())
        name = f"{entry.name}/{variant}"
        yield {
            "name": name,
            "system": entry.system,
            "params": numbers.params,
            "macs": numbers.macs,
            "reference": reference,
            "file": entry.file,
        }


def _lengths(entries: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """A row for each file: entries that share one are told of together."""
    for file in dict.fromkeys(entry.file for entry in entries):
        sharing = [entry for entry in entries if entry.file == file]
        reference = max(entry.lines for entry in sharing)
        own = sharing[0].spec_lines
        yield {"file": file, "lines": own, "reference lines": reference, "ratio": round(own / reference, 2)}
