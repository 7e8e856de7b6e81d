"""Functions in TIR -> a module of TVM's, which holds LLVM's code or text in C: with which of TVM's options and passes.

What takes the time, for a kernel with much written out, is not LLVM but TVM's passes that walk over all of its
statements. Some of them have nothing to do for what templates write, and are left out: in seconds of one core, the 3x3
convolution of integers of 256 channels at 14x14 took 2.6 in place of 4.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm

OPTIONS = {"tirx.disable_assert": True, "tirx.disable_storage_rewrite": True}
"""Kernels are called by our program alone, with what they take. And the pass that merges buffers forgets which of them
are to stay on the stack (`emitter.on_stack`): each accumulator then costs two calls of the runtime for every tile."""

LEFT_OUT = ("s_tir.CompactBufferAllocation", "s_tir.HoistIfThenElse", "tirx.RemoveNoOp")
"""The passes that are left out. The first one cuts memory to what is touched: templates ask for what they use, and for
a vector more where lines would fall on the same set of a cache (with it, a 3x3 convolution of 128 channels at 28x28 by
minimal filtering takes 0.97 of the time). LLVM moves conditions and drops what is dead: without the other two, its code
is the same in every byte."""


def translate(functions: Mapping[str, Any], target: Any) -> Any:
    """The module of `functions`, by name, for TVM's `target`."""
    with tvm.transform.PassContext(config=OPTIONS, disabled_pass=LEFT_OUT):
        return tvm.tirx.build(tvm.IRModule(dict(functions)), target=target)
