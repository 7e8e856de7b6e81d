"""The compiling backend: groups of the graph as TIR functions, a program in C around them, one shared library.

Modules, in the order in which they build on each other: `fastmath`, `expression` (scalars), `packing` (stored weights),
`group` (a fused group as a program), `emitter` (writing a function), `kernels` (one template a class of groups),
`program` (the calls, as data), `lowering` (graph -> kernels and program), `memory` (where its tensors lie), `sharing`
(which calls need not run because of it), `teams` (for which programs no thread is woken), `driver` (the programs in
C), `source` (all of it in C), `cuda` (kernels for GPUs, beside `kernels`, and their programs), `library` (-> shared
or static library).
"""

from __future__ import annotations

from specc.backends.tvm.library import build
from specc.backends.tvm.lowering import Lowered, join, lower

__all__ = ["Lowered", "build", "join", "lower"]
