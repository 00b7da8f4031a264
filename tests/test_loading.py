"""Networks from names, cards, files and options."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from debiexport.cards import Card, card_from_dict, load_card, shipped_checkpoint
from debiexport.checkpoint import random_checkpoint, read_checkpoint
from debiexport.errors import CardError, CheckpointError, UsageError
from debiexport.geometry import Geometry
from debiexport.loading import (
    RandomWeightsWarning,
    as_image_size,
    build_reference,
    load_model,
    load_weights,
    resolve_card,
)
from debiexport.names import routed_sites, stream_names
from debiexport.reference.network import ReferenceNetwork

OneLine = Callable[[BaseException], str]
TINY = ("tiny_card", "tiny_bi_card", "tiny_stl_card")


def images(height: int = 64, width: int = 64, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def weights(tiny_card: Card, tmp_path: Path) -> Path:
    """A file of torch.save for the tiny DeBiFormer with four classes."""
    path = tmp_path / "tiny.pth"
    torch.save({"model": random_checkpoint(replace(tiny_card, num_classes=4), seed=9).state}, path)
    return path


def random_network(card: Any, **options: Any) -> ReferenceNetwork:
    with pytest.warns(RandomWeightsWarning):
        return load_model(card, **options)


# --------------------------------------------------------------------------- where weights come from


def test_sample_by_name_uses_its_shipped_weights() -> None:
    network = load_model("debi_nano")  # without a warning
    shipped = shipped_checkpoint("debi_nano")
    assert shipped is not None
    state = read_checkpoint(shipped, load_card("debi_nano")).state
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    assert network.image_size == (224, 224)
    assert not network.training


@pytest.mark.parametrize("form", ["card", "path", "text"])
def test_without_a_checkpoint_weights_are_random_and_say_so(form: str, tiny_card: Card, tiny_card_file: Path) -> None:
    source = {"card": tiny_card, "path": tiny_card_file, "text": str(tiny_card_file)}[form]
    with pytest.warns(
        RandomWeightsWarning, match="tiny_debi has no checkpoint: its weights are random, seed 0"
    ) as seen:
        network = load_model(source, image_size=64)
    assert [Path(warning.filename).name for warning in seen] == [Path(__file__).name]  # the caller's line
    state = random_checkpoint(tiny_card).state
    assert network.card == tiny_card
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())


def test_random_weights_by_name() -> None:
    with pytest.warns(RandomWeightsWarning, match="debi_t has no checkpoint"):
        assert load_model("debi_t").card == load_card("debi_t")


def test_checkpoint_decides_the_number_of_classes(tiny_card: Card, weights: Path) -> None:
    for options in ({}, {"num_classes": 4}):
        network = load_model(tiny_card, weights, image_size=64, **options)
        assert network.card == replace(tiny_card, num_classes=4)
        assert network.run(images()).outputs["logits"].shape == (2, 4)


def test_another_number_of_classes_than_the_checkpoints_is_refused(
    tiny_card: Card, weights: Path, one_line: OneLine
) -> None:
    with pytest.raises(UsageError) as caught:
        load_model(tiny_card, weights, image_size=64, num_classes=6)
    assert all(part in one_line(caught.value) for part in ("--num-classes is 6", "4 classes"))


def test_shipped_weights_serve_only_the_network_they_are_of() -> None:
    """Regions and top-k change no weight; other classes or another network under the name have random ones."""
    card = load_card("debi_nano")
    assert load_weights(card, None).sha256
    assert load_weights(card.with_options(regions=8), None).sha256
    assert load_weights(card.with_options(top_k=(1, 1, 1, 1)), None).sha256
    assert load_weights(card, None, num_classes=10).sha256

    other = card.with_options(num_classes=3)
    assert load_weights(other, None, num_classes=3).description == "random, seed 0"
    assert load_weights(other, None).card.num_classes == 3
    assert random_network("debi_nano", num_classes=3, image_size=32).head.out_features == 3
    data = card.to_dict()
    data["stages"][0]["mlp_ratio"] = 1
    assert load_weights(card_from_dict(data, "my.toml"), None).description == "random, seed 0"


def test_wrong_checkpoints(tiny_card: Card, weights: Path, tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(CheckpointError, match="does not fit debi_nano") as caught:
        load_model("debi_nano", weights)
    one_line(caught.value)
    with pytest.raises(UsageError, match="no file"):
        load_model(tiny_card, tmp_path / "missing.pth", image_size=64)


def test_wrong_cards(tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(UsageError, match="no model card 'debi_x'") as caught:
        load_model("debi_x")
    one_line(caught.value)
    (tmp_path / "my.toml").write_text("S = 7")
    with pytest.raises(CardError, match="'name' is missing"):
        load_model(tmp_path / "my.toml")


# ------------------------------------------------------------------------------------ image size


@pytest.mark.parametrize(
    ("given", "size"), [(64, (64, 64)), ((64, 96), (64, 96)), (32, (32, 32)), (np.array([64, 96]), (64, 96))]
)
def test_image_sizes(given: Any, size: tuple[int, int], tiny_card: Card) -> None:
    assert as_image_size(given) == size
    network = random_network(tiny_card, image_size=given)
    assert network.image_size == size
    assert network.run(images(*size)).outputs["logits"].shape == (2, 6)


@pytest.mark.parametrize("size", [31, 4097, 0, -64, (31, 64), (64, 4097)])
def test_image_sizes_out_of_range(size: Any, tiny_card: Card, one_line: OneLine) -> None:
    with pytest.raises(UsageError, match="32 to 4096") as caught:
        load_model(tiny_card, image_size=size)
    one_line(caught.value)


# --------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options",
    [
        {"regions": 3},
        {"top_k": (4, 3, 2, 1)},
        {"bra_top_k": (4, 4, 4)},
        {"num_classes": 3},
        {"regions": 4, "top_k": (16, 8, 4, 2), "bra_top_k": (9, 10, 11), "num_classes": 2},
    ],
    ids=str,
)
def test_options_are_those_of_the_card(options: dict[str, Any], tiny_card: Card) -> None:
    network = random_network(tiny_card, image_size=64, **options)
    assert network.card == tiny_card.with_options(**options) == resolve_card(tiny_card, **options)
    run = network.run(images())
    assert run.outputs["logits"].shape == (2, network.card.num_classes)
    for site in routed_sites(network.card):
        regions = network.card.regions**2
        assert run.routes[site.name].shape == (2, regions, site.top_k)
        assert run.affinities[site.name].shape == (2, regions, regions)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"regions": 1}, "--regions is 1"),
        ({"top_k": (1,)}, "--top-k has 1 values"),
        ({"top_k": (5, 1, 1, 1)}, "--top-k is 5 in stage 1"),
        ({"bra_top_k": (0, 1, 1)}, "at least 1"),
        ({"num_classes": 0}, "--num-classes is 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str, tiny_card: Card, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as caught:
        load_model(tiny_card, image_size=64, **options)
    assert says in one_line(caught.value)


# ------------------------------------------------------------------------------------------ runs


@pytest.mark.parametrize("which", TINY)
def test_stream_has_the_stable_names(which: str, request: pytest.FixtureRequest) -> None:
    card: Card = request.getfixturevalue(which)
    network = random_network(card, image_size=64)
    run = network.run(images(), stream=True)
    assert list(run.stream) == list(stream_names(card))
    assert list(run.routes) == list(run.affinities) == [site.name for site in routed_sites(card)]
    silent = network.run(images())
    assert silent.stream == {}
    assert torch.equal(silent.outputs["logits"], run.outputs["logits"])
    assert torch.equal(network(images()).detach(), run.outputs["logits"])
    assert not run.outputs["logits"].requires_grad


@pytest.mark.parametrize("which", TINY)
def test_float64(which: str, request: pytest.FixtureRequest) -> None:
    """In float64 everything is float64, and near to the float32 run with the same routes."""
    network = build_reference(random_checkpoint(request.getfixturevalue(which)), (64, 64))
    run = network.run(images())
    wide = network.double().run(images().double(), run.routes, stream=True)
    tensors = [*wide.outputs.values(), *wide.affinities.values(), *wide.stream.values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float64}
    assert {tensor.dtype for tensor in wide.routes.values()} == {torch.int64}
    logits = wide.outputs["logits"]
    assert 0 < float((run.outputs["logits"] - logits).abs().max()) < 1e-5 * float(logits.abs().max())


@pytest.mark.parametrize("which", TINY)
def test_batch_changes_nothing_but_rounding(which: str, request: pytest.FixtureRequest) -> None:
    network = build_reference(random_checkpoint(request.getfixturevalue(which)), (64, 64)).double()
    x = images(batch=3).double()
    together = network.run(x).outputs["logits"]
    alone = torch.cat([network.run(x[i : i + 1]).outputs["logits"] for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("which", TINY)
def test_forced_routes_change_outputs(which: str, request: pytest.FixtureRequest) -> None:
    """Each attention that has a choice, one after the other, told to take its worst regions."""
    network = build_reference(random_checkpoint(request.getfixturevalue(which)), (64, 64))
    free = network.run(images())
    for site in routed_sites(network.card):
        assert site.top_k is not None
        worst = free.affinities[site.name].topk(site.top_k, largest=False).indices
        run = network.run(images(), {site.name: worst})
        assert torch.equal(run.routes[site.name], worst)
        assert torch.equal(run.affinities[site.name], free.affinities[site.name])
        unchanged = site.top_k == network.card.regions**2
        same = torch.allclose(run.outputs["logits"], free.outputs["logits"], rtol=1e-4, atol=1e-6)
        assert same == unchanged, site.name


def test_warning_is_a_user_warning() -> None:
    assert issubclass(RandomWeightsWarning, UserWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model("debi_nano", image_size=32)


# ------------------------------------------------------------------------------ dense backbones


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (33, 90), (70, 45)])
def test_a_backbone_gives_four_maps(tiny_seg_card: Card, size: tuple[int, int]) -> None:
    """Each normed over its channels, which changes nothing of what follows."""
    network = build_reference(random_checkpoint(tiny_seg_card), size)
    run = network.run(images(*size), stream=True)
    shapes = Geometry.of(tiny_seg_card, size).output_shapes
    assert {name: tuple(output.shape[1:]) for name, output in run.outputs.items()} == shapes
    assert list(shapes) == ["feature1", "feature2", "feature3", "feature4"]
    last = {name.partition(".")[0]: output for name, output in run.stream.items()}
    for i, (output, stage) in enumerate(zip(run.outputs.values(), last.values(), strict=True)):
        norm = network.extra_norms[i].ln
        centred = stage - stage.mean(1, keepdim=True)
        wanted = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        wanted = wanted * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
        torch.testing.assert_close(output, wanted, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(network(images(*size)), run.outputs.values(), strict=True))


def test_a_backbones_default_size_and_options(tiny_seg_card: Card, one_line: OneLine) -> None:
    assert random_network(tiny_seg_card).image_size == (64, 96)
    assert random_network(tiny_seg_card, image_size=64).image_size == (64, 64)
    with pytest.raises(UsageError, match="--num-classes was given, but tiny_seg gives features") as caught:
        load_model(tiny_seg_card, num_classes=6)
    one_line(caught.value)


def test_the_default_size_is_the_cards(tiny_card: Card) -> None:
    assert random_network(tiny_card).image_size == (64, 64)
    assert load_model("debi_nano").image_size == (224, 224)


@pytest.mark.parametrize(
    "options", [{"regions": 7.5}, {"num_classes": "x"}, {"top_k": 7}, {"top_k": "1,2"}, {"bra_top_k": (1.0, 2, 3)}]
)
def test_options_of_a_wrong_type(options: dict[str, Any], tiny_card: Card, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as caught:
        load_model(tiny_card, **options)
    one_line(caught.value)
