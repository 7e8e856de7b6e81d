"""How an artifact begins, which tells it from a spec before it is read; loads no arrays, as `specc check` has none."""

from __future__ import annotations

from pathlib import Path

from specc.diagnostics import error

MAGIC = b"\x89specc\r\n"  # no text file begins so, and a transfer that changes line ends breaks it


def is_artifact(path: str | Path) -> bool:
    """Whether the file at `path` begins as an artifact does."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def refuse_artifact(path: str | Path) -> None:
    """Raises S0001 for an artifact where a spec is read."""
    if is_artifact(path):
        notes = (
            "`specc compile` made it: give the spec that it was made from",
            "`specc run`, `show`, `bench`, `profile`, `sign` and `unpack` take artifacts; "
            f"`specc run {path} --self-test` compares its outputs with the reference's",
        )
        raise error("S0001", f"{path} is an artifact, and not a spec", notes=notes)
