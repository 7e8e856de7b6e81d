"""The template of a group: the first one that takes it, and the general one for the rest."""

from __future__ import annotations

from dataclasses import replace

from specc.backends.tvm.choices import NOTHING, Choices, Configuration
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import (
    added,
    attention,
    conversion,
    convolution,
    depthwise,
    expansion,
    general,
    group_norm,
    grouped,
    grouped_linear,
    half,
    half_blocks,
    integer,
    linear,
    matmul,
    mixing,
    normalization,
    perceptron,
    perceptron_linear,
    planes,
    pooling,
    resize,
    running,
    scaled,
    scan,
    separable,
    squeeze,
    squeezed,
    tiled,
    tiled_attention,
    tiled_linear,
    winograd,
)
from specc.targets import Target

TEMPLATES = (
    tiled.convolution,
    winograd.lower,
    half.convolution,
    grouped_linear.lower,
    mixing.lower,
    half_blocks.lower,
    convolution.lower,
    depthwise.lower,
    planes.lower,
    grouped.lower,
    expansion.lower,
    separable.lower,
    scaled.lower,
    perceptron.lower,
    pooling.lower,
    resize.lower,
    running.lower,
    normalization.lower,
    group_norm.lower,
    half.linear,
    tiled_linear.lower,
    linear.lower,
    matmul.lower,
    integer.convolution,
    integer.linear,
    squeeze.lower,
    tiled_attention.lower,
    attention.lower,
    conversion.lower,
)
"""Each takes a group of a single result, a target, and what answers its choices (`choices`), and gives a template, or
None for a group not of its class."""

WIDENING = tuple(each for each in TEMPLATES if each not in (integer.convolution, integer.linear))
"""Those that read and write tensors of 16 bits, too."""


def lower(group: Group, target: Target, configuration: Configuration = NOTHING) -> Template:
    """The template that computes `group` on `target`; `configuration` overrules its cost model."""
    choices = Choices(configuration)
    return replace(template(group, target, choices), space=choices.space)


def template(group: Group, target: Target, choices: Choices) -> Template:
    """The template that computes `group` on `target`, as `choices` says."""
    if group.symbols:  # the other templates cut dimensions into tiles
        return general.lower(group, target, choices)
    for lower in (WIDENING if group.halves else TEMPLATES) if group.single else ():
        found = lower(group, target, choices)
        if found is not None:
            return found
    for joined in (added.lower, perceptron_linear.lower, squeezed.lower, scan.lower):
        found = joined(group, target, choices, template)
        if found is not None:
            return found
    return general.lower(group, target, choices)
