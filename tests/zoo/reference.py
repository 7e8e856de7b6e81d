"""The implementations that the zoo is compared with, by the names that examples/index.toml gives them.

timm:resnet18        timm.create_model("resnet18", **options)
timm:mlp_mixer.MlpMixer    the class, where the function above leaves no choice
torchvision:vgg16    torchvision.models.vgg16(**options)
torchvision:detection.retinanet_resnet50_fpn_v2/backbone    a part of a model
torchaudio:conv_tasnet.ConvTasNet    the class of torchaudio.models, read from its file: its C++ wants another torch
transformers:BertModel    BertModel(BertConfig(**options))
here:espcn.Espcn     the class Espcn of references/espcn.py, where no library has the network
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import io
import sys
import textwrap
import tokenize
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

LAYERS = ("torch.", "timm.layers", "transformers.modeling", "transformers.integrations", "builtins", "typing")
"""What a library's networks share, by the beginnings of the names of its modules."""


def build(timm: Any, name: str, options: Mapping[str, Any] | None = None, device: str = "cpu") -> nn.Module:
    """The reference `library:model`, in evaluation mode; on the device `meta`, its weights have shapes alone."""
    library, _, model = name.partition(":")
    model, _, part = model.partition("/")
    with torch.device(device):
        if library == "timm" and "." in model:
            module, _, kind = model.partition(".")
            made = getattr(importlib.import_module(f"timm.models.{module}"), kind)(**(options or {}))
        elif library == "timm":
            made = timm.create_model(model, **(options or {}))
        elif library == "torchvision":
            found = attrgetter(model)(importlib.import_module("torchvision.models"))
            unloaded = {name: None for name in inspect.signature(found).parameters if name.startswith("weights")}
            made = found(**unloaded, **(options or {}))
        elif library == "torchaudio":
            module, _, kind = model.partition(".")
            made = getattr(alone("torchaudio", f"models/{module}.py"), kind)(**(options or {}))
        elif library == "transformers":
            hollow("torchaudio")
            found = getattr(importlib.import_module("transformers"), model)
            made = found(found.config_class(**(options or {})))
        elif library == "here":
            module, _, kind = model.partition(".")
            made = getattr(importlib.import_module(f"references.{module}"), kind)(**(options or {}))
        else:
            raise ValueError(f"no library {library}")
    made = made.get_submodule(part)
    assert isinstance(made, nn.Module)
    return made.eval()


def hollow(library: str) -> ModuleType:
    """A library that cannot be imported, as a package in which nothing has run: others only ask whether it is there."""
    if library not in sys.modules:
        sys.modules[library] = _module(importlib.util.find_spec(library))
    return sys.modules[library]


def alone(library: str, file: str) -> ModuleType:
    """A module of a library that cannot be imported as a whole."""
    name = f"{library}_{Path(file).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(hollow(library).__path__[0], file))
        module = sys.modules[name] = _module(spec)
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(module)
    return sys.modules[name]


def _module(spec: ModuleSpec | None) -> ModuleType:
    assert spec is not None, "the Makefile installs it"
    return importlib.util.module_from_spec(spec)


def lines(timm: Any, name: str, options: Mapping[str, Any] | None = None) -> int:
    """Lines of Python that make up the reference.

    These are the classes of its modules, those of torch and of a library's layers left out, and the functions beside
    these classes that run while it is built.
    """
    build(timm, name, options, device="meta")  # once before: what runs on import is not counted twice
    ran: set[Any] = set()
    sys.setprofile(lambda frame, event, _: ran.add(frame.f_code) if event == "call" else None)
    try:
        model = build(timm, name, options, device="meta")
    finally:
        sys.setprofile(None)
    classes = {kind for module in model.modules() for kind in type(module).__mro__}
    own = [kind for kind in classes if not kind.__module__.startswith(LAYERS)]
    files = {inspect.getfile(kind) for kind in own}
    beside = [code for code in ran if code.co_filename in files and code.co_qualname.isidentifier()]
    return sum(_code_lines(inspect.getsource(part)) for part in [*own, *beside])


def _code_lines(source: str) -> int:
    """The lines that hold more than comments and docstrings."""
    source = textwrap.dedent(source)
    held: set[int] = set()
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            held |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            held -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(held)
