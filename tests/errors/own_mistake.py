"""A mistake in specc itself."""

import sys
from unittest.mock import patch

from specc import grammar
from specc.cli import execute

with patch.object(grammar, "check", lambda *_, **__: 1 // 0):
    sys.exit(execute(["check", "tiny.specc"]))
