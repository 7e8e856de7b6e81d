"""Texts of specs: as somebody might have laid them out, and as somebody might have broken them.

`laid_out` puts comments, blank lines and line ends wherever the language lets them stand. `mutate` does to a text what
a slip of the hand does, a merge that went wrong, or somebody who wants to see the compiler fall. `real_specs` are what
it does that to.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from specc import grammar
from specc.grammar import syntax as s
from specc.zoo import EXAMPLES

STANDARD = Path(grammar.__file__).with_name("std")

_PLACES = re.compile(r'"""(?:[^"\\]|\\[\s\S]|"(?!""))*"""|"(?:[^"\\\n]|\\.)*"|[(\[]|[)\]]|,|\n')
_REMARKS = ("", ' "', " (", " ]", ' """', " {x}", " # again", "\\", " →")


def laid_out(text: str, rng: random.Random) -> str:
    """The text, which is in canonical form, with comments and blank lines everywhere, and brackets opened at will.

    The comments are `# c0`, `# c1`, ... in their order, each perhaps with something behind it.
    """
    step = " " * rng.choice((4, 4, 2, 1, 7))
    text = re.sub(r"(?m)^(?:    )+", lambda match: step * (len(match[0]) // 4), text)
    pieces, at, depth, comments = list[str](), 0, 0, 0

    def inserted(*forms: str) -> str:
        nonlocal comments
        form = rng.choice(forms)
        while "#" in form:
            form = form.replace("#", f"\0 c{comments}{rng.choice(_REMARKS).replace('#', chr(0))}", 1)
            comments += 1
        return form.replace(".", " " * rng.randint(0, 9)).replace("\0", "#")

    for match in _PLACES.finditer(text):
        before, token = text[at : match.start()], match[0]
        at = match.end()
        depth += (token in "([") - (token in ")]")
        if rng.random() < 0.5 or token[0] == '"':
            pieces += [before, token]
        elif token == "\n":
            pieces += [before, inserted("\n", "\n.#\n", "\n\n.#\n\n", "  #\n", " #\n.#\n", ".\n")]
        elif token in ")]":
            pieces += [before, inserted("", "\n", " #\n", "\n.#\n"), token]
        else:
            pieces += [before, token, inserted("", ".", "\n", " #\n", "\n.#\n.\n") if depth else ""]
    return "".join([*pieces, text[at:]])


# ---- real specs


@cache
def real_specs() -> tuple[str, ...]:
    """The specs of the zoo and of the standard library, short ones first.

    Each variant of the zoo stands for itself, so that one elaboration is one network; once as it is, and once with the
    blocks of other files that it uses written into it, so that a mutation can meet them too.
    """
    found = [path.read_text(encoding="utf-8") for path in STANDARD.glob("*.specc")]
    for path in EXAMPLES.rglob("*.specc"):
        for each in _variants(grammar.parse(path.read_text(encoding="utf-8"))):
            alone = [each] if all(use.module[0] == "std" for use in each.uses) else []
            closed = [_closed(each, path.parent)] if each.uses else []
            found += [grammar.print_file(tree) for tree in (*alone, *closed) if tree is not None]
    return tuple(sorted(found, key=lambda text: (len(text), text)))


def _variants(tree: s.File) -> Iterator[s.File]:
    """The file with each of its variants alone, with its network and the checks that speak of it."""
    tables = [item for item in tree.items if isinstance(item, s.Variants)]
    if not tables:
        yield tree
    for table in tables:
        for variant in table.variants:
            kept = [
                replace(item, variants=(variant,)) if item is table else item
                for item in tree.items
                if (item is table or not isinstance(item, s.Variants))
                and not (isinstance(item, s.Check) and item.variant.name != variant.name)
                and not (isinstance(item, s.Definition) and item.kind == "network" and item.name != table.network.name)
            ]
            yield replace(tree, items=tuple(kept))


def _closed(tree: s.File, folder: Path) -> s.File | None:
    """The file with the blocks of what it uses in it; None where two of them have one name."""
    modules: dict[Path, s.File] = {}
    pending = [(folder, use.module) for use in tree.uses]
    while pending:
        beside, module = pending.pop()
        place = STANDARD.joinpath(*module[1:]) if module[0] == "std" else beside.joinpath(*module)
        path = place.with_suffix(".specc")
        if path not in modules:
            modules[path] = _library(path)
            pending += [(path.parent, use.module) for use in modules[path].uses]
    library = [d for module in modules.values() for d in module.definitions if d.kind == "block"]
    names = [definition.name for definition in (*library, *tree.definitions)]
    return None if len(set(names)) < len(names) else replace(tree, uses=(), items=(*library, *tree.items))


@cache
def _library(path: Path) -> s.File:
    return grammar.parse(path.read_text(encoding="utf-8"))


# ---- mutations

_UNITS = {
    "token": re.compile(
        r'"""[\s\S]*?"""|"(?:[^"\\\n]|\\.)*"|#[^\n]*|\n[ \t]*|[A-Za-z_]\w*|[\d.]+\w*|->|\|>|\*\*|//|[=!<>]=|\S'
    ),
    "line": re.compile(r"(?m)^.*\n?"),
    "character": re.compile(r"[\s\S]"),
    "name": re.compile(r"\b[A-Za-z_]\w*"),
    "number": re.compile(r"\b\d[\w.]*"),
    "operator": re.compile(r"(?<= )(?:[-+*/%<>]|//|\*\*|[=!<>]=|and|or|in|not in|\|>)(?= )"),
    "bracket": re.compile(r"[()\[\]]"),
    "indentation": re.compile(r"(?m)^ *(?=\S)"),
}
_TOKENS = """( ) [ ] : = , |> -> * ** - ? | . @ { # " x _ c n h self 0 -1 none true for in if not return block network
use check param sum scan shape str range(10**9) 2**2**2**9 1//0 list[int] len relu conv2d int"""
_NAMES = "x c _ n h sum len shape relu conv2d linear batch_norm reshape scan concat range self none int str rearrange"
_OPERATORS = "+ - * / // % ** == != < >= in and or |> = ,"
_NUMBERS = "0 1 -1 2 7 1000 4096 99999999999 1e400 1e-300 0.5 8.8M 12T 1e9999999999 0x10 10**9 n h"

_INSTEAD = {
    "token": (
        *(*_TOKENS.split(), '"""', "\n", "\n    ", "\n        ", "[0] * 10**9", "1e300 ** 9"),
        *("(" * 130, "- " * 130, "x" * 5000, "[0 for i in range(999) for j in range(999) for k in range(999)]"),
    ),
    "character": tuple("\t\r\0\x0b\x1b\x85\u00a0\u2028\ufeff'\"\\{}[]()#.,;:!$&?`~^|<>=+-*/%@éβ→\U0001f600٣0aZ_ \n"),
    "name": (*_NAMES.split(), "w" * 300),
    "operator": tuple(_OPERATORS.split()),
    "number": (*_NUMBERS.split(), "9" * 90, "9" * 200),
    "bracket": ("", "(", ")", "[", "]", "((", "])", "{"),
    "indentation": ("", " ", "  ", "   ", "    ", "     ", " " * 8, " " * 12, " " * 120, "\t", "  \t"),
}

MUTATIONS = (
    *(f"{verb} {unit}" for verb in ("drop", "double", "swap", "copy") for unit in ("token", "line", "character")),
    *(f"{verb} {unit}" for verb in ("swap", "copy") for unit in ("name", "name", "number", "operator")),
    *(f"change {unit}" for unit in (*_INSTEAD, "name", "number", "operator")),
    "splice line",
    "cut token",
)
"""What `mutate` can do."""


def mutate(text: str, kind: str, at: int, other: int, donor: str = "") -> str:
    """The text with one thing wrong in it; a text without such a thing stays.

    Args:
        text: what is mutated.
        kind: one of `MUTATIONS`, what is done to what.
        at: which one, counted from the front and round again.
        other: which of the things that may stand there instead.
        donor: another spec, of which `splice line` takes up to six lines.
    """
    verb, unit = kind.split()
    found = list(_UNITS[unit].finditer(text))
    if not found:
        return text
    place, following = found[at % len(found)], found[(at + 1) % len(found)]
    before, it, behind = text[: place.start()], place[0], text[place.end() :]
    space = " " * (unit == "token")
    match verb:
        case "drop":
            return before + behind
        case "double":
            return before + it + space + it + behind
        case "swap" if place.end() <= following.start():
            return before + following[0] + text[place.end() : following.start()] + it + text[following.end() :]
        case "copy":
            return before + found[other % len(found)][0] + behind
        case "splice":
            lines = donor.splitlines(keepends=True)
            first = other % max(1, len(lines))
            return before + "".join(lines[first : first + 1 + other % 6]) + behind
        case "cut":
            return before
        case "change":
            return before + _INSTEAD[unit][other % len(_INSTEAD[unit])] + behind
    return text
