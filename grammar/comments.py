"""Text --> its logical lines, with the comments and blank lines around and inside each.

A logical line ends where the language says so: not inside brackets, not inside a docstring. The printer makes exactly
one from each statement and each head, so the lines of a text and those of its printed tree stand side by side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from specc.diagnostics import Span
from specc.grammar.wrap import Doc, Group, groups

_TOKEN = re.compile(
    r'(?P<text>"""(?:[^"\\]|\\[\s\S]|"(?!""))*"""|"(?:[^"\\\n]|\\.)*")|(?P<comment>#[^\n]*)|(?P<open>[(\[])'
    r"|(?P<close>[)\]])|(?P<end>\n)|(?P<word>\S)"
)


@dataclass(frozen=True)
class Comment:
    """`# ...` and its place; `alone` on its line, or behind something."""

    text: str
    line: int
    column: int
    alone: bool


@dataclass
class SourceLine:
    """What stands above a logical line (None is a blank line), inside its brackets, and behind it."""

    indentation: int = 0
    above: list[Comment | None] = field(default_factory=list)
    inside: list[Comment] = field(default_factory=list)
    behind: str = ""


def source_lines(text: str) -> list[SourceLine]:
    """The logical lines of a text that parses; the last one is empty and has what stands at the end of the file."""
    result: list[SourceLine] = []
    current = SourceLine()
    begun, depth, number, start = False, 0, 1, 0
    alone = True
    for match in _TOKEN.finditer(text):
        column = match.start() - start + 1
        match match.lastgroup:
            case "end":
                if begun and depth == 0:
                    result.append(current)
                    current, begun = SourceLine(), False
                elif not begun and alone:
                    current.above.append(None)
            case "comment":
                comment = Comment(match[0].rstrip(), number, column, alone)
                if not begun:
                    current.above.append(comment)
                elif depth:
                    current.inside.append(comment)
                else:
                    current.behind = comment.text
                alone = False
            case _:
                if not begun:
                    begun, current.indentation = True, column - 1
                depth += (match.lastgroup == "open") - (match.lastgroup == "close")
                alone = False
        if "\n" in match[0]:
            number += match[0].count("\n")
            start = match.start() + match[0].rindex("\n") + 1
            alone = match.lastgroup == "end"
    return [*result, current, SourceLine()] if begun else [*result, current]


def attach(doc: Doc, comments: list[Comment]) -> list[str]:
    """Puts each comment to the nearest item of the groups of `doc`; gives back those that have no group."""
    homeless = []
    for comment in comments:
        group = _home(doc, comment)
        if group is None:
            homeless.append(comment.text)
        else:
            _place(group, comment)
    return homeless


def _home(doc: Doc, comment: Comment) -> Group | None:
    """The innermost group around the comment, or the last one that begins before it."""
    where = comment.line, comment.column
    for group in _nested(doc):
        if _first(group) <= where < _last(group):
            return group
    before = [group for group in groups(doc) if _first(group) <= where]
    return before[-1] if before else None


def _first(group: Group) -> tuple[int, int]:
    """Where the group can have comments from: a chain has none above it, as its brackets may be missing."""
    return _end(group.items[0].span) if group.chain else _start(group.span)


def _last(group: Group) -> tuple[int, int]:
    return _end(group.items[-1].span if group.chain else group.span)


def _nested(doc: Doc) -> Iterator[Group]:
    """All groups in `doc`, inner ones first."""
    for group in groups(doc):
        for item in group.items:
            yield from _nested(item.doc)
        yield group


def _place(group: Group, comment: Comment) -> None:
    where = comment.line, comment.column
    if not comment.alone:
        before = [item for item in group.items if _start(item.span) <= where]
        if before:
            item = before[-1]
            if item.behind:
                item.above.append(item.behind)
            item.behind = comment.text
            return
    later = next((item for item in group.items if _end(item.span) > where), None)
    (group.below if later is None else later.above).append(comment.text)


def _start(span: Span) -> tuple[int, int]:
    return span.line, span.column


def _end(span: Span) -> tuple[int, int]:
    return span.end_line, span.end_column
