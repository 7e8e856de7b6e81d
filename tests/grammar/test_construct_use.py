"""Every construct of the grammar is used: by the specs that come with specc, and by docs/language.md."""

from __future__ import annotations

import re
from pathlib import Path

from constructs import everything, used

ROOT = Path(__file__).parents[2]
SPELLINGS = {'not_in "IN"', 'not_in "NOT"'}
"""`a not in b` is how `not a in b` is spoken; no spec of the house has a use for it at present."""


def test_every_construct_is_used_by_a_spec_of_the_house() -> None:
    specs = [*ROOT.glob("examples/**/*.specc"), *ROOT.glob("grammar/std/*.specc")]
    unused = everything() - SPELLINGS - set().union(*(used(path.read_text()) for path in specs))
    assert not sorted(unused)


def test_every_construct_is_shown_by_the_language_page() -> None:
    blocks = re.findall(r"^```specc\n(.*?)^```$", (ROOT / "docs" / "language.md").read_text(), re.MULTILINE | re.DOTALL)
    texts = [body if body.startswith("specc") else f"specc 1\n{body}" for body in blocks]
    assert not sorted(everything() - set().union(*map(used, texts)))


def test_the_seed_of_the_mutations_uses_every_construct() -> None:
    assert not sorted(everything() - used((Path(__file__).parent / "everything.specc").read_text()))
