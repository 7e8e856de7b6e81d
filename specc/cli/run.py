"""`specc run`: an artifact and arrays --> arrays."""

from __future__ import annotations

import click

from specc.cli.options import (
    artifact_argument,
    choose_size,
    json_option,
    print_json,
    signature_option,
    size_option,
    threads_option,
    tolerance_option,
)
from specc.diagnostics import error
from specc.terminal import FINE, say


@click.command()
@artifact_argument
@click.option(
    "--inputs", type=click.Path(), metavar="NPZ", help="An array for each input, by its name; random ones without it."
)
@click.option("--outputs", type=click.Path(), metavar="NPZ", help="Write an array for each output, by its name.")
@click.option("--assert-outputs", type=click.Path(), metavar="NPZ", help="Compare with these; exit 1 if they differ.")
@click.option("--self-test", is_flag=True, help="Run the artifact's own sample; exit 1 if its outputs differ.")
@size_option
@tolerance_option
@threads_option
@signature_option
@json_option
def run(
    path: str,
    inputs: str | None,
    outputs: str | None,
    assert_outputs: str | None,
    self_test: bool,
    shapes: dict[str, int] | None,
    tolerance: float,
    threads: int | None,
    key: str | None,
    as_json: bool,
) -> int:
    """Run an artifact.

    PyTorch and the compiler are not needed for it.
    """
    from specc import arrays, runtime, sample
    from specc.files import check_writable

    if self_test and (inputs or outputs or assert_outputs):
        raise click.UsageError("--self-test has inputs and outputs of its own")
    if shapes and (inputs or self_test):
        raise click.UsageError("--shapes is for inputs that are drawn: the shapes of --inputs say at which size to run")
    if outputs:
        check_writable(outputs, path, inputs, assert_outputs, key)
    artifact = runtime.open(path, threads, key)
    names = [spec.name for spec in artifact.manifest.outputs]
    if self_test:
        tolerance = artifact.tolerance(tolerance)
        apart = dict(zip(names, artifact.self_test(tolerance), strict=True))
        return _differences(apart, tolerance, "the reference", as_json)
    given = arrays.read(inputs) if inputs else None
    expected = arrays.read(assert_outputs, names) if assert_outputs else None
    if given is None:
        say(f"no --inputs: they are drawn from seed {sample.SEED}")
        results = artifact(*sample.draw(choose_size(artifact.manifest, shapes).inputs))
    else:
        results = artifact(**given)
    named = dict(zip(names, results, strict=True))
    if outputs:
        arrays.write(outputs, named)
    if expected is not None:
        apart = arrays.differences(named, expected)
        return _differences(apart, tolerance, str(assert_outputs), as_json)
    described = {name: arrays.describe(array) for name, array in named.items()}
    if as_json:
        print_json(described)
    else:
        for name, facts in described.items():
            click.echo(f"{name}: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
    return FINE


def _differences(apart: dict[str, float], tolerance: float, what: str, as_json: bool) -> int:
    """Prints how far outputs are from `what`; the exit code."""
    from specc.compare import finite

    holds = all(distance <= tolerance for distance in apart.values())
    if as_json:
        differences = {name: finite(distance) for name, distance in apart.items()}
        print_json({"holds": holds, "tolerance": tolerance, "differences": differences})
    else:
        for name, distance in apart.items():
            click.echo(f"{name}: differs by {distance:.3g} from {what}")
    if not holds:
        worst = max(apart, key=lambda name: apart[name])
        raise error("S1004", f"`{worst}` differs by {apart[worst]:.3g} from {what}, at most {tolerance:.3g}")
    return FINE
