"""`specc verify`: whether what a spec is compiled to computes what the spec says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from specc import targets, terminal
from specc.cli.options import (
    check_precision,
    compilation,
    compiling_options,
    json_option,
    load_spec,
    mention_weights,
    parse_passes,
    pass_options,
    precision_options,
    print_json,
    spec_argument,
    tolerance_option,
)
from specc.diagnostics import SpeccError
from specc.terminal import FAILED, FINE


@click.command()
@spec_argument
@compiling_options
@pass_options
@click.option("--per-pass", is_flag=True, help="Compare the graph after every pass, too; name the first wrong node.")
@click.option(
    "--reduce",
    "reduce_to",
    type=click.Path(),
    metavar="DIR",
    help="Compare as --per-pass does; make what differs as small as it can be, and write it here.",
)
@tolerance_option
@precision_options
@json_option
def verify(
    spec: str,
    weights: str | None,
    target: str,
    shapes: list[dict[str, int | None]] | None,
    level: int,
    rounding: float,
    tuning: str | None,
    passes: str | None,
    verify_each: bool,
    per_pass: bool,
    reduce_to: str | None,
    tolerance: float,
    precision: str,
    calibrate: str | None,
    bound: float | None,
    as_json: bool,
) -> int:
    """Compile, and compare with the spec in float64.

    Exit code 1 says that they differ.
    """
    from specc import verify as judge

    chosen = parse_passes(passes)
    graph = load_spec(spec)
    check_precision(precision, calibrate, weights)
    mention_weights(weights)
    with compilation(graph.name) as observe:
        verdicts = judge.verify(
            graph,
            replace(targets.find(target), rounding=rounding),
            weights,
            shapes,
            level,
            per_pass or reduce_to is not None,
            tolerance,
            observe,
            chosen,
            verify_each,
            Path(reduce_to) if reduce_to is not None else None,
            precision,
            calibrate,
            bound,
            tuning,
        )
    holds = all(verdict.holds for verdict in verdicts)
    if as_json:
        print_json({"holds": holds, "verdicts": [verdict.to_json() for verdict in verdicts]})
    else:
        for verdict in verdicts:
            word = "equal" if verdict.holds else "DIFFERENT"
            apart = ", ".join(f"{name} {distance:.3g}" for name, distance in verdict.differences.items())
            if verdict.agreement is not None:
                same = "".join(
                    f"; {share:.1%} of the answers of {name} stay" for name, share in verdict.agreement.items()
                )
                word = "within" if verdict.holds else "ABOVE"
                limit = f"{word} {verdict.tolerance:.3g}"
                click.echo(f"{verdict.subject}: {limit} (rms difference / rms output: {apart}{same})")
                continue
            click.echo(f"{verdict.subject}: {word} (max |difference| / max |output|: {apart})")
    found = [verdict.diagnostic for verdict in verdicts if verdict.diagnostic]
    if found:
        terminal.complain(SpeccError(*found))
    return FINE if holds else FAILED
