"""What lark says when a text does not parse --> one located message in plain words.

The table of common slips comes first (slips.py); the general message, "found this, expected that", is for the rest.
Token names of the grammar never reach the user.
"""

from __future__ import annotations

import re
import unicodedata

from lark import Token, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from specc.diagnostics import Diagnostic, Label, Span
from specc.grammar.slip import Place
from specc.grammar.slips import SLIPS

_WORDS = {
    "_NL": "the end of the line",
    "_INDENT": "an indented line",
    "_DEDENT": "the end of the indented lines",
    "$END": "the end of the file",
    "NUMBER": "a number",
    "STRING": "a text in quotes",
    "DOCSTRING": "a docstring",
    "COMPARISON": "a comparison such as `==`",
}
_PUNCTUATION = {
    "COLON": ":",
    "COMMA": ",",
    "DOT": ".",
    "EQUAL": "=",
    "LPAR": "(",
    "RPAR": ")",
    "LSQB": "[",
    "RSQB": "]",
    "PLUS": "+",
    "MINUS": "-",
    "STAR": "*",
    "SLASH": "/",
    "DOUBLE_SLASH": "//",
    "PERCENT": "%",
    "DOUBLE_STAR": "**",
    "QMARK": "?",
    "VBAR": "|",
    "__ANON_0": "->",
    "__ANON_1": "|>",
}
_ARITHMETIC = frozenset({"PLUS", "MINUS", "STAR", "SLASH", "DOUBLE_SLASH", "PERCENT", "DOUBLE_STAR"})
_OPERATORS = _ARITHMETIC | {"COMPARISON", "IN", "NOT", "AND", "OR", "IF", "__ANON_1", "LPAR", "LSQB"}
_BEGINNING = re.compile(
    r"\s*([\w\[\]]+\s*=[^=]|(return|for|if|elif|else|require|ensure|block|network|check|variants)\b)"
)
"""How a statement begins, or an item of the file."""
_SCAN = re.compile(r'"""[\s\S]*?"""|"(?:[^"\\\n]|\\.)*"|#[^\n]*|[()\[\]]')


def explain(problem: UnexpectedInput, text: str, file: str, inside: bool = False) -> Diagnostic:
    """The diagnostic for lark's exception; `inside` says that the text is the inside of braces in a message."""
    place, span = _place(problem, text, file)
    labels, notes = [Label(span)], []
    message = f"expected {_alternatives(place.expected)}, found {_found(place, inside)}"
    slip = next((slip for slip in SLIPS if slip.fits(place)), None)
    if slip is not None:
        message = slip.message
        notes += [slip.hint] if slip.hint else []
    if place.text and not place.found and not (place.text.isascii() and place.text.isprintable()):
        letter = place.text[0]
        notes.append(f"it is U+{ord(letter):04X}, {unicodedata.name(letter, 'a control character')}")
    bracket = _open_bracket(text, span)
    if bracket is not None:
        opening, where = bracket
        if where.line == span.line and (slip is None or place.text in {")", "]"}):
            notes.append(f"the `{opening}` in column {where.column} is still open")
        elif where.line != span.line:
            # What looks like a new statement is one, and not the end of an old one.
            if place.found == "$END" or _BEGINNING.match(place.line):
                message, notes = f"the `{opening}` of line {where.line} is not closed", []
            else:
                notes.append(f"the `{opening}` of line {where.line} is still open")
            labels.append(Label(Span(file, where.line, where.column, where.line, where.column + 1), "opened here"))
    return Diagnostic("S0101", message, tuple(labels), tuple(notes))


def _place(problem: UnexpectedInput, text: str, file: str) -> tuple[Place, Span]:
    lines = text.split("\n")
    if isinstance(problem, UnexpectedToken) and isinstance(problem.token, Token):
        token = problem.token
        expected = frozenset(problem.accepts or problem.expected)
        if token.type in {"_INDENT"}:
            line = token.end_line or 1
            span = Span(file, line, 1, line, len(token) + 1)
        elif token.type == "$END" or (token.type in {"_NL", "_DEDENT"} and not token.line):
            line = max((i + 1 for i, content in enumerate(lines) if content.strip()), default=1)
            span = Span(file, line, len(lines[line - 1]) + 1, line, len(lines[line - 1]) + 2)
        else:
            line, column = token.line or 1, token.column or 1
            length = 1 if token.type in {"_NL", "_DEDENT"} else len(token)
            span = Span(file, line, column, line, column + length)
        shown = "" if token.type in {"_NL", "_INDENT", "_DEDENT", "$END"} else str(token)
        content = lines[span.line - 1] if span.line <= len(lines) else ""
        return _seen(token.type, shown, expected, content, span, text), span
    line, column = max(problem.line, 1), max(problem.column, 1)
    content = lines[line - 1] if line <= len(lines) else ""
    word = re.match(r"\w+|.", content[column - 1 :])
    shown = word[0] if word else ""
    expected = frozenset(problem.allowed or ()) if isinstance(problem, UnexpectedCharacters) else frozenset()
    span = Span(file, line, column, line, column + max(len(shown), 1))
    return _seen("", shown, expected, content, span, text), span


def _seen(found: str, shown: str, expected: frozenset[str], line: str, span: Span, text: str) -> Place:
    bracket = _open_bracket(text, span)
    return Place(found, shown, expected, line[: span.column - 1], line, bracket[0] if bracket else "")


def _found(place: Place, inside: bool) -> str:
    if inside and place.found == "$END":
        return "the closing brace"
    return f"`{place.text}`" if place.text else _WORDS.get(place.found, "this")


def _alternatives(expected: frozenset[str]) -> str:
    """The expected tokens in words: an expression is one thing, and operators are left out where others are left."""
    words: list[str] = []
    if {"NUMBER", "STRING"} <= expected:
        words.append("an expression")
        expected -= {"NAME", "NUMBER", "STRING", "LSQB", "LPAR", "MINUS", "NOT", "TRUE", "FALSE", "NONE"}
    elif "NAME" in expected:
        words.append("a name")
        expected -= {"NAME"}
    if expected - _OPERATORS:
        expected -= _OPERATORS
    for token in sorted(expected):
        words.append(_WORDS.get(token) or f"`{_PUNCTUATION.get(token, token.lower())}`")
    if len(words) > 6:
        words = [*words[:5], "..."]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) if words else "something else"


def _open_bracket(text: str, span: Span) -> tuple[str, Span] | None:
    """The innermost bracket that is open where the error is."""
    lines = text.split("\n")
    end = sum(len(line) + 1 for line in lines[: span.line - 1]) + span.column - 1
    open_: list[int] = []
    for match in _SCAN.finditer(text, 0, end):
        if match[0] in "([":
            open_.append(match.start())
        elif match[0] in ")]" and open_:
            open_.pop()
    if not open_:
        return None
    start = open_[-1]
    line = text.count("\n", 0, start) + 1
    column = start - (text.rfind("\n", 0, start) + 1) + 1
    return text[start], Span(span.file, line, column, line, column + 1)
