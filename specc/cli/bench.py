"""`specc bench`: latency beside the peers'."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from specc.cli.options import (
    Finite,
    check_precision,
    choose_size,
    compilation,
    count_threads,
    given,
    json_option,
    load_spec,
    measuring_options,
    precision_options,
    print_json,
    tell_precision,
    threads_option,
)
from specc.diagnostics import error
from specc.terminal import say

if TYPE_CHECKING:
    from specc.ir.array import Array
    from specc.targets import Target

_COMPILED = {
    "target": "target",
    "level": "level of optimization",
    "tuning": "tuning",
    "precision": "precision",
    "bound": "bound",
}
"""The options of a compilation, and what they choose."""


@click.command()
@click.argument("spec", metavar="FILE[:VARIANT]|ARTIFACT")
@click.option(
    "--against", default="torch,onnxruntime", show_default=True, help="What to compare with, separated by commas."
)
@measuring_options
@precision_options
@threads_option
@click.option("--seconds", type=Finite(), default=5.0, show_default=True, help="How long to measure each contender.")
@click.option(
    "--patience",
    type=Finite(),
    default=1.0,
    show_default=True,
    help="Go on for up to so many times as long, until in eight turns every thread had a core of its own.",
)
@json_option
def bench(
    spec: str,
    against: str,
    weights: str | None,
    target: str,
    shapes: dict[str, int] | None,
    level: int,
    tuning: str | None,
    precision: str,
    calibrate: str | None,
    bound: float | None,
    threads: int | None,
    seconds: float,
    patience: float,
    as_json: bool,
) -> None:
    """Measure latency beside other compilers.

    Their calls take turns, with as many threads each.
    """
    from specc import bench as stopwatch
    from specc import driver, report, runtime, sample, targets
    from specc.backends.tvm import roofline
    from specc.calibration import drawn_samples, read_samples
    from specc.ir.specialize import specialize
    from specc.ir.text import parse_graph
    from specc.magic import is_artifact
    from specc.peers import check_peers, peers

    names = [name.strip() for name in against.split(",") if name.strip()]
    if is_artifact(spec):
        for option, what in _COMPILED.items():
            if given(option):
                raise error("S1006", f"{spec} is compiled: its {what} cannot be chosen any more")
        artifact = runtime.open(spec, threads)
        precision = artifact.manifest.facts["precision"]["name"]
        check_peers(names, precision)
        if calibrate is None and not artifact.manifest.facts["precision"].get("drawn", True):
            raise click.UsageError(f"{spec} was calibrated with samples: --calibrate gives them to the peers")
        if calibrate is not None and precision != "int8":
            raise error("S1001", f"samples are for the precision int8, and {spec} is {precision}")
        size = choose_size(artifact.manifest, shapes)
        graph = parse_graph(artifact.manifest.facts["spec"]["graph"], spec)
    else:
        check_peers(names, precision)
        check_precision(precision, calibrate, weights)
        _check_runs(targets.find(target))
        runtime.check_threads(threads)
        graph = load_spec(spec)
        with compilation(graph.name) as observe:
            compiled = driver.compile(
                graph,
                target,
                weights,
                shapes,
                level,
                progress=observe,
                precision=precision,
                samples=calibrate,
                bound=bound,
                tuning=tuning,
            )
        tell_precision(compiled.manifest.facts["precision"])
        artifact = runtime.Artifact(compiled.contents, threads)
        (size,) = artifact.manifest.sizes
    values, origin = driver.find_weights(graph, weights)  # as they are drawn for the artifact: before extents are known
    graph = specialize(graph, dict(size.dimensions))
    same = origin["digest"] == artifact.manifest.facts["weights"]["digest"]
    if weights is None:
        say("no --weights: they are drawn from seed 0")
    if not same:
        say("the peers do not have the artifact's weights: results are not compared")
    inputs = sample.draw(size.inputs)
    contenders = [stopwatch.ours(artifact, inputs)]
    samples: list[dict[str, Array]] = []
    if precision == "int8":
        samples = drawn_samples(size.inputs) if calibrate is None else read_samples(calibrate, size.inputs)
    typical = [[one[spec.name] for spec in size.inputs] for one in samples]
    contenders += peers(names, graph, values, inputs, artifact.threads, precision, typical)
    named = {spec.name: array for spec, array in zip(size.inputs, inputs)}
    expected = driver.reference(graph, values, named) if same else None
    cores = (
        roofline.Cores(targets.TARGETS[artifact.manifest.machine.target], artifact.threads)
        if artifact.threads > 1
        else None
    )
    timings = stopwatch.bench(contenders, seconds, expected, cores, patience)
    ours = timings[0]
    if as_json:
        found = [timing.to_json(ours) for timing in timings]
        about = {
            "network": artifact.manifest.network,
            "shapes": dict(size.dimensions),
            "threads": artifact.threads,
            "precision": precision,
        }
        print_json({**about, "timings": found})
        return
    at = f" at {size}" if size.dimensions else ""
    click.echo(f"{artifact.manifest.network}{at}, {count_threads(artifact.threads)}, milliseconds")
    rows = [
        {
            "": timing.name,
            "median": f"{timing.median:.2f}",
            "p10": f"{timing.spread[0]:.2f}",
            "p90": f"{timing.spread[1]:.2f}",
            "ratio": f"{timing.ratio(ours):.2f}",
            **({"own cores": f"{timing.own_ratio(ours):.2f}"} if any(timing.own) else {}),
            "error": "-" if timing.error is None else f"{timing.error:.1e}",
            "calls": str(len(timing.milliseconds)),
            "memory": "-" if timing.memory is None else f"{timing.memory / 1e6:.1f} MB",
            "form": timing.form,
        }
        for timing in timings
    ]
    click.echo(report.table(rows, right=("median", "p10", "p90", "ratio", "own cores", "error", "calls", "memory")))
    if ours.own:
        click.echo(
            f"in {sum(ours.own)} of {len(ours.own)} turns, each of the {artifact.threads} threads had a core of its own"
        )


def _check_runs(machine: Target) -> None:
    """Raises S1203 where this machine cannot run what is compiled for another one; a GPU is looked for by who loads."""
    from specc.gpus import is_gpu
    from specc.targets import shortfall

    what = shortfall(machine.architecture, tuple(feature for feature in machine.requires if not is_gpu(feature)))
    if what:
        note = "leave --target away, or compile it with `specc compile` and bench the artifact there"
        raise error("S1203", f"kernels for {machine.name} cannot be timed here: this machine {what}", notes=(note,))
