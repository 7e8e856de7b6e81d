"""`specc profile --static`: the inner loops of an artifact's kernels, counted for a core that need not be here."""

from __future__ import annotations

import click

from specc.artifact import Contents
from specc.cli.options import print_json
from specc.manifest import Size

_RIGHT = ("kcycles", "part", "calls", "insts", "cycles", "MACs/cycle", "of peak")


def show_static(contents: Contents, size: Size, core: str | None, as_json: bool) -> None:
    """Prints the count as a table, the kernel that takes longest first, or as JSON."""
    from specc import report
    from specc.static_profile import static_profile

    found = static_profile(contents, size, core)
    if as_json:
        print_json({"network": contents.manifest.network, "shapes": dict(size.dimensions), **found.to_json()})
        return
    rows = []
    for kernel in sorted(found.kernels, key=lambda kernel: -kernel.calls * (kernel.cycles or 0)):
        hot, cycles = kernel.hot, kernel.cycles
        rows.append(
            {
                "kcycles": f"{kernel.calls * cycles / 1e3:.1f}" if cycles else "-",
                "part": f"{kernel.calls * cycles / found.cycles:.1%}" if cycles else "-",
                "calls": str(kernel.calls),
                "insts": str(hot.instructions) if hot else "-",
                "cycles": f"{hot.cycles:.1f}" if hot else "-",
                "MACs/cycle": f"{hot.rate:.1f}" if hot and hot.macs else "-",
                "of peak": f"{hot.rate / hot.peak:.0%}" if hot and hot.macs else "-",
                "bottleneck": hot.bottleneck if hot else "no loop",
                "kernel": kernel.kernel,
                "first in": kernel.path,
            }
        )
    if rows:
        click.echo(report.table(rows, right=_RIGHT))
    click.echo(
        f"{contents.manifest.network} for {found.target}, one core, {found.tool} with its model of {found.core}: "
        f"{found.cycles / 1e6:.2f} million cycles at least; insts and cycles are those of one iteration of a kernel's "
        "hot loop. Caches, memory, borders, epilogues and kernels without multiply-adds are left out"
    )
