"""The pages that `specc explain` prints and docs/errors.md collects: a code, a pass or an operator --> text."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

from specc.codes import CODES
from specc.diagnostics import did_you_mean, error

if TYPE_CHECKING:
    from specc.passes.registry import Pass


@dataclass(frozen=True)
class Page:
    """What there is to say of a code: the words of pages.toml."""

    code: str
    title: str
    means: str
    do: str
    example: str = ""
    shell: str = ""

    @property
    def text(self) -> str:
        """The page as `specc explain` prints it."""
        example = "\n".join(f"    {line}" if line else "" for line in (self.example or self.shell).splitlines())
        return f"{self.code}: {self.title}\n\n{self.means}\n\n{example}\n\n{self.do}"


@cache
def pages() -> dict[str, Page]:
    """All pages, by code, in the order of the codes."""
    found = tomllib.loads(Path(__file__).with_name("pages.toml").read_text(encoding="utf-8"))
    return {code: _page(code, title, **found[code]) for code, title in CODES.items()}


def _page(code: str, title: str, means: str, do: str, example: str = "", shell: str = "") -> Page:
    spec = example.strip("\n")
    if spec and not spec.startswith("specc "):
        spec = f"specc 1\n\n{spec}"
    return Page(code, title, means, do, spec, shell)


def explain(name: str) -> str:
    """The page of a code, a pass or an operator, in capitals or not; raises S1001 for anything else."""
    from specc import ops
    from specc.passes.registry import PASSES

    known = [*CODES, *PASSES, *ops.OPERATORS]
    name = next((each for each in known if each.casefold() == name.casefold()), name)
    if name in CODES:
        return pages()[name].text
    if name in PASSES:
        return f"{name}: {PASSES[name].summary}\n\n{_told_of(PASSES[name])}"
    if name in ops.OPERATORS:
        return _operator(name)
    hint = did_you_mean(name, known) or (f"there are {next(iter(CODES))} ..., {', '.join(PASSES)}, and every operator",)
    raise error("S1001", f"`{name}` is no code, pass or operator", notes=hint)


def _told_of(transformation: type[Pass]) -> str:
    """What the module of a pass says, which is of this pass alone; of another package's, what the class says."""
    home = transformation.__module__
    if home == "specc.passes.registry":
        home = f"specc.passes.{transformation.name}"
    return cleandoc((import_module(home) if home.startswith("specc.") else transformation).__doc__ or "")


def _operator(name: str) -> str:
    from specc import ops
    from specc.grammar.operators import signature

    record = ops.get(name)
    if "body" in record.traits:
        from specc.grammar import scans

        return f"{scans.USAGE}\n\n{record.summary}\n\n{(scans.__doc__ or '').strip()}"
    lines = [signature(record), "", record.summary]
    if record.signature:
        lines += ["", *(f"    {a.name}: {_kind(a.kind)}" for a in record.signature)]
    if record.weights:
        roles = [role.rstrip("?") for role in record.operands[-record.weights :]]
        lines += ["", f"Its weights: {', '.join(roles)}."]
    return "\n".join(lines)


def _kind(kind: str) -> str:
    from specc import ops

    return ops.KINDS[kind.removesuffix("?")] + (", or none" if kind.endswith("?") else "")
