"""`specc unpack`: an artifact --> a folder for a program in C."""

from __future__ import annotations

import click

from specc.cli.options import artifact_argument, json_option, print_json, signature_option


@click.command()
@artifact_argument
@click.option("-o", "--output", type=click.Path(), required=True, help="The folder to make.")
@signature_option
@json_option
def unpack(path: str, output: str, key: str | None, as_json: bool) -> None:
    """Write an artifact's parts as files for C and C++.

    They are its library, header, weights and sample.
    """
    from specc import artifact, signature
    from specc.unpack import unpack as write

    sizes = write(artifact.read(path, signature.required(key) if key else None), output)
    if as_json:
        print_json({"output": output, "files": sizes})
    else:
        for name, size in sizes.items():
            click.echo(f"{output}/{name}: {size} bytes")
