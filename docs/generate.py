"""Writes docs/errors.md from specc/pages.toml and docs/std.md from the docstrings of grammar/std: `make docs`."""

from __future__ import annotations

from pathlib import Path

from specc import grammar
from specc.diagnostics import SpeccError
from specc.grammar.modules import STANDARD
from specc.grammar.printer import print_signature
from specc.pages import Page, pages

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


if __name__ == "__main__":
    (DOCS / "errors.md").write_text(errors(), encoding="utf-8")
    (DOCS / "std.md").write_text(standard_library(), encoding="utf-8")
