"""Expressions --> values: compile-time arithmetic is done here and now, arithmetic on tensors becomes nodes.

The *slot* is the name that an expression's outermost call gets: `conv1 = ConvBN(x, c)` evaluates its right side in slot
"conv1", so the weights lie at `conv1.c.weight`. The slot passes through what stands between `=` and the call:

    stem = a(x) |> b |> c        stem.0, stem.1 for b and c, as nn.Sequential numbers them
    heads = [A(x), B(x)]         heads.0, heads.1
    y = x + Mlp(x)               y for Mlp: it is the only call outside other calls
    return ConvBN(x, c)          slot "", the block's own scope

Operands of a call have no slot (`NoSlot`): a nested call may not bring weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial

from specc.diagnostics import Label, Span, SpeccError
from specc.grammar import builtins, composites, indexing, operators, scans
from specc.grammar import syntax as s
from specc.grammar.arithmetic import binary, bounded, known_int, truth, unary
from specc.grammar.printer import print_expression
from specc.grammar.scope import NoSlot, Scope, Site, join
from specc.grammar.session import Session
from specc.grammar.suggest import suggest_call, suggest_value
from specc.grammar.values import (
    Argument,
    Block,
    Builtin,
    Family,
    Partial,
    Poison,
    Poisoned,
    Tensor,
    Unfit,
    Value,
    described,
    kind,
    number,
    show,
    tensors_in,
)
from specc.ops.record import Operator

CALLABLE = (Block, Operator, Builtin, Partial)

UNNAMED = NoSlot()


class Evaluator(ABC):
    """Evaluates expressions in a scope; calling a block is left to `elaborate.Elaborator`."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @abstractmethod
    def call_block(self, block: Block, positional: list[Argument], keywords: dict[str, Argument], site: Site) -> Value:
        """The value of a call of a block."""

    def evaluate(self, expression: s.Expression, scope: Scope, slot: str | NoSlot = UNNAMED) -> Value:
        """The value of `expression`; raises `SpeccError`, or `Poisoned` where the cause is reported already."""
        self.session.step(expression.span)
        try:
            value = self._evaluate(expression, scope, slot)
        except Unfit as unfit:
            raise self.session.located(unfit, expression.span) from None
        if isinstance(value, Poison):
            raise Poisoned
        return value

    def _evaluate(self, expression: s.Expression, scope: Scope, slot: str | NoSlot) -> Value:
        match expression:
            case s.Name():
                return self.lookup(expression, scope)
            case s.Number(text):
                return number(text)
            case s.String(value):
                return value
            case s.Constant(constant):
                return constant
            case s.ListOf(items) | s.TupleOf(items):
                return tuple(self.evaluate(item, scope, _member(slot, i)) for i, item in enumerate(items))
            case s.Comprehension():
                return self._comprehension(expression, scope, slot)
            case s.Unary(symbol, operand):
                return self._unary(symbol, operand, expression.span, scope, slot)
            case s.Binary("and" | "or" as symbol, left, right):
                first = truth(self.evaluate(left, scope))
                return first if first == (symbol == "or") else truth(self.evaluate(right, scope))
            case s.Binary():
                return self._binary(expression, scope, slot)
            case s.Conditional(value, condition, otherwise):
                chosen = value if self.condition(condition, scope) else otherwise
                return self.evaluate(chosen, scope, slot)
            case s.Call():
                return self._call(expression, scope, slot)
            case s.Slice():
                return self._slice(expression, scope, slot)
            case s.Index(value, index):
                values, position = self.evaluate(value, scope, slot), self.evaluate(index, scope)
                return indexing.element(self.session, values, position, index.span)
            case s.Pipe():
                return self._pipe(expression, scope, slot)

    # ---- names

    def lookup(self, name: s.Name, scope: Scope) -> Value:
        """The value of a name: a local one, a dimension, a block, a function, an operator, in this order."""
        if name.name in scope.names:
            return scope.names[name.name]
        if name.name in scope.dims:
            return scope.dims[name.name]
        found = self._callable(name.name, scope)
        if found is None:
            raise self._unknown(name, scope, "a name", [*scope.names, *scope.dims, *scope.module.names])
        return found

    def _callable(self, name: str, scope: Scope) -> Value:
        local = scope.names.get(name)
        if isinstance(local, (*CALLABLE, Poison)):
            return local
        if name in scope.module.names:
            return scope.module.names[name]
        if name in builtins.FUNCTIONS or name in composites.FORMS:
            return Builtin(name)
        return operators.find(name)

    def _unknown(self, name: s.Name, scope: Scope, what: str, candidates: list[str]) -> SpeccError:
        if any(name.name == used.name for use in scope.module.tree.uses for used in use.names):
            raise Poisoned  # the `use` failed, and said so
        for parameter in scope.definition.parameters:
            dimensions = parameter.tensor.dimensions if parameter.tensor is not None else ()
            if any(dimension.size == s.Name(name.name) for dimension in dimensions):
                message = f"`{name.name}` is a dimension of `{parameter.name}`, which is absent in this call"
                labels = [Label(name.span), Label(parameter.span, "declared here")]
                note = f"what needs it stands behind `if {parameter.name} != none:`"
                return self.session.problem("S0201", message, *labels, notes=[note])
        if what != "a name":
            notes = suggest_call(name.name, candidates)
        else:
            notes = suggest_value(name.name, candidates, [*builtins.FUNCTIONS, *operators.names()])
        return self.session.problem("S0201", f"`{name.name}` is not {what} here", Label(name.span), notes=notes)

    # ---- compile-time forms

    def condition(self, expression: s.Expression, scope: Scope) -> bool:
        """The value of a condition."""
        value = self.evaluate(expression, scope)
        return self.session.attempt(lambda: truth(value), expression.span)

    def text(self, template: s.Template, scope: Scope) -> str:
        """The text with the values of its expressions in it."""
        parts = [part if isinstance(part, str) else self.evaluate(part, scope) for part in template.parts]
        return "".join(part if isinstance(part, str) else show(part) for part in parts)

    def iterate(self, source: s.Expression, scope: Scope, what: str = "`for`") -> tuple[Value, ...]:
        """The elements that `for` goes over, or that `*` spreads."""
        values = self.evaluate(source, scope)
        if isinstance(values, Family):
            return values.listed()
        if not isinstance(values, tuple):
            note = f"`range({show(values)})` counts that far" if isinstance(values, int) else f"{what} goes over a list"
            message = f"{what} needs a list; this is {described(values)}"
            raise self.session.problem("S0402", message, Label(source.span), notes=[note])
        return values

    def bind(self, pattern: s.Pattern, value: Value, scope: Scope) -> None:
        """Gives the names of a pattern their values."""
        if isinstance(pattern, s.NamePattern):
            self.check_free(pattern.name, pattern.span, scope)
            scope.names[pattern.name] = value
            return
        items = value.listed() if isinstance(value, Family) else value
        if not isinstance(items, tuple) or len(items) != len(pattern.items):
            has = f"{len(items)} elements" if isinstance(items, tuple) else f"the value {show(items)}"
            raise self.session.problem("S0404", f"{len(pattern.items)} names for {has}", Label(pattern.span))
        for inner, item in zip(pattern.items, items, strict=True):
            self.bind(inner, item, scope)

    def check_free(self, name: str, span: Span, scope: Scope) -> None:
        """Raises where `name` is a dimension of the block: the declared types speak of it."""
        if name in scope.dims and name not in scope.names:
            labels = [Label(span), Label(scope.dim_spans[name], "the dimension")]
            message = f"`{name}` is a dimension of `{scope.definition.name}` and cannot be given another meaning"
            raise self.session.problem("S0204", message, *labels, notes=["rename the dimension or this name"])

    def _comprehension(self, expression: s.Comprehension, scope: Scope, slot: str | NoSlot) -> Value:
        saved = dict(scope.names)
        result: list[Value] = []

        def go_round(clauses: tuple[s.Clause, ...]) -> None:
            if not clauses:
                result.append(self.evaluate(expression.element, scope, _member(slot, len(result))))
                return
            (clause, *inner) = clauses
            for item in self.iterate(clause.source, scope):
                self.bind(clause.pattern, item, scope)
                if clause.condition is None or self.condition(clause.condition, scope):
                    go_round(tuple(inner))

        go_round(expression.clauses)
        scope.names.clear()
        scope.names.update(saved)
        return bounded(tuple(result))

    def _slice(self, expression: s.Slice, scope: Scope, slot: str | NoSlot) -> Value:
        values = indexing.listed(self.session, self.evaluate(expression.value, scope, slot), expression.value.span)
        bounds: list[int | None] = []
        for bound in (expression.start, expression.stop):
            value = None if bound is None else self.evaluate(bound, scope)
            span = expression.span if bound is None else bound.span
            known = None if value is None else self.session.attempt(partial(known_int, value, "a bound"), span)
            bounds.append(known)
        return values[slice(*bounds)]

    # ---- tensors

    def _unary(self, symbol: str, operand: s.Expression, span: Span, scope: Scope, slot: str | NoSlot) -> Value:
        value = self.evaluate(operand, scope, slot)
        if symbol == "-" and isinstance(value, Tensor):
            place = scope.place if _calls(operand) else scope.place.inside(slot, span)
            return operators.apply(self.session, "neg", [Argument(value, operand.span)], {}, Site(scope, place, span))
        return unary(symbol, value)

    def _binary(self, expression: s.Binary, scope: Scope, slot: str | NoSlot) -> Value:
        sides = [expression.left, expression.right]
        calling = [_calls(side) for side in sides]
        slots = [slot if calls and sum(calling) == 1 else UNNAMED for calls in calling]
        left, right = (self.evaluate(side, scope, s_) for side, s_ in zip(sides, slots, strict=True))
        if expression.operator in ("==", "!=") and (left is None or right is None):
            return (left is right) == (expression.operator == "==")  # whether an optional tensor is there
        if isinstance(left, Tensor) or isinstance(right, Tensor):
            arguments = [Argument(left, sides[0].span), Argument(right, sides[1].span)]
            place = scope.place if sum(calling) == 1 else scope.place.inside(slot, expression.span)
            site = Site(scope, place, expression.span)
            return operators.arithmetic(self.session, expression.operator, arguments, site)
        return binary(expression.operator, left, right)

    def _pipe(self, pipe: s.Pipe, scope: Scope, slot: str | NoSlot) -> Value:
        value, span = self.evaluate(pipe.source, scope, NoSlot(pipe)), pipe.source.span
        for i, stage in enumerate(pipe.stages):
            call = stage if isinstance(stage, s.Call) else s.Call(stage, (), span=stage.span)
            value = self._call(call, scope, _member(slot, i), first=Argument(value, span))
            if isinstance(value, Poison):
                raise Poisoned
            span = stage.span
        return value

    def _call(self, call: s.Call, scope: Scope, slot: str | NoSlot, first: Argument | None = None) -> Value:
        function = self._function(call.callee, scope)
        positional = list(self._positional(call, scope))
        if first is not None:  # what a pipe brings takes the first place that is open, or stands in front
            at = positional.index(None) if None in positional else 0
            positional[at : at + (None in positional)] = [first]
        keywords: dict[str, Argument] = {}
        for keyword in call.keywords:
            if keyword.name in keywords:
                raise self.session.problem("S0403", f"`{keyword.name}` is given twice", Label(keyword.span))
            keywords[keyword.name] = Argument(self.evaluate(keyword.value, scope), keyword.span)
        if None in positional:
            return Partial(function, tuple(positional), keywords, print_expression(call))
        given = [argument for argument in positional if argument is not None]
        return self.apply(function, given, keywords, Site(scope, scope.place.inside(slot, call.span), call.span))

    def _positional(self, call: s.Call, scope: Scope) -> Iterator[Argument | None]:
        """The arguments without a name; None for `_`, which leaves one open."""
        for argument in call.arguments:
            if argument == s.Name("_"):
                yield None
            elif isinstance(argument, s.Spread):
                for item in self.iterate(argument.value, scope, "`*`"):
                    yield Argument(item, argument.span)
            else:
                yield Argument(self.evaluate(argument, scope), argument.span)

    def _function(self, callee: s.Expression, scope: Scope) -> Value:
        """What is called; raises where that is nothing that can be."""
        if not isinstance(callee, s.Name):
            value = self.evaluate(callee, scope)
            if not isinstance(value, CALLABLE):
                message = f"this is {described(value)}, and cannot be called"
                raise self.session.problem("S0402", message, Label(callee.span))
            return value
        function = self._callable(callee.name, scope)
        if isinstance(function, Poison):
            raise Poisoned
        if function is not None:
            return function
        if callee.name in scope.names or callee.name in scope.dims:
            what = kind(scope.names.get(callee.name, scope.dims.get(callee.name)))
            raise self.session.problem("S0402", f"`{callee.name}` is {what} and cannot be called", Label(callee.span))
        candidates = [*scope.module.names, *builtins.FUNCTIONS, *composites.FORMS, *operators.names()]
        raise self._unknown(callee, scope, "a block or an operator", candidates)

    def apply(self, function: Value, positional: list[Argument], keywords: dict[str, Argument], site: Site) -> Value:
        """The value of a call of anything that can be called."""
        match function:
            case Block() | Operator():
                return self.call_value(function, positional, keywords, site)
            case Builtin(form) if form in composites.FORMS:
                return composites.call(self.session, form, positional, keywords, site)
            case Builtin(builtin):
                return self._builtin(builtin, positional, keywords, site)
            case Partial():
                return self._complete(function, positional, keywords, site)
        raise AssertionError("only what can be called is applied")

    def _complete(self, call: Partial, positional: list[Argument], keywords: dict[str, Argument], site: Site) -> Value:
        """A call that had left arguments open: they are taken in order, and what is more stands behind."""
        open_, waiting = call.positional.count(None), iter(positional)
        if len(positional) < open_:
            message = f"`{call.text}` waits for {open_} argument{'s' * (open_ > 1)}, and here are {len(positional)}"
            raise self.session.problem("S0403", message, Label(site.span))
        twice = next((name for name in keywords if name in call.keywords), None)
        if twice is not None:
            labels = [Label(keywords[twice].span), Label(call.keywords[twice].span)]
            raise self.session.problem("S0403", f"`{twice}` is given twice", *labels)
        filled = [next(waiting) if argument is None else argument for argument in call.positional]
        return self.apply(call.callee, [*filled, *waiting], {**call.keywords, **keywords}, site)

    def call_value(
        self, function: Block | Operator, positional: list[Argument], keywords: dict[str, Argument], site: Site
    ) -> Value:
        """The value of a call of a block or an operator."""
        if isinstance(function, Block):
            return self.call_block(function, positional, keywords, site)
        if "body" in function.traits:
            return scans.call(self, positional, keywords, site)
        return operators.apply(self.session, function.name, positional, keywords, site)

    def _builtin(self, name: str, positional: list[Argument], keywords: dict[str, Argument], site: Site) -> Value:
        """`sum`, `max` and the like are also operators: a tensor among the arguments decides."""
        values = [argument.value for argument in positional]
        if any(isinstance(value, Tensor) for value in values):
            operator = {"max": "maximum", "min": "minimum"}.get(name, name)
            if operators.find(operator) is not None and name != "enumerate":
                return operators.apply(self.session, operator, positional, keywords, site)
        elif name == "sum" and positional and any(tensors_in(values[0])):
            items = values[0].listed() if isinstance(values[0], Family) else values[0]
            assert isinstance(items, tuple)
            total = Argument(items[0], positional[0].span)
            for item in items[1:]:
                pair = [total, Argument(item, positional[0].span)]
                total = Argument(operators.arithmetic(self.session, "+", pair, site), positional[0].span)
            return total.value
        given = {key: argument.value for key, argument in keywords.items()}
        return self.session.attempt(lambda: builtins.call(name, tuple(values), given), site.span)


def _member(slot: str | NoSlot, index: int) -> str | NoSlot:
    return slot if isinstance(slot, NoSlot) else join(slot, str(index))


def _calls(expression: s.Expression) -> bool:
    """Whether a call of a block or an operator stands in the expression."""
    match expression:
        case s.Call(callee):
            if not isinstance(callee, s.Name):
                return True
            return callee.name not in builtins.FUNCTIONS or callee.name in ("sum", "max", "min", "abs")
        case s.Pipe() | s.Comprehension():
            return True
        case s.Unary(_, operand):
            return _calls(operand)
        case s.Binary(_, left, right):
            return _calls(left) or _calls(right)
        case s.Conditional(value, _, otherwise):
            return _calls(value) or _calls(otherwise)
        case s.ListOf(items) | s.TupleOf(items):
            return any(map(_calls, items))
        case s.Index(value) | s.Slice(value):
            return _calls(value)
    return False
