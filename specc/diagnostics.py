"""Messages to a user: one type, one renderer, one exception.

A `Diagnostic` carries a stable code, a sentence, the places in the text that took part, notes (the derived
equation, a suggestion) and the stack of blocks in which it happened. `render` turns it into

    error[S0312]: the branches of a sum differ in shape
      --> examples/reparam/repvit.specc:12:26
       |
    12 |     bn    = batch_norm(conv + conv1 + x)
       |                        ^^^^           ^ [n, 64, h, w]
       |                        [n, 128, h, w]
       = c = 64 from `x: [n, c, h, w]` at line 8
       = in RepVggDw, called from Stage (line 31, block 3)

Every code stands in `specc.codes` with a title; constructing a `Diagnostic` with an unknown code is a mistake of
ours and raises `KeyError`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from specc.codes import CODES

_WIDEST = 200
"""Letters of a line of text that are shown: more of it would push the carets off every screen."""


@dataclass(frozen=True, slots=True)
class Span:
    """A range of text; lines and columns count from 1, the end is exclusive."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def to(self, other: Span) -> Span:
        """The range from the start of this span to the end of `other` (same file)."""
        return Span(self.file, self.line, self.column, other.end_line, other.end_column)


@dataclass(frozen=True, slots=True)
class Label:
    """A place in the text and what is to be said about it (nothing: the carets alone)."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """One level of the instantiation stack: `block` as called at `span`, with loop indices or the like in `detail`."""

    block: str
    span: Span | None = None
    detail: str = ""

    def __str__(self) -> str:
        inside = [f"line {self.span.line}"] if self.span else []
        inside += [self.detail] if self.detail else []
        return f"{self.block} ({', '.join(inside)})" if inside else self.block


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One message. `labels[0]`, where there is one, is the place that the header points at."""

    code: str
    message: str
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    stack: tuple[Frame, ...] = ()

    def __post_init__(self) -> None:
        CODES[self.code]

    def to_json(self) -> dict[str, object]:
        """A plain dictionary for `--json`."""
        return {
            "code": self.code,
            "message": self.message,
            "labels": [
                {
                    "file": label.span.file,
                    "start": [label.span.line, label.span.column],
                    "end": [label.span.end_line, label.span.end_column],
                    "text": label.text,
                }
                for label in self.labels
            ],
            "notes": list(self.notes),
            "stack": [str(frame) for frame in self.stack],
        }


class SpeccError(Exception):
    """One or more diagnostics, raised. `sources` maps file names to text that does not stand on disk."""

    def __init__(self, *diagnostics: Diagnostic, sources: Mapping[str, str] | None = None) -> None:
        if not diagnostics:
            raise ValueError("a SpeccError needs at least one diagnostic")
        super().__init__(*diagnostics)
        self.diagnostics = diagnostics
        self.sources = dict(sources or {})

    def __str__(self) -> str:
        return self.render()

    def render(self) -> str:
        """All diagnostics as text, in order, without colour."""
        return "\n\n".join(render(diagnostic, self.sources) for diagnostic in self.diagnostics)


def error(
    code: str, message: str, *labels: Label, notes: Iterable[str] = (), stack: Iterable[Frame] = ()
) -> SpeccError:
    """A new `SpeccError` of one diagnostic, to be raised."""
    return SpeccError(Diagnostic(code, message, labels, tuple(notes), tuple(stack)))


