"""What a file offers to be compiled: its networks, their variants, and the choice of one.

Nothing is chosen silently: a file with one network and no variants needs no choice, every other one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specc.diagnostics import Diagnostic, Label, Span, did_you_mean, error
from specc.grammar import syntax as s
from specc.grammar.modules import Program


@dataclass(frozen=True)
class Choice:
    """A network, and one of its variants if it has any."""

    network: s.Definition
    variant: s.Variant | None = None

    @property
    def name(self) -> str:
        return f"{self.network.name}.{self.variant.name}" if self.variant else self.network.name

    @property
    def short(self) -> str:
        """How `choose` is told of it where that is enough."""
        return self.variant.name if self.variant else self.network.name


def there_are(names: Sequence[str]) -> str:
    """A note that lists what there is."""
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names) or 'none'}"


def choices(program: Program) -> list[Choice]:
    """Everything that can be compiled, in the order of the file."""
    variants = _variants(program)
    found = []
    for network in program.networks().values():
        own = variants.get(network.name, {})
        found += [Choice(network, variant) for variant in own.values()] or [Choice(network)]
    return found


def choose(program: Program, network: str | None = None, variant: str | None = None) -> Choice:
    """The one that is meant. `variant` may also be `NETWORK.VARIANT`, or the name of a network without variants."""
    offered = choices(program)
    if not offered:
        note = "`network NAME(...)` declares what is compiled"
        raise error("S0503", f"{program.root.name} has no network", notes=[note])
    if network is None and variant is not None and "." in variant:
        network, variant = variant.split(".", 1)
    networks = program.networks()
    if network is None and variant in networks and not any(c.variant and c.variant.name == variant for c in offered):
        network, variant = variant, None
    if network is not None and network not in networks:
        notes = did_you_mean(network, networks) or (there_are(list(networks)),)
        raise error("S0503", f"{program.root.name} has no network `{network}`", notes=notes)
    fitting = [c for c in offered if network in (None, c.network.name)]
    if variant is not None:
        named = [c for c in fitting if c.variant is not None and c.variant.name == variant]
        if not named:
            raise _unknown_variant(program, network, variant, fitting)
        fitting = named
    if len(fitting) > 1 or (variant is None and fitting[0].variant is not None):
        what = "a variant" if len({c.network.name for c in fitting}) == 1 else "a network"
        listed = [c.short if what == "a variant" else c.name for c in fitting]
        raise error("S0504", f"{program.root.name} needs the choice of {what}", notes=[there_are(listed)])
    return fitting[0]


def _unknown_variant(program: Program, network: str | None, variant: str, fitting: list[Choice]) -> Exception:
    known = [c.short for c in fitting]
    where = f"`{network}`" if network else program.root.name
    notes = [*did_you_mean(variant, known), there_are(known)]
    return error("S0502", f"{where} has no variant `{variant}`", notes=notes)


def checked_choice(program: Program, check: s.Check) -> Choice | Diagnostic:
    """What a `check` speaks of, or why that does not exist."""
    offered = choices(program)
    name = check.variant.name
    if check.network:
        fitting = [c for c in offered if c.variant and (c.network.name, c.variant.name) == (check.network, name)]
    else:
        fitting = [c for c in offered if c.short == name]
    if len(fitting) == 1:
        return fitting[0]
    known = [c.name if check.network else c.short for c in offered]
    if fitting:
        notes: tuple[str, ...] = (f"say which network: {', '.join(c.name for c in fitting)}",)
        return Diagnostic("S0504", f"there are several variants `{name}`", (Label(check.span),), notes)
    notes = did_you_mean(name, [c.short for c in offered]) or (there_are(known),)
    return Diagnostic("S0502", f"there is no variant `{name}` to check", (Label(check.span),), notes)


def misplaced(program: Program) -> Iterator[Diagnostic]:
    """Mistakes in the variants of the file that was asked for."""
    networks = program.networks()
    seen: dict[tuple[str, str], Span] = {}
    for item in program.root.tree.items:
        if isinstance(item, s.Check):
            target = checked_choice(program, item)
            if isinstance(target, Diagnostic):
                yield target
        if isinstance(item, s.Rename):
            yield from _renamings(item)
        if not isinstance(item, (s.Variants, s.Rename)):
            continue
        if item.network.name not in networks:
            notes = did_you_mean(item.network.name, networks)
            yield Diagnostic("S0503", f"there is no network `{item.network.name}`", (Label(item.network.span),), notes)
        for variant in item.variants if isinstance(item, s.Variants) else ():
            key = (item.network.name, variant.name)
            if key in seen:
                labels = (Label(variant.span), Label(seen[key], "the first one"))
                yield Diagnostic("S0203", f"there are two variants `{variant.name}`", labels)
            seen.setdefault(key, variant.span)


def renames(program: Program, network: str) -> tuple[tuple[str, str], ...]:
    """The rules of the network's tables of names, in order."""
    tables = [i.table for i in program.root.tree.items if isinstance(i, s.Rename) and i.network.name == network]
    return tuple((rule.old, rule.new) for table in tables for rule in table)


def _renamings(item: s.Rename) -> Iterator[Diagnostic]:
    for rule in item.table:
        if rule.old.count("*") != rule.new.count("*"):
            message = f'"{rule.old}" has {rule.old.count("*")} `*`, and "{rule.new}" has {rule.new.count("*")}'
            note = "each `*` stands for what its partner in the old name has"
            yield Diagnostic("S0508", message, (Label(rule.span),), (note,))
        elif not rule.old or not rule.new:
            yield Diagnostic("S0508", "a name is not empty", (Label(rule.span),))


def _variants(program: Program) -> dict[str, dict[str, s.Variant]]:
    result: dict[str, dict[str, s.Variant]] = {}
    for item in program.root.tree.items:
        if isinstance(item, s.Variants):
            own = result.setdefault(item.network.name, {})
            for variant in item.variants:
                own.setdefault(variant.name, variant)
    return result
