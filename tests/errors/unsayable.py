"""A graph with a dimension that no spec could name."""

from specc.grammar.writer import write_graph
from specc.ir.text import parse_graph

write_graph(parse_graph("graph N [h = 2]\ninput x: float32[2*h]\nreturn x\n"))
