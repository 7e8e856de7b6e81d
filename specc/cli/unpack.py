"""`specc unpack`: an artifact --> a folder for a program in C."""

from __future__ import annotations

import click

from specc.cli.options import artifact_argument, json_option, print_json


@click.command()
@artifact_argument
@click.option("-o", "--output", type=click.Path(), required=True, help="The folder to make.")
@json_option
def unpack(path: str, output: str, as_json: bool) -> None:
    """Write an artifact's library, header, weights and sample as files, for programs in C or C++."""
    from specc import artifact
    from specc.unpack import unpack as write

    sizes = write(artifact.read(path), output)
    if as_json:
        print_json({"output": output, "files": sizes})
    else:
        for name, size in sizes.items():
            click.echo(f"{output}/{name}: {size} bytes")
