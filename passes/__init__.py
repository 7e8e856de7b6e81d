"""Passes: graph to graph. Modules import on first use; see `specc.passes.registry` for the list and the pipelines."""
