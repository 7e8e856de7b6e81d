"""Statements and calls of blocks: running a block's body builds its part of the graph.

A call binds the arguments, then the dimensions of the operands, then the defaults (which may use both); it runs the
body in a scope of its own and compares what is returned with what is declared.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from specc.diagnostics import Frame, Label, Span, SpeccError, did_you_mean
from specc.grammar import operators
from specc.grammar import syntax as s
from specc.grammar.expressions import Evaluator
from specc.grammar.modules import Module
from specc.grammar.parameters import declare
from specc.grammar.printer import print_expression, print_type
from specc.grammar.scope import NoSlot, Scope, Site
from specc.grammar.session import DEEPEST_CALLS, Learned, Session
from specc.grammar.shapes import bind_dimensions, check_dimensions, check_form, check_result
from specc.grammar.suggest import suggest
from specc.grammar.values import (
    Argument,
    Block,
    Family,
    Poison,
    Poisoned,
    Tensor,
    Value,
    described,
    fit,
    is_integer,
    kind,
    show,
)
from specc.ir.congruence import learned
from specc.ir.dims import Symbolic
from specc.ir.graph import MergeClaim

ITSELF = "self"
"""`self[i] = ...` names a member of the block's own scope: its key begins with the index."""


@dataclass(frozen=True)
class Returned:
    """What ends a body: the values of `return`, and its place."""

    values: tuple[Value, ...]
    spans: tuple[Span, ...]


