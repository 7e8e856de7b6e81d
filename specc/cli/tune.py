"""`specc tune`: faster configurations of a network's kernels --> records, which compilations use from then on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from specc.cli.options import (
    Finite,
    count_threads,
    json_option,
    load_spec,
    measuring_options,
    mention_weights,
    print_json,
    rounding_option,
    spec_argument,
    split_spec,
    threads_option,
)
from specc.terminal import say

if TYPE_CHECKING:
    from specc.tuning import Standing


@click.command()
@spec_argument
@measuring_options
@rounding_option
@click.option("--minutes", type=Finite(), default=10.0, show_default=True, help="How long to search, about.")
@click.option("--trials", type=click.IntRange(min=0), help="At most so many configurations.")
@threads_option
@click.option("--tracker", metavar="HOST:PORT", help="A tracker of TVM's, whose machines measure instead of this one.")
@click.option("--key", help="What the tracker calls these machines.")
@json_option
def tune(
    spec: str,
    weights: str | None,
    target: str,
    shapes: dict[str, int] | None,
    level: int,
    tuning: str | None,
    rounding: float,
    minutes: float,
    trials: int | None,
    threads: int | None,
    tracker: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Search for faster kernels by measuring.

    Configurations are measured within runs of the network. Ctrl-C ends the search; it goes on where it was stopped.
    """
    from specc import targets
    from specc import tuning as tuner
    from specc.files import check_writable
    from specc.records import NONE

    if tuning is not None and tuning != NONE:
        check_writable(tuning, split_spec(spec)[0], weights)
    graph = load_spec(spec)
    mention_weights(weights)
    with _progress(graph.name, minutes) as tell:
        machine = replace(targets.find(target), rounding=rounding)
        outcome = tuner.tune(
            graph, machine, weights, shapes, level, tuning, minutes, trials, threads, tracker, key, progress=tell
        )
    if as_json:
        print_json(outcome.to_json())
        return
    if outcome.failed:
        say(f"{outcome.failed} configurations failed: this is a bug in specc; the records say which")
    low, high = (1 - ratio for ratio in reversed(outcome.spread))
    click.echo(
        f"{outcome.network}, {count_threads(outcome.threads)}: {outcome.default_ms:.4g} ms as the cost models have it, "
        f"{outcome.best_ms:.4g} ms tuned: {outcome.gain:.1%} less ({low:.1%} to {high:.1%}); "
        f"{outcome.better} of {outcome.kernels} kernels are better, of {outcome.tried} configurations tried now; "
        f"records in {outcome.file}"
    )


@contextmanager
def _progress(title: str, minutes: float) -> Iterator[Callable[[Standing], None]]:
    """An observer of the tuner: a bar on stderr where that is a terminal, a line for every round elsewhere."""

    def told(now: Standing) -> str:
        return f"best gain {now.gain:.1%}, {now.better} of {now.kernels} kernels better, {now.tried} tried"

    if not sys.stderr.isatty():
        yield lambda now: say(f"{now.seconds:5.0f} s: {now.default_ms:.4g} -> {now.best_ms:.4g} ms, {told(now)}")
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TimeElapsedColumn(table_column=Column(min_width=7, no_wrap=True)),
        TextColumn("{task.fields[state]}", table_column=Column(min_width=len("best gain 99.9%"), no_wrap=True)),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"tuning {title}", total=60 * minutes, state="measuring")
        yield lambda now: bar.update(task, completed=min(now.seconds, 60 * minutes), state=told(now))