def did_you_mean(name: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """A note with the nearest of `candidates`, or no note: made to be passed as `notes`."""
    import difflib

    near = difflib.get_close_matches(name, list(candidates), n=3, cutoff=0.6)
    return (f"did you mean {' or '.join(f'`{n}`' for n in near)}?",) if near else ()


def render(diagnostic: Diagnostic, sources: Mapping[str, str] | None = None) -> str:
    """The diagnostic as text: header, one excerpt a file, notes, stack."""
    lines = [f"error[{diagnostic.code}]: {diagnostic.message}"]
    files = dict.fromkeys(label.span.file for label in diagnostic.labels)
    width = max((len(str(label.span.end_line)) for label in diagnostic.labels), default=1)
    for file in files:
        labels = [label for label in diagnostic.labels if label.span.file == file]
        lines.append(f"{' ' * width}--> {labels[0].span}")
        lines += _excerpt(labels, _text_of(file, sources or {}), width)
    lines += [f"{' ' * width} = {note}" for note in diagnostic.notes]
    if diagnostic.stack:
        inner, *outer = reversed(diagnostic.stack)
        lines.append(f"{' ' * width} = in {inner}" + "".join(f", called from {frame}" for frame in outer))
    return "\n".join(map(_printable, lines))


_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of characters that a terminal does not show, or that end a line of it."""


def _printable(text: str) -> str:
    """The text without characters that would steer a terminal or turn the order of letters round."""
    return "".join(
        letter if letter == "\n" or unicodedata.category(letter) not in _UNSEEN else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def _text_of(file: str, sources: Mapping[str, str]) -> list[str]:
    if file in sources:
        text = sources[file]
    else:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return []
    lines = text.removesuffix("\n").split("\n")  # as the parser counts: a form feed ends no line
    return [line.removesuffix("\r") for line in lines]


def _excerpt(labels: list[Label], text: list[str], width: int) -> list[str]:
    """The lines of the text that carry a label, with carets and the labels' words under them."""
    gutter = f"{' ' * width} |"
    rows: list[str] = []
    previous = 0
    for number in sorted({label.span.line for label in labels}):
        if not 1 <= number <= len(text):
            continue
        rows.append(gutter if not previous or number == previous + 1 else f"{' ' * width}...")
        source = text[number - 1].replace("\t", " ")
        here = sorted((label for label in labels if label.span.line == number), key=lambda label: label.span.column)
        if len(source) > _WIDEST:
            source, here = _window(source, here)
        rows.append(f"{number:>{width}} | {source}".rstrip())
        rows += [f"{gutter} {row}" for row in _carets(here, source)]
        previous = number
    return rows


def _window(source: str, labels: list[Label]) -> tuple[str, list[Label]]:
    """The part of a long line that begins a little before its first label, and the labels as they lie in it."""
    start = max(0, min(labels[0].span.column - _WIDEST // 4, len(source) - _WIDEST))
    shown = source[start : start + _WIDEST]
    shown = ("..." + shown[3:] if start else shown)[:-3] + ("..." if start + _WIDEST < len(source) else shown[-3:])
    moved = []
    for label in labels:
        span, last = label.span, label.span.end_column if label.span.end_line == label.span.line else len(source) + 1
        column, end = (min(max(number - start, 1), _WIDEST + 1) for number in (span.column, last))
        moved.append(Label(Span(span.file, span.line, column, span.line, end), label.text))
    return shown, moved


def _carets(labels: list[Label], source: str) -> list[str]:
    """Caret row, with the last label's words behind it; the other labels' words stand below their carets."""
    row: list[str] = []
    for label in labels:
        start = label.span.column - 1
        end = label.span.end_column - 1 if label.span.end_line == label.span.line else len(source)
        first, last_ = _cells(source, start), _cells(source, max(end, start + 1))
        row += [" "] * (last_ - len(row))
        row[first:last_] = "^" * max(last_ - first, 1)
    *others, last = labels
    rows = ["".join(row).rstrip() + (f" {last.text}" if last.text else "")]
    rows += [" " * _cells(source, label.span.column - 1) + label.text for label in reversed(others) if label.text]
    return rows


def _cells(text: str, letters: int) -> int:
    """The cells of a terminal that the first `letters` of `text` take; beyond its end, one a letter."""
    shown = text[:letters]
    return sum(map(_width, shown)) + letters - len(shown)


def _width(letter: str) -> int:
    """Letters of East Asia and pictures are two cells wide, accents that join the letter before them none."""
    if unicodedata.category(letter) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
