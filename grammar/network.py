"""A chosen network --> Graph.

The inputs come first, with the dimensions that their types name as symbols; then the variant's values and the defaults
of the parameters; then the body runs, and what it returns are the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from specc.diagnostics import Diagnostic, Frame, Label, SpeccError, did_you_mean
from specc.grammar import syntax as s
from specc.grammar.contents import Choice, misplaced, renames
from specc.grammar.elaborate import Elaborator, compile_time_names
from specc.grammar.modules import Program
from specc.grammar.names import unresolved
from specc.grammar.scope import Place, Scope
from specc.grammar.session import Learned, Session, Stop, unreported
from specc.grammar.shapes import declared_extent
from specc.grammar.values import Block, Poison, Poisoned, Tensor, Value, is_integer, tensors_in
from specc.ir.congruence import NOTHING, Congruence, written
from specc.ir.graph import Graph
from specc.ir.types import TensorType


def static_problems(program: Program) -> list[Diagnostic]:
    """What is wrong with the files whatever is chosen."""
    found = [*program.diagnostics, *unresolved(program), *misplaced(program)]
    return unreported(found, [])


def elaborate(program: Program, choice: Choice) -> Graph:
    """The graph of the chosen network; raises `SpeccError` with all mistakes that were found."""
    problems = static_problems(program)
    name = choice.network.name + (f"_{choice.variant.name}" if choice.variant else "")
    known: dict[str, Congruence] = {}
    steps = 0
    while True:
        session = Session(Graph(name), known=known, steps=steps)
        session.graph.renames = renames(program, choice.network.name)
        session.diagnostics += problems
        try:
            _build(session, program, choice)
        except Learned as news:  # what was computed before it was known has another normal form
            known[news.name] = news.known
            steps = session.steps
            continue
        break
    if session.diagnostics:
        raise SpeccError(*sorted(session.diagnostics, key=_position(program)), sources=program.sources)
    return session.graph


def _build(session: Session, program: Program, choice: Choice) -> None:
    """Builds the session's graph; mistakes are left in `session.diagnostics`."""
    try:
        _Builder(session, program, choice).build()
    except Stop:
        pass
    except SpeccError as problem:
        session.diagnostics += unreported(problem.diagnostics, session.diagnostics)
    except Poisoned:
        assert session.diagnostics, "a value failed and nothing was reported"
    except RecursionError:
        message = f"blocks and expressions of {program.root.name} lie too deep inside each other here"
        session.diagnostics.append(Diagnostic("S0106", message, (Label(session.latest),)))


def _position(program: Program) -> Callable[[Diagnostic], tuple[int, int, int]]:
    """Orders diagnostics as their places stand in the files, those without a place first."""
    files = {name: number for number, name in enumerate(program.modules)}

    def key(diagnostic: Diagnostic) -> tuple[int, int, int]:
        if not diagnostic.labels:
            return -1, 0, 0
        span = diagnostic.labels[0].span
        return files.get(span.file, len(files)), span.line, span.column

    return key


