"""`specc explain`: the page of a code, a pass or an operator."""

from __future__ import annotations

import click


@click.command()
@click.argument("name", metavar="CODE|PASS|OPERATOR")
def explain(name: str) -> None:
    """Explain a message's code, a pass or an operator."""
    from specc import pages

    click.echo(pages.explain(name))
