"""A machine that no target fits."""

from unittest.mock import patch

from specc import targets

with patch("platform.machine", lambda: "vax"):
    targets.find("native")
