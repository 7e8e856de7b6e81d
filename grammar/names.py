"""Static reading of names: every block of a file is looked at, also those that nothing calls.

What stands here is found before anything is elaborated: names that nothing binds, and calls of what does not exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from specc.diagnostics import Diagnostic, Label, did_you_mean
from specc.grammar import builtins, composites, operators
from specc.grammar import syntax as s
from specc.grammar.modules import Module, Program
from specc.grammar.suggest import suggest_call, suggest_value
from specc.grammar.values import PLAIN_TYPES
from specc.ir.dtypes import DECLARED


def unresolved(program: Program) -> list[Diagnostic]:
    """A diagnostic for every name, in all files of the program, that means nothing where it stands."""
    return [diagnostic for module in program.modules.values() for diagnostic in _Reader(program, module).read()]


def _signature(definition: s.Definition) -> Iterator[Diagnostic]:
    """Parameters that are there twice, and defaults where none can be."""
    places: dict[str, Label] = {}
    for parameter in definition.parameters:
        if parameter.name in places:
            message = f"`{definition.name}` has two parameters `{parameter.name}`"
            yield Diagnostic("S0203", message, (Label(parameter.span), places[parameter.name]))
        places[parameter.name] = Label(parameter.span, "the first one")
        optional = isinstance(parameter.type, s.OptionalType)
        absent = optional and parameter.default == s.Constant(None)
        if parameter.tensor is not None and parameter.default is not None and not absent:
            note = ("its only default is `none`",) if optional else ("a tensor that may be absent: `[n, l]? = none`",)
            yield Diagnostic("S0110", "a tensor has no default", (Label(parameter.default.span),), note)
        if parameter.tensor is not None and definition.kind == "network" and (optional or parameter.variadic):
            message = "an input of a network is one tensor that is there"
            yield Diagnostic("S0111", message, (Label(parameter.span),), ("a block can leave that open",))
        if isinstance(parameter.type, s.OptionalType) and parameter.variadic:
            yield Diagnostic("S0111", "what `*` takes is there, or is not given", (Label(parameter.type.span),))
    several = [parameter for parameter in definition.parameters if parameter.variadic]
    for parameter in several[1:]:
        labels = (Label(parameter.span), Label(several[0].span, "the first one"))
        yield Diagnostic("S0111", "one parameter takes all arguments without a name", labels)
    inputs = [p.tensor for p in definition.parameters if p.tensor is not None]
    if definition.kind == "block":
        yield from _extent_defaults(inputs, "a block takes the extents of its operands")
    yield from _extent_defaults(definition.results, "a result has the extents that it has")


def _extent_defaults(tensors: Iterable[s.Tensor], note: str) -> Iterator[Diagnostic]:
    for dimension in (dimension for tensor in tensors for dimension in tensor.dimensions):
        if dimension.default is not None:
            message = "only the dimensions of a network's inputs have defaults"
            yield Diagnostic("S0110", message, (Label(dimension.span),), (note,))


def _unreached(statements: tuple[s.Statement, ...]) -> Iterator[Diagnostic]:
    """A diagnostic for the first statement behind one that always returns."""
    for before, behind in itertools.pairwise(statements):
        if (last := _returns((before,))) is not None:
            labels = (Label(behind.span), Label(last.span, "this returns before"))
            note = "delete it, or give the `return` the indentation that it was meant to have"
            yield Diagnostic("S0112", "this is never reached", labels, (note,))
            return


def _returns(statements: tuple[s.Statement, ...]) -> s.Return | None:
    """The `return` by which a body ends whatever its conditions are; None where it may go on."""
    for statement in statements:
        match statement:
            case s.Return():
                return statement
            case s.If(branches, otherwise):
                ends = [_returns(body) for body in (*(body for _, body in branches), otherwise)]
                if all(ends):
                    return ends[-1]
    return None


class _Reader:
    def __init__(self, program: Program, module: Module) -> None:
        self.module = module
        self.used = {name.name for use in module.tree.uses for name in use.names}
        self.known = {*module.names, *builtins.FUNCTIONS, *composites.FORMS, *operators.names()}

    def read(self) -> Iterator[Diagnostic]:
        """The diagnostics of all definitions, in order."""
        for definition in self.module.tree.definitions:
            yield from _signature(definition)
            local: set[str] = {"_"}
            for parameter in definition.parameters:
                yield from self._type(parameter.tensor or parameter.type)
                local.add(parameter.name)
                if parameter.tensor is not None:
                    local |= {d.size.name for d in parameter.tensor.dimensions if isinstance(d.size, s.Name)}
            for parameter in definition.parameters:
                dimensions = parameter.tensor.dimensions if parameter.tensor is not None else ()
                for dimension in dimensions:
                    yield from self._expression(dimension.size, local)
                if parameter.default is not None:
                    yield from self._expression(parameter.default, local)
            for result in definition.results:
                yield from self._type(result)
                for dimension in result.dimensions:
                    yield from self._expression(dimension.size, local, "; `_` stands for any extent")
            yield from self._statements(definition.body, local | s.assigned_names(definition.body))

    def _type(self, type_: s.Type) -> Iterator[Diagnostic]:
        match type_:
            case s.Tensor(_, s.Element(name) as element) if name not in DECLARED:
                notes = did_you_mean(name, DECLARED) or (f"there are {', '.join(DECLARED)}",)
                message = f"no tensor has elements of type `{name}`"
                yield Diagnostic("S0105", message, (Label(element.span),), notes)
            case s.PlainType(name) if name not in PLAIN_TYPES:
                there_are = (f"there are {', '.join(PLAIN_TYPES)}, list[...], [n, c, h, w]",)
                if name == "_":
                    there_are = ("`_` is any extent of a tensor, inside its brackets: `[n, _, _]`",)
                notes = did_you_mean(name, PLAIN_TYPES) or there_are
                yield Diagnostic("S0201", f"there is no type `{name}`", (Label(type_.span),), notes)
            case s.ListType(inner) | s.OptionalType(inner) if isinstance(inner, s.Tensor):
                yield Diagnostic("S0105", "a tensor cannot stand inside another type", (Label(inner.span),))
            case s.ListType(inner) | s.OptionalType(inner):
                yield from self._type(inner)
            case s.TupleType(options) | s.ChoiceType(options):
                for option in options:
                    if isinstance(option, s.Tensor):
                        yield Diagnostic("S0105", "a tensor cannot stand inside another type", (Label(option.span),))
                    elif not isinstance(option, str):
                        yield from self._type(option)

    def _statements(self, statements: tuple[s.Statement, ...], local: set[str]) -> Iterator[Diagnostic]:
        yield from _unreached(statements)
        for statement in statements:
            match statement:
                case s.Assign(targets, value):
                    for target in targets:
                        for index in target.indices:
                            yield from self._expression(index, local)
                    yield from self._expression(value, local)
                case s.Param(_, target, type_, init, key):
                    for index in target.indices:
                        yield from self._expression(index, local)
                    for part in key.parts if key else ():
                        if not isinstance(part, str):
                            yield from self._expression(part, local)
                    yield from self._type(type_)
                    for dimension in type_.dimensions:
                        yield from self._expression(dimension.size, local)
                    yield from _extent_defaults([type_], "a parameter has the extents that it has")
                    if init is not None and init.argument is not None:
                        yield from self._expression(init.argument, local)
                case s.Require(condition, message) | s.Ensure(condition, message):
                    yield from self._expression(condition, local)
                    for part in message.parts if message else ():
                        if not isinstance(part, str):
                            yield from self._expression(part, local)
                case s.EnsureMerge(subject):
                    yield from self._expression(subject, local)
                case s.Return(values):
                    for value in values:
                        yield from self._expression(value, local)
                case s.If(branches, otherwise):
                    for condition, body in branches:
                        yield from self._expression(condition, local)
                        yield from self._statements(body, local)
                    yield from self._statements(otherwise, local)
                case s.For(_, source, body):
                    yield from self._expression(source, local)
                    yield from self._statements(body, local)

    def _expression(self, expression: s.Expression, local: set[str], hint: str = "") -> Iterator[Diagnostic]:
        match expression:
            case s.Name(name):
                if name not in local and name not in self.known and name not in self.used:
                    yield self._unknown(expression, "a name", [*local, *self.module.names], hint)
            case s.ListOf(items) | s.TupleOf(items):
                for item in items:
                    yield from self._expression(item, local)
            case s.Comprehension(element, clauses):
                for clause in clauses:
                    yield from self._expression(clause.source, local)
                    local = local | s.pattern_names(clause.pattern)
                    if clause.condition is not None:
                        yield from self._expression(clause.condition, local)
                yield from self._expression(element, local)
            case s.Unary(_, operand):
                yield from self._expression(operand, local, hint)
            case s.Binary(_, left, right):
                yield from self._expression(left, local, hint)
                yield from self._expression(right, local, hint)
            case s.Conditional(value, condition, otherwise):
                for part in (condition, value, otherwise):
                    yield from self._expression(part, local)
            case s.Call(callee, arguments, keywords):
                yield from self._callee(callee, local)
                for argument in (*arguments, *(keyword.value for keyword in keywords)):
                    inner = argument.value if isinstance(argument, s.Spread) else argument
                    yield from self._expression(inner, local)
            case s.Slice(value):
                for bound in (value, expression.start, expression.stop):
                    if bound is not None:
                        yield from self._expression(bound, local)
            case s.Index(value, index):
                yield from self._expression(value, local)
                yield from self._expression(index, local)
            case s.Pipe(source, stages):
                yield from self._expression(source, local)
                for stage in stages:
                    if isinstance(stage, s.Name):
                        yield from self._callee(stage, local)
                    else:
                        yield from self._expression(stage, local)

    def _callee(self, callee: s.Expression, local: set[str]) -> Iterator[Diagnostic]:
        if not isinstance(callee, s.Name):
            yield from self._expression(callee, local)
        elif callee.name not in local and callee.name not in self.known and callee.name not in self.used:
            unknown = self._unknown(callee, "a block or an operator", sorted(self.known), "")
            yield unknown if unknown.notes else replace(unknown, notes=did_you_mean(callee.name, sorted(local)))

    def _unknown(self, name: s.Name, what: str, candidates: list[str], hint: str) -> Diagnostic:
        calls = what != "a name"
        notes = suggest_call(name.name, candidates) if calls else suggest_value(name.name, candidates, self.known)
        return Diagnostic("S0201", f"`{name.name}` is not {what} here{hint}", (Label(name.span),), notes)
