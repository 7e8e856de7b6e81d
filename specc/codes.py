"""The codes of all diagnostics, with the title that `docs/errors.md` gives them.

The hundreds say where a message comes from: 00 reading files, 01 syntax, 02 names and modules, 03 shapes and calls of
operators, 04 compile-time values, 05 checks and requirements, 06 weights, 07 the graph and its passes, 08 targets and
compilation, 09 artifacts and running them, 10 the command line.
"""

from __future__ import annotations

CODES: dict[str, str] = {
    "S0001": "a file cannot be read",
    "S0101": "the text is not a specc program",
    "S0301": "an operator does not take these operands",
    "S0302": "an operator's attribute has an illegal value",
    "S0701": "a graph breaks an invariant of the IR",
    "S0702": "a text is not a printed graph",
    "S0703": "a dimension has no value",
    "S0801": "an unknown target",
    "S0802": "no target fits this machine",
}
