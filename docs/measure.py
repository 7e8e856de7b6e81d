"""Measures what docs/performance.md says, and writes that page.

    python docs/measure.py                    all sections, one after the other
    python docs/measure.py latency [OPTIONS]  one section; the others stay as they are
    python docs/measure.py page               nothing: writes the page from the results that are there

The README's table of latencies is written with the page.

A section is a module of `docs/measuring`. Its results are kept in `docs/measured/SECTION.json` with the machine and the
command that made them, and the page is written from these files alone.
"""

from __future__ import annotations

import argparse
from typing import Any

from measuring import bf16, footprint, integers, latency, memory, tuned
from measuring.results import PAGE, ROOT, load, save

README = ROOT / "README.md"
TABLE = ("<!-- docs/measure.py writes this table -->", "<!-- its end -->")
"""What stands around the README's table."""
SECTIONS = {
    "latency": latency,
    "tuned": tuned,
    "integers": integers,
    "bf16": bf16,
    "memory": memory,
    "footprint": footprint,
}
"""In the order of the page. Each has a docstring, TITLE, arguments(), measure() and write()."""


def main() -> None:
    """Measures what the command line names and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_subparsers(dest="section", metavar="SECTION")
    parsers = {}
    for name, section in SECTIONS.items():
        summary = (section.__doc__ or "").partition("\n")[0]
        parsers[name] = chosen.add_parser(
            name, help=summary, description=section.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        section.arguments(parsers[name])
    chosen.add_parser("page", help="writes the page from the results that are there")
    given = parser.parse_args()
    for name, section in SECTIONS.items():
        if given.section in (None, name):
            options = given if given.section else parsers[name].parse_args([])
            save(name, vars(options), section.measure(options, load(name)))
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")


def page() -> str:
    """The page, from what is measured."""
    text = [
        "# Measured",
        "",
        "This page is written by `docs/measure.py` from the results in `docs/measured`; nothing in it is typed by",
        "hand. `make bench` measures everything anew.",
    ]
    for name, section in SECTIONS.items():
        found = load(name)
        if found:
            text += ["", f"## {section.TITLE}", "", *_origin(found), "", *section.write(found["results"])]
    return "\n".join(text) + "\n"


def readme(text: str) -> str:
    """The README with the table of latencies as it was measured last."""
    found = load("latency")
    first, last = TABLE
    before, _, rest = text.partition(first)
    _, _, behind = rest.partition(last)
    return "\n".join([before + first, *latency.summary(found["results"]), last + behind]) if found and behind else text


def _origin(found: dict[str, Any]) -> list[str]:
    return [
        f"    {found['command']}",
        "",
        f"on {found['machine']} of cache,",
        f"on which {found['load']:.1f} other programs were running when it began (the load average): above 0.5, the",
        "numbers are disturbed, those of two threads most.",
    ]


if __name__ == "__main__":
    main()
