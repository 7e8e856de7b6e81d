"""`specc show`: a network block by block, its graph, or what an artifact is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from specc.cli.options import (
    given,
    json_option,
    level_option,
    load_spec,
    parse_passes,
    passes_option,
    print_json,
    shapes_option,
    target_option,
)
from specc.diagnostics import did_you_mean, error

if TYPE_CHECKING:
    from specc.artifact import Contents
    from specc.ir.graph import Graph
    from specc.optimize import Step


_OF_SPECS = {
    "at": "--at",
    "depth": "--depth",
    "explain": "--explain",
    "target": "--target",
    "shapes": "--shapes",
    "level": "-O",
    "passes": "--passes",
}
"""The options that an artifact has no use for, as they are written."""


@click.command()
@click.argument("spec", metavar="FILE[:VARIANT]|ARTIFACT")
@click.option("--at", "at", metavar="PASS", help="The graph's text behind this pass, or `spec`: before all of them.")
@click.option(
    "--depth",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="How deep blocks within blocks are listed.",
)
@click.option("--explain", metavar="PASS", help="What the rules of this pass did and refused to do, and why.")
@target_option
@shapes_option
@level_option
@passes_option
@json_option
def show(
    spec: str,
    at: str | None,
    depth: int,
    explain: str | None,
    target: str,
    shapes: dict[str, int] | None,
    level: int,
    passes: str | None,
    as_json: bool,
) -> None:
    """Show a network block by block, or an artifact.

    --at writes the graph as text, --json as JSON.
    """
    from specc import artifact
    from specc.magic import is_artifact

    if is_artifact(spec):
        for option, word in _OF_SPECS.items():
            if given(option):
                raise error("S1006", f"{spec} is compiled: {word} is for specs")
        _show_artifact(artifact.read(spec), as_json)
        return
    from specc import report
    from specc.ir.specialize import specialize
    from specc.ir.text import print_graph

    _check_options(at, explain, target, passes, as_json)
    graph = load_spec(spec)
    if explain is not None:
        steps = _steps(specialize(graph, shapes), explain, [], target, level, passes)
        _explain([step for step in steps if step.transformation.name == explain], as_json)
        return
    if at is not None and at != "spec":
        graph = _steps(specialize(graph, shapes), at, ["spec"], target, level, passes)[-1].after
    elif shapes or (at is None and not as_json):
        graph = specialize(graph, shapes)
    if as_json:
        print_json(report.to_json(graph))
    elif at is not None:
        click.echo(print_graph(graph), nl=False)
    else:
        inputs, outputs = report.signature(graph)
        rows = report.blocks(graph, depth)
        shown = [
            {
                "block": row.path or "(network)",
                "result": str(row.type or ""),
                "nodes": str(row.nodes or ""),
                "parameters": report.abbreviated(row.params) if row.params else "",
                "MACs": report.abbreviated(row.macs) if row.macs else "",
            }
            for row in rows
        ]
        total = [report.abbreviated(sum(values)) for values in ([r.params for r in rows], [r.macs for r in rows])]
        click.echo(f"{graph.name}: {', '.join(f'{n}: {t}' for n, t in inputs.items())} -> {', '.join(outputs)}\n")
        click.echo(report.table(shown, right=("nodes", "parameters", "MACs")))
        click.echo(f"\n{total[0]} parameters, {total[1]} MACs")


def _check_options(at: str | None, explain: str | None, target: str, passes: str | None, as_json: bool) -> None:
    """Raises S1001 for a target or a pass that is not there, and a usage error for options that would do nothing."""
    from specc import targets

    if given("target"):
        targets.find(target)
    parse_passes(passes)
    if at is not None and explain is not None:
        raise click.UsageError("--at writes a graph, --explain what a pass did to it: give one of the two")
    if given("depth") and (as_json or at is not None or explain is not None):
        raise click.UsageError("--depth is for the table of blocks: it goes with none of --at, --explain and --json")
    through = explain is not None or at not in (None, "spec")
    for option in ("target", "level", "passes"):
        if given(option) and not through:
            raise click.UsageError(f"{_OF_SPECS[option]} goes with --at PASS or --explain PASS: else no pass runs")
        if given(option) and option != "passes" and passes is not None:
            raise click.UsageError(f"--passes names all passes that run: {_OF_SPECS[option]} has no say in them")


def _steps(graph: Graph, name: str, besides: list[str], target: str, level: int, chosen: str | None) -> list[Step]:
    """The passes up to the last one called `name`, done; one that no level has (`strips`), where options put it.

    Raises S1001 for another name; its message lists those that there are, and `besides`.
    """
    from specc import targets
    from specc.optimize import run_passes
    from specc.passes.registry import LEVELS, PASSES, pipeline

    machine = targets.find(target)
    passes = parse_passes(chosen) or pipeline(level, machine)
    if chosen is None and name in PASSES.keys() - {each.name for each in pipeline(LEVELS[-1], machine)}:
        passes = pipeline(level, machine, precision=PASSES[name]())
    names = [transformation.name for transformation in passes]
    if name not in names:
        known = [*besides, *dict.fromkeys(names)]
        where = f"--passes {chosen}" if chosen else f"-O{level}"
        message = f"{where} has no pass `{name}`; there are {', '.join(known)}"
        raise error("S1001", message, notes=did_you_mean(name, known))
    last = len(names) - names[::-1].index(name)
    return run_passes(graph, passes[:last])[1]


def _explain(steps: list[Step], as_json: bool) -> None:
    """Every match of every rule: that it fired, or why it did not, and where in the spec."""
    from specc import report

    events = [event for step in steps for event in step.journal.events]
    computed = [computation for step in steps for computation in step.journal.computed]
    if as_json:
        print_json([*(event.to_json() for event in events), *(found.to_json() for found in computed)])
        return
    for found in computed:
        place = f"{found.span}: " if found.span else ""
        what = f"{found.operators} operator{'s' * (found.operators > 1)}"
        of = f" of {', '.join(found.weights)}" if found.weights else ""
        name = f"{found.op}{f' at {found.path}' if found.path else ''}"
        click.echo(f"{place}{name}: {what}{of}: computed once, by the compiler")
    for event in events:
        place = f"{event.span}: " if event.span else ""
        outcome = "done" if event.fired else f"refused: {event.reason}"
        outcome += f" ({report.abbreviated(event.bytes)}B of traffic)" if event.bytes is not None else ""
        click.echo(f"{place}{event.op}{f' at {event.path}' if event.path else ''}: {event.rule}: {outcome}")
    fired = sum(event.fired for event in events)
    saved = sum(event.bytes or 0 for event in events if event.fired)
    less = f", {report.abbreviated(saved)}B of traffic less" if saved else ""
    click.echo(f"{fired} done, {len(events) - fired} refused{less}")


def _show_artifact(contents: Contents, as_json: bool) -> None:
    from specc.signature import fingerprint

    manifest = contents.manifest
    signer = fingerprint(contents.signed_by) if contents.signed_by else None
    if as_json:
        print_json({**manifest.to_json(), "signed_by": signer})
        return
    machine, facts = manifest.machine, manifest.facts
    click.echo(f"{manifest.network} for {machine.target} ({machine.architecture}, {', '.join(machine.requires)})")
    click.echo(f"  compiled by specc {manifest.specc} at -O{facts['level']}")
    for size in manifest.sizes:
        if len(manifest.sizes) > 1:
            click.echo(f"at {size}")
        for spec in size.inputs:
            click.echo(f"  {spec}")
        for spec in size.outputs:
            click.echo(f"  -> {spec}")
        for step in size.facts["passes"]:
            click.echo(f"  {step['pass']}: {step['summary']}")
        arena = size.facts["memory"]["arena"]
        click.echo(f"  {len(size.facts['kernels'])} kernels, {arena / 1e6:.2f} MB for the tensors between them")
    if signer:
        click.echo(f"  says to be signed with {signer} (`specc run --require-signature` checks it)")
