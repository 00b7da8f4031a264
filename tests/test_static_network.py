"""The static network equals the reference network: to float64 rounding in float64, everywhere inside too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from debiexport.cards import Card, card_names, load_card
from debiexport.checkpoint import random_checkpoint
from debiexport.errors import UsageError
from debiexport.geometry import AttentionGeometry, Geometry
from debiexport.loading import build_reference
from debiexport.lowerings import DEFAULT, LOWERINGS, TENSORRT_LOWERINGS, Lowering, find_lowering
from debiexport.names import routed_sites, stream_names
from debiexport.preprocess import normalise
from debiexport.reference.network import ReferenceRun
from debiexport.routes import as_routes
from debiexport.static.network import StaticNetwork
from debiexport.static.pixels import PixelInput
from debiexport.static.slots import Slots, check_routing
from debiexport.static.taps import Taps

WIDE_LIMIT = 1e-12  # float64 rounding is 1e-16, a wrong epsilon 1e-6


def _images(batch: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    coarse = np.kron(random.standard_normal((batch, 3, 8, 8)), np.ones((1, 1, -(-size[0] // 8), -(-size[1] // 8))))
    return torch.from_numpy(coarse[:, :, : size[0], : size[1]] + 0.3 * random.standard_normal((batch, 3, *size)))


@torch.no_grad()
def _assert_equal(card: Card, size: tuple[int, int], batch: int, lowering: Lowering = LOWERINGS[DEFAULT]) -> None:
    reference = build_reference(random_checkpoint(card), size).double()
    images = _images(batch, size)
    static = StaticNetwork.of(reference, size, lowering, torch.float64)
    _compare(static, images, reference.run(images, stream=True))


@torch.no_grad()
def _compare(static: StaticNetwork, images: torch.Tensor, run: ReferenceRun) -> None:
    """Outputs, residual stream, affinities and routes of the first images of a reference run."""
    taps, batch = Taps(), len(images)
    outputs = static.outputs(images, taps)
    wanted = {name: tensor[:batch] for name, tensor in (run.outputs | run.stream).items()}
    got = dict(zip(static.output_names, outputs, strict=True)) | {name: taps[name] for name in run.stream}
    assert set(got) == set(wanted)
    card = static.geometry.card
    for site in routed_sites(card):
        if site.affinity in taps:
            got[site.affinity], wanted[site.affinity] = taps[site.affinity], run.affinities[site.name][:batch]
            geometry = static.geometry.attentions[site.name]
            chosen, forced = as_routes(taps[site.routes].numpy(), geometry), run.routes[site.name][:batch].numpy()
            assert (_sets(chosen, geometry) == _sets(forced, geometry)).all(), site.name
        else:
            assert site.top_k == card.regions**2, f"{site.name} chooses and is not recorded"
    for name, tensor in got.items():
        error = float((tensor - wanted[name]).abs().max() / wanted[name].abs().max())
        assert error < WIDE_LIMIT, f"{name}: {error:.1e}"


def _sets(routes: np.ndarray, geometry: AttentionGeometry) -> np.ndarray:
    """Routes sorted; regions that are padding throughout are alike, and which of them is chosen is anybody's choice."""
    alike = np.isin(routes, list(geometry.padding_regions))
    return np.sort(np.where(alike, geometry.region_count, routes))


SIZES = [(64, 64), (64, 96), (96, 32)]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["tiny_card", "tiny_bi_card", "tiny_stl_card", "tiny_seg_card"])
def test_small_cards(name: str, size: tuple[int, int], batch: int, request: pytest.FixtureRequest) -> None:
    _assert_equal(request.getfixturevalue(name), size, batch)


@pytest.mark.parametrize("size", [(50, 50), (70, 45), (33, 90)])
@pytest.mark.parametrize("name", ["tiny_card", "tiny_bi_card", "tiny_stl_card", "tiny_seg_card"])
def test_small_cards_padded(name: str, size: tuple[int, int], request: pytest.FixtureRequest) -> None:
    """Sizes that S does not divide, padded as the released code pads them."""
    _assert_equal(request.getfixturevalue(name), size, 2)


@pytest.mark.parametrize(
    ("regions", "top_k", "bra_top_k"), [(3, (1, 5, 9, 2), (2, 4, 9)), (4, (16, 3, 1, 8), (1, 1, 16))]
)
def test_other_regions_and_top_k(
    tiny_card: Card, regions: int, top_k: tuple[int, ...], bra_top_k: tuple[int, ...]
) -> None:
    _assert_equal(tiny_card.with_options(regions=regions, top_k=top_k, bra_top_k=bra_top_k), (64, 64), 2)


