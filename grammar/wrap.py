"""Pieces of a line --> lines of at most 100 columns.

A document is a sequence of texts and groups. A group stands on one line where everything fits; else the widest group
of the line is opened: one item a line, indented, with the rest of the line behind the closing bracket.

    y = concat(left, right, axis=1)        y = concat(
                                               left,
                                               right,
                                               axis=1,
                                           )

Only line ends inside brackets are free. A *loose* group (a pipe, a sum) has brackets only when it is opened. A group
that holds comments is opened whatever its width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias, Union

from specc.diagnostics import Span

WIDTH = 100
STEP = "    "

Doc: TypeAlias = tuple[Union[str, "Group"], ...]


@dataclass
class Item:
    """A member of a group: its text, its place in the source, the comments above it and the one behind it."""

    doc: Doc
    span: Span
    above: list[str] = field(default_factory=list)
    behind: str = ""

    @property
    def commented(self) -> bool:
        return bool(self.above or self.behind) or any(group.commented for group in groups(self.doc))


@dataclass
class Group:
    """Items in brackets.

    comma     what separates items: a comma, or nothing but a space
    trailing  whether a comma may stand behind the last item
    loose     the brackets stand only where the group is opened
    fill      an opened group has as many items on a line as fit
    below     comments behind the last item
    """

    opening: str
    items: list[Item]
    closing: str
    span: Span
    comma: str = ","
    trailing: bool = True
    loose: bool = False
    fill: bool = False
    below: list[str] = field(default_factory=list)

    @property
    def chain(self) -> bool:
        """Whether the items are the operands of a pipe, a sum or the like; `span` is then without the brackets."""
        return self.opening == "(" and not self.comma

    @property
    def commented(self) -> bool:
        return bool(self.below) or any(item.commented for item in self.items)


def groups(doc: Doc) -> Iterator[Group]:
    """The groups that stand in `doc` itself, not those inside them."""
    return (part for part in doc if isinstance(part, Group))


def flat(doc: Doc) -> str:
    """The document on one line, without its comments."""
    return "".join(part if isinstance(part, str) else _flat(part) for part in doc)


def _flat(group: Group) -> str:
    inside = f"{group.comma} ".join(flat(item.doc) for item in group.items)
    return inside if group.loose else f"{group.opening}{inside}{group.closing}"


def wrap(doc: Doc, indentation: str) -> list[str]:
    """The document as lines, all behind `indentation`."""
    line = indentation + flat(doc)
    commented = next((group for group in groups(doc) if group.commented), None)
    if commented is None and len(line) <= WIDTH:
        return [line]
    candidates = [group for group in groups(doc) if group.items]
    chosen = commented or max(candidates, key=lambda group: len(_flat(group)), default=None)
    if chosen is None:
        return [line]
    at = next(i for i, part in enumerate(doc) if part is chosen)
    head: Doc = (*doc[:at], chosen.opening)
    tail: Doc = (chosen.closing, *doc[at + 1 :])
    return [*wrap(head, indentation), *_opened(chosen, indentation + STEP), *wrap(tail, indentation)]


def _opened(group: Group, indentation: str) -> Iterator[str]:
    if group.fill and not group.commented:
        yield from _filled(group, indentation)
        return
    for number, item in enumerate(group.items):
        yield from (indentation + comment for comment in item.above)
        last = number == len(group.items) - 1
        comma = "" if last and not group.trailing else group.comma
        lines = wrap((*item.doc, comma), indentation)
        if item.behind:
            lines[-1] += f"  {item.behind}"
        yield from lines
    yield from (indentation + comment for comment in group.below)


def _filled(group: Group, indentation: str) -> Iterator[str]:
    line = ""
    for item in group.items:
        text = flat(item.doc) + group.comma
        if line and len(indentation) + len(line) + 1 + len(text) > WIDTH:
            yield indentation + line
            line = ""
        line += f" {text}" if line else text
    yield indentation + line
