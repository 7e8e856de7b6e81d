"""Suggestions for a name that is not there: the nearest one, what another library calls so, or where it is."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache

from specc.diagnostics import did_you_mean
from specc.grammar.modules import STANDARD
from specc.ir.dtypes import DECLARED

WORDS = {"True": "true", "False": "false", "None": "none"}

_FAMILIAR = {
    "kernel_size": ("k",),
    "kernel": ("k",),
    "stride": ("s",),
    "strides": ("s",),
    "padding": ("p",),
    "dilation": ("d",),
    "out_channels": ("out",),
    "out_features": ("out",),
    "keepdim": ("keep",),
    "keepdims": ("keep",),
    "dim": ("axis", "axes"),
    "dims": ("axes", "axis"),
    "axis": ("axes",),
    "axes": ("axis",),
    "start_dim": ("start",),
    "end_dim": ("end",),
    "epsilon": ("eps",),
}

_ELSEWHERE = {
    "amin": "`-amax(-x, [1])`",
    "bmm": "`matmul(a, b)`",
    "cat": "`concat(x, y, axis=1)`",
    "concatenate": "`concat(x, y, axis=1)`",
    "conv": "`conv2d(x, 64, k=3)`, `conv1d`, `conv3d`",
    "deconv": "`conv_transpose2d(x, 64, k=2, s=2)`",
    "dense": "`linear(x, 64)`",
    "dot": "`matmul(a, b)`",
    "fc": "`linear(x, 64)`",
    "hardswish": "`hard_swish(x)`",
    "hsigmoid": "`hard_sigmoid(x)`",
    "hswish": "`hard_swish(x)`",
    "identity": "`x`: nothing needs to be called",
    "interpolate": "`resize(x, [2 * h, 2 * w])`",
    "logsoftmax": "`log(softmax(x))`",
    "maskedfill": "`where(mask, x, -1e9)`",
    "mm": "`matmul(a, b)`",
    "modulelist": "an indexed name: `blocks[i] = ...` in a loop",
    "moveaxis": "`permute(x, [0, 2, 1])`, the order of all dimensions, or `rearrange`",
    "movedim": "`permute(x, [0, 2, 1])`, the order of all dimensions, or `rearrange`",
    "ones": "`constant(1, [n, c])`; among weights, `param scale: [c] init ones`",
    "parameter": "`param scale: [c] init ones`",
    "repeat": "`expand(x, [n, 8, c])` along extents of 1, or `concat(x, x, axis=1)`",
    "scaleddotproductattention": "`use std.attention: Attend`, or `matmul` and `softmax`: the compiler fuses them",
    "sequential": "a pipe: `x |> conv2d(64, k=3) |> batch_norm |> relu`",
    "squeeze": "`reshape(x, [n, c])`",
    "stack": "`concat` of what `reshape` has given a dimension of 1",
    "swapaxes": "`permute(x, [0, 2, 1])`, the order of all dimensions, or `rearrange`",
    "swish": "`silu(x)`",
    "tile": "`concat(x, x, axis=1)`",
    "transpose": "`permute(x, [0, 2, 1])`, the order of all dimensions, or `rearrange`",
    "unsqueeze": "`reshape(x, [n, 1, c])`",
    "upsample": "`resize(x, [2 * h, 2 * w])`",
    "view": "`reshape(x, [n, c])`",
    "zeros": "`constant(0, [n, c])`; among weights, `param shift: [c] init zeros`",
}
"""What other libraries call it, without case and `_` --> how a spec says it."""


def suggest(name: str, candidates: Collection[str]) -> tuple[str, ...]:
    """A note with the argument that `name` may have been meant to be, or no note."""
    familiar = next((found for found in _FAMILIAR.get(name, ()) if found in candidates), None)
    return (f"did you mean `{familiar}`?",) if familiar else did_you_mean(name, candidates)


def suggest_value(name: str, candidates: Collection[str], callable_: Collection[str]) -> tuple[str, ...]:
    """A note with the value that `name` may have been meant to be; `callable_` are the blocks and operators."""
    if name in WORDS:
        return (f"it is written `{WORDS[name]}`",)
    if name in DECLARED:
        return (f'an element type is named by a text: `"{name}"`',)
    return did_you_mean(name, candidates) or _same(name, callable_) or _brought(name)


def suggest_call(name: str, candidates: Collection[str]) -> tuple[str, ...]:
    """A note with the block or operator that `name` may have been meant to be."""
    elsewhere = _ELSEWHERE.get(_plain(name))
    if elsewhere is not None:
        return (f"here it is {elsewhere}",)
    return _same(name, candidates) or _brought(name) or did_you_mean(name, candidates)


def _same(name: str, candidates: Collection[str]) -> tuple[str, ...]:
    """The candidate that differs from `name` by case and `_` alone."""
    found = next((candidate for candidate in sorted(candidates) if _plain(candidate) == _plain(name)), None)
    return (f"did you mean `{found}`?",) if found and len(name) > 1 else ()


def _brought(name: str) -> tuple[str, ...]:
    """Where the standard library has a block of this name."""
    found = _standard().get(_plain(name))
    return (f"`use std.{found[0]}: {found[1]}` brings it",) if found else ()


@cache
def _standard() -> dict[str, tuple[str, str]]:
    """The blocks of the standard library: the name without case and `_`, the module, the name."""
    return {
        _plain(block): (path.stem, block)
        for path in sorted(STANDARD.glob("*.specc"))
        for block in re.findall(r"^block (\w+)\(", path.read_text(), re.MULTILINE)
    }


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
