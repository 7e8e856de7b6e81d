"""What a slip is: the place where the parser stopped, whether it is this slip, and what is told then."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

_FAR = 200
"""Letters of a line that are looked at: a line can have a million."""


@dataclass(frozen=True)
class Place:
    """Where the parser stopped."""

    found: str
    """The type of the token there; empty where no token begins so."""
    text: str
    """Its letters."""
    expected: frozenset[str]
    """The types of the tokens that could stand there."""
    before: str
    """The line up to it."""
    line: str
    """The whole line."""
    bracket: str
    """The innermost bracket that is open there: `(`, `[` or none."""

    @property
    def rest(self) -> str:
        """The line from the token on."""
        return self.line[len(self.before) :]

    @property
    def odd(self) -> bool:
        """Whether a character stands there that no word or sign of the language has."""
        return not self.found and bool(self.text) and not (self.text.isascii() and self.text.isprintable())

    def begins(self, pattern: str) -> bool:
        """Whether the line begins so, behind its indentation."""
        return re.match(rf"\s*(?:{pattern})", self.line[:_FAR]) is not None

    def behind(self, pattern: str) -> bool:
        """Whether what stands in front of the token ends so."""
        return re.search(rf"(?:{pattern})\s*$", self.before[-_FAR:]) is not None

    def ahead(self, pattern: str) -> bool:
        """Whether the line goes on so, from the token on."""
        return re.match(pattern, self.rest[:_FAR]) is not None

    def expects(self, *types: str) -> bool:
        """Whether each of these could stand here."""
        return self.expected.issuperset(types)


@dataclass(frozen=True)
class Slip:
    """When it is this slip, what is said of it, and what to write."""

    fits: Callable[[Place], bool]
    message: str
    hint: str = ""


def words(words: str, message: str, hint: str) -> Slip:
    """Lines that begin with a word which other languages have."""
    return Slip(lambda p: p.begins(rf"({words})\b(?!\s*[=(\[,])"), message, hint)


def misspelt(word: str, example: str, behind: str | None = "NAME") -> Slip:
    """Lines that begin with nearly `word`: the parser stops at the token `behind` it, or at the word, where None is."""

    def fits(place: Place) -> bool:
        first = re.match(r"\s*([a-z]+)", place.line[:_FAR])
        if first is None or first[1] == word:
            return False
        stopped = place.before.strip() == first[1] if behind else not place.before and place.expects("BLOCK")
        return stopped and behind in (None, place.found) and bool(get_close_matches(first[1], [word], cutoff=0.65))

    return Slip(fits, f"no line begins with this word; did you mean `{word}`?", f"for example `{example}`")
