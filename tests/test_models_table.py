"""The table of cards: counted figures beside the papers'."""

from __future__ import annotations

import json

import pytest

from debiexport.cards import card_names, load_card
from debiexport.models_table import ModelRow, list_models


@pytest.fixture(scope="module")
def rows() -> dict[str, ModelRow]:
    return {row.name: row for row in list_models()}


def test_every_shipped_card_has_a_row_by_name(rows: dict[str, ModelRow]) -> None:
    assert tuple(rows) == card_names()


@pytest.mark.parametrize(
    ("name", "parameters_m", "multiply_adds_g", "paper"),
    [
        ("debi_t", 21.50, 2.64, (21.4, 2.6, 81.9)),
        ("debi_s", 44.01, 5.40, (44.0, 5.4, 83.9)),
        ("debi_b", 95.50, 11.69, (77.0, 11.8, 84.4)),
        ("biformer_t", 13.14, 2.22, (13.1, 2.2, 81.4)),
        ("biformer_s", 25.54, 4.46, (25.5, 4.5, 83.8)),
        ("biformer_b", 56.80, 9.76, (56.8, 9.8, 84.3)),
        ("biformer_stl", 28.37, 4.57, (28.4, 4.6, 82.7)),
        ("debi_nano", 1.14, 0.16, (None, None, None)),
    ],
)
def test_figures(
    name: str,
    parameters_m: float,
    multiply_adds_g: float,
    paper: tuple[float | None, ...],
    rows: dict[str, ModelRow],
) -> None:
    row = rows[name]
    assert round(row.parameters / 1e6, 2) == parameters_m
    assert round(row.multiply_adds / 1e9, 2) == multiply_adds_g
    assert (row.paper_parameters_m, row.paper_flops_g, row.paper_top1) == paper
    assert row.image_size == (224, 224) and row.regions == 7
    assert str(row) == f"{name}: {parameters_m:.2f} M parameters, {multiply_adds_g:.2f} G multiply-adds"


@pytest.mark.parametrize(
    ("name", "parameters_m", "multiply_adds_g", "image_size", "regions"),
    [
        ("debi_t_seg", 20.98, 16.2, (512, 512), 8),
        ("debi_s_seg", 43.50, 33.4, (512, 512), 8),
        ("debi_b_seg", 94.73, 68.6, (512, 512), 8),
        ("debi_t_det", 20.98, 135.9, (800, 1344), 8),
        ("debi_s_det", 43.50, 255.8, (800, 1344), 16),
        ("debi_b_det", 94.73, 548.8, (800, 1344), 32),
    ],
)
def test_dense_backbones(
    name: str,
    parameters_m: float,
    multiply_adds_g: float,
    image_size: tuple[int, int],
    regions: int,
    rows: dict[str, ModelRow],
) -> None:
    row = rows[name]
    assert (row.outputs, row.image_size, row.regions) == ("features", image_size, regions)
    assert round(row.parameters / 1e6, 2) == parameters_m
    assert round(row.multiply_adds / 1e9, 1) == multiply_adds_g
    assert (row.paper_parameters_m, row.paper_flops_g, row.paper_top1) == (None, None, None)
    assert row.top_k == rows[name.rpartition("_")[0]].top_k == ((1, 4), (4, 8), (16, 16), (49, 49))


@pytest.mark.parametrize(
    ("name", "top_k"),
    [
        ("debi_t", ((1, 4), (4, 8), (16, 16), (49, 49))),
        ("debi_nano", ((1, 4), (4, 8), (16, 16), (49, 49))),
        ("biformer_t", ((1,), (4,), (16,), (None,))),
        ("biformer_stl", ((1,), (4,), (16,), (None,))),
    ],
)
def test_top_k_stage_by_stage(name: str, top_k: tuple[tuple[int | None, ...], ...], rows: dict[str, ModelRow]) -> None:
    assert rows[name].top_k == top_k


def test_only_the_sample_ships_with_weights(rows: dict[str, ModelRow]) -> None:
    assert [name for name, row in rows.items() if row.shipped] == ["debi_nano"]
    assert all(row.checkpoint == load_card(name).provenance.checkpoint for name, row in rows.items())


def test_to_dict_is_json(rows: dict[str, ModelRow]) -> None:
    for row in rows.values():
        data = row.to_dict()
        assert json.loads(json.dumps(data)) == data
        assert data["image_size"] == list(load_card(row.name).default_image_size)
        assert set(data) == set(vars(row))
