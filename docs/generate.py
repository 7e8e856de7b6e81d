"""Writes the documents that have their sources elsewhere: `make docs`.

docs/errors.md    from specc/pages.toml
docs/std.md       from the docstrings of grammar/std
docs/operators.md from the operator records
"""

from __future__ import annotations

from pathlib import Path

from specc import grammar, ops
from specc.diagnostics import SpeccError
from specc.grammar.modules import STANDARD
from specc.grammar.printer import print_signature
from specc.ops.record import Operator
from specc.pages import Page, explain, pages

DOCS = Path(__file__).parent


def errors() -> str:
    """The text of docs/errors.md."""
    head = "# The messages of specc\n\n`specc explain CODE` prints these pages; `make docs` writes this file."
    return "\n\n".join([head, *(_error(page) for page in pages().values())]) + "\n"


def _error(page: Page) -> str:
    parts = [f"## {page.code}: {page.title}", page.means]
    if page.example:
        parts += [f"```specc error\n{page.example}\n```", f"```text\n{message(page)}\n```"]
    else:
        parts.append(f"```\n{page.shell}\n```")
    return "\n\n".join([*parts, page.do])


def message(page: Page) -> str:
    """What the compiler says of the page's example."""
    from specc.optimize import check_merges

    try:
        reports = grammar.checks(page.example, file="example.specc")
        for report in reports:
            report.raise_failures()
            if report.graph is not None:
                check_merges(report.graph)
    except SpeccError as problem:
        return SpeccError(*problem.diagnostics, sources={"example.specc": page.example}).render()
    return ""


def standard_library() -> str:
    """The text of docs/std.md."""
    parts = [
        "# The standard library\n\nBlocks written in the language, in `grammar/std/`; `make docs` writes this file."
    ]
    for path in sorted(STANDARD.glob("*.specc")):
        tree = grammar.parse(path.read_text(encoding="utf-8"), path.name)
        parts.append(f"## std.{path.stem}\n\n{tree.docstring}")
        for definition in tree.definitions:
            parts.append(f"### {definition.name}\n\n```\n{print_signature(definition)}\n```\n\n{definition.docstring}")
    return "\n\n".join(parts) + "\n"


def operators() -> str:
    """The text of docs/operators.md."""
    parts = [
        "# The operators\n\nWhat a spec can call beside blocks: tensors first, then arguments by position or by name.\n"
        "`specc explain OPERATOR` prints the same; `make docs` writes this file from the records in `specc/ops/`.",
        "NaN and infinities come through as PyTorch has them, in every form of the kernels: the greatest of\n"
        "numbers of which one is NaN is NaN. Different are `gelu` of minus infinity, which is that (in PyTorch\n"
        "NaN; of numbers below -5 it is off by up to 2.5e-7 times the number), `remainder` and `floor_div` of\n"
        "infinities, and `cast` to integers, which PyTorch leaves open. Convolutions by minimal filtering, and\n"
        "grouped ones whose groups are joined, carry NaN and infinities to neighbours, as NaN. Integers have none\n"
        "([precision.md](precision.md)).",
    ]
    for module in ops.MODULES:
        called = [record for record in module.RECORDS if record.name not in _NEVER_CALLED]
        if called:
            parts.append(f"## {_first_sentence(module.__doc__ or '')}")
            parts += map(_operator, called)
    return "\n\n".join(parts) + "\n"


_NEVER_CALLED = frozenset({"input", "param"})
"""What a spec declares instead."""


def _operator(record: Operator) -> str:
    usage, _, rest = explain(record.name).partition("\n\n")
    return f"### {record.name}\n\n```\n{usage}\n```\n\n{rest}"


def _first_sentence(docstring: str) -> str:
    return " ".join(docstring.split("\n\n")[0].split()).split(". ")[0].rstrip(".")


if __name__ == "__main__":
    (DOCS / "errors.md").write_text(errors(), encoding="utf-8")
    (DOCS / "std.md").write_text(standard_library(), encoding="utf-8")
    (DOCS / "operators.md").write_text(operators(), encoding="utf-8")
