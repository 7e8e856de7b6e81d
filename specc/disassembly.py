"""The machine code of an artifact's library -> the loops of each kernel.

    library --llvm-objdump--> instructions of each kernel --branches backwards--> loops, one within the other

A kernel begins at the function that the driver calls, whose name the library keeps, and ends where the next one begins:
what threads share out, and what LLVM moved out of a loop, lies between. A branch to an address at or before its own
closes a loop, which reaches from there to the branch.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specc.diagnostics import error
from specc.targets import Target

ENTRY = "__tvm_ffi_"
"""What stands before the name of a kernel in a library."""

_VERSIONS = range(40, 13, -1)
_FUNCTION = re.compile(r"^([0-9a-f]+) <(.+)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S.*)$")
_DATA = re.compile(r"^[.<]|\s\.(word|long|short|byte)\b")
"""Constants between instructions, and what is no instruction of this machine."""
_COMMENT = re.compile(r"\s+(//|#\s|@|<).*$")
_LABEL = re.compile(r"(?:0x)?([0-9a-f]+) <([^>+]+)(?:\+0x([0-9a-f]+))?>")
_BRANCH = re.compile(r"^(b|j|cb|tb|c\.b|c\.j)")
_CALLS = frozenset(("bl", "blr", "blx", "call", "callq", "jal", "jalr"))


@dataclass(frozen=True)
class Instruction:
    """An instruction as an assembler takes it; `goal` is the address that it branches to."""

    address: int
    text: str
    goal: int | None = None

    @property
    def mnemonic(self) -> str:
        return self.text.split(None, 1)[0]


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop in the order of their addresses; `inner` are the loops in it."""

    body: tuple[Instruction, ...]
    inner: tuple[Loop, ...] = ()

    @property
    def address(self) -> int:
        return self.body[0].address

    def all(self) -> list[Loop]:
        """This loop and those in it, at any depth."""
        return [self, *(each for loop in self.inner for each in loop.all())]

    def own(self) -> tuple[Instruction, ...]:
        """The instructions that are in none of the inner loops."""
        inside = {instruction.address for loop in self.inner for instruction in loop.body}
        return tuple(instruction for instruction in self.body if instruction.address not in inside)


def tool(name: str) -> str:
    """The newest program `name` of LLVM's on this machine, which may have a version behind its name; raises S1005."""
    for candidate in (*(f"{name}-{version}" for version in _VERSIONS), name):
        found = shutil.which(candidate)
        if found:
            return found
    note = "on Debian and Ubuntu: apt install llvm; a later version, such as llvm-19, knows the timing of more cores"
    raise error("S1005", f"{name} is not installed, a program of LLVM's", notes=(note,))


def disassemble(library: bytes, target: Target, kernels: Sequence[str]) -> dict[str, list[Loop]]:
    """The outermost loops of each of `kernels` in a library for Linux; raises S1006 where it does not name them."""
    features = [feature for feature in target.features if feature.startswith("+")]
    if target.architecture == "aarch64":
        features = ["+all"]
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        Path(file.name).write_bytes(library)
        command = [tool("llvm-objdump"), "-d", "--no-show-raw-insn", "--section=.text", file.name]
        command += [f"--mattr={','.join(features)}"] if features else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise error("S1006", f"llvm-objdump cannot read the library: {done.stderr.strip()[-300:]}")
    functions = _parsed(done.stdout)
    result: dict[str, list[Loop]] = {}
    current: str | None = None
    code: dict[str, list[Instruction]] = {}
    for name, instructions in functions:
        if name.startswith(ENTRY):
            # A module of one kernel has a function `main` as well, which calls it and nothing else.
            current = name.removeprefix(ENTRY) if name != f"{ENTRY}main" else None
        elif current is not None and not name.startswith((current, "__tvm_")):
            current = None
        if current is not None:
            code.setdefault(current, []).extend(instructions)
    missing = [kernel for kernel in kernels if kernel not in code]
    if missing:
        raise error("S1006", f"the library does not say where its kernel {missing[0]} is: compile the network again")
    for kernel in kernels:
        result[kernel] = loops(code[kernel])
    return result


def loops(code: Sequence[Instruction]) -> list[Loop]:
    """The outermost loops of a run of instructions, in the order of their addresses."""
    ends: dict[int, int] = {}
    first = code[0].address if code else 0
    for instruction in code:
        goal = instruction.goal
        if goal is not None and first <= goal <= instruction.address:
            ends[goal] = max(ends.get(goal, goal), instruction.address)
    # Of loops that begin at different places, the one that reaches further holds the other one.
    return _nested(code, sorted(ends.items(), key=lambda loop: (loop[0], -loop[1])))


def _nested(code: Sequence[Instruction], bounds: Sequence[tuple[int, int]]) -> list[Loop]:
    """Loops from their bounds. One that begins within another is in it, and so is all of it: LLVM may put the end of
    the outer one's body in front of the inner loop."""
    result: list[Loop] = []
    position = 0
    while position < len(bounds):
        begin, end = bounds[position]
        position += 1
        inside: list[tuple[int, int]] = []
        while position < len(bounds) and bounds[position][0] <= end:
            inside.append(bounds[position])
            end = max(end, bounds[position][1])
            position += 1
        body = tuple(instruction for instruction in code if begin <= instruction.address <= end)
        result.append(Loop(body, tuple(_nested(body, inside))))
    return result


def _parsed(listing: str) -> list[tuple[str, list[Instruction]]]:
    """The functions of a listing by llvm-objdump."""
    functions: list[tuple[str, list[Instruction]]] = []
    starts: dict[str, int] = {}
    for line in listing.splitlines():
        header = _FUNCTION.match(line)
        if header:
            functions.append((header[2], []))
            starts[header[2]] = int(header[1], 16)
            continue
        match = _INSTRUCTION.match(line)
        if match and functions and not _DATA.search(match[2]):
            functions[-1][1].append(_instruction(int(match[1], 16), match[2], starts))
    return functions


def _instruction(address: int, text: str, starts: dict[str, int]) -> Instruction:
    mnemonic = text.split(None, 1)[0]
    label = _LABEL.search(text)
    plain = _COMMENT.sub("", text.replace("\t", " ")).strip()
    if not label or mnemonic in _CALLS or not _BRANCH.match(mnemonic):
        return Instruction(address, plain)
    base = starts.get(label[2])
    goal = base + int(label[3] or "0", 16) if base is not None else int(label[1], 16)
    operands = [part.strip() for part in plain.split(None, 1)[1].split(",")] if " " in plain else []
    # Where it goes does not matter to an assembler that has this loop alone, but its distance may be too great for one.
    return Instruction(address, f"{mnemonic} {', '.join([*operands[:-1], 'loop'])}", goal)