class _Builder:
    def __init__(self, session: Session, program: Program, choice: Choice) -> None:
        self.session, self.choice = session, choice
        self.definition = choice.network
        self.elaborator = Elaborator(session, program.modules)
        self.scope = Scope(program.root, choice.network, Place(""))
        self.block = Block(choice.network, program.root.name)

    def build(self) -> None:
        self.elaborator.active.append(self.block)
        self.session.stack.append(Frame(self.definition.name))
        self.session.graph.blocks[""] = (self.definition.name, self.definition.name_span)
        self._bind_variant()
        self._symbols()
        self.elaborator.bind_defaults(self.scope)
        self._check_given()
        self._inputs()
        self._outputs(self.elaborator._run(self.scope))

    def _bind_variant(self) -> None:
        """The values that the variant gives to the parameters."""
        parameters = {p.name: p for p in self.definition.parameters if p.tensor is None}
        outside = replace(self.scope, names={}, dims={})
        for binding in self.choice.variant.bindings if self.choice.variant else ():
            parameter = parameters.get(binding.name)
            if parameter is None:
                notes = did_you_mean(binding.name, parameters) or (f"it has {', '.join(parameters) or 'none'}",)
                message = f"`{self.definition.name}` has no parameter `{binding.name}`"
                raise self.session.problem("S0403", message, Label(binding.span), notes=notes)
            if binding.name in self.scope.names:
                raise self.session.problem("S0403", f"`{binding.name}` is given twice", Label(binding.span))
            value = self.elaborator.evaluate(binding.value, outside)
            self.scope.names[binding.name] = self.elaborator.fit(value, parameter, binding.value.span)

    def _symbols(self) -> None:
        """The bare names in the types of the inputs become symbolic dimensions."""
        compile_time = compile_time_names(self.definition)
        for parameter in self.definition.parameters:
            for dimension in parameter.type.dimensions if isinstance(parameter.type, s.Tensor) else ():
                if not isinstance(dimension.size, s.Name):
                    continue
                name = dimension.size.name
                if name == "_":
                    message = "a dimension of an input needs a name or a number"
                    raise self.session.problem("S0401", message, Label(dimension.span))
                if name not in compile_time and name not in self.scope.dims:
                    self.scope.dims[name] = written(name, self.session.known.get(name, NOTHING))
                    self.scope.dim_spans[name] = dimension.span

    def _check_given(self) -> None:
        for parameter in self.definition.parameters:
            if parameter.name not in self.scope.names and not isinstance(parameter.type, s.Tensor):
                message = f"`{self.definition.name}` needs a value for `{parameter.name}`"
                note = "a default, or a variant: `variants " + self.definition.name + ":` gives parameters their values"
                raise self.session.problem("S0403", message, Label(parameter.span), notes=[note])

    def _inputs(self) -> None:
        """An input node for every tensor that the network takes."""
        for parameter in self.definition.parameters:
            if not isinstance(parameter.type, s.Tensor):
                continue
            shape = []
            for dimension in parameter.type.dimensions:
                extent = declared_extent(self.elaborator, self.scope, dimension)
                assert extent is not None
                if isinstance(extent, int) and extent < 1:
                    raise self.session.problem("S0401", f"a dimension of {extent}", Label(dimension.span))
                if dimension.default is not None:
                    self._default(dimension)
                shape.append(extent)
            type_ = TensorType(tuple(shape), parameter.type.dtype)
            value = self.session.graph.input(parameter.name, type_, parameter.span)
            tensor = Tensor(value, type_, parameter.span)
            self.scope.names[parameter.name] = (tensor,) if parameter.variadic else tensor
        if not self.session.graph.inputs:
            message = f"`{self.definition.name}` takes no tensor"
            raise self.session.problem("S0403", message, Label(self.definition.name_span))

    def _default(self, dimension: s.Dimension) -> None:
        assert dimension.default is not None and isinstance(dimension.size, s.Name)
        name = dimension.size.name
        value = self.elaborator.evaluate(dimension.default, self.scope)
        if not (is_integer(value) and value >= 1):
            message = f"the default of the dimension `{name}` is an integer of at least 1"
            raise self.session.problem("S0401", message, Label(dimension.span))
        if name in compile_time_names(self.definition):
            message = f"`{name}` is a parameter; its default stands there"
            raise self.session.problem("S0401", message, Label(dimension.span))
        if self.session.graph.defaults.setdefault(name, value) != value:
            raise self.session.problem("S0401", f"the dimension `{name}` has two defaults", Label(dimension.span))

    def _outputs(self, value: Value) -> None:
        if isinstance(value, Poison):
            raise Poisoned
        outputs = list(tensors_in(value))
        if not outputs or len(outputs) != (len(value) if isinstance(value, tuple) else 1):
            message = f"a network returns tensors, and `{self.definition.name}` returns something else"
            raise self.session.problem("S0305", message, Label(self.definition.name_span))
        self.session.graph.outputs = [output.value for output in outputs]
