"""`specc import`: a network of PyTorch, or an ONNX file --> a spec and its weights."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specc.cli.options import json_option, print_json
from specc.terminal import say

if TYPE_CHECKING:
    from specc.importing import ImportedSpec


def _shape(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[tuple[int, ...]]:
    """`1x3x224x224` --> (1, 3, 224, 224)."""
    from specc.ir.graph import MAX_ELEMENTS

    shapes = []
    for value in values:
        if not re.fullmatch(r"[1-9]\d{0,11}(x[1-9]\d{0,11})*", value, re.ASCII):
            raise click.BadParameter(f"`{value}` is no shape, as in --input 1x3x224x224")
        shapes.append(tuple(int(extent) for extent in value.split("x")))
        if math.prod(shapes[-1]) > MAX_ELEMENTS:
            raise click.BadParameter(f"`{value}` has more than {MAX_ELEMENTS:,} elements")
    return shapes


@click.command("import")
@click.argument("model", metavar="FILE.onnx|PACKAGE.MODULE:CALLABLE")
@click.option("-o", "--output", type=click.Path(), required=True, help="The spec to write.")
@click.option("--weights", type=click.Path(), help="The checkpoint to write; beside the spec without it.")
@click.option(
    "--input",
    "shapes",
    multiple=True,
    callback=_shape,
    metavar="1x3x224x224",
    help="The shape of an input of a module, once for each; 1x3x224x224 without it.",
)
@json_option
def import_(model: str, output: str, weights: str | None, shapes: list[tuple[int, ...]], as_json: bool) -> None:
    """Write a network of PyTorch or ONNX as a spec.

    Its weights are written beside the spec.

    A callable of Python gives an nn.Module; it may be called with literals: timm:create_model("repvit_m1_1").
    """
    from specc.diagnostics import error
    from specc.files import check_writable
    from specc.importing import import_onnx

    checkpoint = weights or str(Path(output).with_suffix(".safetensors"))
    check_writable(output, model)
    check_writable(checkpoint, model, output)
    if model.endswith(".onnx"):
        if shapes:
            raise error("S1006", "an ONNX file says what its inputs are; --input is for modules")
        spec = import_onnx(model)
    else:
        spec = _module(model, shapes or [(1, 3, 224, 224)])
    spec.save(output, checkpoint)
    lines, numbers = len(spec.text.splitlines()), sum(array.size for array in spec.weights.values())
    say(f"{lines} lines for a graph of {spec.nodes} in {output}, {numbers:,} numbers in {checkpoint}")
    if as_json:
        print_json({"spec": output, "weights": checkpoint, "lines": lines, "graph": spec.nodes, "numbers": numbers})


def _module(model: str, shapes: list[tuple[int, ...]]) -> ImportedSpec:
    import torch

    from specc.importing import import_module
    from specc.importing.source import module_named

    module = module_named(model)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    return import_module(module, inputs, f"{type(module).__name__}, imported from {model}.")
