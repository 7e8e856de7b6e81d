"""A checkpoint under the names of another code base --> the same arrays under the network's names.

    "backbone.*" -> "*"                          every `*` stands for any text, dots included
    "layers.*.attn.*" -> "stages.*.attention.*"  the first `*` of the new name is the first of the old one

The first rule that fits a whole key renames it, once; a key that none fits keeps its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from specc.diagnostics import error
from specc.ir.array import Array

Rules = Sequence[tuple[str, str]]


def rename_key(key: str, rules: Rules) -> str:
    """The name that the network has for the checkpoint's `key`."""
    for old, new in rules:
        found = re.fullmatch("(.*?)".join(re.escape(part) for part in old.split("*")), key)
        if found is None:
            continue
        pieces = new.split("*")
        return pieces[0] + "".join(text + piece for text, piece in zip(found.groups(), pieces[1:]))
    return key


class Renamed(Mapping[str, Array]):
    """A checkpoint by the network's names. Arrays are read when they are asked for, as in the checkpoint itself."""

    def __init__(self, checkpoint: Mapping[str, Array], rules: Rules) -> None:
        self.origin = getattr(checkpoint, "origin", "the checkpoint")
        self._checkpoint, self._old = checkpoint, dict[str, str]()
        for key in checkpoint:
            new = rename_key(key, rules)
            if new in self._old:
                message = f"{self.origin}: `{self._old[new]}` and `{key}` would both be called `{new}`"
                raise error("S0603", message, notes=["the spec's `rename` table says so"])
            self._old[new] = key

    def __getitem__(self, key: str) -> Array:
        return self._checkpoint[self._old[key]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._old)

    def __len__(self) -> int:
        return len(self._old)
