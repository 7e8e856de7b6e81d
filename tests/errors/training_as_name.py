"""A block with a name that PyTorch's modules use otherwise."""

import specc
from specc import grammar

text = "specc 1\nnetwork N(x: [n = 1, 3, h, w]):\n    training = conv2d(x, 4)\n    return training\n"
specc.to_torch(grammar.loads(text))
