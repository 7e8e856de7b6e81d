"""The whole road on a real network: timm's checkpoint, the spec, the command line, the artifact, timm's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import specc
from specc.cli import execute
from specc.ir.specialize import specialize
from specc.passes.registry import pipeline
from specc.targets import native

SPEC = Path(__file__).parents[1] / "examples" / "reparam" / "repvit.specc"


VARIANTS = ["m1_1", *(pytest.param(v, marks=pytest.mark.slow) for v in ("m0_9", "m1_0", "m1_5", "m2_3"))]


def trained(timm: Any, variant: str) -> torch.nn.Module:
    """timm's model with statistics far from those of a fresh batch norm, which would hide mistakes in folding."""
    torch.manual_seed(7)
    model: torch.nn.Module = timm.create_model(f"repvit_{variant}").eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.3, 3.0)  # type: ignore[union-attr]
                module.weight.uniform_(-1.5, 1.5)
                module.bias.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_of_timm_becomes_an_artifact_that_equals_timm(timm: Any, variant: str, tmp_path: Path) -> None:
    model = trained(timm, variant)
    save_file(model.state_dict(), tmp_path / "repvit.safetensors")
    words = ["compile", f"{SPEC}:{variant}", "--weights", str(tmp_path / "repvit.safetensors")]
    assert execute([*words, "-o", str(tmp_path / "x")]) == 0
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        expected = model.double()(image.double()).numpy()
    (answer,) = specc.open(tmp_path / "x")(image.numpy())
    assert np.abs(answer - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_branch_is_merged_as_far_as_timm_itself_merges(timm: Any, variant: str) -> None:
    from timm.utils.model import reparameterize_model

    graph = specialize(specc.load(SPEC, variant=variant))
    for each in pipeline(2, native()):
        graph = each(graph)
    operators = [graph.node(i).op for i in graph.live()]
    merged = reparameterize_model(trained(timm, variant))
    assert operators.count("batch_norm") == 0
    assert operators.count("conv2d") <= sum(isinstance(m, torch.nn.Conv2d) for m in merged.modules())
    assert operators.count("linear") == 1
