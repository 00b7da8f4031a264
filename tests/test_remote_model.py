"""What is read from a server's configuration of a model, and what is refused there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from served_bundles import LABELS, SIZE, make_bundle

from debiexport.bundle import open_bundle
from debiexport.cards import Card, Preprocessing, resize_box
from debiexport.errors import InputError, UsageError
from debiexport.remote_model import RemoteModel, read_model, weight_notes
from debiexport.triton.model_config import model_config
from debiexport.triton.served import served_models

OneLine = Callable[[BaseException], str]


@pytest.fixture
def config(tiny_card: Card, tmp_path: Path) -> Any:
    return configured(make_bundle(tmp_path / "bundle", tiny_card))


def configured(bundle: Path, **options: Any) -> Any:
    (served,) = served_models(bundle, **options)
    return model_config(served)


def test_a_model_of_any_batch(config: Any, tiny_card: Card) -> None:
    model = read_model(config, "here")
    assert (model.name, model.batch, model.max_batch, model.dtype) == ("tiny_debi", None, 8, "float32")
    assert (model.image_size, model.input, model.classes) == (SIZE, "normalized", 6)
    assert model.preprocessing == tiny_card.preprocessing


@pytest.mark.parametrize(("batch", "form", "dtype"), [(3, "normalized", "float32"), (2, "uint8", "uint8")])
def test_a_model_of_one_batch(batch: int, form: str, dtype: str, tiny_card: Card, tmp_path: Path) -> None:
    model = read_model(configured(make_bundle(tmp_path / "bundle", tiny_card, batch, input=form)), "here")
    assert (model.batch, model.max_batch, model.input, model.dtype) == (batch, batch, form, dtype)


def test_a_model_without_batching_on_the_server(config: Any) -> None:
    """Whoever serves it may have turned batching off; it still takes any batch."""
    config.max_batch_size = 0
    config.input[0].dims[:] = [-1, *config.input[0].dims]
    model = read_model(config, "here")
    assert (model.batch, model.max_batch) == (None, 1)


def test_labels(config: Any) -> None:
    config.parameters["labels"].string_value = json.dumps(LABELS)
    assert read_model(config, "here").labels == LABELS
    config.parameters["labels"].string_value = "null"
    assert read_model(config, "here").labels is None


@pytest.mark.parametrize("size", [(64, 64), (225, 320), (333, 97), (1024, 513)])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (224, 224), (72, 64), (1001, 997)])
def test_preprocessing_of_any_size(size: tuple[int, int], resize: int, crop: int, config: Any) -> None:
    """The box is told in pixels of one image size, from which the rule is found again."""
    rule = Preprocessing(resize, crop, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    said = {
        "resize": resize_box(rule, size),
        **{name: rule.to_dict()[name] for name in ("interpolation", "mean", "std")},
    }
    config.parameters["preprocessing"].string_value = json.dumps(said)
    config.parameters["image_size"].string_value = "{}x{}".format(*size)
    config.input[0].dims[:] = [3, *size]
    found = read_model(config, "here").preprocessing
    assert resize_box(found, size) == resize_box(rule, size)
    assert (found.interpolation, found.mean, found.std) == (rule.interpolation, rule.mean, rule.std)


def test_a_backbone_is_refused(config: Any, one_line: OneLine) -> None:
    config.output[0].name = "feature1"
    with pytest.raises(UsageError, match=r"needs classes, but 'tiny_debi' at here gives feature1") as refused:
        read_model(config, "here")
    one_line(refused.value)


def test_a_model_of_somebody_else_is_refused(config: Any, one_line: OneLine) -> None:
    del config.parameters["preprocessing"], config.parameters["input"]
    with pytest.raises(UsageError, match="nothing of the preprocessing, input of 'tiny_debi'") as refused:
        read_model(config, "here")
    one_line(refused.value)


RULE = {"resize": [72, 72], "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", "64"),
        ("image_size", "64x1000000"),
        ("image_size", "64x96"),
        ("input", "image"),
        ("input", "uint8"),
        ("preprocessing", "{"),
        ("preprocessing", "[]"),
        ("preprocessing", "[" * 10**5),
        ("preprocessing", json.dumps({**RULE, "interpolation": "magic"})),
        ("preprocessing", json.dumps({**RULE, "resize": [72]})),
        ("preprocessing", json.dumps({**RULE, "resize": [63, 63]})),
        ("preprocessing", json.dumps({**RULE, "resize": [72, 99]})),
        ("preprocessing", json.dumps({**RULE, "mean": [0.5, 0.4]})),
        ("preprocessing", json.dumps({**RULE, "mean": [0.5, 0.4, float("nan")]})),
        ("preprocessing", json.dumps({**RULE, "std": [0.2, 0, 0.3]})),
        ("preprocessing", json.dumps({**RULE, "std": None})),
        ("labels", json.dumps(LABELS[:5])),
        ("labels", json.dumps([1, 2, 3, 4, 5, 6])),
        ("labels", json.dumps(dict.fromkeys("abcdef"))),
    ],
)
def test_damaged_parameters(name: str, value: str, config: Any, one_line: OneLine) -> None:
    config.parameters[name].string_value = value
    refused(config, one_line)


def test_damaged_tensors(config: Any, one_line: OneLine) -> None:
    for damage in (
        lambda new: new.input[0].dims.__setitem__(0, 4),
        lambda new: new.input[0].ClearField("dims"),
        lambda new: setattr(new.input[0], "data_type", 14),  # bfloat16
        lambda new: setattr(new.input[0], "name", "pictures"),
        lambda new: new.input.add(name="more"),
        lambda new: new.output[0].ClearField("dims"),
        lambda new: new.output[0].dims.__setitem__(0, -1),
        lambda new: setattr(new, "max_batch_size", 0) or new.input[0].dims.insert(0, 10**9),
    ):
        damaged = type(config)()
        damaged.CopyFrom(config)
        damage(damaged)
        refused(damaged, one_line)


def refused(config: Any, one_line: OneLine) -> None:
    with pytest.raises(
        InputError, match=r"^the configuration of 'tiny_debi' at here is damaged \(.+\): write it"
    ) as found:
        read_model(config, "here")
    assert len(one_line(found.value)) < 400


def test_notes_on_weights(config: Any, tiny_card: Card, tmp_path: Path) -> None:
    assert weight_notes(config, "1", "here") == []
    unverified = configured(make_bundle(tmp_path / "lost", tiny_card, verified=False), allow_unverified=True)
    (note,) = weight_notes(unverified, "1", "here")
    assert "lost parity" in note
    del config.parameters["1.source_sha256"]
    (note,) = weight_notes(config, "1", "here")
    assert note == "the weights of 'tiny_debi' at here are weights.pth: its outputs mean nothing"
    assert weight_notes(config, "2", "here") == []  # nothing is said of it


def test_it_is_what_was_served(dynamic_bundle: Path) -> None:
    """A real bundle through its configuration, and back."""
    manifest = open_bundle(dynamic_bundle).manifest
    model = read_model(configured(dynamic_bundle, name="other"), "here")
    rule, size = manifest.card.preprocessing, manifest.image_size
    assert model == RemoteModel("other", None, 8, "float32", size, manifest.input, rule, 6, None)
