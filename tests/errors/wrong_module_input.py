"""A module is called with another shape than its spec says."""

import tiny
import torch

import specc

specc.to_torch(tiny.graph())(torch.zeros(1, 4, 8, 8))
