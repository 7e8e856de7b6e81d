"""A machine with 40 pages of 40 bytes."""

import os
from unittest.mock import patch

import tiny

import specc

with patch.object(os, "sysconf", lambda name: 40):
    specc.compile(tiny.graph())
