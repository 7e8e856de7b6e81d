"""`specc import PACKAGE.MODULE:CALLABLE`: what is named, and what is written."""

from __future__ import annotations

import json
import subprocess
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

def exported(width):
    return torch.export.export(Net(width).eval(), (torch.zeros(1, 3, 8, 8),))
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


def test_a_function_may_give_what_torch_exported(here: Path) -> None:
    assert execute(["import", "mynet_of_a_test:exported(7)", "--input", "1x3x8x8", "-o", "net.specc"]) == 0
    text = (here / "net.specc").read_text()
    assert "network Net(x: [1, 3, 8, 8])" in text and "conv = conv2d(x, 7, k=3, p=0)" in text


def test_torchvision_whose_machine_code_is_of_another_pytorch() -> None:
    """As the first line of docs/importing.md does, in a process where no test has made torchvision importable."""
    program = (
        "from specc.importing.source import module_named as n; print(n('torchvision.models:squeezenet1_1').classifier)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Sequential("), done.stderr


@pytest.mark.parametrize("shape", ["1x3x0", "1,3,8,8", "x3", ""])
def test_shapes(shape: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["import", "mynet_of_a_test:Net", "--input", shape, "-o", "net.specc"]) != 0
    assert "is no shape" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["import", "mynet_of_a_test:Net", "-o", "missing/net.specc"]) == 1
    assert "S0002" in capsys.readouterr().err
    assert "mynet_of_a_test" not in sys.modules
