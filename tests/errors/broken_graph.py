"""A graph whose node says another type than its operator gives."""

import tiny

from specc.ir.types import TensorType
from specc.ir.verify import verify

graph = tiny.graph().copy()
identity = graph.order()[-1]
graph.update(identity, types=(TensorType((1, 7)),))
verify(graph)
