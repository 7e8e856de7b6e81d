"""`specc compile`: a spec --> an artifact."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specc import targets
from specc.cli.options import (
    check_precision,
    compilation,
    compiling_options,
    given,
    json_option,
    load_spec,
    mention_weights,
    parse_passes,
    pass_options,
    precision_options,
    print_json,
    spec_argument,
    split_spec,
    tell_precision,
)
from specc.terminal import say

if TYPE_CHECKING:
    from specc.ir.graph import Graph


_OF_KERNELS = ["level", "rounding", "tuning", "passes", "verify_each", "dump", "strips", "peak", "calibrate", "bound"]
"""What has no say in an ONNX file."""


@click.command()
@spec_argument
@compiling_options
@pass_options
@click.option("-o", "--output", type=click.Path(), required=True, help="The file to write, or the folder.")
@click.option(
    "--emit",
    type=click.Choice(["artifact", "c", "static", "onnx"]),
    default="artifact",
    show_default=True,
    help="One file; a folder with C sources, or with a static library, for another build; or an ONNX file.",
)
@click.option(
    "--strips",
    type=click.IntRange(min=1),
    help="Compute the first stages in so many strips of rows, for less memory; 1 without it.",
)
@click.option(
    "--peak",
    type=click.IntRange(min=0),
    metavar="BYTES",
    help="In place of --strips: as few strips as let a run do with so much memory.",
)
@precision_options
@click.option("--dump", type=click.Path(), metavar="DIR", help="Write the graph's text after every pass here.")
@json_option
def compile(
    spec: str,
    weights: str | None,
    target: str,
    shapes: list[dict[str, int | None]] | None,
    level: int,
    rounding: float,
    tuning: str | None,
    passes: str | None,
    verify_each: bool,
    output: str,
    strips: int | None,
    peak: int | None,
    emit: str,
    precision: str,
    calibrate: str | None,
    bound: float | None,
    dump: str | None,
    as_json: bool,
) -> None:
    """Compile a network to an artifact: one file.

    Or, with --emit, to a folder that programs in C are built with, or to ONNX.
    """
    from specc import driver
    from specc.files import check_fillable, check_writable
    from specc.targets import TARGETS
    from specc.unpack import unpack

    start = time.perf_counter()
    if emit == "c":
        written = [name for name, each in TARGETS.items() if not each.vectors]
        if target not in ("native", *written):
            raise click.UsageError(f"--emit c is for --target {' or '.join(written)}, and not for {target}")
        target = "c" if target == "native" else target
    elif emit == "static" and (target == "wasm32" or (target in TARGETS and not TARGETS[target].vectors)):
        raise click.UsageError(f"there are no static libraries for {target}")
    elif emit == "onnx" and (target != "native" or any(map(given, _OF_KERNELS))):
        raise click.UsageError("--emit onnx is for any machine, with the passes that make fewer operators")
    if dump == "":
        raise click.UsageError("--dump names a folder")
    check_precision(precision, calibrate, weights)
    if emit == "onnx" and precision != "float32":
        raise click.UsageError("--emit onnx writes the network in float32")
    fixed = [{name: extent for name, extent in each.items() if extent is not None} for each in shapes or ()]
    if emit == "onnx" and (len(fixed) > 1 or fixed != (shapes or [])):
        raise click.UsageError("--emit onnx writes one size: give --shapes once, with numbers")
    path, _ = split_spec(spec)
    if emit in ("artifact", "onnx"):
        check_writable(output, path, weights, calibrate, tuning)
    else:
        check_fillable(output)
    chosen = parse_passes(passes)
    graph = load_spec(spec)
    sources = driver.spec_sources(path)
    if emit in ("artifact", "onnx"):
        check_writable(output, *(Path(path).parent / name for name in sources))
    mention_weights(weights)
    if emit == "onnx":
        size = _write_onnx(graph, weights, fixed[0] if fixed else None, output)
        seconds = time.perf_counter() - start
        say(f"{size / 1e6:.1f} MB in {output}, {seconds:.1f} s")
        if as_json:
            print_json({"output": output, "bytes": size, "seconds": seconds})
        return
    with compilation(graph.name, tell=True) as observe:
        artifact = driver.compile(
            graph,
            replace(targets.find(target), rounding=rounding),
            weights,
            shapes,
            level,
            dump,
            progress=observe,
            sources=sources,
            passes=chosen,
            verify_each=verify_each,
            strips=strips,
            peak=peak,
            static=emit == "static",
            precision=precision,
            samples=calibrate,
            bound=bound,
            tuning=tuning,
        )
    size = artifact.save(output) if emit == "artifact" else sum(unpack(artifact.contents, output).values())
    manifest = artifact.manifest
    seconds = time.perf_counter() - start
    kernels = len({call["kernel"] for one in manifest.sizes for call in one.facts["kernels"]})
    arena = max(one.facts["memory"]["arena"] for one in manifest.sizes)
    tell_precision(manifest.facts["precision"])
    sizes = f" at {len(manifest.sizes)} sizes" if len(manifest.sizes) > 1 else ""
    tuned, outdated = (len(manifest.facts["tuning"][which]) for which in ("kernels", "outdated"))
    if outdated:
        say(f"{outdated} tuning records do not fit the kernels as specc makes them here, and are not used")
    say(
        f"{kernels} kernels{f', {tuned} of them tuned,' if tuned else ''} for {manifest.machine.target}{sizes}, "
        f"{size / 1e6:.1f} MB in {output}, {arena / 1e6:.2f} MB of memory to run it, {seconds:.1f} s"
    )
    for one in manifest.sizes:
        if one.open:
            say(f"{one}: general kernels, which are slower than those of a size without `any`")
    if as_json:
        facts = {"output": output, "bytes": size, "seconds": seconds, "kernels": kernels}
        print_json({**facts, "manifest": manifest.to_json()})


def _write_onnx(graph: Graph, weights: str | None, shapes: dict[str, int] | None, output: str) -> int:
    """Writes the merged form of the network as ONNX; the size of the file."""
    from specc import driver
    from specc.exporting import to_onnx
    from specc.files import replacing
    from specc.ir.specialize import specialize

    values, _ = driver.find_weights(graph, weights)
    text = to_onnx(specialize(graph, shapes), values)
    with replacing(output) as file:
        file.write(text)
    return len(text)
