"""CUDA -> cubin, by NVRTC: NVIDIA's compiler as a library, which needs neither a GPU nor a toolkit.

It comes with the package nvidia-cuda-nvrtc-cu12 (`pip install specc[cuda]`), or with CUDA's toolkit. The cubin holds
machine code for one architecture, and no PTX. Code made by CUDA 12's compiler runs with the drivers of CUDA 12 and of
those after it, which is why that one is asked for.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from specc.cache import kept
from specc.diagnostics import error
from specc.targets import Target

_LIBRARIES = ("libnvrtc.so.12", "libnvrtc.so.13")
_OPTIONS = ("--std=c++17",)


def cubin(text: str, target: Target) -> bytes:
    """The machine code of `text` for the GPU of `target`; kept by the text. Raises S0803."""
    library = _library()
    options = (f"--gpu-architecture={target.gpu}", *_OPTIONS)
    key = "\n".join((".".join(map(str, _version(library))), *options, text))
    return kept("cubin", target.gpu, key, lambda: _compile(library, text, options))


def _compile(library: Any, text: str, options: tuple[str, ...]) -> bytes:
    program = ctypes.c_void_p()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None))
    try:
        words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if library.nvrtcCompileProgram(program, len(options), words):
            log = _bytes(library, program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
            raise error("S0803", f"NVRTC fails: {log[-500:]}")
        return _bytes(library, program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(library: Any, program: Any, what: str) -> bytes:
    """What NVRTC has to give of a program: its log, or the machine code."""
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    found = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, found))
    return found.raw


def _check(library: Any, problem: int) -> None:
    if problem:
        raise error("S0803", f"NVRTC fails: {library.nvrtcGetErrorString(problem).decode()}")


def _version(library: Any) -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def available() -> bool:
    """Whether there is an NVRTC here."""
    return _find() is not None


def _library() -> Any:
    """The library; raises S0803 where there is none."""
    found = _find()
    if found is None:
        note = "pip install nvidia-cuda-nvrtc-cu12, or CUDA's toolkit on the path of libraries"
        raise error("S0803", "no NVRTC is installed, which makes kernels for NVIDIA GPUs", notes=(note,))
    return found


@cache
def _find() -> Any:
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    return None


def _candidates() -> Iterator[str]:
    """Where the library may lie: in NVIDIA's packages for Python, then wherever the system looks."""
    spec = importlib.util.find_spec("nvidia")
    for name in _LIBRARIES:
        for folder in spec.submodule_search_locations or () if spec else ():
            yield from map(str, sorted(Path(folder).glob(f"*/lib/{name}")))
        yield name
