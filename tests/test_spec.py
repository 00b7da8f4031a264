"""The specification of a state dict, against the released networks' and the reference network's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from released import released_shapes

from debiexport.cards import Card, card_names, load_card
from debiexport.reference.network import ReferenceNetwork
from debiexport.spec import count_parameters, is_counter, state_dict_spec

RELEASED = released_shapes()


@pytest.mark.parametrize("model", sorted(RELEASED))
def test_keys_shapes_and_dtypes_are_the_released_ones(model: str) -> None:
    spec = state_dict_spec(load_card(model))
    assert spec == {key: shape for key, (shape, _) in RELEASED[model].items()}
    assert {key for key in spec if is_counter(key)} == {
        key for key, (_, dtype) in RELEASED[model].items() if dtype != "float32"
    }
    assert {RELEASED[model][key][1] for key in spec if is_counter(key)} == {"int64"}


def test_every_shipped_card_but_the_sample_is_released() -> None:
    released = set(card_names()) - set(RELEASED)
    assert released == {"debi_nano", *(f"debi_{size}_det" for size in "tsb"), "debi_t_seg", "debi_b_seg"}


@pytest.mark.parametrize("size", ["t", "s", "b"])
def test_dense_backbones_are_the_classifiers_but_for_the_ends(size: str) -> None:
    classifier, *dense = (state_dict_spec(load_card(f"debi_{size}{use}")) for use in ("", "_seg", "_det"))
    assert dense[0] == dense[1]
    assert {key.partition(".")[0] for key in dense[0].keys() - classifier.keys()} == {"extra_norms"}
    assert {key.partition(".")[0] for key in classifier.keys() - dense[0].keys()} == {"norm", "head"}
    assert all(dense[0][key] == classifier[key] for key in dense[0].keys() & classifier.keys())


def same_as_network(card: Card) -> None:
    with torch.device("meta"):  # shapes only
        network = ReferenceNetwork(card)
    state = network.state_dict()
    spec = state_dict_spec(card)
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == spec
    assert {key for key, tensor in state.items() if tensor.dtype == torch.int64} == set(filter(is_counter, spec))
    assert sum(parameter.numel() for parameter in network.parameters()) == count_parameters(card)


@pytest.mark.parametrize("name", card_names())
def test_is_the_reference_networks_state_dict(name: str) -> None:
    same_as_network(load_card(name))


def test_is_the_reference_networks_state_dict_of_tiny_cards(
    tiny_card: Card, tiny_bi_card: Card, tiny_stl_card: Card, tiny_seg_card: Card
) -> None:
    same_as_network(tiny_seg_card)
    for card in (tiny_card, tiny_bi_card, tiny_stl_card):
        same_as_network(card)
        same_as_network(replace(card, num_classes=3))


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        ("debi_t", 21.50),
        ("debi_s", 44.01),
        ("debi_b", 95.50),
        ("debi_s_seg", 43.50),
        ("biformer_t", 13.14),
        ("biformer_s", 25.54),
        ("biformer_b", 56.80),
        ("biformer_stl", 28.37),
    ],
)
def test_counted_parameters(model: str, millions: float) -> None:
    assert round(count_parameters(load_card(model)) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("key", "counts"),
    [("norm.num_batches_tracked", True), ("norm.running_mean", False), ("head.weight", False)],
)
def test_is_counter(key: str, counts: bool) -> None:
    assert is_counter(key) is counts


def test_classes_change_the_head_alone() -> None:
    card = load_card("debi_t")
    many, few = state_dict_spec(card), state_dict_spec(card.with_options(num_classes=10))
    assert {key for key in many if many[key] != few[key]} == {"head.weight", "head.bias"}
    assert few["head.weight"] == (10, 512)


def test_regions_and_top_k_change_nothing() -> None:
    card = load_card("debi_t")
    changed = card.with_options(regions=16, top_k=(1, 2, 3, 4), bra_top_k=(5, 6, 7))
    assert state_dict_spec(changed) == state_dict_spec(card)
