"""A machine without a C compiler."""

from unittest.mock import patch

import tiny

import specc

with patch("shutil.which", lambda name: None):
    specc.compile(tiny.graph())
