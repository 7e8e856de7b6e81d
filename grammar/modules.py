"""Files: a path --> its syntax tree and those of all files that it uses, with the names that each can see.

use std.conv: ConvBN        grammar/std/conv.specc, which comes with specc
use parts.mixer: Mixer      parts/mixer.specc beside the file that says so
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from specc.diagnostics import Diagnostic, Label, Span, SpeccError, did_you_mean, error
from specc.files import check_regular
from specc.grammar import syntax as s
from specc.grammar.parse import LONGEST, parse
from specc.grammar.values import Block

STANDARD = Path(__file__).with_name("std")
MOST_FILES = 200


@dataclass
class Module:
    """A parsed file. `names` are the blocks that its text can call: its own and those that it uses."""

    name: str
    text: str
    tree: s.File
    names: dict[str, Block] = field(default_factory=dict)


@dataclass
class Program:
    """The file that was asked for and everything that it uses, by the name that messages give a file."""

    root: Module
    modules: dict[str, Module]
    paths: dict[str, Path]
    diagnostics: list[Diagnostic]

    @property
    def sources(self) -> dict[str, str]:
        return {module.name: module.text for module in self.modules.values()}

    def networks(self) -> dict[str, s.Definition]:
        """The networks of the file that was asked for."""
        return {d.name: d for d in self.root.tree.definitions if d.kind == "network"}


def read(path: Path) -> str:
    """The text of a file; raises S0001."""
    try:
        check_regular(path)
        if (length := path.stat().st_size) > 4 * LONGEST:  # not even read: no text of so many bytes is short enough
            raise error("S0106", f"{path} has {length:,} bytes; the limit is {LONGEST:,} characters")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if path.is_symlink():
            raise error("S0001", f"{path} is a link to {os.readlink(path)}, and there is nothing") from None
        siblings = [p.name for p in path.parent.glob("*.specc")] if path.parent.is_dir() else []
        raise error("S0001", f"there is no file {path}", notes=did_you_mean(path.name, siblings)) from None
    except IsADirectoryError:
        raise error("S0001", f"{path} is a directory, not a file") from None
    except UnicodeDecodeError:
        raise error("S0001", f"{path} is not a text in UTF-8") from None
    except OSError as problem:
        raise error("S0001", f"{path} cannot be read: {problem.strerror}") from None


def load_program(path: Path, text: str | None = None, name: str | None = None) -> Program:
    """Reads and parses `path` (or takes `text` as its content) and all that it uses.

    A file that does not parse raises; names that do not resolve are left in `diagnostics`, so that elaboration can
    find the other mistakes in the same run.
    """
    loader = _Loader()
    name = name or str(path)
    root = loader.load(name, path, text)
    for module in list(loader.modules.values()):
        loader.resolve(module)
    return Program(root, loader.modules, loader.paths, loader.diagnostics)


class _Loader:
    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}
        self.paths: dict[str, Path] = {}
        self.used: dict[tuple[str, int], str | None] = {}
        self.diagnostics: list[Diagnostic] = []

    def load(self, name: str, path: Path, text: str | None = None) -> Module:
        text = read(path) if text is None else text
        module = Module(name, text, parse(text, name))
        self.modules[name] = module
        self.paths[name] = path
        for position, use in enumerate(module.tree.uses):
            self.used[name, position] = self._find(use, name, path)
        return module

    def _find(self, use: s.Use, user: str, path: Path) -> str | None:
        """The name of the file that `use` means, which is loaded if need be."""
        standard = use.module[0] == "std"
        base = STANDARD if standard else path.parent
        parts = use.module[1:] if standard else use.module
        file = base.joinpath(*parts).with_suffix(".specc") if parts else base
        name = "/".join(use.module) + ".specc" if standard else str(file)
        if name in self.modules:
            return name
        if not os.path.isfile(file):
            asked = ".".join(use.module)
            folder = STANDARD if standard else file.parent
            prefix = "std" if standard else ".".join(use.module[:-1])
            files = [p for p in sorted(folder.glob("*.specc")) if os.path.isfile(p)]
            stems = [p.stem for p in files if os.path.realpath(p) != os.path.realpath(path)]
            known = [f"{prefix}.{stem}" if prefix else stem for stem in stems]
            there_are = (f"there are {', '.join(known)}",) if known else ()
            message = f"there is no module `{asked}`" + ("" if standard else f": the file {file} does not exist")
            self._report("S0202", message, use.module_span, did_you_mean(asked, known) or there_are)
            return None
        if len(self.modules) >= MOST_FILES:
            raise error("S0406", f"more than {MOST_FILES} files are used", Label(use.module_span))
        try:
            text = read(file)
        except SpeccError as problem:
            (found,) = problem.diagnostics
            raise SpeccError(replace(found, labels=(Label(use.module_span, "used here"),))) from None
        self.load(name, file, text)
        return name

    def resolve(self, module: Module) -> None:
        """Fills `module.names`; reports names that are given twice and names that a used file does not have."""
        places: dict[str, Span] = {}
        for definition in module.tree.definitions:
            if definition.name in places:
                first = Label(places[definition.name], "the other one")
                message = f"there are two definitions of `{definition.name}`"
                self._report("S0203", message, definition.name_span, (), first)
                continue
            places[definition.name] = definition.name_span
            module.names[definition.name] = Block(definition, module.name)
        for position, use in enumerate(module.tree.uses):
            target = self.used[module.name, position]
            if target is None:
                continue
            there = {d.name: d for d in self.modules[target].tree.definitions}
            for name in use.names:
                if name.name not in there:
                    message = f"`{'.'.join(use.module)}` has no block `{name.name}`"
                    notes = did_you_mean(name.name, there) or (f"it has {', '.join(sorted(there)) or 'none'}",)
                    self._report("S0201", message, name.span, notes)
                elif name.name in places:
                    first = Label(places[name.name], "the other one")
                    self._report("S0203", f"there are two definitions of `{name.name}`", name.span, (), first)
                else:
                    places[name.name] = name.span
                    module.names[name.name] = Block(there[name.name], target)

    def missing(self, module: Module) -> frozenset[str]:
        """Names that a failed `use` would have brought."""
        return frozenset(n.name for use in module.tree.uses for n in use.names) - module.names.keys()

    def _report(self, code: str, message: str, span: Span, notes: tuple[str, ...], *more: Label) -> None:
        self.diagnostics.append(Diagnostic(code, message, (Label(span), *more), notes))
