"""Text --> the same text in canonical form, with its comments; `parse(format_text(text)) == parse(text)`.

The printer makes one logical line from each statement and each head, so they are paired with those of the source:

    above       stays above its line; behind a body's last line, it stays in the body if it is indented as the body is
    inside      stays at the argument it stands at, and opens the brackets around it; without brackets it goes above
    behind      stays behind

Blank lines: exactly one between items, none behind a head, else one where the author has left some.
"""

from __future__ import annotations

from specc.grammar.comments import Comment, SourceLine, attach, source_lines
from specc.grammar.parse import parse
from specc.grammar.printer import Gap, Line, file_lines
from specc.grammar.wrap import STEP


def format_text(text: str, file: str = "<text>") -> str:
    """The text in canonical form; raises `SpeccError` for one that does not parse."""
    result = _written(text, file)
    while result != text and any(source.inside for source in source_lines(text)):
        # A comment inside brackets that are not needed can lose its place with them, and settles in the next one.
        text, result = result, _written(result, file)
    return result


def _written(text: str, file: str) -> str:
    printed = list(file_lines(parse(text, file)))
    sources = source_lines(text)
    assert len(sources) == len(printed) + 1, "a statement is a logical line, in the text and in its printed tree"
    writer = _Writer()
    for line, source in zip(printed, sources):
        writer.write(line, source)
    writer.end(sources[-1])
    return "\n".join(writer.rows) + "\n"


class _Writer:
    def __init__(self) -> None:
        self.rows: list[str] = []
        self.levels: list[tuple[int, int]] = []
        """Indentation in the source and level of the suites that are open, the innermost last."""

    def write(self, line: Line, source: SourceLine) -> None:
        homeless = attach(line.doc, source.inside)
        self._above(source.above, line.level, line.gap)
        for comment in homeless:
            self._row(line.level, comment)
        rows = line.physical
        if source.behind:
            rows[-1] += f"  {source.behind}"
        self.rows += rows
        self._enter(source.indentation, line.level)

    def end(self, source: SourceLine) -> None:
        """What stands below the last line."""
        above = list(source.above)
        while above and above[-1] is None:
            above.pop()
        if above:
            self._above(above, 0, Gap.FREE)

    def _enter(self, indentation: int, level: int) -> None:
        self.levels = [*(pair for pair in self.levels if pair[1] < level), (indentation, level)]

    def _above(self, above: list[Comment | None], level: int, gap: Gap) -> None:
        """Comments and blank lines, up to the line of `level` that follows."""
        blank, begun = False, gap is not Gap.ONE
        first = True
        deepest = max(level, self.levels[-1][1] if self.levels else 0)
        for comment in [*above, Comment("", 0, 0, True)]:
            if comment is None:
                blank = True
                continue
            deepest = self._level(comment, level, deepest) if comment.text else level
            here = deepest == level
            if here and not begun:  # the one blank line stands above the comments that belong to the item
                wanted, begun = True, True
            else:
                wanted = blank and not (here and first and gap is Gap.NONE)
            if wanted and self.rows:
                self.rows.append("")
            if comment.text:
                self._row(deepest, comment.text)
            blank, first = False, False

    def _level(self, comment: Comment, level: int, deepest: int) -> int:
        """The level of a comment between two lines: the deepest of those still open that its column reaches."""
        reached = [own for indentation, own in self.levels if indentation < comment.column and own <= deepest]
        return max([level, *reached])

    def _row(self, level: int, text: str) -> None:
        self.rows.append(STEP * level + text)
