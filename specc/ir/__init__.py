"""The graph IR: dimensions, tensor types, the graph, its text form and its verifier.

Modules, in the order in which they build on each other: `dims`, `types`, `graph` (reads the operator records of
`specc.ops`), `cost`, `verify`, `text`.
"""
