"""A profile as one page of HTML that needs nothing else: no network, no library, no other file.

Everything is computed here, in percent of a chart's sides, and `page.html` puts it in place; `page.js` only joins
charts and tables (hover, choose, sort, filter, fold), and without it the page still says everything. A bar is a
rectangle of SVG in percent, so a chart fits any width while its text keeps its size, and colours are names of
`page.css`, which knows light, dark and print. The same as an interactive chart of a library would weigh 1 MB (Vega) to
4 MB (Plotly) before the first number; this weighs as much as its numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from specc.profile import KernelTime, Profile
from specc.waterline import gaps
from specc.waterline.axes import Linear, Logarithmic, Tick, amount, duration
from specc.waterline.origin import Origin

if TYPE_CHECKING:
    from specc.backends.tvm.roofline import Roofs

FOLDER = files("specc.waterline")
_NUMBER = re.compile(r"[._]?[0-9]+$")
"""What ends the name of one of several blocks."""

ROOM = 18.0
"""Percent of the height of a low chart that a name below a line takes."""


def render(profile: Profile, origin: Origin, alone: Profile | None = None) -> str:
    """The page of a profile; `alone` is the same artifact's with one thread, to be shown beside it."""
    import jinja2

    kernels = gaps.by_kernel(profile.calls)
    tree = gaps.by_block(profile.calls, origin.blocks, origin.network)
    number_of = {number: rank for rank, kernel in enumerate(kernels) for number in kernel.numbers}
    total = sum(call.microseconds for call in profile.calls)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"duration": duration, "amount": amount, "percent": percent}
    return environment.from_string((FOLDER / "page.html").read_text("utf-8")).render(
        origin=origin,
        profile=profile,
        alone=alone,
        total=total,
        ideal=sum(call.ideal for call in profile.calls),
        gap=sum(call.gap for call in profile.calls),
        verdict=gaps.verdict(profile, origin.blocks),
        kernels=[_row(kernel, rank, profile, alone, origin.blocks, total) for rank, kernel in enumerate(kernels)],
        tree=_tree(tree, total),
        waterline=_waterline(profile.calls, number_of, tree),
        staircase=_staircase(kernels, total),
        roofline=_roofline(kernels, profile, alone),
        calls=[_call(call, number_of[number], origin.blocks) for number, call in enumerate(profile.calls)],
        style=(FOLDER / "page.css").read_text("utf-8"),
        script=(FOLDER / "page.js").read_text("utf-8"),
    )


def percent(part: float) -> str:
    """A share for people: whole percents, tenths below ten."""
    if not part or part >= 0.0995:
        return f"{part:.0%}"
    return f"{part:.1%}" if part >= 0.0005 else "<0.1%"


def _call(call: KernelTime, kernel: int, blocks: gaps.Blocks) -> dict[str, Any]:
    """What is said of one call where it is pointed at."""
    return {
        "kernel": kernel,
        "operators": call.about["operators"],
        "path": call.path or "(network)",
        "place": gaps.place(call, blocks),
        "time": duration(call.microseconds),
        "ideal": duration(call.ideal),
        "share": percent(call.share),
        "work": f"{amount(call.operations, 'FLOP')}, {amount(call.bytes, 'B')}",
        "shapes": f"{', '.join(call.about['operands'])} → {', '.join(call.about['results'])}",
        "form": _form(call),
    }


def _form(call: KernelTime) -> str:
    """How a kernel is written, as far as the manifest says."""
    loops = " and ".join(map(str, call.about["parallel"]))
    chosen = ", ".join(f"{name} {value}" for name, value in call.about["configuration"].items())
    shared = f"threads share {loops} pieces" if loops else "one thread"
    return f"template {call.about['template']}{f' ({chosen})' if chosen else ''}; {shared}"


def _row(
    kernel: gaps.Sum, rank: int, profile: Profile, alone: Profile | None, blocks: gaps.Blocks, total: float
) -> dict[str, Any]:
    call = kernel.calls[0]
    places = list(dict.fromkeys(filter(None, (gaps.place(call, blocks) for call in kernel.calls))))
    return {
        "rank": rank,
        "sum": kernel,
        "name": call.kernel,
        "part": kernel.microseconds / total if total else 0.0,
        "rate": kernel.operations / kernel.microseconds / 1e3,
        "traffic": kernel.bytes / kernel.microseconds / 1e3,
        "scales": sum(alone.calls[i].microseconds for i in kernel.numbers) / kernel.microseconds if alone else None,
        "places": places,
        "reason": gaps.reason(kernel, profile),
        "result": ", ".join(type[type.index("[") :] for type in call.about["results"]),
        "operator": call.about["place"],
        "form": _form(call),
        "shapes": (call.about["operands"], call.about["results"]),
        "weights": call.weights,
        "calls": [(number, c, gaps.place(c, blocks)) for number, c in zip(kernel.numbers, kernel.calls)],
    }


