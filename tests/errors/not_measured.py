"""A machine on which the network does not run."""

from pathlib import Path
from unittest.mock import patch

import tiny

from specc import tuning
from specc.backends.tvm.measure import Failed, Here

with patch.object(Here, "measure", side_effect=Failed("libgomp.so.1: cannot open shared object file")):
    try:
        tuning.tune(tiny.graph(), tuning="new.jsonl", minutes=0)
    finally:
        Path("new.jsonl").unlink()
