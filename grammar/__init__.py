"""The language: text --> graph IR.

In the order of the data: `specc.lark` and `layout` (tokens, lines), `parse` (text to the classes of `syntax`),
`modules` (files and `use`), `contents` (networks and variants), `names` (what every name means), `network` and
`elaborate` (blocks at work), `expressions`, `operators`, `shapes` (values, nodes, dimensions), `check`. `printer` and
`wrap` go back from a syntax tree to text, `writer` from a graph to a syntax tree, `comments` and `format` keep what
the tree does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from specc.diagnostics import Diagnostic, SpeccError
from specc.grammar import syntax as s
from specc.grammar.check import Expected, Fixed, Report, evaluate_check
from specc.grammar.contents import Choice, checked_choice, choices, choose
from specc.grammar.format import format_text
from specc.grammar.modules import Program, load_program
from specc.grammar.network import elaborate, static_problems
from specc.grammar.parse import parse
from specc.grammar.printer import print_file
from specc.grammar.writer import write_graph
from specc.ir.graph import Graph

__all__ = [
    "Expected",
    "Offer",
    "Report",
    "check",
    "checks",
    "format_text",
    "load",
    "loads",
    "offers",
    "parse",
    "print_file",
    "spec_closure",
    "write_graph",
]


@dataclass(frozen=True)
class Offer:
    """Something that a file offers to be compiled."""

    network: str
    variant: str | None


def load(path: str | Path, network: str | None = None, variant: str | None = None) -> Graph:
    """The graph of a network of the file `path`, parsed, elaborated and checked for mistakes.

    A file with several networks or variants needs a choice. Raises `SpeccError` with all mistakes that were found.
    """
    return _graph(load_program(Path(path)), network, variant)


def loads(
    text: str, network: str | None = None, variant: str | None = None, file: str = "<text>", directory: str | Path = "."
) -> Graph:
    """As `load`, for a text; what it uses is looked for in `directory`."""
    return _graph(load_program(Path(directory) / "text.specc", text, file), network, variant)


def offers(path: str | Path) -> list[Offer]:
    """What the file offers to be compiled, in its order."""
    found = choices(load_program(Path(path)))
    return [Offer(choice.network.name, choice.variant.name if choice.variant else None) for choice in found]


def check(path: str | Path, variant: str | None = None, network: str | None = None) -> list[Report]:
    """A report for every network and variant of the file, or for the one that is named.

    Raises `SpeccError` only where no report is possible: a file that cannot be read or parsed, an unknown variant, or
    a file without a network that has mistakes.
    """
    return _reports(load_program(Path(path)), network, variant)


def checks(
    text: str, network: str | None = None, variant: str | None = None, file: str = "<text>", directory: str | Path = "."
) -> list[Report]:
    """As `check`, for a text."""
    return _reports(load_program(Path(directory) / "text.specc", text, file), network, variant)


def spec_closure(path: str | Path) -> list[Path]:
    """All files whose text makes up the spec, `path` first: a hash over them changes when the spec does."""
    return list(load_program(Path(path)).paths.values())


def _graph(program: Program, network: str | None, variant: str | None) -> Graph:
    return elaborate(program, _chosen(program, network, variant))


def _chosen(program: Program, network: str | None, variant: str | None) -> Choice:
    try:
        return choose(program, network, variant)
    except SpeccError as problem:
        static = static_problems(program)
        raise SpeccError(*(static or problem.diagnostics), sources=program.sources) from None


def _reports(program: Program, network: str | None, variant: str | None) -> list[Report]:
    if network is None and variant is None:
        chosen = choices(program)
        static = static_problems(program)
        if static and not chosen:
            raise SpeccError(*static, sources=program.sources)
    else:
        chosen = [_chosen(program, network, variant)]
    return [_report(program, choice) for choice in chosen]


def _report(program: Program, choice: Choice) -> Report:
    name, variant = choice.network.name, choice.variant.name if choice.variant else None
    try:
        graph = elaborate(program, choice)
    except SpeccError as problem:
        return Report(name, variant, None, (), problem.diagnostics, program.sources)
    fixed = Fixed(graph)
    expected: list[Expected] = []
    failures: list[Diagnostic] = []
    for item in program.root.tree.items:
        if isinstance(item, s.Check) and checked_choice(program, item) == choice:
            met, missed = evaluate_check(item, choice, fixed)
            expected += met
            failures += missed
    return Report(name, variant, graph, tuple(expected), tuple(failures), program.sources, fixed)
