"""An output that is to be written where it lies, into every other element of an array."""

import numpy as np
import tiny

tiny.artifact().into([np.zeros((1, 10), "float32")[:, ::2]], np.zeros((1, 3, 8, 8), "float32"))
