"""Lines and indentation: the stream of tokens with line ends --> the same with _INDENT and _DEDENT.

block F(x: [n]) -> [n]:          ... ":" _NL _INDENT
    return relu(                     "return" NAME "("        line ends inside brackets are dropped
        x)                           NAME ")" _NL _DEDENT
"""

from __future__ import annotations

from collections.abc import Iterator

from lark import Token
from lark.lark import PostLex

from specc.diagnostics import Label, Span, SpeccError, error

_OPENING = {"LPAR", "LSQB"}
_CLOSING = {"RPAR", "RSQB"}


class Layout(PostLex):
    """The stage between lark's lexer and parser."""

    always_accept = ("_NL",)

    def __init__(self) -> None:
        self.file = ""
        self.inside = False
        """Whether the text stands inside brackets from the start, as the expressions in messages do."""

    def __reduce__(self) -> tuple[type[Layout], tuple[()]]:
        """A new one beside the tables of a parser that is kept: what this one holds is about a text."""
        return Layout, ()

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        """Yields the tokens with indentation made explicit; raises S0102, S0103 where it is wrong."""
        levels = [0]
        depth = int(self.inside)
        token: Token | None = None
        for token in stream:
            if token.type in _OPENING:
                depth += 1
            elif token.type in _CLOSING:
                depth -= 1
            if token.type != "_NL":
                yield token
            elif depth <= 0:
                yield from self._line_end(token, levels)
        for _ in levels[1:]:
            yield Token.new_borrow_pos("_DEDENT", "", token) if token else Token("_DEDENT", "")

    def _line_end(self, token: Token, levels: list[int]) -> Iterator[Token]:
        indentation = str(token).rsplit("\n", 1)[1]
        if "\t" in indentation:
            raise self._problem("S0102", "a tab in the indentation", token, indentation, "indent with four spaces")
        width = len(indentation)
        yield token
        if width > levels[-1]:
            levels.append(width)
            yield Token.new_borrow_pos("_INDENT", indentation, token)
        outer = [str(level) for level in levels]
        while width < levels[-1]:
            levels.pop()
            yield Token.new_borrow_pos("_DEDENT", indentation, token)
        if width != levels[-1]:
            note = f"the lines above are indented by {' or '.join(outer)} spaces, this one by {width}"
            raise self._problem("S0103", "this line fits to no indentation above it", token, indentation, note)

    def _problem(self, code: str, message: str, token: Token, indentation: str, note: str) -> SpeccError:
        line = token.end_line or 0
        span = Span(self.file, line, 1, line, len(indentation) + 1)
        return error(code, message, Label(span), notes=(note,))
