"""Train the sample network `debi_nano` on scans of handwritten digits.

The network is small enough to ship with debiexport, and trained rather than random: its routes, its offsets
and its logits behave as those of a real network do, so an export can be tried and verified without a download.

Data: the 1797 scans of 8 x 8 pixels that come with scikit-learn (`sklearn.datasets.load_digits`), from the UCI
Machine Learning Repository, "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak
(https://doi.org/10.24432/C50P49), licensed CC BY 4.0. Pixel values are rescaled from 0..16 to 0..255.
A fifth of the scans, the same share of every digit, is held out: those are never trained on, and they are
written beside the network as sample images.

Usage: `python models/train_debi_nano.py [--epochs N] [--output DIR]`, with the `dev` extra installed.
With the default settings it takes about 15 minutes on two CPU cores and gets all 360 held-out scans right.
They are looked at once, after the last epoch, and no earlier state of the network is kept. Every seed is fixed,
but the result still depends a little on the CPU and the version of PyTorch.

Written to the output folder, by default that of this file:

    debi_nano.safetensors             float32 state dict with the running statistics of the BatchNorms
    debi_nano/<digit>/<index>.png     the held-out scans, 8 x 8 grayscale; index in scikit-learn's data set
    debi_nano.labels.txt              names of the classes, one a line
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save
from sklearn.datasets import load_digits
from torch import Tensor, nn

from debiexport.cards import Preprocessing, load_card
from debiexport.reference.dbra import DBRA
from debiexport.reference.network import ReferenceNetwork

NAME = "debi_nano"
CLASSES = tuple(str(digit) for digit in range(10))
HELD_OUT_EVERY = 5
SPLIT_SEED = 0
TRAINING_SEED = 0
REQUIRED_ACCURACY = 0.97

THREADS = 2
EPOCHS = 12
BATCH = 32
PEAK_LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.05
GRADIENT_NORM = 5.0

# Largest changes by which a scan is varied. They stay small: a scan fills its 8 x 8 pixels to the edge.
ROTATION_DEGREES = 10.0
SHIFT = 0.08  # of the image's side
ZOOM = 0.1

Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scans:
    """All the digit scans.

    Attributes:
        pixels: (N, 8, 8), 0 is background and 255 full ink.
        labels: (N,), the digit of each scan.
    """

    pixels: Pixels
    labels: Indices

    def image(self, index: int) -> Image.Image:
        """One scan as the grayscale image that its PNG file holds."""
        return Image.fromarray(self.pixels[index])


def load_scans() -> Scans:
    """Scikit-learn's digit scans, from 0..16 to 8 bits."""
    digits = load_digits()
    return Scans(np.rint(digits.images * 255 / 16).astype(np.uint8), digits.target.astype(np.int64))


def split(labels: Indices) -> tuple[Indices, Indices]:
    """Indices to train on and indices held out, both ascending.

    The scans are listed digit by digit, shuffled within a digit, and every fifth of the list is held out, so
    both parts have the same share of every digit.
    """
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    by_digit = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held_out = np.arange(len(labels)) % HELD_OUT_EVERY == 0
    return np.sort(by_digit[~held_out]), np.sort(by_digit[held_out])


def check_disjoint(scans: Scans, train: Indices, held_out: Indices) -> None:
    """Assert that no held-out scan is trained on, be it by index or as an equal image under another index."""
    assert not set(train.tolist()) & set(held_out.tolist()), "a held-out scan is in the training set"
    trained = {scans.pixels[i].tobytes() for i in train}
    assert not any(scans.pixels[i].tobytes() in trained for i in held_out), "a held-out scan has a twin that is trained"


# --------------------------------------------------------------------------------------- images


