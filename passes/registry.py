"""The passes by name, and the pipelines `-O0`, `-O1`, `-O2` as data.

A pass is a plain function in a module of its own; what stands here is its shell: a frozen dataclass whose fields are
its options. `str(Layout(16))` is how the command line spells it: `layout{block=16}`, and `parse` is the inverse.

A package of yours adds a pass by an entry point of the group `specc.passes` that names such a class:

    [project.entry-points."specc.passes"]
    my-pass = "my_package.passes:MyPass"
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from importlib.metadata import entry_points
from typing import Any, ClassVar

from specc.diagnostics import did_you_mean, error
from specc.ir.dtypes import HALVES
from specc.ir.graph import Graph, Value
from specc.passes import canonicalize, frames, fusion, halve, layout, phases, quantize, reparam, rows, strips
from specc.passes.bodies import labelled, within
from specc.passes.rewrite import Journal
from specc.targets import Target


@dataclass(frozen=True)
class Pass:
    """The shell of a pass: `name`, what it does in a line, and its options as fields."""

    name: ClassVar[str]
    summary: ClassVar[str]
    exact: ClassVar[bool] = True
    """Whether the network computes the same real numbers afterwards."""

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        """The transformed graph; `graph` itself is left as it is. What was done and refused goes to `journal`."""
        raise NotImplementedError

    def __str__(self) -> str:
        options = "; ".join(f"{option.name}={getattr(self, option.name)!r}" for option in fields(self))
        return f"{self.name}{{{options}}}" if options else self.name


@dataclass(frozen=True)
class Canonicalize(Pass):
    """See `specc.passes.canonicalize`."""

    name = "canonicalize"
    summary = "one form for each thing, fewer moves of elements, common subexpressions, dead code"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        return within(graph, lambda each: canonicalize.canonicalize(each, journal))


@dataclass(frozen=True)
class Phases(Pass):
    """See `specc.passes.phases`."""

    name = "phases"
    summary = "transposed convolutions as convolutions of stride 1 and pixel shuffles"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        return within(graph, lambda each: phases.phases(each, journal))


@dataclass(frozen=True)
class Frames(Pass):
    """See `specc.passes.frames`."""

    name = "frames"
    summary = "convolutions over time as convolutions of pictures"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        return within(graph, lambda each: frames.frames(each, journal))


@dataclass(frozen=True)
class Reparam(Pass):
    """See `specc.passes.reparam`."""

    name = "reparam"
    summary = "batch norms, scales, shifts and parallel branches into the convolutions and matrix products beside them"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        return within(graph, lambda each: reparam.reparam(each, journal))


@dataclass(frozen=True)
class Rows(Pass):
    """See `specc.passes.rows`."""

    name = "rows"
    summary = "windows, rolls and other moves of rows at attention, which reads and writes by index"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        return within(graph, lambda each: rows.rows(each, journal))


@dataclass(frozen=True)
class Quantize(Pass):
    """See `specc.passes.quantize`.

    `intervals` are those of values of the graph in front of it, `layers` the nodes that are to become integers (None:
    all that can). Both come from samples (`specc.calibration`): no text spells them.
    """

    intervals: tuple[tuple[Value, float, float], ...] = ()
    layers: tuple[int, ...] | None = None
    name = "quantize"
    summary = "convolutions and matrix products of integers of 8 bits, where samples say what they read"
    exact = False

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        known = {value: (low, high) for value, low, high in self.intervals}
        return quantize.quantize(graph, known, self.layers, journal)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Halve(Pass):
    """See `specc.passes.halve`; `dtype` is bfloat16 or float16."""

    dtype: str = "bfloat16"
    name = "halve"
    summary = "factors of convolutions and matrix products in 16 bits, sums in float32"
    exact = False

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        if self.dtype not in HALVES:
            raise error("S0709", f"`{self.name}` rounds to {' or '.join(HALVES)}, not to `{self.dtype}`")
        return halve.halve(graph, self.dtype, None, journal)


@dataclass(frozen=True)
class Strips(Pass):
    """See `specc.passes.strips`."""

    count: int = 4
    name = "strips"
    summary = "the first stages a few rows at a time, where the network holds less memory then"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        if self.count < 1:
            raise error("S0709", f"`{self.name}` cuts a picture into 1 strip at least, not into {self.count}")
        return strips.strips(graph, self.count, journal)


@dataclass(frozen=True)
class Layout(Pass):
    """See `specc.passes.layout`."""

    block: int = 16
    name = "layout"
    summary = "plain or blocked activations, the cheapest choice over the whole graph"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        if self.block < 1:
            raise error("S0709", f"a block of `{self.name}` has 1 channel at least, not {self.block}")
        return layout.layout(graph, self.block)


@dataclass(frozen=True)
class Fusion(Pass):
    """See `specc.passes.fusion`."""

    epilogues: bool = True
    cache: int = 0
    blocks: bool = False
    name = "fusion"
    summary = "groups of nodes that become one kernel"

    def __call__(self, graph: Graph, journal: Journal | None = None) -> Graph:
        return labelled(graph, lambda each: fusion.fuse(each, self.epilogues, journal, self.cache, self.blocks))


@cache
def _registered() -> dict[str, type[Pass]]:
    """Our passes, then those that installed packages add."""
    found: dict[str, type[Pass]] = {
        each.name: each
        for each in (Canonicalize, Phases, Frames, Reparam, Rows, Quantize, Halve, Strips, Layout, Fusion)
    }
    for entry in sorted(entry_points(group="specc.passes"), key=lambda entry: entry.name):
        added = entry.load()
        if not (isinstance(added, type) and issubclass(added, Pass)) or added.name in found:
            raise error("S0710", f"`{entry.value}` is no pass with a name of its own (entry point `{entry.name}`)")
        found[added.name] = added
    return found


class _Passes(Mapping[str, type[Pass]]):
    """The registered passes, looked for when they are first asked for: entry points import other packages."""

    def __getitem__(self, name: str) -> type[Pass]:
        return _registered()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_registered())

    def __len__(self) -> int:
        return len(_registered())


PASSES: Mapping[str, type[Pass]] = _Passes()

LEVELS = (0, 1, 2)
"""0: what lowering needs and no more. 1: fewer operators. 2: those that have fast kernels, and fewer bytes moved."""


def pipeline(level: int, target: Target, strips: int = 1, precision: Pass | None = None) -> tuple[Pass, ...]:
    """The passes of `-O<level>`, in order; behind the last one, the graph can be lowered for `target`.

    With `strips`, the first stages run in so many strips of rows; `precision` is a pass that makes numbers of less of
    it, and runs on the merged network. Raises S1001 for a level or a number that does not exist.
    """
    if strips < 1:
        raise error("S1001", f"there are no {strips} strips; 1 is the whole picture")
    passes = _level(level, target)
    at = next(i for i, each in enumerate(passes) if isinstance(each, (Layout, Fusion)))
    extra = (*([precision] if precision else ()), *([Strips(strips)] if strips > 1 else ()))
    return (*passes[:at], *extra, *passes[at:])


def _level(level: int, target: Target) -> tuple[Pass, ...]:
    if level not in (0, 1, 2):
        raise error("S1001", f"there is no level {level!r}; there are 0, 1 and 2")
    if level == 0:
        return (Fusion(epilogues=False),)
    if level == 1:
        return (Canonicalize(), Reparam(), Canonicalize(), Fusion(epilogues=False))
    merging = (Canonicalize(), Phases(), Frames(), Reparam(), Canonicalize())
    if target.gpu:  # a warp reads neighbours of a plain row as well as lanes of a block
        return (*merging, Fusion(blocks=True))
    return (*merging, Rows(), Layout(target.lanes), Fusion(cache=target.l2_bytes))


_PASS = re.compile(r"\s*(?P<name>[\w-]+)\s*(?:\{(?P<options>[^}]*)\})?\s*(?:,|$)")


def parse(text: str) -> tuple[Pass, ...]:
    """The passes that `text` names, in order: `canonicalize,reparam,layout{block=8}`.

    Raises S0708 for a pass or an option that does not exist, S0709 for an option's value and for any other text.
    """
    found: list[Pass] = []
    position = 0
    while position < len(text):
        match = _PASS.match(text, position)
        if match is None:
            rest = text[position:]
            raise error("S0709", f"`{rest}` is no list of passes, as in canonicalize,reparam,layout{{block=8}}")
        found.append(_parse_pass(match["name"], match["options"] or ""))
        position = match.end()
    return tuple(found)


def _parse_pass(name: str, options: str) -> Pass:
    if name not in PASSES:
        message = f"there is no pass `{name}`; there are {', '.join(PASSES)}"
        raise error("S0708", message, notes=did_you_mean(name, PASSES))
    declared = {option.name: option for option in fields(PASSES[name])}
    chosen: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in options.split(";"))):
        key, equals, literal = (piece.strip() for piece in part.partition("="))
        if key not in declared:
            message = f"`{name}` has no option `{key}`; there are {', '.join(declared) or 'none'}"
            raise error("S0708", message, notes=did_you_mean(key, declared))
        chosen[key] = _parse_option(name, declared[key], literal if equals else "True")
    missing = [key for key, option in declared.items() if key not in chosen and not _has_default(option)]
    if missing:
        raise error("S0708", f"`{name}` needs its option `{missing[0]}`: {name}{{{missing[0]}=...}}")
    return PASSES[name](**chosen)


def _has_default(option: Field[Any]) -> bool:
    return option.default is not MISSING or option.default_factory is not MISSING


def _parse_option(name: str, option: Field[Any], literal: str) -> Any:
    """The value of an option, of the type that its default has."""
    words = {"true": True, "false": False}
    try:
        value = words[literal.lower()] if literal.lower() in words else ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        value = literal
    if type(value).__name__ != str(option.type):
        raise error("S0709", f"the option `{option.name}` of `{name}` is of type {option.type}, not `{literal}`")
    return value
