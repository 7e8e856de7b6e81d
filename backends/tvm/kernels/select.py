"""The kernel of a group: the first template that takes it, and the general one for the rest."""

from __future__ import annotations

from specc.backends.tvm.emitter import Kernel
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import convolution, depthwise, general, linear, squeeze
from specc.targets import Target

TEMPLATES = (convolution.lower, depthwise.lower, linear.lower, squeeze.lower)
"""Each takes a group and a target, and gives a kernel, or None for a group that is not of its class."""


def lower(group: Group, target: Target) -> Kernel:
    """The kernel of `group` on `target`."""
    for template in TEMPLATES:
        kernel = template(group, target)
        if kernel is not None:
            return kernel
    return general.lower(group, target)
