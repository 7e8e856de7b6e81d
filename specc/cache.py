"""What is made once and kept: kernels, and the tables of the parser.

The cache is the folder `SPECC_CACHE_DIR` (default: ~/.cache/specc). A file's name ends in the digest of all that its
content is made from; it holds the content behind the content's digest, so that a damaged one is made anew. Files appear
whole or not at all, so that several processes can share the folder. It may be deleted at any time. What it holds is
executed, as a program is: it belongs where nobody else may write.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from specc.diagnostics import SpeccError
from specc.files import replacing


def kept(kind: str, name: str, origin: str, make: Callable[[], bytes], keep: bool = True) -> bytes:
    """What `make` makes of `origin`: from the cache where it is there and whole, else made; to `keep`, put there."""
    folder = _folder(kind)
    path = folder and folder / f"{name}-{_digest(origin.encode()).hex()}.{kind}"
    if path and (found := _whole(path)) is not None:
        return found
    content = make()
    if path and keep:
        with suppress(SpeccError), replacing(path) as file:  # a cache that takes no more is no reason to fail
            file.write(_digest(content) + content)
    return content


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _whole(path: Path) -> bytes | None:
    """The content of a file of the cache; None where there is none, or a damaged one."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content[16:] if _digest(content[16:]) == content[:16] else None


def root() -> Path:
    """The cache's folder, whether or not it is there. Raises RuntimeError where there is no home for it."""
    given = os.environ.get("SPECC_CACHE_DIR")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "specc"


def _folder(kind: str) -> Path | None:
    """The folder of what is of one kind; None where it cannot be made."""
    try:
        folder = root() / f"{kind}s"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # there is no home either
        return None
    return folder if os.access(folder, os.W_OK) else None
