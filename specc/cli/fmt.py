"""`specc fmt`: specs in canonical form."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from specc.diagnostics import SpeccError, error
from specc.terminal import FAILED, FINE, complain, say


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--check", "only_check", is_flag=True, help="Change nothing; list the files that would change.")
def fmt(files: Sequence[str], only_check: bool) -> int:
    """Write specs in canonical form.

    `-` is stdin to stdout, and a folder stands for the specs in it.
    """
    failed = False
    changed, total = [], 0
    for name in _specs(files):
        total += 1
        try:
            text, formatted = _formatted(name)
            if text == formatted and name != "-":
                continue
            if text != formatted:
                changed.append("<stdin>" if name == "-" else name)
            if not only_check:
                _write(name, formatted)
        except SpeccError as problem:
            complain(problem)
            failed = True
    if only_check:
        for name in changed:
            click.echo(name)
        if changed or not failed:
            say(f"{len(changed)} of {total} would change" if changed else f"{total} in canonical form")
    elif changed and changed != ["<stdin>"]:
        say("\n".join(f"formatted {name}" for name in changed if name != "<stdin>"))
    return FAILED if failed or (only_check and changed) else FINE


def _specs(files: Sequence[str]) -> Iterator[str]:
    for name in files:
        if not os.path.isdir(name):
            yield name
            continue
        found = sorted(Path(name).rglob("*.specc"))
        if not found:
            raise error("S0001", f"there is no spec in the folder {name}")
        yield from map(str, found)


def _formatted(name: str) -> tuple[str, str]:
    from specc import grammar
    from specc.grammar.modules import read
    from specc.magic import refuse_artifact

    refuse_artifact(name)
    text = _stdin() if name == "-" else read(Path(name))
    return text, grammar.format_text(text, "<stdin>" if name == "-" else name)


def _stdin() -> str:
    if sys.stdin is None:  # as Python has it where the descriptor is closed
        raise error("S0001", "stdin is closed")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise error("S0001", "stdin is not a text in UTF-8") from None


def _write(name: str, text: str) -> None:
    from specc.files import replacing

    if name == "-":
        click.echo(text, nl=False)
        return
    with replacing(name) as file:
        file.write(text.encode())
