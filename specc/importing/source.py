"""`package.module:callable` --> an `nn.Module`, as web servers name an application.

    torchvision.models:resnet18                     called without arguments
    timm:create_model("repvit_m1_1", num_classes=10)    called with these: literals of Python, nothing is evaluated
    mynet:net                                       a module that is there already
    mynet:load("net.pt2")                           a function of yours that gives what `torch.export` has saved

What is named is imported and called, as Python does it: it is code, and it is trusted as the user's own.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from functools import cache
from typing import Any

from specc.diagnostics import SpeccError, did_you_mean, error


def module_named(text: str) -> Any:
    """The `nn.Module` that `text` names; raises S1101 where it names none."""
    import torch

    package, _, rest = text.partition(":")
    name, args, kwargs = _call(text, rest)
    found = _imported(text, package)
    for part in name.split("."):
        if not hasattr(found, part):
            notes = did_you_mean(part, [n for n in dir(found) if not n.startswith("_")])
            raise error("S1101", f"`{package}` has no `{name}`", notes=notes)
        found = getattr(found, part)
    if not isinstance(found, torch.nn.Module):
        if not callable(found):
            raise error("S1101", f"`{text}` is of the type `{type(found).__name__}`, which makes no module")
        found = _called(text, found, args, kwargs)
    if isinstance(found, torch.export.ExportedProgram):
        found = found.module()
    if not isinstance(found, torch.nn.Module):
        raise error("S1101", f"`{text}` gives a `{type(found).__name__}` and not an `nn.Module`")
    return found


def _call(text: str, rest: str) -> tuple[str, list[Any], dict[str, Any]]:
    """`create_model("repvit_m1_1", num_classes=10)` in parts."""
    try:
        tree = ast.parse(rest, mode="eval").body
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        if isinstance(tree, ast.Call):
            args = [ast.literal_eval(argument) for argument in tree.args]
            kwargs = {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords if k.arg is not None}
            tree = tree.func
        name = ast.unparse(tree)
        if isinstance(tree, (ast.Name, ast.Attribute)) and name.replace(".", "").isidentifier():
            return name, args, kwargs
    except (SyntaxError, ValueError):
        pass
    note = 'it is named as package.module:callable, with arguments that are literals: timm:create_model("repvit_m1_1")'
    raise error("S1101", f"`{text}` names no module", notes=(note,))


def _imported(text: str, package: str) -> Any:
    sys.path.insert(0, os.getcwd())  # as `python -m` does: a file of the user's own is found
    try:
        return module_of(package)
    except Exception as problem:  # whatever the user's code raises
        raise _failed(f"`{package}` cannot be imported", problem) from None
    finally:
        sys.path.remove(os.getcwd())


_OF_BOXES = ("nms", "qnms")


def module_of(package: str) -> Any:
    """The module of that name, also where it imports a torchvision whose machine code is for another PyTorch."""
    try:
        return importlib.import_module(package)
    except RuntimeError as problem:
        if str(problem) != f"operator torchvision::{_OF_BOXES[0]} does not exist":
            raise
    _name_torchvision_operators()
    return importlib.import_module(package)


@cache
def _name_torchvision_operators() -> Any:
    """Gives operators names in torch that torchvision's machine code would give them, as long as the result is there.

    That of the usual package is for CUDA and does not load beside a PyTorch for processors, and importing torchvision,
    or timm, fails then for want of these names. They are of detectors' boxes; no network calls them in its layers.
    """
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OF_BOXES:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _called(text: str, function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    try:
        return function(*args, **kwargs)
    except Exception as problem:  # as above
        raise _failed(f"`{text}` fails", problem) from None


def _failed(message: str, problem: Exception) -> SpeccError:
    first = next((line.strip() for line in str(problem).splitlines() if line.strip()), "")
    return error("S1101", message, notes=(f"{type(problem).__name__}: {first}"[:300],))
