"""`specc profile`: where an artifact's time goes, kernel by kernel."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import click

from specc.cli.options import artifact_argument, choose_size, json_option, print_json, size_option, threads_option

if TYPE_CHECKING:
    from specc.profile import KernelTime


@click.command()
@artifact_argument
@click.option("--by-call", is_flag=True, help="A row for each call, in order; without it, for each kernel.")
@click.option("--seconds", type=click.FloatRange(min=0), default=3.0, show_default=True, help="How long to measure.")
@size_option
@threads_option
@json_option
def profile(
    path: str, by_call: bool, seconds: float, shapes: dict[str, int] | None, threads: int | None, as_json: bool
) -> None:
    """Time every kernel of an artifact where it stands in the run, and compare it with this machine's roofline."""
    from specc import profile as stopwatch
    from specc import report, runtime
    from specc.waterline import gaps

    artifact = runtime.open(path, threads)
    size = choose_size(artifact.manifest, shapes)
    found = stopwatch.profile(artifact, size, seconds)
    memory = size.facts["memory"]
    if as_json:
        about = {"network": artifact.manifest.network, "shapes": dict(size.dimensions)}
        print_json({**about, "memory": memory, **found.to_json()})
        return
    total = sum(call.microseconds for call in found.calls)
    if by_call:
        groups: list[list[KernelTime]] = [[call] for call in found.calls]
    else:
        kernels: dict[str, list[KernelTime]] = defaultdict(list)
        for call in found.calls:
            kernels[call.kernel].append(call)
        groups = sorted(kernels.values(), key=lambda calls: -sum(call.microseconds for call in calls))
    rows = []
    for calls in groups:
        spent = sum(call.microseconds for call in calls)
        least = sum(call.ideal for call in calls)
        rows.append(
            {
                "us": f"{spent:.0f}",
                "part": f"{spent / total:.1%}",
                "calls": str(len(calls)),
                "GFLOP/s": f"{sum(call.operations for call in calls) / spent / 1e3:.1f}",
                "GB/s": f"{sum(call.bytes for call in calls) / spent / 1e3:.1f}",
                "of roof": f"{least / spent:.0%}",
                "kernel": calls[0].kernel,
                "first in": calls[0].path,
            }
        )
    name = f"{artifact.manifest.network} at {size}" if size.dimensions else artifact.manifest.network
    if rows:
        click.echo(report.table(rows, right=("us", "part", "calls", "GFLOP/s", "GB/s", "of roof")))
    click.echo(
        f"{name}, {artifact.threads} threads: {total:.0f} us in {len(found.calls)} kernels, "
        f"{found.microseconds:.0f} us in all; roofs {found.roofs.operations / 1e9:.0f} GFLOP/s, "
        f"{found.roofs.bytes / 1e9:.1f} GB/s from memory and up to {found.roofs.rate(0) / 1e9:.0f} from a cache; "
        f"{memory['arena'] / 1e6:.2f} MB for the tensors between kernels"
    )
    verdict = gaps.verdict(found, artifact.manifest.facts["spec"]["blocks"])
    if verdict:
        click.echo(verdict)
