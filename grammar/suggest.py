"""Suggestions for a misspelt argument: the nearest name, or the one that PyTorch's name for the same thing has here."""

from __future__ import annotations

from collections.abc import Collection

from specc.diagnostics import did_you_mean

_FAMILIAR = {
    "kernel_size": "k",
    "kernel": "k",
    "stride": "s",
    "strides": "s",
    "padding": "p",
    "dilation": "d",
    "out_channels": "out",
    "out_features": "out",
    "keepdim": "keep",
    "keepdims": "keep",
    "dim": "axis",
    "dims": "axes",
    "axis": "axes",
    "axes": "axis",
    "start_dim": "start",
    "end_dim": "end",
    "epsilon": "eps",
}


def suggest(name: str, candidates: Collection[str]) -> tuple[str, ...]:
    """A note with what `name` may have been meant to be, or no note."""
    familiar = _FAMILIAR.get(name)
    if familiar in candidates:
        return (f"did you mean `{familiar}`?",)
    return did_you_mean(name, candidates)
