"""What a cubin says of its kernels: registers, shared memory, what does not fit in registers, and instructions."""

from __future__ import annotations

import importlib.util
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_SECTION = struct.Struct("<IIQQQQIIQQ")
_ATTRIBUTES = {0x2F: "registers", 0x12: "stack"}
"""EIATTR_REGCOUNT and EIATTR_MIN_STACK_SIZE, of the section .nv.info: each is the number of a symbol and a value."""


@dataclass(frozen=True)
class Usage:
    """What a kernel takes: registers and bytes of stack (spilled registers, arrays with indices that are no numbers) of
    a thread, bytes of shared memory of a block (of which GPUs of 9.0 keep 1024 to themselves)."""

    registers: int = 0
    stack: int = 0
    shared: int = 0


def usage(cubin: bytes) -> dict[str, Usage]:
    """What each kernel in a cubin takes, from the sections of this ELF file."""
    (offset,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    sections = [_SECTION.unpack_from(cubin, offset + number * size) for number in range(count)]

    def text(table: int, at: int) -> str:
        start = sections[table][4] + at
        return cubin[start : cubin.index(b"\0", start)].decode()

    titles = [text(names, section[0]) for section in sections]
    found = {title.removeprefix(".text."): Usage() for title in titles if title.startswith(".text.")}
    symbols = sections[titles.index(".symtab")]
    for title, section in zip(titles, sections, strict=True):
        kernel = title.removeprefix(".nv.shared.")
        if title.startswith(".nv.shared.") and kernel in found:
            found[kernel] = replace(found[kernel], shared=section[5])
        elif title == ".nv.info":
            for attribute, symbol, value in _attributes(cubin[section[4] : section[4] + section[5]]):
                name = text(symbols[6], struct.unpack_from("<I", cubin, symbols[4] + 24 * symbol)[0])
                if name in found:
                    found[name] = replace(found[name], **{attribute: value})
    return found


def _attributes(info: bytes) -> Iterator[tuple[str, int, int]]:
    """The attributes of kernels: each has a format, its number, and 16 bits, of bytes that follow or of its value."""
    at = 0
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == 4 and attribute in _ATTRIBUTES:
            yield (_ATTRIBUTES[attribute], *struct.unpack_from("<II", info, at))
        at += size if form == 4 else 0


def disassembler() -> str | None:
    """NVIDIA's nvdisasm: of the package nvidia-cuda-nvdisasm, or of CUDA's toolkit; None where there is none."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob("*/bin/nvdisasm")):
            return str(path)
    return shutil.which("nvdisasm")


def instructions(cubin: bytes) -> dict[str, Counter[str]]:
    """How often each instruction stands in each kernel of a cubin, by its name up to the first dot."""
    program = disassembler()
    assert program, "no nvdisasm: pip install nvidia-cuda-nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([program, "-c", file.name], capture_output=True, text=True, check=True)
    found: dict[str, Counter[str]] = {}
    for line in done.stdout.splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.([^,]+),", line):
            current = found[section[1]] = Counter()
        elif named := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)", line):
            current[named[1]] += 1
    return found
