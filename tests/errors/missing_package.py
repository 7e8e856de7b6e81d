"""Machines without the packages that a command asks for."""

import sys
from unittest.mock import patch

from specc.cli import execute

with patch.dict(sys.modules, {"onnxruntime": None, "onnx": None}):
    execute(["bench", "tiny.specc:small", "--against", "onnxruntime"])
    code = execute(["import", "cut.onnx", "-o", "net.specc"])
sys.exit(code)