def _tree(tree: gaps.Block, total: float) -> list[dict[str, Any]]:
    rows = list(tree.walk())
    return [
        {
            "depth": depth,
            "block": block,
            "part": block.total.microseconds / total if total else 0.0,
            "last": not block.inner,
            "shut": depth >= 1 and bool(block.inner),
            "hidden": depth >= 2,
        }
        for depth, block in rows
    ]


# ---- charts ---------------------------------------------------------------------------------------------------------


def _waterline(calls: Sequence[KernelTime], number_of: Mapping[int, int], tree: gaps.Block) -> dict[str, Any]:
    """The calls in order, each with its ideal and its actual time; and both, summed up to there."""
    count = max(1, len(calls))
    height = Linear.over(max((max(call.microseconds, call.ideal) for call in calls), default=0))
    total = Linear.over(max(sum(call.microseconds for call in calls), sum(call.ideal for call in calls)))
    room = 0.16 if count <= 160 else 0.0
    bars, lines, sums = [], {"actual": ["0,100"], "ideal": ["0,100"]}, {"actual": 0.0, "ideal": 0.0}
    for number, call in enumerate(calls):
        water = min(call.ideal, call.microseconds)
        bars.append(
            {
                "kernel": number_of[number],
                "slot": round(100 * number / count, 3),
                "whole": round(100 / count, 3),
                "left": round(100 * (number + room / 2) / count, 3),
                "width": round(100 * (1 - room) / count, 3),
                "water": height.at(water),
                "top": height.at(call.microseconds),
            }
        )
        for name, spent in (("actual", call.microseconds), ("ideal", call.ideal)):
            sums[name] += spent
            lines[name].append(f"{100 * (number + 1) / count:.3f},{100 - total.at(sums[name]):.3f}")
    scale, unit = (1e-3, " ms") if height.top >= 2e3 else (1.0, " µs")
    whole_scale, whole_unit = (1e-3, " ms") if total.top >= 2e3 else (1.0, " µs")
    return {
        "bars": bars,
        "ticks": height.ticks(unit, scale),
        "lines": {name: " ".join(points) for name, points in lines.items()},
        "between": " ".join([*lines["actual"], *reversed(lines["ideal"])]),
        "ends": _ends({name: total.at(spent) for name, spent in sums.items()}),
        **{name: duration(spent) for name, spent in sums.items()},
        "totals": total.ticks(whole_unit, whole_scale),
        "bands": _bands(calls, tree),
    }


