"""The command line: words --> a call of the driver --> data on stdout, messages on stderr, an exit code.

A module for each command. They import what they need when they run, so that `specc --help` costs no more than click.
See `specc.terminal` for the exit codes.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

import click

from specc import __version__, terminal
from specc.cli.bench import bench
from specc.cli.check import check
from specc.cli.compile import compile
from specc.cli.explain import explain
from specc.cli.fmt import fmt
from specc.cli.importing import import_
from specc.cli.profile import profile
from specc.cli.run import run
from specc.cli.show import show
from specc.cli.sign import sign
from specc.cli.tune import tune
from specc.cli.unpack import unpack
from specc.cli.verify import verify
from specc.cli.zoo import zoo


class _InOrder(click.Group):
    """Lists the commands in the order in which they are added, and so used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="specc")
def cli() -> None:
    """Compile neural networks written as text to verified artifacts.

    FILE is a spec, or a network of the zoo (zoo:repvit/m1_1); FILE:VARIANT chooses one of its variants. ARTIFACT is a
    file that `specc compile` has made.
    """


for command in (check, fmt, import_, show, compile, run, unpack, sign, verify, tune, bench, profile, zoo, explain):
    cli.add_command(command)


def execute(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; the exit code."""
    return terminal.guarded(lambda: cli.main(arguments, prog_name="specc", standalone_mode=False))


YOUNG = 50_000
"""Objects beyond those that went again before Python looks for cycles among them; 700 is its default. Modules, syntax
trees and graphs stay to the end of a command; looking through them costs `specc check` six hundredths of its time."""


def main() -> None:
    """The entry point of `specc`."""
    gc.set_threshold(YOUNG)
    sys.exit(execute())
