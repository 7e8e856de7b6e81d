"""Measures what docs/performance.md and its pages of single machines say, and writes them.

    python docs/measure.py                    all sections, one after the other
    python docs/measure.py latency [OPTIONS]  one section; the others stay as they are
    python docs/measure.py page               nothing: writes the pages from the results that are there

The README's table of latencies is written with the pages.

A section is a module of `docs/measuring`. Its results are kept in `docs/measured/MACHINE/SECTION.json` with the command
that made them, and the pages are written from these files alone. What other machines have measured stays.
"""

from __future__ import annotations

import argparse

from measuring import machine, pages
from measuring.pages import SECTIONS
from measuring.results import load, save


def main() -> None:
    """Measures what the command line names and writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_subparsers(dest="section", metavar="SECTION")
    parsers = {}
    for name, section in SECTIONS.items():
        summary = (section.__doc__ or "").partition("\n")[0]
        parsers[name] = chosen.add_parser(
            name, help=summary, description=section.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        section.arguments(parsers[name])
    chosen.add_parser("page", help="writes the pages from the results that are there")
    given = parser.parse_args()
    here = machine.here()
    for name, section in SECTIONS.items():
        if given.section in (None, name):
            options = given if given.section else parsers[name].parse_args([])
            save(here, name, vars(options), section.measure(options, load(here, name)))
    pages.write()


if __name__ == "__main__":
    main()
