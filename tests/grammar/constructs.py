"""What a text uses of the language, and all that there is to use: read off the grammar and the classes of the tree.

call ","                 a terminal of a rule (or of one of its named alternatives) of specc.lark
Call.keywords            a part of a class of syntax.py that may be missing, and is there
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Tree
from lark.grammar import Rule, Terminal

from specc.grammar import syntax as s
from specc.grammar.layout import Layout
from specc.grammar.parse import parse

GRAMMAR = Path(__file__).parents[2] / "grammar" / "specc.lark"


@cache
def _lark() -> Lark:
    return Lark(GRAMMAR.read_text(), parser="lalr", postlex=Layout(), keep_all_tokens=True)


@cache
def everything() -> frozenset[str]:
    """All that a text can use."""
    rules: dict[str, list[Rule]] = {}
    for rule in _lark().rules:
        rules.setdefault(rule.origin.name, []).append(rule)
    found = set()
    for rule in _lark().rules:
        if rule.origin.name.startswith("_") or (rule.options.expand1 and not rule.alias and len(rule.expansion) == 1):
            continue  # a part of another rule, or no more than a way through to a tighter one
        found |= {f'{rule.alias or rule.origin.name} "{name}"' for name in _terminals(rule, rules)}
    for class_ in _classes():
        found |= {f"{class_.__name__}.{name}" for name in _optional(class_)}
    return frozenset(found) - {'start "_NL"'}  # the blank lines at the top of a file


def used(text: str) -> set[str]:
    """What `text` uses of it."""
    found = {
        f'{tree.data} "{child.type}"' for tree in _lark().parse(text + "\n").iter_subtrees() for child in _own(tree)
    }
    for node in nodes(parse(text)):
        parts = _optional(type(node))
        found |= {f"{type(node).__name__}.{name}" for name in parts if getattr(node, name) not in (None, (), "", False)}
    return found


def nodes(tree: Any) -> Iterator[s.Node]:
    """All nodes of a syntax tree."""
    if isinstance(tree, s.Node):
        yield tree
        tree = tuple(vars(tree).values())
    if isinstance(tree, tuple):
        for part in tree:
            yield from nodes(part)


def _own(tree: Tree[Token]) -> Iterator[Token]:
    return (child for child in tree.children if isinstance(child, Token))


def _terminals(rule: Rule, rules: dict[str, list[Rule]], above: tuple[str, ...] = ()) -> set[str]:
    found = set()
    for symbol in rule.expansion:
        if isinstance(symbol, Terminal):
            found.add(symbol.name)
        elif symbol.name.startswith("_") and symbol.name not in above:
            for inner in rules[symbol.name]:
                found |= _terminals(inner, rules, (*above, symbol.name))
    return found


def _classes() -> list[type[s.Node]]:
    return [c for c in vars(s).values() if isinstance(c, type) and is_dataclass(c) and issubclass(c, s.Node)]


def _optional(class_: type[s.Node]) -> list[str]:
    """The fields that may be None, empty or false."""
    hints = typing.get_type_hints(class_, vars(s))
    return [
        field.name
        for field in fields(class_)
        if "span" not in field.name
        and (field.default in ((), False) or type(None) in typing.get_args(hints[field.name]))
    ]
