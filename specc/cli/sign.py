"""`specc sign`: an artifact --> the artifact with a signature."""

from __future__ import annotations

import click

from specc.cli.options import artifact_argument, json_option, print_json


@click.command()
@artifact_argument
@click.option("--key", type=click.Path(), required=True, help="A private Ed25519 key, as a PEM file.")
@click.option("-o", "--output", type=click.Path(), help="Write the signed artifact there, and leave ARTIFACT alone.")
@json_option
def sign(path: str, key: str, output: str | None, as_json: bool) -> None:
    """Sign an artifact.

    `--require-signature` then refuses what this key has not signed.

    Keys come from `openssl genpkey -algorithm ed25519 -out private.pem` and
    `openssl pkey -in private.pem -pubout -out public.pem`.
    """
    from specc import signature

    name = signature.fingerprint(signature.sign(path, key, output))
    if as_json:
        print_json({"output": output or path, "key": name})
    else:
        click.echo(f"{output or path} is signed with {name}")
