"""The formatter: a fixpoint, the same tree, every comment kept, and the canonical form by example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from profiles import examples

from specc.diagnostics import SpeccError
from specc.grammar import syntax as s
from specc.grammar.format import format_text
from specc.grammar.parse import parse
from specc.grammar.printer import print_file
from specc.grammar.wrap import WIDTH
from specc.testing import spec_trees, specs

ROOT = Path(__file__).parents[2]
SPECS = sorted(path for folder in ("examples", "grammar/std") for path in ROOT.glob(f"{folder}/**/*.specc"))
COMMENT = re.compile(r"# (c\d+)\b")


@examples(100)
@given(specs())
def test_formatting_keeps_the_tree_and_the_comments_and_is_a_fixpoint(text: str) -> None:
    formatted = format_text(text)
    assert parse(formatted) == parse(text)
    assert sorted(COMMENT.findall(formatted)) == sorted(COMMENT.findall(text))
    assert format_text(formatted) == formatted


@examples(100)
@given(spec_trees())
def test_a_printed_tree_is_formatted(file: s.File) -> None:
    assert format_text(print_file(file)) == print_file(file)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_specs_of_the_house_are_formatted(path: Path) -> None:
    assert format_text(path.read_text()) == path.read_text(), "specc fmt examples grammar/std"


def formatted(body: str) -> str:
    return format_text(f"specc 1\n{body}").removeprefix("specc 1\n\n")


def test_comments_stay_where_they_are() -> None:
    text = '''\
# the head of the file

specc 1  # the version
"""What it is."""

# for ConvBN
use std.conv: ConvBN

# above the block

# and again
block F(
    x: [n, c, h, w],  # the picture
    # how much wider
    expand: int = 2,
) -> [n, _, h, w]:
    # above the first statement
    a = conv2d(x, c * expand)  # wide

    # between
    if expand > 1:
        b = relu(a)
        # at the end of the suite
    # before else
    else:
        b = a
    return concat(
        a,
        # the second one
        b,
    )
    # at the end of the block

# before the next block
block G(x: [n]):
    return x

# the end
'''
    assert format_text(text) == text


def test_blank_lines() -> None:
    text = "\n\nblock F(x: [n]):\n\n    a = x\n\n\n\n    b = a\n    return b\nblock G(x: [n]):\n    return x\n\n"
    assert formatted(text) == (
        "block F(x: [n]):\n    a = x\n\n    b = a\n    return b\n\nblock G(x: [n]):\n    return x\n"
    )


def test_a_comment_without_a_bracket_goes_above() -> None:
    text = "block F(x: [n]):\n    y = (  # why\n        relu(x)\n    )\n    return y\n"
    assert formatted(text) == "block F(x: [n]):\n    # why\n    y = relu(x)\n    return y\n"


def test_long_lines_are_opened() -> None:
    long = ", ".join(f"argument{i}" for i in range(9))
    text = f'''block F(x: [n], {", ".join(f"a{i}: int" for i in range(12))}) -> [n]:
    """One.

    Two."""
    y = SomeBlock({long}, k=3)
    z = x |> {" |> ".join(f"SomeBlock({i}, act=hard_swish)" for i in range(4))}
    w = {" + ".join(f"some_name_of_a_branch_{i}" for i in range(5))}
    v = [{", ".join(str(10**6 + i) for i in range(20))}]
    return w
'''
    assert (
        formatted(text)
        == '''\
block F(
    x: [n],
    a0: int,
    a1: int,
    a2: int,
    a3: int,
    a4: int,
    a5: int,
    a6: int,
    a7: int,
    a8: int,
    a9: int,
    a10: int,
    a11: int,
) -> [n]:
    """One.

    Two.
    """
    y = SomeBlock(
        argument0,
        argument1,
        argument2,
        argument3,
        argument4,
        argument5,
        argument6,
        argument7,
        argument8,
        k=3,
    )
    z = (
        x
        |> SomeBlock(0, act=hard_swish)
        |> SomeBlock(1, act=hard_swish)
        |> SomeBlock(2, act=hard_swish)
        |> SomeBlock(3, act=hard_swish)
    )
    w = (
        some_name_of_a_branch_0
        + some_name_of_a_branch_1
        + some_name_of_a_branch_2
        + some_name_of_a_branch_3
        + some_name_of_a_branch_4
    )
    v = [
        1000000, 1000001, 1000002, 1000003, 1000004, 1000005, 1000006, 1000007, 1000008, 1000009,
        1000010, 1000011, 1000012, 1000013, 1000014, 1000015, 1000016, 1000017, 1000018, 1000019,
    ]
    return w
'''
    )
    assert all(len(line) <= WIDTH for line in formatted(text).splitlines())


def test_windows_line_ends_and_a_missing_last_one() -> None:
    assert format_text("specc 1 # v\r\n\r\nblock F(x:[n]):\r\n  return x") == (
        "specc 1  # v\n\nblock F(x: [n]):\n    return x\n"
    )


def test_a_text_that_does_not_parse_is_refused() -> None:
    with pytest.raises(SpeccError, match="S0101"):
        format_text("specc 1\nblock F(\n")
