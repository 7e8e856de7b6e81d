"""The zoo: the index of the networks that come with specc, examples/index.toml --> entries, and `zoo:NAME/VARIANT`.

zoo:repvit/m1_1    the variant m1_1 of examples/reparam/repvit.specc
zoo:repvit         the file, of which a choice is needed where it has several variants
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from specc.diagnostics import did_you_mean, error

EXAMPLES = Path(__file__).with_name("examples")
PREFIX = "zoo:"


@dataclass(frozen=True)
class Entry:
    """A network of the zoo. `variants` are names of references (`library:model`) by variant; see index.toml."""

    name: str
    system: str
    file: str
    variants: Mapping[str, str]
    lines: int
    small: Mapping[str, Any]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return EXAMPLES / self.file

    @property
    def family(self) -> str:
        return self.file.split("/")[0]

    @property
    def spec_lines(self) -> int:
        """Lines of the spec, its variants included, without checks, docstrings, comments and empty lines."""
        text = re.sub(r'"""(?s:.*?)"""', "", self.path.read_text(encoding="utf-8"))
        text = re.sub(r"(?m)^check .*\n(?: .*\n)*", "", text)
        return sum(not line.lstrip().startswith("#") for line in text.splitlines() if line.strip())


@dataclass(frozen=True)
class Counts:
    """What the spec's `check` lines say of a variant, as they say it; empty where they say nothing."""

    params: str = ""
    macs: str = ""


@cache
def entries() -> dict[str, Entry]:
    """All entries by name, in the order of the index."""
    index = tomllib.loads((EXAMPLES / "index.toml").read_text(encoding="utf-8"))
    return {name: Entry(name, **facts) for name, facts in index.items()}


def entry(name: str) -> Entry:
    """The entry of that name; raises S1007."""
    found = entries()
    if name not in found:
        notes = did_you_mean(name, found) or ("`specc zoo` lists what there is",)
        raise error("S1007", f"the zoo has no network `{name}`", notes=notes)
    return found[name]


def find(name: str) -> tuple[Path, str | None]:
    """`zoo:repvit/m1_1` --> the spec and the variant; raises S1007."""
    network, _, variant = name.removeprefix(PREFIX).partition("/")
    found = entry(network)
    if variant and variant not in found.variants:
        notes = [*did_you_mean(variant, found.variants), f"there are {', '.join(found.variants)}"]
        raise error("S1007", f"`{network}` of the zoo has no variant `{variant}`", notes=notes)
    return found.path, variant or (next(iter(found.variants)) if len(found.variants) == 1 else None)


def counts(path: Path) -> dict[str, Counts]:
    """What the spec at `path` promises, by variant: the numbers behind `==` in its `check` lines."""
    from specc import grammar
    from specc.grammar import syntax as s

    found: dict[str, dict[str, str]] = {}
    for item in grammar.parse(path.read_text(encoding="utf-8"), str(path)).items:
        if not isinstance(item, s.Check):
            continue
        for line in item.expectations:
            quantity = line.quantity.name
            if quantity in ("params", "macs") and line.comparison == "==" and isinstance(line.value, s.Number):
                found.setdefault(item.variant.name, {})[quantity] = line.value.text
    return {variant: Counts(**numbers) for variant, numbers in found.items()}
