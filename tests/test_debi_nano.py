"""The trained sample that ships with debiexport: the network, its held-out images, and that they were held out."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from debiexport.cards import load_card, shipped_checkpoint
from debiexport.reference.network import ReferenceNetwork

CLASSES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    path = shipped_checkpoint("debi_nano")
    assert path is not None
    return path


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> ReferenceNetwork:
    network = ReferenceNetwork(load_card("debi_nano"))
    network.load_state_dict(load_file(checkpoint), strict=True)
    return network


@pytest.fixture(scope="module")
def images(checkpoint: Path) -> list[Path]:
    return sorted((checkpoint.parent / "debi_nano").glob("*/*.png"))


@pytest.fixture(scope="module")
def training() -> ModuleType:
    """The training script; scikit-learn holds its data and is there in development only."""
    pytest.importorskip("sklearn")
    return import_module("debiexport.models.train_debi_nano")


def test_checkpoint_is_small_and_finite(checkpoint: Path, network: ReferenceNetwork) -> None:
    assert checkpoint.stat().st_size < 6_000_000
    assert all(torch.isfinite(t).all() for t in network.state_dict().values())


def test_images_and_labels(checkpoint: Path, images: list[Path]) -> None:
    assert len(images) == 360
    assert sorted({path.parent.name for path in images}) == CLASSES
    assert checkpoint.with_name("debi_nano.labels.txt").read_text(encoding="utf-8").splitlines() == CLASSES
    for path in images:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (8, 8))


def test_held_out_images_are_not_trained_on(training: ModuleType, images: list[Path]) -> None:
    scans = training.load_scans()
    train, held_out = training.split(scans.labels)
    training.check_disjoint(scans, train, held_out)
    assert sorted([*train, *held_out]) == list(range(len(scans.labels)))
    assert {int(path.stem): path.parent.name for path in images} == {i: str(scans.labels[i]) for i in held_out}
    trained = {scans.pixels[i].tobytes() for i in train}
    for path in images:
        with Image.open(path) as image:
            pixels = np.array(image)
        assert np.array_equal(pixels, scans.pixels[int(path.stem)])
        assert pixels.tobytes() not in trained


def test_a_held_out_image_in_the_training_set_is_noticed(training: ModuleType) -> None:
    scans = training.load_scans()
    train, held_out = training.split(scans.labels)
    with pytest.raises(AssertionError, match="held-out"):
        training.check_disjoint(scans, np.append(train, held_out[0]), held_out)
    scans.pixels[train[0]] = scans.pixels[held_out[0]]
    with pytest.raises(AssertionError, match="twin"):
        training.check_disjoint(scans, train, held_out)


def test_accuracy_on_held_out_images(training: ModuleType, network: ReferenceNetwork, images: list[Path]) -> None:
    chosen = images[::5]
    enlarged = []
    for path in chosen:
        with Image.open(path) as image:
            enlarged.append(training.enlarge(image, network.card.preprocessing))
    predicted = training.predict(network, torch.stack(enlarged)).argmax(1).tolist()
    correct = sum(CLASSES[p] == path.parent.name for p, path in zip(predicted, chosen, strict=True))
    assert correct / len(chosen) >= 0.97
