"""What several commands share: their options, `FILE[:VARIANT]`, and how they tell of a compilation."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

from specc import terminal
from specc.diagnostics import SpeccError, error
from specc.targets import ROUNDING
from specc.terminal import say

if TYPE_CHECKING:
    from specc.driver import Observer, Progress
    from specc.ir.graph import Graph
    from specc.manifest import Manifest, Size
    from specc.passes.registry import Pass

F = TypeVar("F", bound=Callable[..., Any])
_WRITTEN = f"{__name__}.written"


def _shapes(_: click.Context, __: click.Parameter, value: str | None) -> dict[str, int] | None:
    """`n=1,h=224,w=224` --> {"n": 1, "h": 224, "w": 224}."""
    return None if value is None else {name: int(extent) for name, extent in _pairs(value)}


ANY = "any"
MOST_DIGITS = 18
"""Of an extent: what has more does not fit into 64 bits."""


def _pairs(value: str, *words: str) -> list[tuple[str, str]]:
    """`n=1,h=224` --> ("n", "1"), ("h", "224"); `words` may stand in place of numbers."""
    pairs: dict[str, str] = {}
    for part in value.split(","):
        name, equals, extent = (text.strip() for text in part.partition("="))
        if not equals or not name.isidentifier() or not (extent.isdecimal() or extent in words):
            raise click.BadParameter(f"`{part}` is not `name=number`, as in --shapes n=1,h=224,w=224")
        if len(extent) > MOST_DIGITS:
            raise click.BadParameter(f"no dimension is as large as `{name}` in {extent[:MOST_DIGITS]}...")
        if name in pairs:
            raise click.BadParameter(f"`{name}` stands twice")
        pairs[name] = extent
    return list(pairs.items())


def _several(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[dict[str, int | None]] | None:
    """Each as `_shapes` says, and `any` for a dimension that stays open; None where there is none."""
    return [
        {name: None if extent == ANY else int(extent) for name, extent in _pairs(value, ANY)} for value in values
    ] or None


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


shapes_option = click.option("--shapes", callback=_shapes, metavar="n=1,h=224", help="Values of symbolic dimensions.")
sizes_option = click.option(
    "--shapes",
    callback=_several,
    multiple=True,
    metavar="n=1,h=224",
    help="Values of symbolic dimensions, or n=any; several times for several sizes.",
)
size_option = click.option(
    "--shapes",
    callback=_shapes,
    metavar="n=1,h=224",
    help="Which of the sizes that it was compiled for; the first without it.",
)


def json_option(command: F) -> F:
    """`--json`; a command that ends in diagnostics, and has written nothing, writes these."""

    @wraps(command)
    def told(*arguments: Any, **options: Any) -> Any:
        context = click.get_current_context()
        try:
            return command(*arguments, **options)
        except SpeccError as problem:
            if options["as_json"] and not context.meta.get(_WRITTEN):
                print_json({"holds": False, "diagnostics": [d.to_json() for d in problem.diagnostics]})
            raise

    return click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")(cast(F, told))


class Finite(click.FloatRange):
    """A number of at least 0; no NaN and no infinity."""

    name = "number"

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is no finite number", param, ctx)
        return found


target_option = click.option(
    "--target", default="native", show_default=True, help="The machine to compile for; docs/deploying.md lists them."
)
level_option = click.option(
    "-O", "level", type=click.IntRange(0, 2), default=2, show_default=True, help="Level of optimization: -O0 to -O2."
)
weights_option = click.option("--weights", type=click.Path(), help="A checkpoint; random weights without it.")
threads_option = click.option("--threads", type=int, help="Threads for a call; all cores without it.")
tolerance_option = click.option(
    "--tolerance",
    type=Finite(),
    default=1e-4,
    show_default=True,
    help="The most that max |difference| / max |output| may be.",
)
passes_option = click.option(
    "--passes", metavar="a,b{option=1}", help="Run these passes instead of the level's (see `specc explain PASS`)."
)
verify_each_option = click.option("--verify-each", is_flag=True, help="Check the graph's invariants after every pass.")
rounding_option = click.option(
    "--rounding",
    type=Finite(),
    default=ROUNDING,
    show_default=True,
    help="How many times as coarsely as direct sums kernels may round; 1 is without minimal filtering.",
)
tuning_option = click.option(
    "--tuning",
    metavar="FILE|none",
    help="Tuning records to use; without it, those that `specc tune` has left on this machine.",
)
compiling_options = _options(weights_option, target_option, sizes_option, level_option, rounding_option, tuning_option)
precision_options = _options(
    click.option(
        "--precision",
        default="float32",
        show_default=True,
        metavar="float32|bf16|fp16|int8",
        help="What layers compute in; int8 with --calibrate.",
    ),
    click.option(
        "--calibrate",
        type=click.Path(),
        metavar="NPZ",
        help="Typical inputs: for the ranges of int8, and to measure errors with.",
    ),
    click.option(
        "--bound", type=Finite(), help="Keep layers in float32 that put outputs off by more than this  [default: 0.1]"
    ),
)
measuring_options = _options(weights_option, target_option, shapes_option, level_option, tuning_option)
pass_options = _options(passes_option, verify_each_option)
spec_argument = click.argument("spec", metavar="FILE[:VARIANT]")
signature_option = click.option(
    "--require-signature",
    "key",
    type=click.Path(),
    metavar="PEM",
    help="Refuse what this public key has not signed.",
)
artifact_argument = click.argument("path", metavar="ARTIFACT", type=click.Path())


def given(option: str) -> bool:
    """Whether the command line has this option, whatever its value."""
    return click.get_current_context().get_parameter_source(option) is not ParameterSource.DEFAULT


def split_spec(spec: str) -> tuple[str, str | None]:
    """`FILE:VARIANT` in two, and `zoo:NAME/VARIANT`; a file whose own name has a colon is taken as it is."""
    from specc import zoo

    if spec.startswith(zoo.PREFIX) and not os.path.exists(spec):
        found, variant = zoo.find(spec)
        return str(found), variant
    path, colon, variant = spec.rpartition(":")
    if not colon or os.path.exists(spec):
        return spec, None
    return path, variant


def load_spec(spec: str) -> Graph:
    """The graph of `FILE[:VARIANT]`."""
    from specc import driver

    path, variant = split_spec(spec)
    return driver.load(path, None, variant)


def parse_passes(text: str | None) -> tuple[Pass, ...] | None:
    """The passes of `--passes`; None where it is not given."""
    if text is None:
        return None
    from specc.passes.registry import parse

    return parse(text)


def count_threads(threads: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{threads} thread{'s' * (threads > 1)}"


def choose_size(manifest: Manifest, shapes: dict[str, int] | None, counted: bool = False) -> Size:
    """The size of an artifact that `--shapes` asks for, the first without it; says so where there are several.

    Raises S1006 where there is no such size, and where it has to be `counted` and its kernels' work is not: of
    dimensions that are open, it is at the sample's extents.
    """
    size = manifest.size(shapes)
    known = [each.at({}) for each in manifest.sizes]
    if counted and size not in known:
        where = " and ".join(map(str, known))
        raise error("S1006", f"what the kernels of `{manifest.network}` do is counted at {where}, not at {size}")
    if len(manifest.sizes) > 1 and shapes is None:
        say(f"no --shapes: {size}, the first of {len(manifest.sizes)} sizes")
    return size


def mention_weights(weights: str | None) -> None:
    """Says so where weights are drawn."""
    if weights is None:
        say("no --weights: they are drawn from seed 0")


def check_precision(precision: str, calibrate: str | None, weights: str | None) -> None:
    """Refuses integers whose range nobody can know: of weights that were trained, for inputs that are drawn."""
    if precision == "int8" and weights is not None and calibrate is None:
        raise click.UsageError("--precision int8 with --weights needs --calibrate: inputs that are typical, as an .npz")


def tell_precision(facts: Mapping[str, Any]) -> None:
    """Says what was rounded, how near the outputs are, and which layers stay in float32 for what reason."""
    if facts["name"] == "float32":
        return
    if facts["drawn"]:
        say("no --calibrate: its samples are drawn from seed 0")
    for layer in facts["kept"]:
        where = f" ({layer['place']})" if layer["place"] else ""
        say(f"{facts['name']}: `{layer['path'] or layer['op']}`{where} stays in float32: {layer['why']}")
    said = []
    for name, apart in facts["errors"].items():
        equal = facts["agreement"].get(name)
        answers = "" if equal is None else f", {equal:.1%} of its answers are the same"
        said.append(f"`{name}` is off by {apart:.3g}{answers}")
    count = facts["samples"]
    say(f"{facts['name']}: {facts['layers']} layers; over {count} sample{'s' * (count > 1)}, {'; '.join(said)}")


class compilation:
    """A progress bar; with `tell`, a line on stderr for every pass besides."""

    def __init__(self, title: str, tell: bool = False) -> None:
        self._bar, self._tell = terminal.progress(title), tell

    def __enter__(self) -> Observer:
        advance = self._bar.__enter__()

        def observe(now: Progress) -> None:
            if now.step and self._tell:
                at = f" at {now.size}" if now.size else ""
                say(f"{now.step.name}{at}: {now.step.summary} ({now.step.seconds:.2f} s)")
            advance(now)

        return observe

    def __exit__(self, *problem: Any) -> None:
        self._bar.__exit__(*problem)


def print_json(value: Any) -> None:
    """Writes a plain value to stdout."""
    click.get_current_context().meta[_WRITTEN] = True
    click.echo(json.dumps(value, indent=2, allow_nan=False))
