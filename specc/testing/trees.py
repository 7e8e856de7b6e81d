"""Seeds -> a syntax tree of a whole file: every construct of the grammar, as text may say it.

What is grown parses; it is not meant to be a network. Each construct costs one unit of the item's budget, and without
any left only names, numbers and texts are grown, so that every tree is finite and a small budget gives a small one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from specc.grammar import syntax as s

T = TypeVar("T")

DEEPEST = 6
"""Expressions inside each other; the parser's own bound counts brackets and terms as well."""

_RESERVED = {"if", "elif", "else", "for", "in", "and", "or", "not", "true", "false", "none", "return"}
_BEGINNING = {"require", "ensure", "param", "buffer"}
"""Words that begin a statement, so that no line begins with them as a name."""

_NAMES = ("a", "x", "n2", "_", "_y", "conv1", "dims", "Mixer", "true_", "inner", "forks", "k", "e1", "M")
_WORDS = ("block", "network", "use", "check", "rename", "variants", "with", "as", "merges", "into", "specc", "init")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789"
_TEXT = ('"', "\\", "{", "}", "#", "'", "\n", "\t", " ", "a", "b", "Z", "0", ":", "(", "]", "é", "β", "→", "\U0001f600")
_NUMBERS = ("0", "1", "64", "8.8M", "1.36G", "3k", "12T", "1e-5", "2.5e3", "0.5", "1.0", "1_000", "007")
_ARITHMETIC, _COMPARISONS = ("+", "-", "*", "/", "//", "%", "**"), ("==", "!=", "<", "<=", ">", ">=")
_BINARY = (*_ARITHMETIC, *_COMPARISONS, "in", "not in", "and", "or")


def grow_file(items: Sequence[tuple[int, int]], head: int = 0) -> s.File:
    """The file whose items grow from (seed, budget) each; `head` grows its docstring and `use` lines."""
    grower = _Grower(random.Random(head), 1)
    docstring, uses = (grower.docstring(), grower.several(grower.use, 0, 2)) if head else (None, ())
    return s.File(1, docstring, uses, tuple(_Grower(random.Random(seed), budget).item() for seed, budget in items))


def grow_expression(seed: int, budget: int) -> s.Expression:
    """The expression that grows from a seed."""
    return _Grower(random.Random(seed), budget).expression()


