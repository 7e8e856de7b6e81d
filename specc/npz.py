"""numpy's archives of arrays (.npz): a path --> arrays by name, each read when it is asked for.

What is wrong with such a file has many forms: numpy, zip and its compressions raise each their own. Here they are one,
`Unreadable`, with a reason in words. Pickled objects are refused: loading one could run code.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path

import numpy as np

from specc.files import check_regular
from specc.ir.array import Array

_RAISED = (ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


class Unreadable(Exception):
    """The file, or a member of it, is no array, for this reason."""


def _reason(said: str) -> str:
    if "Object arrays" in said:
        return " holds objects of Python"
    return " has a header that numpy cannot read" if "malformed node" in said else f": {said}"


class Archive:
    """An .npz file. Raises `Unreadable` for a file of another kind, and OSError for none."""

    def __init__(self, path: str | Path) -> None:
        check_regular(path)
        try:
            found = np.load(path, allow_pickle=False)
        except _RAISED as problem:
            other = not zipfile.is_zipfile(path)
            raise Unreadable("it is of another kind, or cut" if other else str(problem)) from None
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise Unreadable("it is one array, and not arrays by name")
        self._file = found

    @property
    def names(self) -> list[str]:
        """The names of the arrays."""
        return list(self._file.files)

    def __getitem__(self, name: str) -> Array:
        try:
            array = self._file[name]
        except MemoryError:
            raise Unreadable(f"`{name}` is larger than this machine's memory") from None
        except _RAISED as problem:
            raise Unreadable(f"`{name}`{_reason(str(problem))}") from None
        if not isinstance(array, np.ndarray):
            raise Unreadable(f"`{name}` is no array")
        return array
