"""Kernels of several parts, one behind the other: what a group computes that is cut at a value."""

from __future__ import annotations

from collections.abc import Sequence

from specc.backends.tvm.emitter import Emitter, Template
from specc.backends.tvm.group import Part


def apart(value: int, parts: Sequence[Part], templates: Sequence[Template]) -> Template:
    """The template of a group that is cut at `value`, which the first part makes, into a temporary, unless it is a
    result itself; the second part makes the last result, when the first one has read all that it reads."""
    packings = {
        part.values[number]: packing
        for part, template in zip(parts, templates, strict=True)
        for number, packing in template.packings.items()
    }

    def write(emitter: Emitter) -> None:
        group = emitter.group
        if value in group.results:
            between = emitter.outputs[group.results.index(value)]
        else:
            between = emitter.temporary(group.type(value)).buffer
        for part, template, result in zip(parts, templates, (between, emitter.outputs[-1]), strict=True):
            template.write(emitter.part(part, template.packings, {value: between}, result))

    return Template(write, packings, once=templates[-1].once)