def enlarge(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """An image file's content at the network's size: (3, H, W) uint8.

    The result is 8-bit, as it is at inference. Scans are square, so the crop takes the whole resized image.
    """
    assert image.width == image.height
    assert preprocessing.crop == preprocessing.resize
    side = preprocessing.resize
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    resized = image.convert("RGB").resize((side, side), resampling)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Network input from RGB in [0, 1], (N, 3, H, W)."""
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (images - mean) / std


def vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, shift and zoom each image (N, 3, H, W) in [0, 1] a little; what comes in from outside is background.

    With some 1400 scans to train on, this is what keeps the network from learning them by heart.
    """
    n = len(images)

    def uniform(limit: float, *shape: int) -> Tensor:
        return (torch.rand(n, *shape, generator=generator) * 2 - 1) * limit

    angle, zoom = uniform(math.radians(ROTATION_DEGREES)), 1 + uniform(ZOOM)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rotation = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # (N, 2, 2)
    shift = uniform(2 * SHIFT, 2, 1)  # affine_grid's side has length 2
    grid = F.affine_grid(torch.cat([rotation, shift], 2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


# --------------------------------------------------------------------------------------- training


def new_network() -> ReferenceNetwork:
    """The network of the card with its initial parameters.

    PyTorch's own initialisation scales with a layer's width, which suits layers as narrow as these. Only the
    position bias tables, zero at first, are drawn: with zeros all heads would start from the same bias.
    """
    torch.manual_seed(TRAINING_SEED)
    network = ReferenceNetwork(load_card(NAME))
    for module in network.modules():
        if isinstance(module, DBRA):
            nn.init.trunc_normal_(module.rpe_table, std=0.02)
    return network


def new_optimizer(network: nn.Module) -> torch.optim.AdamW:
    """AdamW that decays weights and leaves biases and norms alone."""
    parameters = list(network.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=PEAK_LEARNING_RATE,
    )


def batches(items: Tensor) -> Iterator[Tensor]:
    """Slices of at most a batch along the first dimension."""
    return (items[i : i + BATCH] for i in range(0, len(items), BATCH))


def train(network: ReferenceNetwork, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train in place and print a line per epoch.

    The network runs as it is: its routes are a hard top-k through which no gradient flows.

    Args:
        network: what is trained; in evaluation mode afterwards.
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        epochs: passes over the images.
    """
    generator = torch.Generator().manual_seed(TRAINING_SEED)
    optimizer = new_optimizer(network)
    steps = math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, epochs=epochs, steps_per_epoch=steps)
    preprocessing = network.card.preprocessing
    network.train()
    start = time.monotonic()
    for epoch in range(1, epochs + 1):
        total_loss, correct = 0.0, 0
        for batch in batches(torch.randperm(len(images), generator=generator)):
            logits = network(normalise(vary(images[batch] / 255, generator), preprocessing))
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            total_loss += loss.item() * len(batch)
            correct += int((logits.argmax(1) == labels[batch]).sum())
        print(
            f"epoch {epoch}/{epochs}: loss {total_loss / len(images):.4f},"
            f" {correct / len(images):.2%} of the training images, {time.monotonic() - start:.0f} s",
            flush=True,
        )
    network.eval()


@torch.no_grad()
def predict(network: ReferenceNetwork, images: Tensor) -> Tensor:
    """Logits (N, classes) of images (N, 3, H, W) uint8."""
    preprocessing = network.card.preprocessing
    return torch.cat([network(normalise(batch / 255, preprocessing)) for batch in batches(images)])


# --------------------------------------------------------------------------------------- output


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever finds half of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_network(network: ReferenceNetwork, path: Path, *, accuracy: float, epochs: int) -> None:
    """Write the state dict in float32, with how it came about in the metadata."""
    # One entry: safetensors writes several in an order that changes from run to run.
    training = {
        "dataset": "sklearn.datasets.load_digits (UCI Optical Recognition of Handwritten Digits, CC BY 4.0)",
        "split_seed": SPLIT_SEED,
        "epochs": epochs,
        "held_out_accuracy": round(accuracy, 4),
    }
    # BatchNorm's count of batches is an integer and stays one.
    tensors = {key: (t.float() if t.is_floating_point() else t).contiguous() for key, t in network.state_dict().items()}
    write_atomically(path, save(tensors, {"training": json.dumps(training)}))


def save_samples(scans: Scans, held_out: Indices, output: Path) -> None:
    """Write the held-out scans, a folder for each digit, and the names of the classes."""
    for index in held_out.tolist():
        folder = output / NAME / CLASSES[scans.labels[index]]
        folder.mkdir(parents=True, exist_ok=True)
        scans.image(index).save(folder / f"{index:04d}.png")
    write_atomically(output / f"{NAME}.labels.txt", "".join(f"{name}\n" for name in CLASSES).encode())


def main() -> None:
    """Train, measure on the held-out scans, and save unless the network is too poor to ship."""
    parser = argparse.ArgumentParser(description=f"Train {NAME} on scikit-learn's digit scans.")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the training images (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write to (%(default)s)")
    arguments = parser.parse_args()
    if arguments.epochs < 1:
        parser.error(f"--epochs is {arguments.epochs}: give at least 1")
    arguments.output.mkdir(parents=True, exist_ok=True)

    torch.set_num_threads(THREADS)
    scans = load_scans()
    train_indices, held_out = split(scans.labels)
    check_disjoint(scans, train_indices, held_out)
    network = new_network()
    images = torch.stack([enlarge(scans.image(i), network.card.preprocessing) for i in range(len(scans.labels))])
    labels = torch.from_numpy(scans.labels)
    train(network, images[train_indices], labels[train_indices], arguments.epochs)

    predicted = predict(network, images[held_out]).argmax(1)
    accuracy = (predicted == labels[held_out]).double().mean().item()
    if accuracy < REQUIRED_ACCURACY:
        raise SystemExit(
            f"held-out accuracy is {accuracy:.2%}: nothing is saved under {REQUIRED_ACCURACY:.0%};"
            " train for more epochs"
        )
    save_network(network, arguments.output / f"{NAME}.safetensors", accuracy=accuracy, epochs=arguments.epochs)
    save_samples(scans, held_out, arguments.output)
    print(f"held-out accuracy: {accuracy:.2%} of {len(held_out)} scans")


if __name__ == "__main__":
    main()
