"""The results of all machines -> docs/performance.md and a page for each machine, and the README's table.

The first page sets the machines side by side, in numbers that sum up a section; what was measured, network by network,
stands on the page of each machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from measuring import bf16, footprint, integers, latency, memory, roofs, tuned, zoo
from measuring.aims import COMPILED_IN, Aim, judged, wanted
from measuring.machine import Machine
from measuring.results import NETWORKS, ROOT, called, load, machines, table

SECTIONS = {
    "roofs": roofs,
    "latency": latency,
    "zoo": zoo,
    "tuned": tuned,
    "integers": integers,
    "bf16": bf16,
    "memory": memory,
    "footprint": footprint,
}
"""In the order of the pages. Each has a docstring, TITLE, MEASURED (the networks), AIM, and arguments(), measure(),
ratios() and write()."""

README = ROOT / "README.md"
DOCS = ROOT / "docs"
TABLE = ("<!-- docs/measure.py writes this table -->", "<!-- its end -->")
"""What stands around the README's table."""
_WRITTEN = (
    "This page is written by `docs/measure.py` from the results in `docs/measured`; nothing in it is typed by hand."
)
_CALM = 0.5
"""A load average up to which nothing else has been running."""
_Found = dict[str, dict[str, Any]]
"""What `results.load` gives for each section that was measured."""


