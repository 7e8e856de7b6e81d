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
    """Say what is wrong with a spec; its shapes, parameters, MACs and `check` lines."""
    from specc import grammar

    path, variant = split_spec(spec)
    try:
        reports = grammar.check(path, variant)
    except SpeccError as problem:
        if as_json:
            print_json({"holds": False, "reports": [], "diagnostics": [d.to_json() for d in problem.diagnostics]})
        raise
    found = [_checked(report, shapes) for report in reports]
    problems = [SpeccError(*report.failures, sources=report.sources) for report in reports if report.failures]
    if as_json:
        print_json({"holds": not problems, "reports": found, "diagnostics": []})
    else:
        click.echo("\n\n".join(_check_text(report) for report in found))
    for message in dict.fromkeys(problem.render() for problem in problems):
        say(message)
    return FAILED if problems else FINE


def _checked(report: Any, shapes: dict[str, int] | None) -> dict[str, Any]:
    from specc.ir.graph import specialize
    from specc.report import blocks, signature

    found: dict[str, Any] = {"network": report.network, "variant": report.variant, "holds": report.holds}
    found["diagnostics"] = [d.to_json() for d in report.failures]
    graph = report.graph
    if graph is None:
        return found
    found["inputs"], found["outputs"] = signature(graph)
    found["shapes"] = {**graph.defaults, **(shapes or {})}
    if graph.symbols() <= found["shapes"].keys():
        fixed = specialize(graph, shapes)
        rows = blocks(fixed, 0)
        found["fixed_inputs"], found["fixed_outputs"] = signature(fixed)
        found["params"], found["macs"] = sum(r.params for r in rows), sum(r.macs for r in rows)
    keys = ("quantity", "comparison", "wanted", "actual", "holds")
    found["checks"] = [{key: getattr(expected, key) for key in keys} for expected in report.expected]
    return found


def _check_text(found: dict[str, Any]) -> str:
    from specc.report import abbreviated

    name = f"{found['network']}.{found['variant']}" if found["variant"] else found["network"]
    if "inputs" not in found:
        return f"{name}: wrong"
    lines = [name]
    lines += [f"  {name}: {type}" for name, type in found["inputs"].items()]
    lines += [f"  -> {type}" for type in found["outputs"]]
    if "params" in found:
        at = ", ".join(f"{symbol} = {extent}" for symbol, extent in sorted(found["shapes"].items()))
        counts = f"  {abbreviated(found['params'])} parameters, {abbreviated(found['macs'])} MACs"
        lines.append(counts + (f" with {at}" if at else ""))
        lines += [f"  -> {type} with {at}" for type in found["fixed_outputs"] if at]
    else:
        lines.append("  --shapes gives the symbolic dimensions a value, and with them parameters and MACs are counted")
    for line in found["checks"]:
        verdict = "holds" if line["holds"] else "does not hold"
        lines.append(f"  {line['quantity']} {line['comparison']} {line['wanted']}: {line['actual']:,}, {verdict}")
    return "\n".join(lines)
