"""Files and folders that appear whole or not at all: they are written beside the goal, and renamed at the end."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from specc.diagnostics import error

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What the system says where a disk takes no more."""


def check_regular(path: str | Path) -> None:
    """Raises OSError where a device or a pipe stands at `path`: one may have no end, the other no writer."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file")


def check_writable(path: str | Path, *sources: str | Path | None) -> Path:
    """The file that writing to `path` would make or replace; raises S0002 where it is plain that it cannot be written.

    To be asked before long work whose result goes there. It may be none of the `sources`, from which the result comes.
    """
    goal = Path(os.path.realpath(path))  # through links: they stay, what they point at is replaced
    problem = _obstacle(path, goal)
    if problem is None and any(source is not None and os.path.realpath(source) == str(goal) for source in sources):
        problem = "what this command reads stands there"
    elif problem is None and goal.exists() and not goal.is_file():
        problem = f"it is {'a directory' if goal.is_dir() else 'a device'}, not a file"
    if problem:
        raise error("S0002", f"{path} cannot be written: {problem}")
    return goal


def _obstacle(path: str | Path, goal: Path) -> str | None:
    """Why neither a file nor a folder can be made at `goal`, which `path` leads to; None where nothing is known."""
    if not os.fspath(path):
        return "its name is empty"
    try:
        goal.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as reason:  # a name that is too long, for one
        return reason.strerror or str(reason)
    if goal.is_symlink():
        return "it is a link that leads back to itself"
    if not goal.parent.is_dir():
        return f"there is no folder {goal.parent}"
    return None if os.access(goal.parent, os.W_OK) else f"the folder {goal.parent} may not be written to"


def check_fillable(path: str | Path) -> Path:
    """The folder that filling `path` would make; raises S0002 where it is plain that it cannot be made.

    To be asked before long work whose result goes there.
    """
    goal = Path(os.path.realpath(path))
    problem = _obstacle(path, goal)
    if problem is None and goal.exists() and (not goal.is_dir() or any(goal.iterdir())):
        problem = "something stands there already"
    if problem:
        raise error("S0002", f"{path} cannot be written: {problem}")
    return goal


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` when the block ends well, and vanishes when it does not (Ctrl-C included).

    Raises S0002 where `path` cannot be written. A device or a pipe is refused: renaming would replace it.
    """
    with _renamed(path, check_writable(path), Path.unlink) as temporary, open(temporary, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def filling(path: str | Path) -> Iterator[Path]:
    """A folder to fill that becomes the new folder `path` when the block ends well, and vanishes when it does not.

    Raises S0002 where `path` cannot be made, or is there already and is anything but an empty folder.
    """
    with _renamed(path, check_fillable(path), partial(shutil.rmtree, ignore_errors=True)) as temporary:
        temporary.mkdir()
        yield temporary


@contextmanager
def _renamed(path: str | Path, goal: Path, remove: Callable[[Path], object]) -> Iterator[Path]:
    """A name beside `goal`; what the block makes there is renamed to it, or removed where the block does not end well.

    Raises S0002 for `path`.
    """
    temporary = goal.with_name(f".{goal.name[:40]}.{secrets.token_hex(6)}")
    try:
        yield temporary
        os.replace(temporary, goal)
    except OSError as problem:
        raise error("S0002", f"{path} cannot be written: {problem.strerror or problem}") from None
    finally:
        with suppress(OSError):
            remove(temporary)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what is needed while something is made, gone at the end; raises S0002 where its disk is full."""
    try:
        with tempfile.TemporaryDirectory(prefix="specc-") as folder:
            yield Path(folder)
    except OSError as problem:
        if problem.errno not in FULL:
            raise
        message = f"the temporary folder {tempfile.gettempdir()} cannot be written: {problem.strerror}"
        raise error("S0002", message, notes=("TMPDIR names another one",)) from None
