"""`specc check`: what is wrong with a spec, and its counts."""

from __future__ import annotations

from typing import Any

import click

from specc.cli.options import json_option, print_json, shapes_option, spec_argument, split_spec
from specc.diagnostics import SpeccError
from specc.terminal import FAILED, FINE, say


@click.command()
@spec_argument
@shapes_option
@json_option
def check(spec: str, shapes: dict[str, int] | None, as_json: bool) -> int:
    """Check a spec, and count its parameters and MACs.

    Says what is wrong and where, and whether its `check` lines and merges hold.
    """
    from specc import grammar
    from specc.magic import refuse_artifact

    path, variant = split_spec(spec)
    refuse_artifact(path)
    reports = grammar.check(path, variant)
    found = [_checked(report, shapes) for report in reports]
    problems = [SpeccError(*failures, sources=r.sources) for r, (_, failures) in zip(reports, found) if failures]
    if as_json:
        print_json({"holds": not problems, "reports": [facts for facts, _ in found], "diagnostics": []})
    else:
        click.echo("\n\n".join(_text(facts) for facts, _ in found) or f"{path} is right, and has no network")
    for message in dict.fromkeys(problem.render() for problem in problems):
        say(message)
    return FAILED if problems else FINE


def _checked(report: Any, shapes: dict[str, int] | None) -> tuple[dict[str, Any], list[Any]]:
    """What there is to say of a network, and the diagnostics."""
    from specc.optimize import check_merges
    from specc.report import blocks, signature

    facts: dict[str, Any] = {"network": report.network, "variant": report.variant}
    failures = list(report.failures)
    graph = report.graph
    if graph is not None:
        facts["inputs"], facts["outputs"] = signature(graph)
        facts["shapes"] = {**graph.defaults, **(shapes or {})}
        if shapes or graph.symbols() <= facts["shapes"].keys():
            graph = report.fixed.at(shapes)
            rows = blocks(graph, 0)
            facts["fixed_inputs"], facts["fixed_outputs"] = signature(graph)
            facts["params"], facts["macs"] = sum(r.params for r in rows), sum(r.macs for r in rows)
        keys = ("quantity", "comparison", "wanted", "actual", "holds")
        facts["checks"] = [{key: getattr(expected, key) for key in keys} for expected in report.expected]
        facts["merges"] = len(graph.claims)
        try:
            check_merges(graph)
        except SpeccError as problem:
            failures += problem.diagnostics
    return {**facts, "holds": not failures, "diagnostics": [d.to_json() for d in failures]}, failures


def _text(facts: dict[str, Any]) -> str:
    from specc.report import abbreviated

    name = f"{facts['network']}.{facts['variant']}" if facts["variant"] else facts["network"]
    if "inputs" not in facts:
        return f"{name}: wrong"
    lines = [name]
    lines += [f"  {name}: {type}" for name, type in facts["inputs"].items()]
    lines += [f"  -> {type}" for type in facts["outputs"]]
    if "params" in facts:
        at = ", ".join(f"{symbol} = {extent}" for symbol, extent in sorted(facts["shapes"].items()))
        counts = f"  {abbreviated(facts['params'])} parameters, {abbreviated(facts['macs'])} MACs"
        lines.append(counts + (f" with {at}" if at else ""))
        lines += [f"  -> {type} with {at}" for type in facts["fixed_outputs"] if at]
    else:
        lines.append("  --shapes gives the symbolic dimensions a value, and with them parameters and MACs are counted")
    for line in facts["checks"]:
        verdict = "holds" if line["holds"] else "does not hold"
        actual = f"{line['actual']:,}" if isinstance(line["actual"], int) else list(line["actual"])
        lines.append(f"  {line['quantity']} {line['comparison']} {line['wanted']}: {actual}, {verdict}")
    if facts["merges"]:
        broken = sum(diagnostic["code"] == "S0507" for diagnostic in facts["diagnostics"])
        lines.append("  ensure ... merges into: " + ("not all hold" if broken else f"{facts['merges']} hold"))
    return "\n".join(lines)
