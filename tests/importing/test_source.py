"""`specc import PACKAGE.MODULE:CALLABLE`: what is named, and what is written."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from specc.cli import execute

SOURCE = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, width, 3)
        self.bn = torch.nn.BatchNorm2d(width)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()

ready = Net(2)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "mynet_of_a_test.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mynet_of_a_test", None)


@pytest.mark.parametrize(("name", "width"), [("Net", 4), ("Net(width=5)", 5), ("Net(6)", 6), ("ready", 2)])
def test_a_module_is_named_and_called(name: str, width: int, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import", f"mynet_of_a_test:{name}", "--input", "1x3x8x8", "-o", "net.specc", "--json"]
    assert execute(command) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["weights"] == "net.safetensors"
    assert (
        (here / "net.specc").read_text()
        == f'''\
specc 1
"""Net, imported from mynet_of_a_test:{name.replace('"', "")}."""

network Net(x: [n = 1, 3, h = 8, w = 8]) -> [n, _, _, _]:
    conv = conv2d(x, {width}, k=3, p=0)
    bn = batch_norm(conv)
    return relu(bn)

check Net:
    params == {width * 30}
    macs == {width * 27 * 36}
'''
    )
    assert execute(["check", "net.specc"]) == 0
    assert execute(["verify", "net.specc", "--weights", "net.safetensors", "-O0"]) == 0


@pytest.mark.parametrize("shape", ["1x3x0", "1,3,8,8", "x3", ""])
def test_shapes(shape: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["import", "mynet_of_a_test:Net", "--input", shape, "-o", "net.specc"]) != 0
    assert "is no shape" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["import", "mynet_of_a_test:Net", "-o", "missing/net.specc"]) == 1
    assert "S0002" in capsys.readouterr().err
    assert "mynet_of_a_test" not in sys.modules
