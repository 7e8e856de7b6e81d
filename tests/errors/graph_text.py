"""A text that is no printed graph."""

from specc.ir.text import parse_graph

parse_graph("graph N\ninput x: float32[2, 3]\n%0: float32[2, 3] = rellu(x)\nreturn %0\n")
