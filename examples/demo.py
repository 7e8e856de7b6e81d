"""The main job on real input, as `make demo` shows it.

1. Trains the network of digits.specc on scikit-learn's handwritten digits in PyTorch, saves a checkpoint, compiles it
   for this machine, and compares the two on digits that neither has seen.
2. Compiles RepViT-M1.1 and runs it on a photograph, beside PyTorch and ONNX Runtime.

Everything it writes is in build/demo.
"""

from __future__ import annotations

import time
from pathlib import Path

import digits
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image

import specc
from specc.bench import bench, ours
from specc.ir.specialize import specialize
from specc.peers import peers
from specc.weights import random_weights

EXAMPLES = Path(__file__).parent
BUILD = EXAMPLES.parent / "build" / "demo"
THREADS = 2
console = Console(highlight=False)


def convolutions(artifact: specc.Artifact) -> str:
    """What re-parameterization did with the convolutions, as the artifact's pass log tells it."""
    summaries = [step["summary"] for step in artifact.manifest.sizes[0].facts["passes"] if step["pass"] == "reparam"]
    return next(part for summary in summaries for part in str(summary).split(", ") if "convolutions" in part)


def train_and_deploy() -> None:
    """Trained in PyTorch, deployed without it."""
    console.rule("[bold]examples/digits.specc[/]: trained here, on scikit-learn's digits")
    torch.manual_seed(0)
    data = digits.data()
    images, labels = data.held_out_images, data.held_out_labels
    model = digits.trained(data, track=lambda epochs: track(epochs, "training", console=console, transient=True))
    torch.set_num_threads(THREADS)
    save_file(model.state_dict(), BUILD / "digits.safetensors")

    specc.compile(specc.load(digits.SPEC), weights=BUILD / "digits.safetensors").save(BUILD / "digits.specc-artifact")
    artifact = specc.open(BUILD / "digits.specc-artifact")
    with torch.inference_mode():
        expected = model(images).numpy()
    answers = np.concatenate([artifact(image[None].numpy())[0] for image in images])

    truth = labels.numpy()
    table = Table(box=None, show_header=False)
    table.add_row("accuracy of PyTorch", f"{np.mean(expected.argmax(1) == truth):.2%} of {len(truth)} held-out digits")
    table.add_row("accuracy of the artifact", f"{np.mean(answers.argmax(1) == truth):.2%}")
    table.add_row("equal answers", f"{np.sum(answers.argmax(1) == expected.argmax(1))} of {len(truth)}")
    table.add_row("greatest difference", f"{relative(answers, expected):.1e} of the greatest output")
    table.add_row("merged", convolutions(artifact))
    console.print(table)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """The greatest |a - b|, as a share of the greatest |b|."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def photograph() -> np.ndarray:
    """scikit-learn's picture of a temple in China: the middle, 224 x 224, normalized as ImageNet's pictures are."""
    picture = torch.tensor(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None].float() / 255
    side = min(picture.shape[2:])
    top, left = ((extent - side) // 2 for extent in picture.shape[2:])
    picture = picture[:, :, top : top + side, left : left + side]
    picture = torch.nn.functional.interpolate(picture, size=(224, 224), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normalized: np.ndarray = ((picture - mean) / std).numpy()
    return normalized


def repvit() -> None:
    """A network of timm's, with weights drawn at random, so that nothing has to be downloaded."""
    console.rule("[bold]examples/reparam/repvit.specc:m1_1[/]: RepViT-M1.1, random weights, a photograph")
    net = specc.load(EXAMPLES / "reparam" / "repvit.specc", variant="m1_1")
    weights = random_weights(net)
    model = specc.to_torch(net)
    model.load_state_dict({key: torch.from_numpy(array) for key, array in weights.items()}, strict=False)
    model.eval()

    start = time.perf_counter()
    with console.status("compiling"):
        size = specc.compile(net, weights=weights).save(BUILD / "repvit.specc-artifact")
    seconds = time.perf_counter() - start
    artifact = specc.open(BUILD / "repvit.specc-artifact", THREADS)

    image = photograph()
    (answer,) = artifact(image)
    with torch.inference_mode():
        expected = model(torch.from_numpy(image)).numpy()
    table = Table(box=None, show_header=False)
    table.add_row("compiled", f"in {seconds:.1f} s, {size / 1e6:.1f} MB")
    table.add_row("merged", convolutions(artifact))
    table.add_row("greatest difference from PyTorch", f"{relative(answer, expected):.1e} of the greatest output")
    console.print(table)

    with console.status("measuring"):
        contenders = peers(("torch", "onnxruntime"), specialize(net), weights, [image], THREADS)
        timings = bench([ours(artifact, [image]), *contenders])
    table = Table(title=f"latency, batch 1, {THREADS} threads; the peers run the merged network too", box=None)
    for column in ("", "median", "10 % to 90 %", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for timing in timings:
        low, high = timing.spread
        ratio = timing.ratio(timings[0])
        table.add_row(timing.name, f"{timing.median:.2f} ms", f"{low:.2f} to {high:.2f}", f"{ratio:.2f}")
    console.print(table)


if __name__ == "__main__":
    BUILD.mkdir(parents=True, exist_ok=True)
    train_and_deploy()
    repvit()