def test_the_sample_network() -> None:
    _assert_equal(load_card("debi_nano"), (224, 224), 1)


@pytest.mark.parametrize("lowering", LOWERINGS.values(), ids=LOWERINGS.keys())
@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
@pytest.mark.parametrize("name", ["tiny_card", "tiny_bi_card", "tiny_stl_card", "tiny_seg_card"])
def test_every_lowering(name: str, size: tuple[int, int], lowering: Lowering, request: pytest.FixtureRequest) -> None:
    _assert_equal(request.getfixturevalue(name), size, 2, lowering)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_the_fused_operations(tiny_wide_card: Card, size: tuple[int, int], batch: int) -> None:
    _assert_equal(tiny_wide_card, size, batch, TENSORRT_LOWERINGS["plugins"])


REFUSED = {
    ("debi_b_det", "dense"),
    ("debi_b_det", "ane"),
}  # 1,024 regions ranked by counting would take 2^30 comparisons an image


@pytest.mark.matrix
@pytest.mark.parametrize("size", [(224, 224), (224, 448), (230, 270)], ids=["square", "wide", "padded"])
@pytest.mark.parametrize("name", card_names())
@torch.no_grad()
def test_every_card_and_lowering(name: str, size: tuple[int, int]) -> None:
    """Three images and the first of them alone, by every lowering, against one run of the reference.

    Dense backbones have one block a stage: their depth is that of the classification cards.
    """
    card = load_card(name)
    if card.num_classes is None:
        card = replace(card, stages=tuple(replace(stage, blocks=1) for stage in card.stages))
    reference = build_reference(random_checkpoint(card), size).double()
    images = _images(3, size)
    run = reference.run(images, stream=True)
    refused = set()
    for lowering in (*LOWERINGS.values(), TENSORRT_LOWERINGS["plugins"]):
        try:
            static = StaticNetwork.of(reference, size, lowering, torch.float64)
        except UsageError:
            refused.add((name, lowering.name))
            continue
        # Where windows are many, ranking and copying them takes minutes: one image shows what there is to see.
        single = card.regions > 8 and lowering.layout == "channels"
        for batch in (1,) if single else (1, 3):
            _compare(static, images[:batch], run)
    assert refused == {pair for pair in REFUSED if pair[0] == name}


def test_every_place_has_its_stable_name(tiny_card: Card) -> None:
    reference = build_reference(random_checkpoint(tiny_card), (64, 64))
    taps = Taps()
    StaticNetwork.of(reference, (64, 64))(torch.zeros(1, 3, 64, 64), taps)
    choosing = [site for site in routed_sites(tiny_card) if site.top_k != 4]
    inside = {name for site in choosing for name in (site.affinity, site.routes)}
    assert set(taps) == set(stream_names(tiny_card)) | inside


def test_float32_is_within_float32_rounding(tiny_card: Card) -> None:
    reference = build_reference(random_checkpoint(tiny_card), (64, 64))
    images = _images(2, (64, 64)).float()
    static = StaticNetwork.of(reference, (64, 64))
    with torch.no_grad():
        error = (static(images) - reference(images)).abs().max() / reference(images).abs().max()
    assert float(error) < 3e-6


def test_bytes_are_normalised_inside(tiny_card: Card) -> None:
    reference = build_reference(random_checkpoint(tiny_card), (64, 96)).double()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    mean, std = (np.array(values) for values in (tiny_card.preprocessing.mean, tiny_card.preprocessing.std))
    images = torch.from_numpy(((pixels / 255 - mean) / std).transpose(0, 3, 1, 2))
    static = StaticNetwork.of(reference, (64, 96), dtype=torch.float64, input="uint8")
    with torch.no_grad():
        wanted, got = reference(images), static(torch.from_numpy(pixels))
    assert float((got - wanted).abs().max() / wanted.abs().max()) < WIDE_LIMIT


def test_bytes_are_normalised_to_float32_rounding() -> None:
    """Every byte, against the rule in the order of training pipelines."""
    preprocessing = load_card("debi_t").preprocessing
    pixels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 16, 16, 3)
    got = PixelInput(preprocessing, torch.float32)(torch.from_numpy(pixels))[0].numpy()
    wanted = normalise(pixels[0], preprocessing)
    assert got.shape == wanted.shape == (3, 16, 16)
    assert np.abs(got - wanted).max() <= 5e-7  # two steps of float32 at 2.6


