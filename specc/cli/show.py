"""`specc show`: a network block by block, its graph, or what an artifact is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from specc.cli.options import json_option, level_option, load_spec, print_json, shapes_option, target_option
from specc.diagnostics import did_you_mean, error

if TYPE_CHECKING:
    from specc.ir.graph import Graph


@click.command()
@click.argument("spec", metavar="FILE[:VARIANT]|ARTIFACT")
@click.option("--at", "at", metavar="PASS", help="The graph's text behind this pass, or `spec`: before all of them.")
@click.option("--depth", type=click.IntRange(min=0), default=2, show_default=True, help="Names in a row of the table.")
@target_option
@shapes_option
@level_option
@json_option
def show(
    spec: str, at: str | None, depth: int, target: str, shapes: dict[str, int] | None, level: int, as_json: bool
) -> None:
    """Show a network block by block; its graph as text with --at, as JSON with --json; or what an artifact is."""
    from specc import artifact

    if artifact.is_artifact(spec):
        if at is not None or shapes:
            raise error("S1006", f"{spec} is compiled: it has neither passes nor shapes to choose")
        _show_artifact(artifact.read(spec).manifest, as_json)
        return
    from specc import report
    from specc.ir.graph import specialize
    from specc.ir.text import print_graph

    graph = load_spec(spec)
    if at is not None and at != "spec":
        graph = _after(specialize(graph, shapes), at, target, level)
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


def _after(graph: Graph, name: str, target: str, level: int) -> Graph:
    """The graph behind the last pass called `name`."""
    from specc import targets
    from specc.optimize import run_passes
    from specc.passes.registry import pipeline

    passes = pipeline(level, targets.find(target))
    names = [transformation.name for transformation in passes]
    if name not in names:
        known = ["spec", *dict.fromkeys(names)]
        message = f"-O{level} has no pass `{name}`; there are {', '.join(known)}"
        raise error("S1001", message, notes=did_you_mean(name, known))
    last = len(names) - names[::-1].index(name)
    return run_passes(graph, passes[:last])[0]


def _show_artifact(manifest: Any, as_json: bool) -> None:
    if as_json:
        print_json(manifest.to_json())
        return
    machine, facts = manifest.machine, manifest.facts
    click.echo(f"{manifest.network} for {machine.target} ({machine.architecture}, {', '.join(machine.requires)})")
    for spec in manifest.inputs:
        click.echo(f"  {spec}")
    for spec in manifest.outputs:
        click.echo(f"  -> {spec}")
    click.echo(f"  compiled by specc {manifest.specc} at -O{facts['level']} for runtime {manifest.runtime}")
    for step in facts["passes"]:
        click.echo(f"  {step['pass']}: {step['summary']}")
    click.echo(f"  {len(facts['kernels'])} kernels")