class _Grower:
    def __init__(self, rng: random.Random, budget: int) -> None:
        self.rng = rng
        self.budget = budget
        self.depth = 0
        self.quoted = False
        """Whether this grows inside quotes, where an expression has no text of its own."""

    def several(self, grow: Callable[[], T], least: int = 0, most: int = 3) -> tuple[T, ...]:
        return tuple(grow() for _ in range(self.rng.randint(least, most if self.budget > 0 else least)))

    def perhaps(self, grow: Callable[[], T]) -> T | None:
        return grow() if self.budget > 0 and self.rng.random() < 0.5 else None

    def flip(self) -> bool:
        return self.rng.random() < 0.5

    # ---- words

    def name(self) -> str:
        kind = self.rng.random()
        if kind < 0.6:
            return self.rng.choice(_NAMES)
        if kind < 0.8:
            return self.rng.choice((*_WORDS, *sorted(_BEGINNING)))
        found = self.rng.choice(_LETTERS[:53]) + "".join(self.rng.choices(_LETTERS, k=self.rng.randint(0, 6)))
        return f"{found}_" if found in _RESERVED else found

    def line_name(self) -> str:
        found = self.name()
        return f"{found}_" if found in _BEGINNING else found

    def text(self) -> str:
        return "".join(self.rng.choices(_TEXT, k=self.rng.randint(0, 8)))

    def docstring(self) -> str | None:
        if self.flip():
            return None
        return "\n".join(line.strip() for line in self.text().strip().split("\n"))

    # ---- expressions

    def expression(self) -> s.Expression:
        self.budget -= 1
        if self.budget <= 0 or self.depth >= DEEPEST or self.rng.random() < 0.3:
            return self.atom()
        self.depth += 1
        grow = self.rng.choice(
            [self.listing, self.binary, self.unary, self.choice, self.call, self.reading, self.pipe, self.comprehension]
        )
        grown = grow()
        self.depth -= 1
        return grown

    def atom(self) -> s.Expression:
        match self.rng.randint(0, 7):
            case 0 | 1 | 2 | 3:
                return s.Name(self.name())
            case 4 | 5:
                return self.number()
            case 6 if not self.quoted:
                return s.String(self.text())
        return s.Constant(self.rng.choice((True, False, None)))

    def number(self) -> s.Number:
        return s.Number(self.rng.choice(_NUMBERS) if self.flip() else str(self.rng.randint(0, 10**6)))

    def listing(self) -> s.Expression:
        if self.flip():
            return s.TupleOf((self.expression(), *self.several(self.expression, 1)))
        return s.ListOf(self.several(self.expression))

    def binary(self) -> s.Expression:
        return s.Binary(self.rng.choice(_BINARY), self.expression(), self.expression())

    def unary(self) -> s.Expression:
        return s.Unary(self.rng.choice(("-", "not")), self.expression())

    def choice(self) -> s.Expression:
        return s.Conditional(self.expression(), self.expression(), self.expression())

    def call(self) -> s.Call:
        callee = s.Name(self.name()) if self.rng.random() < 0.7 else self.expression()
        return s.Call(callee, self.several(self.argument), self.several(self.keyword, 0, 2))

    def argument(self) -> s.Expression | s.Spread:
        return s.Spread(self.expression()) if self.rng.random() < 0.2 else self.expression()

    def keyword(self) -> s.Keyword:
        return s.Keyword(self.name(), self.expression())

    def reading(self) -> s.Index | s.Slice:
        if self.flip():
            return s.Index(self.expression(), self.expression())
        return s.Slice(self.expression(), *(self.perhaps(self.expression) for _ in range(2)))

    def pipe(self) -> s.Expression:
        return s.Pipe(self.expression(), self.several(self.stage, 1))

    def stage(self) -> s.Name | s.Index | s.Call:
        match self.rng.randint(0, 3):
            case 0:
                return s.Name(self.name())
            case 1:
                return s.Index(self.expression(), self.expression())
        return self.call()

    def comprehension(self) -> s.Expression:
        return s.Comprehension(self.expression(), self.several(self.clause, 1, 2))

    def clause(self) -> s.Clause:
        return s.Clause(self.loop_target(), self.expression(), self.perhaps(self.expression))

    def loop_target(self, depth: int = 2) -> s.Pattern:
        if depth == 0 or self.rng.random() < 0.6:
            return s.NamePattern(self.name())
        return s.TuplePattern(tuple(self.loop_target(depth - 1) for _ in range(self.rng.randint(2, 3))))

    # ---- types

    def type(self, depth: int = 2) -> s.Type:
        self.budget -= 1
        match self.rng.randint(0, 7 if depth else 2):
            case 0:
                return s.PlainType(self.rng.choice(("int", "float", "bool", "str", "block", self.name())))
            case 1 | 2:
                return self.tensor()
            case 3:
                return s.ListType(self.type(depth - 1))
            case 4:
                return s.TupleType(tuple(self.type(depth - 1) for _ in range(self.rng.randint(1, 3))))
            case 5 | 6:
                return s.OptionalType(self.type(depth - 1))
        if self.rng.random() < 0.2:
            return s.ChoiceType((self.text(),))
        return s.ChoiceType(tuple(self.option(depth) for _ in range(self.rng.randint(2, 3))))

    def option(self, depth: int) -> str | s.Type:
        if self.flip():
            return self.text()
        found = self.type(depth - 1)
        return s.PlainType("int") if isinstance(found, (s.OptionalType, s.ChoiceType)) else found

    def tensor(self) -> s.Tensor:
        element = None if self.rng.random() < 0.7 else s.Element(self.rng.choice(("bool", "int64", "int32", "float64")))
        return s.Tensor(self.several(self.dimension, 0, 5), element)

    def dimension(self) -> s.Dimension:
        if self.rng.random() < 0.2:
            return s.Dimension(s.Name(self.name()), self.expression())
        return s.Dimension(self.expression() if self.rng.random() < 0.4 else s.Name(self.name()))

    # ---- statements

    def body(self, depth: int) -> tuple[s.Statement, ...]:
        return self.several(lambda: self.statement(depth), 1, 4)

    def statement(self, depth: int = 3) -> s.Statement:
        self.budget -= 1
        match self.rng.randint(0, 10 if depth and self.budget > 0 else 8):
            case 4:
                key = self.perhaps(self.template)
                kind, init = self.rng.choice(("param", "buffer")), self.perhaps(self.initializer)
                return s.Param(kind, self.target(), self.tensor(), init, key)
            case 5:
                return s.Require(self.expression(), self.perhaps(self.template))
            case 6:
                return s.Ensure(self.expression(), self.perhaps(self.template))
            case 7:
                subject: s.Expression = s.Name(self.name())
                for index in self.several(self.expression, 0, 2):
                    subject = s.Index(subject, index)
                return s.EnsureMerge(subject, self.name())
            case 8:
                return s.Return(self.several(self.expression, 1, 2))
            case 9:
                branches = self.several(lambda: (self.expression(), self.body(depth - 1)), 1, 3)
                return s.If(branches, self.body(depth - 1) if self.flip() else ())
            case 10:
                return s.For(self.loop_target(), self.expression(), self.body(depth - 1))
        return s.Assign(self.several(self.target, 1, 2), self.expression())

    def target(self) -> s.Target:
        return s.Target(self.line_name(), self.several(self.expression, 0, 2) if self.rng.random() < 0.4 else ())

    def initializer(self) -> s.Initializer:
        return s.Initializer(self.name(), self.perhaps(self.expression))

    def template(self) -> s.Template:
        parts: list[str | s.Expression] = []
        self.quoted = True
        for _ in range(self.rng.randint(0, 4)):
            text = self.text() if self.flip() else ""
            if not text:
                parts.append(self.expression())
            elif not parts or not isinstance(parts[-1], str):  # neighbouring texts are one
                parts.append(text)
        self.quoted = False
        return s.Template(tuple(parts))

    # ---- the file

    def item(self) -> s.Item:
        match self.rng.randint(0, 8):
            case 0:
                return s.Variants(s.Name(self.name()), self.several(self.variant, 1))
            case 1:
                return s.Rename(s.Name(self.name()), self.several(lambda: s.Renaming(self.text(), self.text()), 1))
            case 2:
                network, bindings = self.name() if self.flip() else "", self.several(self.keyword, 0, 2)
                return s.Check(network, s.Name(self.name()), bindings, self.several(self.expectation, 1))
        return self.definition()

    def definition(self) -> s.Definition:
        kind, name = self.rng.choice(("block", "network")), self.name()
        variadic = self.rng.random() < 0.2
        parameters = self.several(self.parameter, 0, 4)
        results = (self.tensor(),) if variadic else self.several(self.tensor, 0, 2)
        return s.Definition(kind, name, parameters, results, self.docstring(), self.body(3), variadic)

    def parameter(self) -> s.Parameter:
        if self.rng.random() < 0.2:
            return s.Parameter(self.name(), self.type(), variadic=True)
        return s.Parameter(self.name(), self.type(), self.perhaps(self.expression))

    def variant(self) -> s.Variant:
        return s.Variant(self.name(), self.several(self.keyword))

    def expectation(self) -> s.Expectation:
        return s.Expectation(s.Name(self.name()), self.rng.choice(_COMPARISONS), self.expression())

    def use(self) -> s.Use:
        module = tuple(self.name() for _ in range(self.rng.randint(1, 3)))
        return s.Use(module, tuple(s.Name(self.name()) for _ in range(self.rng.randint(1, 3))))