def write() -> None:
    """Writes all pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


def pages() -> dict[Path, str]:
    """What each page is to say."""
    found = {machine: _sections(machine) for machine in machines()}
    texts = {DOCS / _file(machine): _machine(machine, sections) for machine, sections in found.items()}
    texts[DOCS / "performance.md"] = _summary(found)
    return {**texts, README: _readme(README.read_text(encoding="utf-8"), found)}


def _sections(machine: Machine) -> _Found:
    loaded = {name: load(machine, name) for name in SECTIONS}
    return {name: found for name, found in loaded.items() if found}


def _file(machine: Machine) -> str:
    return f"performance-{machine.name}.md"


# ---- the page of a machine ------------------------------------------------------------------------------------------


def _machine(machine: Machine, sections: _Found) -> str:
    text = [
        f"# Measured: {machine.title}",
        "",
        _WRITTEN,
        "[performance.md](performance.md) sets the machines side by side.",
        "",
        f"{machine}.",
        *latency.own_cores(found["results"] for found in sections.values()),
    ]
    for name, found in sections.items():
        section = SECTIONS[name]
        text += ["", f"## {section.TITLE}", "", *_origin(found), "", *section.write(found["results"], machine)]
    return "\n".join(text).rstrip("\n") + "\n"


def _origin(found: dict[str, Any]) -> list[str]:
    """The command, and how much had been running before; a section that is measured behind another finds that one."""
    said = [f"The load average was {found['load']:.1f} when it began."]
    if found["load"] > _CALM:
        said = [f"{said[0][:-1]}: the section before, or another program, had been running."]
        said += ["What runs meanwhile disturbs the numbers, those of two threads most."]
    return [f"    {found['command']}", "", *said]


# ---- all machines side by side --------------------------------------------------------------------------------------


def _summary(found: dict[Machine, _Found]) -> str:
    text = [
        "# Measured",
        "",
        _WRITTEN,
        "`make bench` measures everything anew on the machine that it runs on, and leaves the others' results.",
        "",
        *table(["machine", "what it says of itself"], [[_link(machine), str(machine)] for machine in found]),
        "",
        "## Beside what is aimed at",
        "",
        "Ratios of specc to the best peer, over the networks of each section: the geometric mean and the greatest;",
        "below 1, specc is ahead. Bold is what is above the aim.",
        "",
    ]
    head = ["", "", "aim: mean", "greatest"]
    for machine in found:
        head += [f"{machine.title}: mean", "greatest"]
    rows: list[list[str]] = []
    for name, section in SECTIONS.items():
        rows += _ratio_rows(section.TITLE, section.AIM, [sections.get(name) for sections in found.values()], section)
    text += table(head, rows)
    compiled = _compiled(found)
    if compiled:
        text += ["", "The longest that a network of a section takes to compile, with an empty cache of kernels:", ""]
        text += table(["", "aim", *(machine.title for machine in found)], compiled)
    return "\n".join(text) + "\n"


def _link(machine: Machine) -> str:
    return f"[{machine.title}]({_file(machine)})"


def _ratio_rows(title: str, aim: Aim, measured: list[dict[str, Any] | None], section: Any) -> list[list[str]]:
    """A row for each number of threads, and for each network that has an aim of its own."""
    ratios = [section.ratios(found) if found else {} for found in measured]
    kinds = list(dict.fromkeys(kind for of in ratios for kind in of))
    rows = []
    for kind in kinds:
        row = [title, kind, wanted(aim.mean), wanted(aim.greatest)]
        for of in ratios:
            row += _cells(of.get(kind, {}), aim, len(section.MEASURED))
        rows.append(row)
    for network, most in aim.networks.items():
        for kind in kinds:
            row = [f"{title}: {called(network)}", kind, "", wanted(most)]
            for of in ratios:
                one = of.get(kind, {}).get(network)
                row += ["", judged(one, most, f"{one:.2f}") if one else ""]
            rows.append(row)
    return rows


def _cells(ratios: dict[str, float], aim: Aim, networks: int) -> list[str]:
    if not ratios:
        return ["", ""]
    mean = latency.geometric_mean(list(ratios.values()))
    worst = max(ratios, key=lambda name: ratios[name])
    part = "" if len(ratios) == networks else f" ({len(ratios)} of {networks} networks)"
    return [
        judged(mean, aim.mean, f"{mean:.2f}") + part,
        judged(ratios[worst], aim.greatest, f"{ratios[worst]:.2f}") + f" ({called(worst)})",
    ]


def _compiled(found: dict[Machine, _Found]) -> list[list[str]]:
    """For each section in which networks are compiled from nothing, the slowest one."""
    rows = []
    for name, section in SECTIONS.items():
        cells = []
        for sections in found.values():
            results = sections[name]["results"] if name in sections else {}
            times = {network: row["compile_seconds"] for network, row in results.items() if "compile_seconds" in row}
            cells.append(_slowest(times) if times else "")
        if any(cells):
            rows.append([section.TITLE, f"{COMPILED_IN:.0f} s", *cells])
    return rows


def _slowest(times: dict[str, float]) -> str:
    network = max(times, key=lambda name: times[name])
    return judged(times[network], COMPILED_IN, f"{times[network]:.0f} s") + f" ({called(network)})"


# ---- the README -----------------------------------------------------------------------------------------------------


def _readme(text: str, found: dict[Machine, _Found]) -> str:
    """The README with the latencies as they were measured last: specc's medians, and the ratios to the best peer."""
    first, last = TABLE
    before, _, rest = text.partition(first)
    _, _, behind = rest.partition(last)
    measured = {machine: sections["latency"] for machine, sections in found.items() if "latency" in sections}
    return "\n".join([before + first, *_latencies(measured), last + behind]) if measured and behind else text


def _latencies(found: dict[Machine, dict[str, Any]]) -> list[str]:
    head, means = [""], ["geometric mean"]
    rows = {name: [called(name)] for name in NETWORKS}
    for machine, measured in found.items():
        for number, (kind, ratios) in enumerate(latency.ratios(measured).items()):
            head.append(f"{machine.title}: {kind}" if not number else kind)
            means.append(f"({latency.geometric_mean(list(ratios.values())):.2f})")
            count = kind.partition(" ")[0]
            for name, row in rows.items():
                timings = measured["results"].get(name, {}).get("timings", {}).get(count)
                row.append(f"{timings[0]['median_ms']:.1f} ({ratios[name]:.2f})" if timings else "")
    return table(head, [*rows.values(), means])
