"""Sizes: against hand counts, brute force and the reference network's own tensors."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
import torch

from debiexport.cards import Card, load_card
from debiexport.checkpoint import random_checkpoint
from debiexport.errors import UsageError
from debiexport.geometry import Geometry, check_image_size, parse_image_size
from debiexport.loading import build_reference
from debiexport.names import stream_names

OneLine = Callable[[BaseException], str]
Size = tuple[int, int]
ALL = ("debi_t", "debi_s", "biformer_t", "biformer_stl")


# --------------------------------------------------------------------------------- image size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("224", (224, 224)),
        ("224x448", (224, 448)),
        ("448X224", (448, 224)),
        ("32", (32, 32)),
        ("4096", (4096, 4096)),
        ("32x4096", (32, 4096)),
        ("0224", (224, 224)),
    ],
)
def test_parses_image_sizes(text: str, size: Size) -> None:
    assert parse_image_size(text) == check_image_size(size) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "224x",
        "x224",
        "224x224x3",
        "224.0",
        "-224",
        "+224",
        "2_24",
        " 224",
        "224 x 224",
        "big",
        "\uff12\uff12\uff14",
        "9" * 5000,
    ],
    ids=lambda text: text[:12],
)
def test_refuses_what_is_no_size(text: str, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as caught:
        parse_image_size(text)
    assert f"--image-size is {text!r}" in one_line(caught.value) and "HEIGHTxWIDTH" in str(caught.value)


@pytest.mark.parametrize("text", ["0", "31", "4097", "31x224", "224x31", "224x4097", "4097x4097"])
def test_refuses_sizes_out_of_range(text: str, tiny_card: Card, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as caught:
        parse_image_size(text)
    shown = text if "x" in text else f"{text}x{text}"
    assert all(part in one_line(caught.value) for part in (f"--image-size is {shown}:", "32 to 4096"))
    height, width = (int(side) for side in shown.split("x"))
    with pytest.raises(UsageError, match=f"is {shown}:"):
        Geometry.of(tiny_card, (height, width))


# ---------------------------------------------------------------------------------- map sizes

STEM = {
    ("debi_t", (224, 224)): ((112, 112), (56, 56)),
    ("debi_t", (256, 256)): ((128, 128), (64, 64)),
    ("debi_t", (230, 270)): ((115, 135), (58, 68)),
    ("biformer_stl", (224, 224)): ((56, 56),),
    ("biformer_stl", (256, 256)): ((64, 64),),
    ("biformer_stl", (230, 270)): ((57, 67),),
}
STAGES = {
    ("debi_t", (224, 224)): ((56, 56), (28, 28), (14, 14), (7, 7)),
    ("debi_t", (256, 256)): ((64, 64), (32, 32), (16, 16), (8, 8)),
    ("debi_t", (230, 270)): ((58, 68), (29, 34), (15, 17), (8, 9)),  # every convolution rounds up
    ("biformer_stl", (224, 224)): ((56, 56), (28, 28), (14, 14), (7, 7)),
    ("biformer_stl", (256, 256)): ((64, 64), (32, 32), (16, 16), (8, 8)),
    ("biformer_stl", (230, 270)): ((57, 67), (28, 33), (14, 16), (7, 8)),  # and these round down
}
PADDED = {
    (224, 224): ((56, 56), (28, 28), (14, 14), (7, 7)),
    (256, 256): ((70, 70), (35, 35), (21, 21), (14, 14)),
    (230, 270): ((63, 70), (35, 35), (21, 21), (14, 14)),
}
AGENTS = {
    (224, 224): ((7, 7), (7, 7), (7, 7), (7, 7)),
    (256, 256): ((9, 9), (9, 9), (11, 11), (14, 14)),
    (230, 270): ((8, 9), (9, 9), (11, 11), (14, 14)),
}


@pytest.mark.parametrize(("model", "size"), STAGES)
def test_stem_and_stages(model: str, size: Size) -> None:
    geometry = Geometry.of(load_card(model), size)
    assert geometry.stem_sizes == STEM[model, size]
    assert geometry.stage_sizes == STAGES[model, size]
    assert geometry.image_size == size
    same = "biformer_t" if model == "debi_t" else model
    assert Geometry.of(load_card(same), size).stage_sizes == STAGES[model, size]


@pytest.mark.parametrize("size", PADDED)
def test_attentions_of_debi_t(size: Size) -> None:
    for attention in Geometry.of(load_card("debi_t"), size).attentions.values():
        i = attention.site.stage_index
        assert attention.map_size == STAGES["debi_t", size][i]
        assert attention.padded_size == PADDED[size][i]
        assert attention.is_padded == (attention.padded_size != attention.map_size)
        assert attention.region_size == (PADDED[size][i][0] // 7, PADDED[size][i][1] // 7)
        if attention.kind == "bra":
            assert attention.agent_size is None and attention.padded_agent_size is None
            assert attention.query_size == attention.padded_size
            assert not attention.agents_are_padded
        else:
            assert attention.agent_size == AGENTS[size][i]
            expected = (7, 7) if size == (224, 224) else (14, 14)
            assert attention.padded_agent_size == attention.query_size == expected
            assert attention.agents_are_padded == (AGENTS[size][i] != expected)


@pytest.mark.parametrize(("model", "size"), STAGES)
def test_full_attention_is_never_padded(model: str, size: Size) -> None:
    for attention in Geometry.of(load_card("biformer_stl"), size).attentions.values():
        if attention.kind == "full":
            assert attention.padded_size == attention.map_size and not attention.is_padded
            assert attention.routes_everywhere and attention.top_k == 49


@pytest.mark.parametrize(
    ("model", "name", "top_k", "everywhere", "scale"),
    [
        ("debi_t", "stage1.block1.attn1", 1, False, 64**-0.5),
        ("debi_t", "stage3.block4.attn2", 16, False, 256**-0.5),
        ("debi_t", "stage4.block1.attn1", 49, True, 512**-0.5),
        ("biformer_t", "stage3.block8.attn", 16, False, 256**-0.5),
        ("biformer_t", "stage4.block1.attn", 49, True, 64**-0.5),
        ("biformer_b", "stage4.block1.attn", 49, True, 96**-0.5),
    ],
)
def test_top_k_and_scale(model: str, name: str, top_k: int, everywhere: bool, scale: float) -> None:
    """The scale is that of the whole width where it routes, of the head width in full attention."""
    attention = Geometry.of(load_card(model), (224, 224)).attentions[name]
    assert attention.name == name
    assert (attention.top_k, attention.routes_everywhere) == (top_k, everywhere)
    assert attention.scale == pytest.approx(scale, rel=1e-15)
    assert attention.region_count == 49
    assert attention.heads * attention.head_width == attention.channels == attention.stage.channels


def test_more_regions_leave_something_to_choose() -> None:
    geometry = Geometry.of(load_card("debi_t").with_options(regions=8), (512, 512))
    assert not any(attention.routes_everywhere for attention in geometry.routed)
    assert not any(attention.is_padded or attention.agents_are_padded for attention in geometry.routed)


def test_routed_are_all_but_full() -> None:
    geometry = Geometry.of(load_card("biformer_t"), (224, 224))
    assert {a.kind for a in geometry.routed} == {"bra"} and len(geometry.routed) == 12
    assert len(geometry.attentions) == 14


@pytest.mark.parametrize("which", ["tiny_card", "tiny_bi_card", "tiny_stl_card"])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (69, 90), (51, 33)])
def test_is_what_the_reference_network_computes(which: str, size: Size, request: pytest.FixtureRequest) -> None:
    """Maps of the residual stream, regions and routes of a real run."""
    card: Card = request.getfixturevalue(which)
    geometry = Geometry.of(card, size)
    run = build_reference(random_checkpoint(card), size).run(torch.zeros(1, 3, *size), stream=True)
    for name in stream_names(card):
        stage = int(name[5]) - 1
        assert run.stream[name].shape == (1, card.stages[stage].channels, *geometry.stage_sizes[stage])
    assert list(run.routes) == [attention.name for attention in geometry.routed]
    for attention in geometry.routed:
        assert run.routes[attention.name].shape == (1, attention.region_count, attention.top_k)


# ---------------------------------------------------------------------------- regions of padding


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("regions", [2, 5, 7, 8])
@pytest.mark.parametrize("size", [(224, 224), (256, 256), (230, 270), (32, 32), (37, 401)])
def test_padding_regions_by_brute_force(model: str, regions: int, size: Size) -> None:
    """A region is padding if and only if none of its tokens lies inside the map."""
    card = load_card(model)
    top_k = {"top_k": [1] * len(card.top_k)} if card.top_k else {}
    card = card.with_options(regions=regions, bra_top_k=[1] * len(card.bra_top_k), **top_k)
    for attention in Geometry.of(card, size).routed:
        (height, width), (h, w) = attention.map_size, attention.region_size
        inside = {(y // h) * regions + x // w for y in range(height) for x in range(width)}
        assert attention.padding_regions == set(range(regions**2)) - inside


def test_padding_regions_tie_in_the_reference(tiny_card: Card) -> None:
    """Affinities to regions of padding are equal, which is why they are told apart at all."""
    found = 0
    card = tiny_card.with_options(regions=5)
    network = build_reference(random_checkpoint(card), (69, 90))
    run = network.run(torch.randn(2, 3, 69, 90, generator=torch.Generator().manual_seed(0)))
    for attention in Geometry.of(card, (69, 90)).routed:
        padding = sorted(attention.padding_regions)
        if len(padding) > 1:
            found += 1
            affinity = run.affinities[attention.name][..., padding]
            assert float((affinity.amax(-1) - affinity.amin(-1)).max()) <= 1e-6 * float(affinity.abs().max())
    assert found


# ------------------------------------------------------------------------------- multiply-adds


@pytest.mark.parametrize(
    ("model", "giga"),
    [("debi_t", 2.64), ("debi_s", 5.40), ("debi_b", 11.69)],
)
def test_multiply_adds_of_debiformer(model: str, giga: float) -> None:
    assert round(Geometry.of(load_card(model), (224, 224)).multiply_adds / 1e9, 2) == giga


@pytest.mark.parametrize(
    ("model", "giga"),
    [("biformer_t", 2.2), ("biformer_s", 4.5), ("biformer_b", 9.8), ("biformer_stl", 4.6)],
)
def test_multiply_adds_of_biformer_are_the_papers(model: str, giga: float) -> None:
    card = load_card(model)
    assert card.paper is not None
    assert round(Geometry.of(card, (224, 224)).multiply_adds / 1e9, 1) == giga == card.paper.flops_g


@pytest.mark.parametrize("which", ["tiny_card", "tiny_bi_card", "tiny_stl_card"])
@pytest.mark.parametrize("size", [(64, 64), (69, 90)])
def test_multiply_adds_of_layers(which: str, size: Size, request: pytest.FixtureRequest) -> None:
    """Counted layer by layer while the reference network runs; matrix products are added by hand."""
    card: Card = request.getfixturevalue(which)
    geometry = Geometry.of(card, size)
    network = build_reference(random_checkpoint(card), size)
    counted = 0

    def conv(module: torch.nn.Conv2d, _: object, out: torch.Tensor) -> None:
        nonlocal counted
        counted += out.numel() * prod(module.weight.shape[1:])

    def linear(module: torch.nn.Linear, _: object, out: torch.Tensor) -> None:
        nonlocal counted
        counted += out.numel() * module.in_features

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(conv)
        elif isinstance(module, torch.nn.Linear):
            module.register_forward_hook(linear)
    network.run(torch.zeros(1, 3, *size))
    for a in geometry.attentions.values():
        keys = prod(a.map_size) if a.kind == "full" else a.top_k * prod(a.region_size)
        counted += 2 * prod(a.query_size) * keys * a.channels  # scores, and their sum of values
        if a.kind != "full":
            counted += a.region_count**2 * a.channels  # affinities
        if a.kind == "dbra":
            counted += 2 * prod(a.padded_size) * prod(a.query_size) * a.channels  # broadcast
    assert geometry.multiply_adds == counted


# ------------------------------------------------------------------------------ dense backbones


@pytest.mark.parametrize("size", ["t", "s", "b"])
def test_a_backbone_is_its_classifier_without_the_head(size: str) -> None:
    classifier = load_card(f"debi_{size}")
    dense = load_card(f"debi_{size}_seg").with_options(regions=7)
    head = classifier.stages[-1].channels * 1000
    assert Geometry.of(dense, (224, 224)).multiply_adds == Geometry.of(classifier, (224, 224)).multiply_adds - head
    assert Geometry.of(classifier, (224, 224)).output_shapes == {"logits": (1000,)}


def test_output_shapes_of_a_backbone() -> None:
    shapes = Geometry.of(load_card("debi_s_seg"), (512, 640)).output_shapes
    sizes = {
        "feature1": (64, 128, 160),
        "feature2": (128, 64, 80),
        "feature3": (256, 32, 40),
        "feature4": (512, 16, 20),
    }
    assert shapes == sizes
