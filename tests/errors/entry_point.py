"""A package that offers a function as a pass."""

from importlib.metadata import EntryPoint
from unittest.mock import patch

from specc.passes import registry

with patch.object(registry, "entry_points", lambda group: [EntryPoint("theirs", "math:sqrt", group)]):
    registry._registered.__wrapped__()
