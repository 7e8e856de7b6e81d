"""parse(print(tree)) == tree, for any tree and for all specs that there are."""

from __future__ import annotations

from pathlib import Path

import pytest
from constructs import everything, used
from hypothesis import given
from profiles import examples

from specc.grammar import syntax as s
from specc.grammar.parse import parse, parse_expression
from specc.grammar.printer import print_expression, print_file
from specc.testing import spec_expressions, spec_trees
from specc.testing.trees import grow_file

ROOT = Path(__file__).parents[2]
SPECS = sorted([*ROOT.glob("examples/**/*.specc"), *ROOT.glob("grammar/std/*.specc")])


@examples(100)
@given(spec_trees())
def test_a_printed_file_parses_to_the_same_tree(file: s.File) -> None:
    assert parse(print_file(file)) == file


@examples(300)
@given(spec_expressions())
def test_a_printed_expression_parses_to_the_same_tree(expression: s.Expression) -> None:
    assert parse_expression(print_expression(expression)) == expression


def test_trees_are_grown_with_all_constructs() -> None:
    seeds = [[(7 * number + item, 40) for item in range(3)] for number in range(200)]
    texts = [print_file(grow_file(items, number + 1)) for number, items in enumerate(seeds)]
    assert not everything() - set().union(*map(used, texts))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_specs_of_the_house_survive_printing(path: Path) -> None:
    tree = parse(path.read_text())
    printed = print_file(tree)
    assert parse(printed) == tree
    assert print_file(parse(printed)) == printed


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("(a+b)*c", "(a + b) * c"),
        ("a+(b*c)", "a + b * c"),
        ("a-(b-c)", "a - (b - c)"),
        ("(a - b) - c", "a - b - c"),
        ("-(a**2)", "-a ** 2"),
        ("(-a)**2", "(-a) ** 2"),
        ("a**(b**c)", "a ** b ** c"),
        ("not (a and b)", "not (a and b)"),
        ("(x |> f) + 1", "(x |> f) + 1"),
        ("x + 1 |> f", "x + 1 |> f"),
        ("(a if b else c) if d else e", "(a if b else c) if d else e"),
        ("a if b else (c if d else e)", "a if b else c if d else e"),
        ("f(x,k = 3,)", "f(x, k=3)"),
        ("[ k for k in ks if k>1 ]", "[k for k in ks if k > 1]"),
        ("((a))", "a"),
        ("f(x)[0][1]", "f(x)[0][1]"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert print_expression(parse_expression(text)) == canonical


@pytest.mark.parametrize("name", ["block", "check", "use", "variants", "network"])
def test_words_of_the_file_are_free_as_names_behind_a_docstring(name: str) -> None:
    text = f'specc 1\n\nblock F(x: [n]):\n    """What it is."""\n    {name} = relu(x)\n    return {name}\n'
    assert print_file(parse(text)) == text
