"""`specc bench`: latency beside the peers'."""

from __future__ import annotations

import click
from click.core import ParameterSource

from specc.cli.options import (
    Finite,
    choose_size,
    compilation,
    json_option,
    load_spec,
    measuring_options,
    print_json,
    threads_option,
)
from specc.diagnostics import error
from specc.terminal import say


@click.command()
@click.argument("spec", metavar="FILE[:VARIANT]|ARTIFACT")
@click.option("--against", default="torch,onnxruntime", show_default=True, help="Peers, separated by commas.")
@measuring_options
@threads_option
@click.option("--seconds", type=Finite(), default=5.0, show_default=True, help="For each contender.")
@json_option
def bench(
    spec: str,
    against: str,
    weights: str | None,
    target: str,
    shapes: dict[str, int] | None,
    level: int,
    tuning: str | None,
    threads: int | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure an artifact's latency beside its peers', in turns and with equal threads."""
    from specc import bench as stopwatch
    from specc import driver, report, runtime, sample
    from specc.artifact import is_artifact
    from specc.ir.graph import specialize
    from specc.ir.text import parse_graph

    names = [name.strip() for name in against.split(",") if name.strip()]
    stopwatch.check_peers(names)
    if is_artifact(spec):
        chosen = click.get_current_context().get_parameter_source
        for option, what in (("target", "target"), ("level", "level of optimization"), ("tuning", "tuning")):
            if chosen(option) is not ParameterSource.DEFAULT:
                raise error("S1006", f"{spec} is compiled: its {what} cannot be chosen any more")
        artifact = runtime.open(spec, threads)
        size = choose_size(artifact.manifest, shapes)
        graph = parse_graph(artifact.manifest.facts["spec"]["graph"], spec)
    else:
        graph = load_spec(spec)
        with compilation(graph.name) as observe:
            compiled = driver.compile(graph, target, weights, shapes, level, progress=observe, tuning=tuning)
        artifact = runtime.Artifact(compiled.contents, threads)
        (size,) = artifact.manifest.sizes
    graph = specialize(graph, dict(size.dimensions))
    values, origin = driver.find_weights(graph, weights)
    same = origin["digest"] == artifact.manifest.facts["weights"]["digest"]
    if weights is None:
        say("no --weights: they are drawn from seed 0")
    if not same:
        say("the peers do not have the artifact's weights: results are not compared")
    inputs = sample.draw(size.inputs)
    contenders = [stopwatch.ours(artifact, inputs)]
    contenders += stopwatch.peers(names, graph, values, inputs, artifact.threads)
    timings = stopwatch.bench(contenders, seconds)
    best = timings[0].median
    if as_json:
        found = [timing.to_json(best, same) for timing in timings]
        about = {"network": artifact.manifest.network, "shapes": dict(size.dimensions), "threads": artifact.threads}
        print_json({**about, "timings": found})
        return
    at = f" at {size}" if size.dimensions else ""
    click.echo(f"{artifact.manifest.network}{at}, {artifact.threads} threads, milliseconds")
    rows = [
        {
            "": timing.name,
            "median": f"{timing.median:.2f}",
            "p10": f"{timing.spread[0]:.2f}",
            "p90": f"{timing.spread[1]:.2f}",
            "ratio": f"{timing.median / best:.2f}",
            "difference": f"{timing.apart:.1e}" if same else "-",
            "calls": str(len(timing.milliseconds)),
            "memory": "-" if timing.memory is None else f"{timing.memory / 1e6:.1f} MB",
            "form": timing.form,
        }
        for timing in timings
    ]
    click.echo(report.table(rows, right=("median", "p10", "p90", "ratio", "difference", "calls", "memory")))
