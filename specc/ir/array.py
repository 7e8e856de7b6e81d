"""The arrays that values are kept in: a module of its own, which the runtime imports without the rest of the IR."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
"""Of numpy, with any shape and any type of elements."""
