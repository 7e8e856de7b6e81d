"""Text --> syntax tree: lark parses by `specc.lark` (LALR, positions kept), and `build.py` makes the tree of its tree.

Here stand what a text may not exceed, and what is told of one that does not parse.
"""

from __future__ import annotations

import sys
from functools import cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import lark
from lark import Lark, Token, Tree, UnexpectedInput
from lark.exceptions import VisitError

from specc.cache import kept
from specc.diagnostics import Diagnostic, Label, Span, SpeccError, error
from specc.grammar import syntax as s
from specc.grammar.build import Build
from specc.grammar.layout import Layout
from specc.grammar.recovery import items
from specc.grammar.syntax_errors import explain

LONGEST = 1_000_000
"""The greatest number of characters in a file."""

DEEPEST = 120
"""Constructs inside each other: brackets, signs, the terms of a sum. Elaboration needs five Python frames for each."""

MOST_ITEMS, MOST_MISTAKES = 500, 20
"""How many items of a wrong file are looked at, and how many mistakes are told."""


def parse(text: str, file: str = "<text>") -> s.File:
    """The syntax tree of a whole file; raises `SpeccError`."""
    if len(text) > LONGEST:
        line = text.count("\n", 0, LONGEST) + 1
        column = LONGEST - text.rfind("\n", 0, LONGEST)
        where = Label(Span(file, line, column, line, column + 1), "the limit is here")
        message = f"{file} has {len(text):,} characters; the limit is {LONGEST:,}"
        raise SpeccError(Diagnostic("S0106", message, (where,)), sources={file: text})
    tree = _tree(text + "\n", file, "start")
    assert isinstance(tree, s.File)
    if tree.version != 1:
        note = "this compiler reads version 1: `specc 1`"
        message = f"there is no version {tree.version} of the language"
        raise SpeccError(Diagnostic("S0104", message, (Label(tree.span),), (note,)), sources={file: text})
    return tree


def parse_expression(text: str, file: str = "<text>") -> s.Expression:
    """The syntax tree of one expression."""
    tree: s.Expression = _tree(text, file, "expression")
    return tree


@cache
def _parser() -> tuple[Lark, Layout]:
    """The parser; its tables are kept, as they take longer to make than a file takes to read."""
    grammar = Path(__file__).with_name("specc.lark").read_text(encoding="utf-8")
    origin = "\n".join((lark.__version__, sys.version, grammar))
    parser = Lark.load(BytesIO(kept("table", "specc", origin, lambda: _tables(grammar))))
    layout = parser.options.postlex
    assert isinstance(layout, Layout)
    return parser, layout


def _tables(grammar: str) -> bytes:
    starts = ["start", "expression"]
    options = {"postlex": Layout(), "propagate_positions": True, "maybe_placeholders": True}
    tables = BytesIO()
    Lark(grammar, parser="lalr", start=starts, **options).save(tables)
    return tables.getvalue()


def _tree(text: str, file: str, start: str) -> Any:
    """The syntax tree; raises `SpeccError` with the first mistake of each item of the file."""
    try:
        return _read(text, file, start)
    except SpeccError as first:
        if start != "start":
            raise
        parts = islice(items(text), MOST_ITEMS)
        every = dict.fromkeys(
            mistake for part in parts for mistake in _mistakes(part, file)
        )  # the first line is in all
        found = list(islice(every, MOST_MISTAKES))
        raise SpeccError(*(found or first.diagnostics), sources={file: text}) from None


def _mistakes(text: str, file: str) -> tuple[Diagnostic, ...]:
    try:
        _read(text, file, "start")
    except SpeccError as problem:
        return problem.diagnostics
    return ()


def _read(text: str, file: str, start: str) -> Any:
    parser, layout = _parser()
    layout.file, layout.inside = file, start == "expression"
    try:
        tree = parser.parse(text, start=start)
        _bound_depth(tree, file)
        return Build(file, parse_expression).transform(tree)
    except UnexpectedInput as problem:
        raise SpeccError(explain(problem, text, file, layout.inside), sources={file: text}) from None
    except VisitError as problem:
        if isinstance(problem.orig_exc, SpeccError):
            raise SpeccError(*problem.orig_exc.diagnostics, sources={file: text}) from None
        raise
    except SpeccError as problem:
        raise SpeccError(*problem.diagnostics, sources={file: text}) from None


def _bound_depth(tree: Tree[Token], file: str) -> None:
    """Raises S0106 at the first construct that lies too deep in others for those who walk through the tree."""
    pending: list[tuple[Tree[Token] | Token | None, int]] = [(tree, 1)]
    while pending:
        part, depth = pending.pop()
        if depth > DEEPEST:
            where = part.meta if isinstance(part, Tree) else part
            line, column = getattr(where, "line", None) or 1, getattr(where, "column", None) or 1
            span = Span(file, line, column, line, column + 1)
            notes = ["a long sum or a deep formula is divided by giving its parts names"]
            raise error("S0106", f"more than {DEEPEST} constructs lie inside each other here", Label(span), notes=notes)
        if isinstance(part, Tree):
            pending += [(child, depth + 1) for child in reversed(part.children)]
