"""`check m1_1 with image = [1, 3, 224, 224]: params == 8.8M` --> what was wanted, what is, and whether it holds.

A number holds at the precision in which it is written: 8.8M is anything from 8.75M to 8.85M. `output == [1, 1000]` is
about the shape of the result, `output1` about that of the second one where there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from specc.diagnostics import Diagnostic, Label, Span, SpeccError, did_you_mean
from specc.grammar import syntax as s
from specc.grammar.contents import Choice, there_are
from specc.grammar.printer import print_expression
from specc.grammar.values import number, precision
from specc.ir.congruence import named
from specc.ir.cost import count_macs, count_params
from specc.ir.graph import Graph
from specc.ir.specialize import specialize


@dataclass(frozen=True)
class Expected:
    """One line of a `check`, evaluated."""

    quantity: str
    comparison: str
    wanted: str
    actual: int | tuple[int, ...]
    holds: bool
    span: Span


class Fixed:
    """A graph at one set of extents after the other, specialized once for each. The graphs are not to be changed."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._known: dict[frozenset[tuple[str, int]], Graph] = {}

    def at(self, shapes: Mapping[str, int] | None = None) -> Graph:
        """`specialize(graph, shapes)`."""
        key = frozenset({**self.graph.defaults, **(shapes or {})}.items())
        if key not in self._known:
            self._known[key] = specialize(self.graph, shapes)
        return self._known[key]


@dataclass(frozen=True)
class Report:
    """What `specc check` says of one network and variant. `graph` is None where it could not be built."""

    network: str
    variant: str | None
    graph: Graph | None
    expected: tuple[Expected, ...]
    failures: tuple[Diagnostic, ...]
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    fixed: Fixed | None = field(default=None, compare=False, repr=False)
    """The graph with its dimensions fixed."""

    @property
    def holds(self) -> bool:
        return not self.failures

    def raise_failures(self) -> None:
        """Raises a `SpeccError` with the failures, if there are any."""
        if self.failures:
            raise SpeccError(*self.failures, sources=self.sources)


QUANTITIES: dict[str, Callable[[Graph], int]] = {"params": count_params, "macs": count_macs}


def evaluate_check(check: s.Check, choice: Choice, at: Fixed) -> tuple[list[Expected], list[Diagnostic]]:
    """The expectations of one `check`, and what is wrong with them."""
    graph = at.graph
    try:
        shapes = _shapes(check, choice, graph)
        missing = sorted(graph.symbols() - shapes.keys() - graph.defaults.keys())
        if missing:
            note = f"say `check {choice.short} with ... = [...]`, or give the dimension a default"
            raise _problem(f"the dimension `{missing[0]}` of `{choice.name}` has no value", check.span, note)
        fixed = at.at(shapes)
    except SpeccError as problem:
        found = problem.diagnostics
        return [], [d if d.labels else Diagnostic(d.code, d.message, (Label(check.span),), d.notes) for d in found]
    expected: list[Expected] = []
    failures: list[Diagnostic] = []
    outputs = _outputs(fixed)
    for expectation in check.expectations:
        quantity = expectation.quantity
        if quantity.name in outputs:
            line = _shape_line(expectation, outputs[quantity.name])
            if isinstance(line, Diagnostic):
                failures.append(line)
                continue
            expected.append(line)
            if not line.holds:
                shape = f"[{', '.join(map(str, outputs[quantity.name]))}]"
                message = f"`{quantity.name}` of `{choice.name}` is {shape}, not {line.comparison} {line.wanted}"
                failures.append(Diagnostic("S0506", message, (Label(line.span, f"it is {shape}"),)))
            continue
        if quantity.name not in QUANTITIES:
            known = [*QUANTITIES, *outputs]
            notes = did_you_mean(quantity.name, known) or (there_are(known),)
            message = f"`{quantity.name}` is nothing that can be checked"
            failures.append(Diagnostic("S0505", message, (Label(quantity.span),), notes))
            continue
        if not isinstance(expectation.value, s.Number):
            message = "a check compares with a number"
            failures.append(Diagnostic("S0505", message, (Label(expectation.value.span),), ("for example 8.8M",)))
            continue
        actual = QUANTITIES[quantity.name](fixed)
        wanted = expectation.value.text
        holds = _holds(expectation.comparison, actual, wanted)
        span = expectation.span
        expected.append(Expected(quantity.name, expectation.comparison, wanted, actual, holds, span))
        if not holds:
            message = f"`{choice.name}` has {actual:,} {quantity.name}, not {expectation.comparison} {wanted}"
            failures.append(Diagnostic("S0506", message, (Label(span, abbreviated(actual, wanted)),)))
    return expected, failures


