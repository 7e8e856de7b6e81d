"""Parameters before training: the `init` of a parameter -> numbers from torch's generator.

    kaiming       as torch.nn.Conv2d and Linear: uniform in +-1/sqrt(fan in), the fan in of the parameter itself
    fan_in_bias   as their bias: uniform in +-1/sqrt(fan in), the fan in of the weight at the same node
    normal(0.02)  normal with that deviation, mean 0
    uniform(0.1)  uniform in +-0.1
    constant(0.1), ones, zeros

Drawn in the order of the graph, weight before bias, so a seed gives what the same modules made by hand would hold.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from specc.diagnostics import Label, error
from specc.ir.body import uses
from specc.ir.graph import Graph, Value

_DRAWN = re.compile(r"(normal|uniform|constant)\(([0-9.e+-]+)\)")


@torch.no_grad()  # type: ignore[untyped-decorator]
def initialize(graph: Graph, identity: int, tensor: Any) -> None:
    """Fills `tensor`, which is the parameter that node `identity` of the graph stands for."""
    init = graph.node(identity).attrs["init"]
    if init == "ones":
        tensor.fill_(1)
    elif init == "zeros":
        tensor.zero_()
    elif init == "kaiming" and tensor.ndim >= 2:
        torch.nn.init.kaiming_uniform_(tensor, a=math.sqrt(5))
    elif init == "fan_in_bias":
        bound = 1 / math.sqrt(fan_in) if (fan_in := _fan_in(graph, identity)) else 0
        tensor.uniform_(-bound, bound)
    elif drawn := _DRAWN.fullmatch(init):
        number = float(drawn[2])
        if drawn[1] == "constant":
            tensor.fill_(number)
        elif drawn[1] == "normal":
            tensor.normal_(0, number)
        else:
            tensor.uniform_(-number, number)
    else:
        span = graph.node(identity).span
        message = f"`{graph.node(identity).attrs['key']}` of {tensor.ndim} dimensions cannot begin as `{init}`"
        drawn_or_not = "normal(deviation), uniform(bound), constant(number), ones and zeros"
        known = f"kaiming (of two dimensions or more), fan_in_bias, {drawn_or_not}"
        raise error("S0704", message, *([Label(span)] if span else []), notes=[f"there are {known}"])


def _fan_in(graph: Graph, identity: int) -> int:
    """The fan in of the weight beside the bias `identity`; 0 when a pass has put the bias beside another operator."""
    for around, user, _ in uses(graph, Value(identity)):
        roles = around.node(user).record.operands
        if "weight" in roles:
            return math.prod(around.type(around.operands(user)[roles.index("weight")]).concrete[1:])
    return 0