@pytest.mark.parametrize("slot", ["routing", "sampling", "bias", "broadcast", "heads", "norm", "layout"])
def test_unknown_implementations_are_refused(tiny_card: Card, slot: str) -> None:
    names = LOWERINGS["gather"].to_dict() | {slot: "nonsense"}
    reference = build_reference(random_checkpoint(tiny_card), (64, 64))
    with pytest.raises(UsageError, match=f"'nonsense' of the slot {slot}"):
        StaticNetwork.of(reference, (64, 64), Lowering(**names))


def test_an_implementation_that_refuses_is_named(tiny_card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    from debiexport.static.ops.bias.hat import HatBias

    monkeypatch.setattr(HatBias, "supports", staticmethod(lambda geometry: "too small"))
    reference = build_reference(random_checkpoint(tiny_card), (64, 64))
    with pytest.raises(UsageError, match=r"bias=hat does not serve stage1\.block1\.attn2: too small"):
        StaticNetwork.of(reference, (64, 64), find_lowering("bias=hat"))


def test_implementations_have_to_go_with_the_layout(tiny_card: Card) -> None:
    reference = build_reference(random_checkpoint(tiny_card), (64, 64))
    for text, slot in (("routing=ranked", "routing=ranked"), ("layout=channels", "heads=rows")):
        with pytest.raises(UsageError, match=f"{slot} does not go with layout="):
            StaticNetwork.of(reference, (64, 64), find_lowering(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bias=fused", "broadcast=rows does not go with bias=fused: the one takes scores, the other gives table"),
        ("broadcast=fused", "broadcast=fused does not go with bias=auto: the one takes table, the other gives scores"),
        ("bias=hat,broadcast=fused", "broadcast=fused does not go with bias=hat"),
    ],
)
def test_a_bias_that_is_no_scores_needs_the_fused_broadcast(tiny_wide_card: Card, text: str, words: str) -> None:
    reference = build_reference(random_checkpoint(tiny_wide_card), (64, 64))
    with pytest.raises(UsageError, match=words) as caught:
        StaticNetwork.of(reference, (64, 64), find_lowering(text))
    assert str(caught.value).endswith("choose both fused, or neither")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("routing=fused", r"routing=fused does not serve stage1\.block1\.attn1: heads are 8 channels wide"),
        ("bias=fused,broadcast=fused", r"broadcast=fused does not serve stage1\.block1\.attn2: heads are 8 channels"),
    ],
)
def test_kernels_that_do_not_cover_a_network_are_refused_before_it_is_built(
    tiny_card: Card, tiny_wide_card: Card, text: str, words: str
) -> None:
    lowering = find_lowering(text)
    check_routing(lowering, Geometry.of(tiny_wide_card, (64, 64)))
    with pytest.raises(UsageError, match=words):
        check_routing(lowering, Geometry.of(tiny_card, (64, 64)))


def test_too_many_regions_for_ranking_by_counting_are_sent_to_another_lowering() -> None:
    card = load_card("debi_t").with_options(regions=32)
    geometry = Geometry.of(card, (224, 224))
    slots = Slots(LOWERINGS["ane"], torch.float32)
    with pytest.raises(UsageError, match="give --lowering gather"):
        slots.routing(geometry.attentions["stage1.block1.attn1"])


def test_lowerings_are_found_by_name() -> None:
    assert find_lowering("gather").routing == "gather"
    with pytest.raises(UsageError, match="--lowering is 'fast': give one of cpu, gather"):
        find_lowering("fast")


def test_slots_are_chosen_one_by_one() -> None:
    lowering = find_lowering("routing=masked, bias=grid_sample")
    assert (lowering.routing, lowering.bias, lowering.sampling) == ("masked", "grid_sample", "hat")
    assert lowering.name == "bias=grid_sample,routing=masked"


@pytest.mark.parametrize(
    "text", ["speed=fast", "routing=", "=masked", "routing=dense,routing=gather", "routing=dense,"]
)
def test_slots_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="give slot=NAME once for slots of routing, sampling, bias, broadcast, heads"):
        find_lowering(text)


def test_geometry_of_the_network_is_the_asked_one(tiny_card: Card) -> None:
    reference = build_reference(random_checkpoint(tiny_card), (64, 64))
    assert StaticNetwork.of(reference).geometry == Geometry.of(tiny_card, (64, 64))
