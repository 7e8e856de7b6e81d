"""The template of a group: the first one that takes it, and the general one for the rest."""

from __future__ import annotations

from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import attention, convolution, depthwise, general, linear, scan, squeeze
from specc.targets import Target

TEMPLATES = (convolution.lower, depthwise.lower, linear.lower, squeeze.lower, attention.lower)
"""Each takes a group of a single result and a target, and gives a template, or None for a group not of its class."""


def lower(group: Group, target: Target) -> Template:
    """The template that computes `group` on `target`."""
    for template in TEMPLATES if group.single else ():
        found = template(group, target)
        if found is not None:
            return found
    looped = scan.lower(group, target, lower)
    if looped is not None:
        return looped
    return general.lower(group, target)
