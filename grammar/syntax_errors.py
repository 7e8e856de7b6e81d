"""What lark says when a text does not parse --> one located message in plain words.

A table of common slips comes first, each a condition on the place of the error; the general message, "found this,
expected that", is for the rest. Token names of the grammar never reach the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from lark import Token, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from specc.diagnostics import Diagnostic, Label, Span

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
_SCAN = re.compile(r'"""[\s\S]*?"""|"(?:[^"\\\n]|\\.)*"|#[^\n]*|[()\[\]]')


@dataclass(frozen=True)
class Place:
    """Where the parser stopped: the token found, its text, what could have stood there, and the line up to it."""

    found: str
    text: str
    expected: frozenset[str]
    before: str
    line: str


Slip = tuple[Callable[[Place], bool], str, str]
_SLIPS: tuple[Slip, ...] = (
    (
        lambda p: bool(re.match(r"\s*while\b", p.line)),
        "there is no `while`: everything ends",
        "`for i in range(8):` repeats",
    ),
    (
        lambda p: p.text[:1].isdigit() and not p.text.isdigit() and p.found == "",
        "this is no number",
        "numbers are written 64, 0.5, 1e-5, 8.8M; names do not begin with a digit",
    ),
    (
        lambda p: "SPECC" in p.expected,
        "a file begins with the version of the language",
        "write `specc 1` in the first line",
    ),
    (
        lambda p: p.found == "_INDENT" and "_INDENT" not in p.expected,
        "this line is indented, but the line above opens nothing",
        "only lines that end in `:` are followed by indented ones",
    ),
    (
        lambda p: "_INDENT" in p.expected and p.found != "_INDENT",
        "an indented line is missing here",
        "what belongs to the line with `:` stands below it, indented by four spaces",
    ),
    (
        lambda p: p.text == "=" and "COMPARISON" in p.expected,
        "`=` gives a name; a comparison is written `==`",
        "",
    ),
    (
        lambda p: p.text == "=" and "COMMA" in p.expected and "RPAR" not in p.expected,
        "this cannot stand on the left of `=`",
        "a line gives a name, `conv1 = ...`, an indexed name, `blocks[i] = ...`, or several, `a, b = ...`",
    ),
    (
        lambda p: p.text in {"True", "False", "None"},
        "`true`, `false` and `none` are written small",
        "",
    ),
    (
        lambda p: p.text in {"'", "`"},
        "a text stands in double quotes",
        'for example "same"',
    ),
    (
        lambda p: p.text.startswith('"'),
        "this text has no closing quote on its line",
        "",
    ),
    (
        lambda p: p.text in {"def", "class"} or (p.text == "layer" and p.found == "NAME" and "BLOCK" in p.expected),
        "specc has blocks and networks",
        "for example `block Mixer(x: [n, c, h, w]) -> [n, c, h, w]:`",
    ),
    (
        lambda p: p.text in {"import", "from"} and "USE" in p.expected,
        "other files are used by `use`",
        "for example `use std.conv: ConvBN, SqueezeExcite`",
    ),
    (
        lambda p: p.found == "USE" or (p.text == "use" and "BLOCK" in p.expected),
        "`use` stands above all blocks",
        "",
    ),
    (
        lambda p: p.text in {"!", "&", "|", "&&", "||"},
        "logic is written with `and`, `or`, `not`",
        "a pipe is `|>`",
    ),
    (
        lambda p: (
            bool(re.match(r"\s*(if|elif|else|for|block|network|variants|rename|check)\b", p.line))
            and "COLON" in p.expected
            and p.found in {"_NL", "_INDENT"}
        ),
        "this line needs a `:` at its end",
        "",
    ),
    (
        lambda p: "EQUAL" in p.expected and p.found in _OPERATORS | {"_NL", "LPAR"},
        "this line computes something but gives it no name",
        "write `name = ...`; the name is also the key of its weights in the state_dict",
    ),
)


def explain(problem: UnexpectedInput, text: str, file: str, inside: bool = False) -> Diagnostic:
    """The diagnostic for lark's exception; `inside` says that the text is the inside of braces in a message."""
    place, span = _place(problem, text, file)
    labels, notes = [Label(span)], []
    message = f"expected {_alternatives(place.expected)}, found {_found(place, inside)}"
    slip = next((slip for slip in _SLIPS if slip[0](place)), None)
    if slip is not None:
        message = slip[1]
        notes += [slip[2]] if slip[2] else []
    bracket = _open_bracket(text, span)
    if bracket is not None:
        opening, where = bracket
        if where.line == span.line:
            notes.append(f"the `{opening}` in column {where.column} is still open")
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
        return Place(token.type, shown, expected, content[: span.column - 1], content), span
    line, column = max(problem.line, 1), max(problem.column, 1)
    content = lines[line - 1] if line <= len(lines) else ""
    word = re.match(r"\w+|.", content[column - 1 :])
    shown = word[0] if word else ""
    expected = frozenset(problem.allowed or ()) if isinstance(problem, UnexpectedCharacters) else frozenset()
    span = Span(file, line, column, line, column + max(len(shown), 1))
    return Place("", shown, expected, content[: column - 1], content), span


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
