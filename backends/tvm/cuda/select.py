"""The template of a group on a GPU."""

from __future__ import annotations

from dataclasses import replace

from specc.backends.tvm.choices import NOTHING, Choices, Configuration
from specc.backends.tvm.cuda import elements, products, scan
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group
from specc.diagnostics import error
from specc.targets import Target


def lower(group: Group, target: Target, configuration: Configuration = NOTHING) -> Template:
    """The template that computes `group` on `target`; `configuration` overrules its cost model. Raises S0806."""
    for step in group.steps:
        if any(type.layout for type in step.types):
            note = "leave the pass `layout` out: tensors lie plainly there"
            raise error("S0806", f"there are no kernels in blocks of channels for {target.name}", notes=(note,))
    choices = Choices(configuration)
    tiles = products.lower(group, target, choices)
    if tiles is not None:
        return replace(tiles, space=choices.space)
    return scan.lower(group, target) or elements.lower(group, target)
