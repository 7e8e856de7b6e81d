"""The template of a group on a GPU."""

from __future__ import annotations

from specc.backends.tvm.cuda import elements, products, scan
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group
from specc.diagnostics import error
from specc.targets import Target


def lower(group: Group, target: Target) -> Template:
    """The template that computes `group` on `target`; raises S0806."""
    for step in group.steps:
        if any(type.layout for type in step.types):
            note = "leave the pass `layout` out: tensors lie plainly there"
            raise error("S0806", f"there are no kernels in blocks of channels for {target.name}", notes=(note,))
    return products.lower(group, target) or scan.lower(group, target) or elements.lower(group, target)
