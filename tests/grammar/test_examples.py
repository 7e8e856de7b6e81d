"""The specs in examples/: their checks hold, and RepViT is timm's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specc import grammar
from specc.ir.verify import verify

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.specc")), ids=lambda path: path.stem)
def test_every_example_elaborates_and_its_checks_hold(path: Path) -> None:
    reports = grammar.check(path)
    assert reports
    for report in reports:
        report.raise_failures()
        assert report.graph is not None and report.expected, "every variant is checked"
        verify(report.graph)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """These networks are small: on a busy machine, two threads wait for each other longer than they compute."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("variant", ["m0_9", "m1_0", "m1_1", "m1_5", "m2_3"])
def test_repvit_has_the_names_and_shapes_of_timm(timm: Any, variant: str) -> None:
    model = timm.create_model(f"repvit_{variant}")
    graph = grammar.load(EXAMPLES / "repvit.specc", variant=variant)
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert {key: type_.shape for key, type_ in graph.checkpoint.items()} == expected


def test_repvit_computes_what_timm_computes(timm: Any, one_thread: None) -> None:
    import torch

    from specc.backends.torch import to_torch

    torch.manual_seed(3)
    model = timm.create_model("repvit_m0_9").double().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor) * 0.1)
        module = to_torch(grammar.load(EXAMPLES / "repvit.specc", variant="m0_9")).double().eval()
        module.load_state_dict(model.state_dict())
        image = torch.randn(2, 3, 64, 32, dtype=torch.float64)
        wanted, got = model(image), module(image)
    assert (wanted - got).abs().max() <= 1e-9 * wanted.abs().max()


@pytest.mark.parametrize("variant", ["tiny", "small", "base"])
def test_vit_has_the_names_and_shapes_of_timm(timm: Any, variant: str) -> None:
    model = timm.create_model(f"vit_{variant}_patch16_224")
    graph = grammar.load(EXAMPLES / "vit.specc", variant=variant)
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert {key: type_.shape for key, type_ in graph.checkpoint.items()} == expected


def test_vit_computes_what_timm_computes(timm: Any, one_thread: None) -> None:
    import torch

    from specc.backends.torch import to_torch

    torch.manual_seed(3)
    model = timm.create_model("vit_tiny_patch16_224", depth=3, img_size=64).double().eval()
    text = (EXAMPLES / "vit.specc").read_text()
    text += "\nvariants ViT:\n    small_image: size = 64, width = 192, heads = 3, depth = 3\n"
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn_like(tensor) * 0.1)
        module = to_torch(grammar.loads(text, variant="small_image")).double().eval()
        module.load_state_dict(model.state_dict())
        image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
        wanted, got = model(image), module(image)
    assert (wanted - got).abs().max() <= 1e-9 * wanted.abs().max()


def test_digits_trains(one_thread: None) -> None:
    import torch
    from sklearn import datasets

    from specc.backends.torch import to_torch

    torch.manual_seed(0)
    data = datasets.load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, held_out = order[:1437], order[1437:]
    module = to_torch(grammar.load(EXAMPLES / "digits.specc")).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(6):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(images[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        right = (module.eval()(images[held_out]).argmax(1) == labels[held_out]).double().mean()
    assert right > 0.97