def _ends(heights: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Where the names of the lines stand at their ends: above the upper one, below the lower one if there is room."""
    lower = min(heights, key=lambda name: (heights[name], name != "ideal"))
    return {
        name: {"top": round(100 - height, 3), "side": "below" if name == lower and height > ROOM else "above"}
        for name, height in heights.items()
    }


def _bands(calls: Sequence[KernelTime], tree: gaps.Block) -> list[dict[str, Any]]:
    """Runs of calls that belong to the same outermost block, to be named below the bars.

    Where a name has too little room, its `start` is shortened, and the number at its `end`, by which rows of blocks
    differ, is not.
    """
    home = {number: block.label for block in tree.inner for number in block.total.numbers}
    runs: list[tuple[str, int, int]] = []
    for number in range(len(calls)):
        label = home.get(number, "")
        if runs and runs[-1][0] == label:
            runs[-1] = (label, runs[-1][1], number + 1)
        else:
            runs.append((label, number, number + 1))
    count = max(1, len(calls))
    found = []
    for label, first, last in runs:
        start = _NUMBER.sub("", label)
        place = {"left": round(100 * first / count, 3), "width": round(100 * (last - first) / count, 3)}
        found.append({"label": label, "start": start, "end": label.removeprefix(start), **place})
    return found


def _staircase(kernels: Sequence[gaps.Sum], total: float) -> dict[str, Any]:
    """The kernels from the best to the worst: as wide as their share of the time, as high as that of the roof."""
    left, steps = 0.0, []
    for rank, kernel in sorted(enumerate(kernels), key=lambda pair: -pair[1].share):
        width = 100 * kernel.microseconds / total
        lost = kernel.gap / kernel.microseconds
        steps.append(
            {
                "kernel": rank,
                "left": round(left, 3),
                "width": round(width, 3),
                "height": round(100 * (1 - lost), 3),
                "over": kernel.share > 1,
            }
        )
        left += width
    return {"steps": steps, "ticks": [Tick(at, f"{at:.0f}%") for at in (0, 20, 40, 60, 80, 100)]}


def _roofline(kernels: Sequence[gaps.Sum], profile: Profile, alone: Profile | None) -> dict[str, Any]:
    """Kernels by their operations for each byte and in each second, below the roofs of the machine.

    The axes begin where the roofs say something: what lies beyond is drawn at the edge.
    """
    dots = [(rank, kernel) for rank, kernel in enumerate(kernels) if kernel.operations]
    machines = [("", profile.roofs), *([("alone", alone.roofs)] if alone else [])]
    densest = max([1.0, *(kernel.operations / kernel.bytes for _, kernel in dots)])
    x = Logarithmic.over(0.1, 1.3 * max(densest, *(roofs.operations / roofs.bytes for _, roofs in machines)))
    slowest = min(roofs.bytes for _, roofs in machines)
    kinds = {kernel.calls[0].about["element"] for _, kernel in dots}
    levels = {kind: rate for kind, rate in profile.roofs.others if kind in kinds}
    highest = max([*levels.values(), *(roofs.operations for _, roofs in machines)])
    y = Logarithmic.over(0.1 * slowest / 1e9, 1.2 * highest / 1e9)
    longest = max((kernel.microseconds for _, kernel in dots), default=1.0)

    def dot(rank: int, kernel: gaps.Sum, microseconds: float) -> dict[str, Any]:
        across, up = kernel.operations / kernel.bytes, kernel.operations / microseconds / 1e3
        return {
            "kernel": rank,
            "x": x.at(max(across, 10.0**x.low)),
            "y": y.at(min(max(up, 10.0**y.low), 10.0**y.high)),
            "r": round(3.5 + 9.5 * math.sqrt(kernel.microseconds / longest), 1),
            "clamped": across < 10.0**x.low or not 10.0**y.low <= up <= 10.0**y.high,
        }

    drawn = [dot(rank, kernel, kernel.microseconds) for rank, kernel in sorted(dots, key=lambda d: -d[1].microseconds)]
    once = [(rank, k, sum(alone.calls[i].microseconds for i in k.numbers)) for rank, k in dots] if alone else []
    top = profile.roofs.operations / 1e9
    return {
        "x": x.ticks(),
        "y": y.ticks(),
        "roofs": [roof for kind, roofs in machines for roof in _roofs(kind, roofs, x, y, levels if not kind else {})],
        "labels": [
            {"kind": "level", "x": 100, "y": y.at(top), "text": f"{top:.0f} GFLOP/s"},
            *(
                {"kind": "level", "x": 100, "y": y.at(rate / 1e9), "text": f"{kind}: {rate / 1e9:.0f} GOP/s"}
                for kind, rate in levels.items()
            ),
            _slope_label("memory", profile.roofs.bytes / 1e9, 0.3, top, x, y),
            _slope_label("cache", profile.roofs.rate(0) / 1e9, 0.85, top, x, y),
        ],
        "dots": drawn,
        "rings": [dot(*each) for each in once],
        "clamped": any(each["clamped"] for each in drawn),
        "left_out": len(kernels) - len(dots),
    }


def _roofs(
    kind: str, roofs: Roofs, x: Logarithmic, y: Logarithmic, levels: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The slopes of memory and of the fastest cache, and the levels of the multiply-adds, as lines."""
    tops = [roofs.operations / 1e9, *(rate / 1e9 for rate in levels.values())]
    rates = sorted({roofs.bytes / 1e9, roofs.rate(0) / 1e9})
    top = max(tops)
    lines = [(*_start(rate, x, y), top / rate, top) for rate in rates if top / rate > 10.0**x.low]
    lines += [(max(each / rates[-1], 10.0**x.low), each, 10.0**x.high, each) for each in tops]
    return [{"kind": kind, "points": (x.at(a), y.at(b), x.at(c), y.at(d))} for a, b, c, d in lines]


def _start(rate: float, x: Logarithmic, y: Logarithmic) -> tuple[float, float]:
    """Where a slope enters the chart."""
    first = max(10.0**x.low, 10.0**y.low / rate)
    return first, first * rate


def _slope_label(kind: str, rate: float, along: float, top: float, x: Logarithmic, y: Logarithmic) -> dict[str, Any]:
    """The label of a slope, that part of its length from where it begins."""
    first = _start(rate, x, y)[0]
    at = first * (max(top / rate, first) / first) ** along
    return {"kind": kind, "x": x.at(at), "y": y.at(at * rate), "text": f"{kind} {rate:.0f} GB/s"}
