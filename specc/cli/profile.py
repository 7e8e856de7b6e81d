"""`specc profile`: where an artifact's time goes, kernel by kernel."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from specc.cli.options import (
    Finite,
    artifact_argument,
    choose_size,
    count_threads,
    json_option,
    print_json,
    size_option,
    threads_option,
)
from specc.diagnostics import error
from specc.gpus import is_gpu
from specc.terminal import say

if TYPE_CHECKING:
    from specc.manifest import Manifest


@click.command()
@artifact_argument
@click.option("--by-call", is_flag=True, help="A row for each call, in order; without it, for each kernel.")
@click.option("--seconds", type=Finite(), default=3.0, show_default=True, help="How long to measure.")
@click.option("--html", metavar="OUT", type=click.Path(), help="Write a page with charts and tables, too.")
@click.option("--scaling", is_flag=True, help="Measure with one thread as well, and compare.")
@click.option("--static", is_flag=True, help="Run nothing: count the cycles of inner loops with llvm-mca.")
@click.option(
    "--core", metavar="NAME", help="With --static: count by LLVM's model of this core, in place of the target's."
)
@size_option
@threads_option
@json_option
def profile(
    path: str,
    by_call: bool,
    seconds: float,
    html: str | None,
    scaling: bool,
    static: bool,
    core: str | None,
    shapes: dict[str, int] | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Show where an artifact's time goes.

    Every kernel is timed where it stands in the run, and compared with this machine's roofline.
    """
    if core and not static:
        raise click.UsageError("--core goes with --static")
    if static and (html or scaling or by_call):
        raise click.UsageError("--static runs nothing: it goes with none of --html, --scaling and --by-call")
    if static:
        from specc import artifact as container
        from specc.cli.static_profile import show_static

        contents = container.read(path)
        _check_processor(contents.manifest)
        return show_static(contents, choose_size(contents.manifest, shapes, counted=True), core, as_json)
    from specc import profile as stopwatch
    from specc import report, runtime
    from specc.files import check_writable, replacing
    from specc.waterline import gaps

    if html is not None:
        check_writable(html, path)
    artifact = runtime.open(path, threads)
    _check_processor(artifact.manifest)
    size = choose_size(artifact.manifest, shapes, counted=True)
    found = stopwatch.profile(artifact, size, seconds)
    alone = None
    if scaling:
        alone = stopwatch.profile(runtime.Artifact(artifact.contents, 1), size, seconds)
    memory = size.facts["memory"]
    if html is not None:
        from specc.waterline import page
        from specc.waterline.origin import origin

        options = [f"--threads {artifact.threads}", f"--seconds {seconds:g}", *(["--scaling"] * scaling)]
        options += [f"--shapes {size}"] * (len(artifact.manifest.sizes) > 1)
        command = f"specc profile {shlex.quote(path)} {' '.join(options)} --html {shlex.quote(html)}"
        text = page.render(found, origin(artifact, size, path, found, command), alone)
        with replacing(html) as file:
            file.write(text.encode())
        say(f"{html}: {len(text) / 1e3:.0f} kB; open it in a browser")
    if as_json:
        about = {"network": artifact.manifest.network, "shapes": dict(size.dimensions)}
        compared = {"alone": alone.to_json()} if alone else {}
        print_json({**about, "memory": memory, **found.to_json(), **compared})
        return
    total = sum(call.microseconds for call in found.calls)
    if by_call:
        groups = [gaps.Sum((number,), (call,)) for number, call in enumerate(found.calls)]
    else:
        groups = sorted(gaps.by_kernel(found.calls), key=lambda kernel: -kernel.microseconds)
    rows = []
    for group in groups:
        spent, first = group.microseconds, group.calls[0]
        once = sum(alone.calls[number].microseconds for number in group.numbers) if alone else 0.0
        rows.append(
            {
                "us": _microseconds(spent),
                "part": f"{spent / total:.1%}",
                "calls": str(len(group.calls)),
                **({"1 thread": f"{once / spent:.2f}x"} if alone else {}),
                "GFLOP/s": f"{group.operations / spent / 1e3:.1f}",
                "GB/s": f"{group.bytes / spent / 1e3:.1f}",
                "of roof": f"{group.share:.0%}",
                "kernel": first.kernel,
                "first in": first.path,
            }
        )
    name = f"{artifact.manifest.network} at {size}" if size.dimensions else artifact.manifest.network
    if rows:
        click.echo(report.table(rows, right=("us", "part", "calls", "1 thread", "GFLOP/s", "GB/s", "of roof")))
    click.echo(
        f"{name}, {count_threads(artifact.threads)}: {_microseconds(total)} us in {len(found.calls)} kernels, "
        f"{_microseconds(found.microseconds)} us in all; roofs {gaps.roofs(found)}, "
        f"{found.roofs.bytes / 1e9:.1f} GB/s from memory and up to {found.roofs.rate(0) / 1e9:.0f} from a cache; "
        f"{memory['arena'] / 1e6:.2f} MB for the tensors between kernels"
    )
    verdict = gaps.verdict(found, artifact.manifest.facts["spec"]["blocks"])
    if verdict:
        click.echo(verdict)


def _microseconds(spent: float) -> str:
    """Whole ones, and tenths of what is below ten: short kernels of small networks take less than one."""
    return f"{spent:.1f}" if spent < 10 else f"{spent:.0f}"


def _check_processor(manifest: Manifest) -> None:
    """Raises S1006 for kernels that run on a GPU."""
    if any(map(is_gpu, manifest.machine.requires)):
        message = f"`{manifest.network}` runs on a GPU, and `specc profile` knows the roofs of processors"
        note = "in Python, `runtime.open(path).profile(*inputs)` gives the seconds of each call"
        raise error("S1006", message, notes=(note,))
