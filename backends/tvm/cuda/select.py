"""The template of a group on a GPU."""

from __future__ import annotations

from dataclasses import replace

from specc.backends.tvm.choices import NOTHING, Choices, Configuration
from specc.backends.tvm.cuda import (
    attention,
    core_attention,
    cores,
    depthwise,
    elements,
    expansion,
    products,
    rows,
    scan,
    separable,
    squeeze,
    winograd,
)
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group
from specc.diagnostics import error
from specc.targets import Target

TEMPLATES = (
    cores.lower,
    winograd.lower,
    products.lower,
    depthwise.lower,
    separable.lower,
    expansion.lower,
    core_attention.lower,
    attention.lower,
    rows.lower,
    squeeze.lower,
)
"""Each takes a group, a target, and what answers its choices, and gives a template, or None for a group not of its
class."""


def lower(group: Group, target: Target, configuration: Configuration = NOTHING) -> Template:
    """The template that computes `group` on `target`; `configuration` overrules its cost model. Raises S0806."""
    for step in group.steps:
        if any(type.layout for type in step.types):
            note = "leave the pass `layout` out: tensors lie plainly there"
            raise error("S0806", f"there are no kernels in blocks of channels for {target.name}", notes=(note,))
    choices = Choices(configuration)
    for lower in TEMPLATES:
        found = lower(group, target, choices)
        if found is not None:
            return replace(found, space=choices.space)
    return scan.lower(group, target) or elements.lower(group, target)
