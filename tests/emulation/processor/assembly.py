"""Programs in assembly to run on the processor and in the handler: random instructions, registers and addresses.

Each is a function of an address: what lies there is read and written, with any registers. So the address itself lies in
mm0, and the stack pointer in mm1.
"""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOM = 1 << 16
"""Bytes in front of the data, for a signal's frame where the stack pointer is a base."""

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
_KEPT = ("rbx", "rbp", "r12", "r13", "r14", "r15")


@dataclass
class Program:
    """The lines of one; `marked`, each instruction that is emulated has `ud2` in front of it."""

    rng: np.random.Generator
    lines: list[str] = field(default_factory=list)

    def one(self, text: str) -> None:
        """An instruction that is emulated."""
        self.lines.append(f"MARK {text}")

    def at(self, text: str, offset: int, stride: int | None = None) -> None:
        """One with `{}` for an operand in memory: `offset` bytes behind the address, with a stride or anyhow."""
        base, index = (GENERAL[number] for number in self.rng.permutation(16)[:2])
        if index == "rsp":
            base, index = index, base
        start = 1 << 15 if base == "rsp" else int(self.rng.integers(2)) * (offset - int(self.rng.integers(-128, 128)))
        scale = int(self.rng.integers(4))
        moved = stride if stride is not None else int(self.rng.integers(-9, 9)) << scale
        far = offset - start - (moved if stride is None else 0)
        self.lines += [f"movq %mm0, %{base}", f"add ${start}, %{base}"]
        if moved or stride is None:
            self.lines.append(f"mov ${moved >> scale}, %{index}")
            operand = f"{far}(%{base}, %{index}, {1 << scale})"
        else:
            operand = f"{far}(%{base})"
        self.one(text.format(operand))
        self.lines.append("movq %mm1, %rsp")

    def clear(self, offset: int) -> None:
        """Makes a byte zero."""
        self.lines += ["movq %mm0, %rax", f"movb $0, {offset}(%rax)"]

    def vectors(self, text: str, offset: int) -> None:
        """Copies all vectors from there or to there: {0} is the place, {1} the register."""
        self.lines.append("movq %mm0, %rax")
        self.lines += [text.format(f"{offset + 64 * i}(%rax)", f"%zmm{i}") for i in range(32)]

    def text(self, name: str, marked: bool) -> str:
        pushes = [f"push %{name}" for name in _KEPT]
        pops = [f"pop %{name}" for name in reversed(_KEPT)]
        begin = ["movq %rdi, %mm0", "movq %rsp, %mm1"]
        lines = [line.replace("MARK ", "ud2; " if marked else "") for line in self.lines]
        return "\n  ".join([f".globl {name}\n{name}:", *pushes, *begin, *lines, "vzeroupper", "emms", *pops, "ret"])


def assemble(programs: dict[str, Program], library: Path) -> None:
    """A library of the functions NAME and `marked_NAME`."""
    texts = [
        program.text(f"{'marked_' * marked}{name}", marked)
        for name, program in programs.items()
        for marked in (False, True)
    ]
    file = library.with_suffix(".s")
    file.write_text("\n".join([".text", *texts, '.section .note.GNU-stack, "", @progbits\n']))
    subprocess.run(["gcc", "-shared", str(file), "-o", str(library)], check=True)


def run(library: Path | str, name: str, memory: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the program leaves in its memory, without the room."""
    copy = memory.copy()
    getattr(ctypes.CDLL(str(library)), name)(ctypes.c_void_p(copy.ctypes.data))
    return copy[ROOM:]
