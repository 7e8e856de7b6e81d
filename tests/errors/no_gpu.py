"""A machine without NVIDIA's driver, and an artifact for a GPU."""

from unittest.mock import patch

import tiny

from specc import gpus

with patch("ctypes.CDLL", side_effect=OSError):
    gpus.check_gpu(tiny.graph().name, "sm_90")
