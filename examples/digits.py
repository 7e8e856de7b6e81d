"""Trains the network of digits.specc on scikit-learn's handwritten digits, in PyTorch.

    python examples/digits.py FOLDER

writes `digits.safetensors`, the checkpoint; `samples.npz`, 64 images of the training, to calibrate integers by; and
`samples.json`: for each of the ten digits one image that the training has not seen, as 64 numbers from 0 to 1, row by
row.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

import specc

SPEC = Path(__file__).parent / "digits.specc"
Track = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class Digits:
    """Images float32[n, 1, 8, 8] from 0 to 1 and their labels int64[n]: to be trained on, and held out."""

    images: torch.Tensor
    labels: torch.Tensor
    held_out_images: torch.Tensor
    held_out_labels: torch.Tensor


def data() -> Digits:
    """1437 digits to train on and 360 that are held out, in an order that PyTorch's seed decides."""
    found = load_digits()
    images = torch.tensor(found.images[:, None] / 16, dtype=torch.float32)
    labels = torch.tensor(found.target)
    order = torch.randperm(len(images))
    seen, held_out = order[:1437], order[1437:]
    return Digits(images[seen], labels[seen], images[held_out], labels[held_out])


def trained(digits: Digits, epochs: int = 15, track: Track = iter) -> torch.nn.Module:
    """The network, trained with AdamW, one learning-rate cycle and batches of 64; `track` sees the epochs go by."""
    model = specc.to_torch(specc.load(SPEC))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a batch of 8 x 8 images is too little work to share
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    batches = -(-len(digits.images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=epochs * batches)
    model.train()
    for _ in track(range(epochs)):
        for batch in torch.randperm(len(digits.images)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(digits.images[batch]), digits.labels[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    torch.set_num_threads(threads)
    return model


def main() -> None:
    """Trains, and writes what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    digits = data()
    model = trained(digits, options.epochs)
    with torch.inference_mode():
        right = model(digits.held_out_images).argmax(1) == digits.held_out_labels
    save_file(model.state_dict(), folder / "digits.safetensors")
    np.savez(folder / "samples.npz", image=digits.images[:64].numpy())
    labels = digits.held_out_labels.tolist()
    samples = [digits.held_out_images[labels.index(digit)].flatten().tolist() for digit in range(10)]
    (folder / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
    print(f"{right.float().mean():.2%} of {len(right)} held-out digits are recognized")


if __name__ == "__main__":
    main()