class Elaborator(Evaluator):
    """Runs blocks."""

    def __init__(self, session: Session, modules: dict[str, Module]) -> None:
        super().__init__(session)
        self.modules = modules
        self.active: list[Block] = []

    # ---- calls of blocks

    def call_block(self, block: Block, positional: list[Argument], keywords: dict[str, Argument], site: Site) -> Value:
        """The value that `block` returns for these arguments."""
        place, span = site.place, site.span
        self._check_recursion(block, span)
        given = self._bind_arguments(block, positional, keywords, span)
        slot = place.path.removeprefix(self._path).lstrip(".") if not place.nameless else ""
        outer, self._path = self._path, place.path
        self.active.append(block)
        scope = Scope(self.modules[block.module], block.definition, place)
        try:
            self._enter(scope, given, span, slot)
            if slot:
                self.session.graph.blocks.setdefault(place.path, (block.name, span))
            return _made_at(self._run(scope), span)
        finally:
            self.active.pop()
            self._path = outer
            if len(self.session.stack) > len(self.active):
                self.session.stack.pop()

    _path = ""

    def _check_recursion(self, block: Block, span: Span) -> None:
        if block in self.active:
            cycle = [b.name for b in self.active[self.active.index(block) :]] + [block.name]
            message = f"`{block.name}` would contain itself"
            labels = [Label(span), Label(block.definition.name_span, "defined here")]
            raise self.session.problem("S0407", message, *labels, notes=[" calls ".join(cycle)])
        if len(self.active) >= DEEPEST_CALLS:
            raise self.session.problem("S0406", f"blocks are nested more than {DEEPEST_CALLS} deep", Label(span))

    def _bind_arguments(
        self, block: Block, positional: list[Argument], keywords: dict[str, Argument], span: Span
    ) -> dict[str, list[Argument]]:
        """The arguments of each parameter: one, or any number where it is variadic."""
        definition = block.definition
        parameters = {parameter.name: parameter for parameter in definition.parameters}
        called = f"it is called as {_signature(definition)}"
        by_place = list(itertools.takewhile(lambda name: not parameters[name].variadic, parameters))
        variadic = next((name for name in parameters if parameters[name].variadic), None)
        given = {name: [argument] for name, argument in zip(by_place, positional, strict=False)}
        further = positional[len(by_place) :]
        if variadic is not None:
            given[variadic] = further
        elif further:
            takes = "1 argument" if len(parameters) == 1 else f"{len(parameters)} arguments"
            message = f"`{block.name}` takes {takes}, and here are {len(positional)}"
            raise self.session.problem("S0403", message, Label(further[0].span), notes=[called])
        for name, argument in keywords.items():
            if name not in parameters:
                notes = [*suggest(name, parameters), called]
                message = f"`{block.name}` has no parameter `{name}`"
                raise self.session.problem("S0403", message, Label(argument.span), notes=notes)
            if parameters[name].variadic:
                note = f"a list is spread by a star: `{block.name}(*{name})`"
                message = f"`{name}` takes all arguments without a name, and cannot be given by its own"
                raise self.session.problem("S0403", message, Label(argument.span), notes=[note])
            if name in given:
                labels = [Label(argument.span), Label(given[name][0].span)]
                raise self.session.problem("S0403", f"`{name}` is given twice", *labels, notes=[called])
            given[name] = [argument]
        for name, parameter in parameters.items():
            lacking = parameter.default is None or isinstance(parameter.type, s.Tensor)
            wanted = lacking and (not parameter.variadic or parameter.tensor is not None)
            if wanted and not given.get(name):
                message = f"`{block.name}` lacks its argument `{_declared(parameter)}`"
                raise self.session.problem("S0403", message, Label(span), notes=[called])
        return given

    def _enter(self, scope: Scope, given: dict[str, list[Argument]], span: Span, slot: str) -> None:
        """Binds parameters and dimensions; mistakes are the caller's, so the stack grows only at the end."""
        tensors: list[tuple[s.Parameter, Tensor, Span]] = []
        for parameter in scope.definition.parameters:
            values: list[Value] = []
            for argument in given.get(parameter.name, ()):
                absent = argument.value is None and isinstance(parameter.type, s.OptionalType)
                if parameter.tensor is None or absent:
                    values.append(self.fit(argument.value, parameter, argument.span))
                    continue
                tensor = self._tensor(scope, parameter, argument)
                tensors.append((parameter, tensor, argument.span))
                values.append(replace(tensor, span=parameter.span))
            if parameter.variadic:
                scope.names[parameter.name] = tuple(values)
            elif values:
                scope.names[parameter.name] = values[0]
        compile_time = compile_time_names(scope.definition)
        for parameter, tensor, where in tensors:
            check_form(self, scope, parameter, tensor, where)
            bind_dimensions(self, scope, parameter, tensor, where, compile_time)
        self.bind_defaults(scope)
        for parameter, tensor, where in tensors:
            check_dimensions(self, scope, parameter, tensor, where)
        self.session.stack.append(Frame(scope.definition.name, span, slot))

    def _tensor(self, scope: Scope, parameter: s.Parameter, argument: Argument) -> Tensor:
        if isinstance(argument.value, Tensor):
            return argument.value
        value = argument.value
        message = f"`{parameter.name}` of `{scope.definition.name}` is a tensor; this is {described(value)}"
        labels = [Label(argument.span), Label(parameter.span, "declared here")]
        raise self.session.problem("S0401", message, *labels)

    def fit(self, value: Value, parameter: s.Parameter, span: Span) -> Value:
        """The value of a compile-time parameter, of the declared type."""
        try:
            return self.session.attempt(lambda: fit(value, parameter.type), span)
        except SpeccError as problem:
            (diagnostic,) = problem.diagnostics
            message = f"`{parameter.name}`: {diagnostic.message}"
            labels = [Label(span), Label(parameter.span, "declared here")] if span != parameter.span else [Label(span)]
            raise self.session.problem(diagnostic.code, message, *labels, notes=diagnostic.notes) from None

    def bind_defaults(self, scope: Scope) -> None:
        """Gives the parameters that are left their defaults, which may use all that is bound before them."""
        for parameter in scope.definition.parameters:
            if parameter.name not in scope.names and parameter.default is not None:
                value = self.evaluate(parameter.default, scope)
                scope.names[parameter.name] = self.fit(value, parameter, parameter.span)

    def _run(self, scope: Scope) -> Value:
        """The body, and the comparison of its result with the declared one."""
        definition = scope.definition
        results = replace(scope, names={n: v for n, v in scope.names.items() if not isinstance(v, Tensor)})
        returned = self.execute(definition.body, scope)
        if returned is None:
            if scope.failed:
                return Poison()
            message = f"`{definition.name}` ends without `return`"
            raise self.session.problem("S0306", message, Label(definition.name_span))
        values, spans = returned.values, returned.spans
        several = values[0] if len(values) == 1 else None
        if isinstance(several, tuple):  # what a call of several results gives
            values, spans = several, spans * len(several)
        if any(isinstance(value, Poison) for value in values):
            return Poison()
        declared = definition.results
        if definition.variadic:
            return self._list_result(definition, results, returned)
        if declared and len(declared) != len(values):
            message = f"`{definition.name}` declares {len(declared)} results, and returns {len(values)}"
            labels = [Label(returned.spans[0].to(returned.spans[-1])), Label(declared[0].span, "declared here")]
            raise self.session.problem("S0305", message, *labels)
        for i, (type_, value, span) in enumerate(zip(declared, values, spans, strict=bool(declared))):
            which = "its result" if len(values) == 1 else f"result {i + 1}"
            check_result(self, results, type_, value, span, which)
        return values[0] if len(values) == 1 else values

    def _list_result(self, definition: s.Definition, results: Scope, returned: Returned) -> Value:
        """The tensors of `-> *[n, c, _, _]`, as a list; each is compared with the declared type."""
        (declared,) = definition.results
        items: list[tuple[Value, Span]] = []
        for value, span in zip(returned.values, returned.spans, strict=True):
            listed = value.listed() if isinstance(value, Family) else value
            items += [(item, span) for item in listed] if isinstance(listed, tuple) else [(listed, span)]
        for i, (value, span) in enumerate(items):
            check_result(self, results, declared, value, span, f"result {i + 1}")
        return tuple(value for value, _ in items)

    # ---- statements

    def execute(self, statements: tuple[s.Statement, ...], scope: Scope) -> Returned | None:
        """Runs the statements until one returns. What fails is reported, and the names it would bind are poisoned."""
        for statement in statements:
            self.session.step(statement.span)
            try:
                returned = self._execute(statement, scope)
            except (SpeccError, Poisoned) as problem:
                if isinstance(problem, SpeccError):
                    self.session.report(problem)
                self._poison(statement, scope)
                returned = Returned((Poison(),), (statement.span,)) if isinstance(statement, s.Return) else None
            if returned is not None:
                return returned
        return None

    def _poison(self, statement: s.Statement, scope: Scope) -> None:
        scope.failed = True
        for name in s.assigned_names((statement,)):
            scope.names[name] = Poison()

    def _execute(self, statement: s.Statement, scope: Scope) -> Returned | None:
        match statement:
            case s.Assign():
                self._assign(statement, scope)
            case s.Param():
                indices = self._indices(statement.target, scope)
                self._store(statement.target, indices, declare(self, scope, statement, indices), scope)
            case s.Require():
                self._require(statement, scope)
            case s.Ensure():
                self._ensure(statement, scope)
            case s.EnsureMerge():
                self._ensure_merge(statement, scope)
            case s.Return(values):
                found = tuple(self.evaluate(value, scope, "") for value in values)
                return Returned(found, tuple(value.span for value in values))
            case s.If(branches, otherwise):
                for condition, body in branches:
                    if self.condition(condition, scope):
                        return self.execute(body, scope)
                return self.execute(otherwise, scope)
            case s.For(pattern, source, body):
                for item in self.iterate(source, scope):
                    self.bind(pattern, item, scope)
                    returned = self.execute(body, scope)
                    if returned is not None:
                        return returned
        return None

    def _assign(self, statement: s.Assign, scope: Scope) -> None:
        if len(statement.targets) == 1:
            (target,) = statement.targets
            indices = self._indices(target, scope)
            slot = ".".join([*([] if target.name == ITSELF and indices else [target.name]), *map(str, indices)])
            self._store(target, indices, self.evaluate(statement.value, scope, slot), scope)
            return
        value = self.evaluate(statement.value, scope, NoSlot(statement))
        items = value.listed() if isinstance(value, Family) else value
        if not isinstance(items, tuple) or len(items) != len(statement.targets):
            has = f"{len(items)} values" if isinstance(items, tuple) else f"one value, {show(items)}"
            message = f"{len(statement.targets)} names for {has}"
            raise self.session.problem("S0404", message, Label(statement.span))
        for target, item in zip(statement.targets, items, strict=True):
            self._store(target, self._indices(target, scope), item, scope)

    def _indices(self, target: s.Target, scope: Scope) -> list[int | str]:
        indices: list[int | str] = []
        for expression in target.indices:
            index = self.evaluate(expression, scope)
            if (is_integer(index) and index >= 0) or (isinstance(index, str) and index.isidentifier()):
                indices.append(index)
                continue
            message = f"an index of a name is an integer of at least 0, or a word; this is {show(index)}"
            raise self.session.problem("S0404", message, Label(expression.span))
        return indices

    def _store(self, target: s.Target, indices: list[int | str], value: Value, scope: Scope) -> None:
        self.check_free(target.name, target.span, scope)
        if not indices:
            scope.names[target.name] = value
            return
        family = scope.names.setdefault(target.name, Family())
        for depth, index in enumerate(indices):
            if isinstance(family, Poison):
                raise Poisoned
            if not isinstance(family, Family):
                message = f"`{target.name}` is {kind(family)} already and cannot get elements"
                raise self.session.problem("S0402", message, Label(target.span))
            if depth == len(indices) - 1:
                family.members[index] = value
            else:
                family = family.members.setdefault(index, Family())

    def _require(self, statement: s.Require, scope: Scope) -> None:
        """What a block asks of its caller: the call takes part in the message."""
        self._learn(statement.condition, scope)
        if self.condition(statement.condition, scope):
            return
        message, notes = self._unmet(statement, "the requirement", scope)
        call = self.session.stack[-1].span
        labels = [Label(statement.condition.span), *([Label(call, "this call does not meet it")] if call else [])]
        raise self.session.problem("S0501", message, *labels, notes=notes)

    def _learn(self, condition: s.Expression, scope: Scope) -> None:
        """Starts again where the condition says by what an open dimension of the network is divided."""
        match condition:
            case s.Binary("and", left, right):
                self._learn(left, scope)
                self._learn(right, scope)
            case s.Binary("==", s.Binary("%", dividend, divisor), rest):
                dim, modulus, remainder = (self.evaluate(part, scope) for part in (dividend, divisor, rest))
                if isinstance(dim, Symbolic) and is_integer(modulus) and is_integer(remainder):
                    news = learned(dim, modulus, remainder, self.session.known)
                    if news is not None:
                        raise Learned(*news)

    def _ensure(self, statement: s.Ensure, scope: Scope) -> None:
        """What a block claims of itself."""
        if self.condition(statement.condition, scope):
            return
        message, notes = self._unmet(statement, "the claim", scope)
        raise self.session.problem("S0509", message, Label(statement.condition.span), notes=notes)

    def _unmet(self, statement: s.Require | s.Ensure, what: str, scope: Scope) -> tuple[str, list[str]]:
        """The message of a condition that is false, and the values of its two sides."""
        notes = []
        condition = statement.condition
        if isinstance(condition, s.Binary) and condition.operator not in ("and", "or"):
            sides = [show(self.evaluate(side, scope)) for side in (condition.left, condition.right)]
            notes.append(f"here it is {sides[0]} {condition.operator} {sides[1]}")
        if statement.message is None:
            return f"{what} `{print_expression(condition)}` does not hold", notes
        return self.text(statement.message, scope), notes

    def _ensure_merge(self, statement: s.EnsureMerge, scope: Scope) -> None:
        if operators.find(statement.into) is None:
            notes = did_you_mean(statement.into, operators.names())
            message = f"`{statement.into}` is no operator"
            raise self.session.problem("S0201", message, Label(statement.span), notes=notes)
        value = self.evaluate(statement.subject, scope)
        if not isinstance(value, Tensor):
            message = f"`ensure` speaks of a tensor; this is {described(value)}"
            raise self.session.problem("S0402", message, Label(statement.subject.span))
        path = self.session.graph.node(value.value.node).path
        claim = MergeClaim(value.value, path, (statement.into,), statement.span, tuple(self.session.stack))
        self.session.graph.claims.append(claim)


def _made_at(value: Value, span: Span) -> Value:
    """What a block returns, as made by the call of the block: that is what its caller can see."""
    if isinstance(value, Tensor):
        return replace(value, span=span)
    return tuple(_made_at(item, span) for item in value) if isinstance(value, tuple) else value


def compile_time_names(definition: s.Definition) -> frozenset[str]:
    """The parameters that are not tensors."""
    return frozenset(p.name for p in definition.parameters if p.tensor is None)


def _signature(definition: s.Definition) -> str:
    return f"{definition.name}({', '.join(map(_declared, definition.parameters))})"


def _declared(parameter: s.Parameter) -> str:
    default = "" if parameter.default is None else f" = {print_expression(parameter.default)}"
    return f"{'*' * parameter.variadic}{parameter.name}: {print_type(parameter.type)}{default}"
