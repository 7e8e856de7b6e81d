"""A text that does not parse --> its items one by one, so that a mistake in each of them can be told.

An item begins at the left margin, whatever is wrong with the one above it: what is open there (a bracket) ends with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SCAN = re.compile(r'"""[\s\S]*?(?:"""|\Z)|"(?:[^"\\\n]|\\.)*"|#[^\n]*|[(\[]|[)\]]|\n(?=\S)')
_ITEM = re.compile(r"(block|network|def|class)\s+\w+\s*\(|(variants|rename|check)\s+\w+[^\n]*:")
_OTHER = re.compile(r"(?!(?:use|specc|if|elif|for|return|require|ensure|param|buffer)\b)[A-Za-z_]\w*[ \t]+\w")
"""Two words beside each other: an item, or what another language has in its place. A statement stays where it is."""
_VERSION = re.compile(r"^specc [^\n]*$", re.MULTILINE)


def items(text: str) -> Iterator[str]:
    """For each item of the file the text without the others, every line at its place.

    What stands in front of the first one, and every `use`, stays with what is above it: its place makes it wrong.
    """
    version = _VERSION.search(text)
    starts = _starts(text) if version else [0]
    for first, end in zip(starts, [*starts[1:], len(text)]):
        above = ""
        if version and first:
            lines = text.count("\n", 0, first) - text.count("\n", 0, version.start())
            above = "\n" * text.count("\n", 0, version.start()) + version[0] + "\n" * lines
        yield above + text[first:end] + "\n"


def _starts(text: str) -> list[int]:
    """Where the items begin, and the file."""
    starts, depth = [0], 0
    for match in _SCAN.finditer(text):
        if match[0] in "([":
            depth += 1
        elif match[0] in ")]":
            depth -= 1
        elif match[0] == "\n" and (_ITEM.match(text, match.end()) or (depth <= 0 and _OTHER.match(text, match.end()))):
            starts.append(match.end())
            depth = 0
    return starts