def _outputs(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The shapes of the results, by the names that artifacts give them too."""
    shapes = [graph.type(value).concrete for value in graph.outputs]
    return {"output": shapes[0]} if len(shapes) == 1 else {f"output{i}": shape for i, shape in enumerate(shapes)}


def _shape_line(expectation: s.Expectation, actual: tuple[int, ...]) -> Expected | Diagnostic:
    items = expectation.value.items if isinstance(expectation.value, s.ListOf) else None
    numbers = [number(item.text) if isinstance(item, s.Number) else item for item in items or ()]
    if items is None or not all(isinstance(extent, int) or extent == s.Name("_") for extent in numbers):
        message = "a shape is compared with a list of integers; `_` fits every extent"
        return Diagnostic("S0505", message, (Label(expectation.value.span),), ("for example [1, 1000]",))
    if expectation.comparison not in ("==", "!="):
        return Diagnostic("S0505", "shapes are equal or not", (Label(expectation.span),), ("`==` and `!=` say so",))
    equal = len(numbers) == len(actual) and all(n in (s.Name("_"), e) for n, e in zip(numbers, actual, strict=True))
    wanted = print_expression(expectation.value)
    holds = equal == (expectation.comparison == "==")
    return Expected(expectation.quantity.name, expectation.comparison, wanted, actual, holds, expectation.span)


def abbreviated(value: int, like: str) -> str:
    """`value` with the suffix and as many digits as `like`, and one digit more: 8796432 as 8.80M beside 8.8M."""
    suffix = like[-1] if like[-1] in "kMGT" else ""
    scale = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[suffix]
    digits = len(like.rstrip("kMGT").partition(".")[2])
    return f"it is {value / scale:.{digits + 1}f}{suffix}" if suffix else f"it is {value}"


def _holds(comparison: str, actual: int, wanted: str) -> bool:
    exact, half = Decimal(str(number(wanted))), precision(wanted)
    equal = actual == exact if wanted.isdigit() else exact - half <= actual <= exact + half
    match comparison:
        case "==":
            return equal
        case "!=":
            return not equal
        case "<=":
            return equal or actual < exact
        case ">=":
            return equal or actual > exact
        case "<":
            return not equal and actual < exact
    return not equal and actual > exact


def _shapes(check: s.Check, choice: Choice, graph: Graph) -> dict[str, int]:
    """The values of the symbolic dimensions that `with image = [1, 3, 224, 224]` says."""
    inputs = {graph.node(i).attrs["name"]: graph.node(i).types[0] for i in graph.inputs}
    shapes: dict[str, int] = {}
    for binding in check.bindings:
        if binding.name not in inputs:
            notes = did_you_mean(binding.name, inputs) or (there_are(list(inputs)),)
            raise _problem(f"`{choice.name}` has no input `{binding.name}`", binding.span, *notes)
        items = binding.value.items if isinstance(binding.value, s.ListOf) else ()
        extents = [number(item.text) for item in items if isinstance(item, s.Number)]
        if len(extents) != len(items) or not items or not all(isinstance(e, int) for e in extents):
            message = "the shape of an input is a list of integers"
            raise _problem(message, binding.value.span, "for example [1, 3, 224, 224]")
        declared = inputs[binding.name].shape
        if len(extents) != len(declared):
            message = f"`{binding.name}` has {len(declared)} dimensions, {inputs[binding.name]}"
            raise _problem(message, binding.value.span)
        for item, extent, dim in zip(items, extents, declared, strict=True):
            assert isinstance(extent, int)
            known = named(dim)
            if isinstance(dim, int) or known is None:
                if isinstance(dim, int) and dim != extent:
                    raise _problem(f"this dimension of `{binding.name}` is {dim}", item.span)
                continue
            name, _ = known
            if shapes.setdefault(name, extent) != extent:
                raise _problem(f"the dimension `{name}` is {shapes[name]} and {extent}", item.span)
    return shapes


def _problem(message: str, span: Span, *notes: str) -> SpeccError:
    return SpeccError(Diagnostic("S0505", message, (Label(span),), notes))
