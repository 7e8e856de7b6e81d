"""Messages as text: what a long line and letters that steer a terminal become."""

from __future__ import annotations

from specc.diagnostics import Diagnostic, Label, Span, render


def shown(source: str, *places: tuple[int, int], message: str = "wrong") -> list[str]:
    labels = tuple(Label(Span("f", 1, begin, 1, end), "here") for begin, end in places)
    return render(Diagnostic("S0101", message, labels), {"f": source}).splitlines()


def under_carets(lines: list[str]) -> list[str]:
    """The text above each run of carets."""
    return "".join(t if c == "^" else " " for t, c in zip(lines[3], lines[4])).split()


def test_a_long_line_is_shown_in_part() -> None:
    for before, behind in ((0, 5000), (60, 5000), (2500, 2500), (5000, 0)):
        line = "x" * before + "WRONG" + "y" * behind
        lines = shown(line, (before + 1, before + 6))
        assert max(map(len, lines)) < 220
        assert under_carets(lines) == ["WRONG"]
        assert lines[3].endswith("...") == (behind > 0)


def test_two_places_of_a_long_line_stay_in_view() -> None:
    lines = shown("a" * 900 + "ONE" + "b" * 40 + "TWO" + "c" * 900, (901, 904), (944, 947))
    assert under_carets(lines) == ["ONE", "TWO"]
    lines = shown("ONE" + "b" * 4000 + "TWO", (1, 4), (4004, 4007))
    assert max(map(len, lines)) < 220


def test_a_place_that_is_all_of_a_long_line() -> None:
    assert max(map(len, shown("x" * 3000, (1, 3001)))) < 220


def test_letters_that_steer_a_terminal_are_replaced() -> None:
    text = "\n".join(shown("relu\x1b[31m\u202e(x)\0", (5, 6), message="found `\x1b`"))
    assert not {"\x1b", "\u202e", "\0"} & set(text)
    assert "error[S0101]: found `\N{REPLACEMENT CHARACTER}`" in text


def test_carets_stand_below_letters_that_are_two_cells_wide() -> None:
    source = 'require name == "卷积", "名"'
    span = Span("x", 1, source.index('"名"') + 1, 1, len(source) + 1)
    *_, carets = render(Diagnostic("S0501", "wrong", (Label(span),)), {"x": source}).splitlines()
    assert carets == "  | " + " " * len('require name == "....", ') + "^^^^"


def test_an_accent_of_its_own_takes_no_cell() -> None:
    source = "cafe\u0301 x"
    *_, carets = render(Diagnostic("S0501", "wrong", (Label(Span("x", 1, 7, 1, 8)),)), {"x": source}).splitlines()
    assert carets == "  |      ^"
