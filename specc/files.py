"""Files and folders that appear whole or not at all: they are written beside the goal, and renamed at the end."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from specc.diagnostics import error


def check_writable(path: str | Path, *sources: str | Path | None) -> Path:
    """The file that writing to `path` would make or replace; raises S0002 where it is plain that it cannot be written.

    To be asked before long work whose result goes there. It may be none of the `sources`, from which the result comes.
    """
    goal = Path(os.path.realpath(path))  # through links: they stay, what they point at is replaced
    problem = None
    if not os.fspath(path):
        problem = "its name is empty"
    elif any(source is not None and os.path.realpath(source) == str(goal) for source in sources):
        problem = "what this command reads stands there"
    elif goal.exists() and not goal.is_file():
        problem = f"it is {'a directory' if goal.is_dir() else 'a device'}, not a file"
    elif not goal.parent.is_dir():
        problem = f"there is no folder {goal.parent}"
    elif not os.access(goal.parent, os.W_OK):
        problem = f"the folder {goal.parent} may not be written to"
    if problem:
        raise error("S0002", f"{path} cannot be written: {problem}")
    return goal


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` when the block ends well, and vanishes when it does not (Ctrl-C included).

    Raises S0002 where `path` cannot be written. A device or a pipe is refused: renaming would replace it.
    """
    goal = check_writable(path)
    temporary = goal.with_name(f".{goal.name[:100]}.{secrets.token_hex(6)}")
    try:
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, goal)
        except OSError as problem:
            raise error("S0002", f"{path} cannot be written: {problem.strerror or problem}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def filling(path: str | Path) -> Iterator[Path]:
    """A folder to fill that becomes the new folder `path` when the block ends well, and vanishes when it does not.

    Raises S0002 where `path` cannot be made, or is there already and is anything but an empty folder.
    """
    goal = check_fillable(path)
    temporary = goal.with_name(f".{goal.name[:100]}.{secrets.token_hex(6)}")
    try:
        try:
            temporary.mkdir()
            yield temporary
            os.replace(temporary, goal)
        except OSError as reason:
            raise error("S0002", f"{path} cannot be written: {reason.strerror or reason}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_fillable(path: str | Path) -> Path:
    """The folder that filling `path` would make; raises S0002 where it is plain that it cannot be made.

    To be asked before long work whose result goes there.
    """
    goal = Path(os.path.realpath(path))
    problem = None
    if not os.fspath(path):
        problem = "its name is empty"
    elif goal.exists() and (not goal.is_dir() or any(goal.iterdir())):
        problem = "something stands there already"
    elif not goal.parent.is_dir():
        problem = f"there is no folder {goal.parent}"
    elif not os.access(goal.parent, os.W_OK):
        problem = f"the folder {goal.parent} may not be written to"
    if problem:
        raise error("S0002", f"{path} cannot be written: {problem}")
    return goal
