"""A checkpoint file -> its tensors by key. The content says which format it is, not the file's name.

    safetensors       mapped into memory
    .npz              numpy's archive, read as it is used, without pickled objects
    .pt .pth .bin     PyTorch's pickle, through `torch.load(weights_only=True)` alone: no code of the file is ever run

A pickle may hold the tensors one level down, beside an optimizer's state (`{"state_dict": {...}, "epoch": 90}`). Where
one dictionary of tensors is there, it is taken and `Checkpoint.origin` says so; where several are, the caller chooses.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from specc.diagnostics import SpeccError, did_you_mean, error
from specc.files import check_regular
from specc.ir.array import Array
from specc.npz import Archive, Unreadable
from specc.weights.tensors import damaged, map_safetensors, widen_bfloat16

_GIT_LFS = b"version https:/"
"""How the file begins that Git leaves in the place of a large one."""


class Checkpoint(Mapping[str, Array]):
    """Arrays by key, each read when it is asked for. `origin` says where they come from, for messages."""

    def __init__(self, origin: str, readers: Mapping[str, Callable[[], Array]]) -> None:
        self.origin, self._readers = origin, dict(readers)

    def __getitem__(self, key: str) -> Array:
        return self._readers[key]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __contains__(self, key: object) -> bool:
        return key in self._readers


def read_checkpoint(path: str | Path, under: str | None = None) -> Checkpoint:
    """The tensors of a checkpoint file; `under` names the entry of a pickle that holds them.

    Raises S0601 where there is nothing to read, S0602 for a file that is no checkpoint, S0605 for a pickle with other
    things than tensors.
    """
    path = Path(path)
    try:
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(32)
        format = _format(path, head)
        if format is None:
            raise error(
                "S0602", f"`{path}` is no checkpoint: known are safetensors, .npz and .pt", notes=_hint(path, head)
            )
        if format != "pickle" and under is not None:
            raise error("S0602", f"`{path}` has no entries such as `{under}`: it holds its tensors directly")
        if format == "safetensors":
            return Checkpoint(str(path), map_safetensors(path))
        if format == "npz":
            return Checkpoint(str(path), _read_npz(path))
        return _read_pickle(path, under)
    except OSError as problem:
        raise error("S0601", f"`{path}` cannot be read: {problem.strerror or problem}") from None


def in_memory(tensors: Mapping[str, Any], origin: str = "the checkpoint") -> Checkpoint:
    """The checkpoint of arrays or PyTorch's tensors by key; reading one that numpy cannot hold raises S0602."""
    return Checkpoint(origin, {key: _reader(origin, key, given) for key, given in tensors.items()})


def _format(path: Path, head: bytes) -> str | None:
    if head[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as problem:  # a name that is no UTF-8, for one
            raise damaged(path, problem) from None
        if any(name.endswith("data.pkl") for name in names):
            return "pickle"
        return "npz" if all(name.endswith(".npy") for name in names) else None
    if head.startswith(_GIT_LFS):
        return None
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "pickle"
    return "safetensors" if head[8:9] == b"{" or path.suffix == ".safetensors" else None


def _hint(path: Path, head: bytes) -> list[str]:
    if head.startswith(_GIT_LFS):
        return ["it is a pointer of Git LFS: fetch the file itself with `git lfs pull`"]
    if path.name.endswith(".index.json"):
        return ["it is the index of a checkpoint in several files: give the one that holds the tensors"]
    return ["it is a text file"] if head and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head) else []


def _read_npz(path: Path) -> dict[str, Callable[[], Array]]:
    def reader(key: str) -> Callable[[], Array]:
        def read() -> Array:
            try:
                return archive[key]
            except Unreadable as problem:
                raise damaged(path, problem) from None

        return read

    try:
        archive = Archive(path)
    except Unreadable as problem:
        raise damaged(path, problem) from None
    return {key: reader(key) for key in archive.names}


def _read_pickle(path: Path, under: str | None) -> Checkpoint:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storages and protocols: nothing that the caller could change
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        raise _refused(path, problem) from None
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError) as problem:
        raise damaged(path, str(problem).splitlines()[0] if str(problem) else type(problem).__name__) from None
    tensors, place = _tensors(path, loaded, under)
    return in_memory(tensors, f"{path}{place}")


def _refused(path: Path, problem: Exception) -> SpeccError:
    named = re.search(r"GLOBAL ([\w.]+)", str(problem))
    what = f"`{named[1]}`" if named else "something else than tensors"
    return error(
        "S0605",
        f"`{path}` holds {what}: reading it could run code, so it was not read",
        notes=["save the tensors alone: `safetensors.torch.save_file(model.state_dict(), FILE)`"],
    )


def _tensors(path: Path, loaded: Any, under: str | None) -> tuple[dict[str, Any], str]:
    """The dictionary of tensors in what was loaded, and the words that say where it stands."""
    if under is None and _is_tensors(loaded):
        return loaded, ""
    entries = loaded if isinstance(loaded, dict) else {}
    found = {str(key): value for key, value in entries.items() if _is_tensors(value)}
    if under is not None:
        if under not in found:
            listed = ", ".join(f"`{key}`" for key in found) or "none"
            message = f"`{path}` has no tensors under `{under}`; entries with tensors: {listed}"
            raise error("S0602", message, notes=did_you_mean(under, found))
        return found[under], f" under `{under}`"
    if len(found) > 1:
        listed = ", ".join(f"`{key}`" for key in found)
        raise error("S0602", f"`{path}` holds several networks: {listed}", notes=["save the one that is meant alone"])
    if not found:
        raise error("S0602", f"`{path}` holds no dictionary of tensors but {_described(loaded)}")
    ((key, tensors),) = found.items()
    return tensors, f" under `{key}`"


def _is_tensors(value: Any) -> bool:
    import torch

    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())


def _described(loaded: Any) -> str:
    if isinstance(loaded, dict):
        keys = ", ".join(f"`{key}`" for key in list(loaded)[:5])
        return f"a dictionary of {keys}{', ...' if len(loaded) > 5 else ''}" if keys else "an empty dictionary"
    return f"a {type(loaded).__name__}"


def _reader(origin: str, key: str, given: Any) -> Callable[[], Array]:
    if not hasattr(given, "detach"):
        return lambda: np.asarray(given)

    def read() -> Array:
        import torch

        try:
            plain = given.detach().cpu()
            plain = plain.to_dense() if plain.layout != torch.strided else plain
            if plain.dtype == torch.bfloat16:
                return widen_bfloat16(plain.contiguous().view(torch.uint16).numpy())
            array: Array = plain.resolve_conj().resolve_neg().numpy()
            return array
        except (TypeError, RuntimeError, NotImplementedError):  # 8-bit floats, quantized numbers, tensors of no values
            kind = str(given.dtype).removeprefix("torch.")
            said = "no values" if given.device.type == "meta" else f"elements of type {kind}, which cannot be used"
            raise error("S0602", f"{origin}: `{key}` has {said}") from None

    return read
