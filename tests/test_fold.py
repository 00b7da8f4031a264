"""Each fold against the two operations that it replaces, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from debiexport.cards import Card
from debiexport.checkpoint import random_checkpoint
from debiexport.geometry import Geometry
from debiexport.loading import build_reference
from debiexport.static.fold import (
    fold_affine,
    fold_batch_norm_after,
    fold_batch_norm_before,
    fold_network,
    fold_residual,
)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).double().eval()
    norm.weight.data, norm.bias.data = _random(channels, seed=5), _random(channels, seed=6)
    norm.running_mean, norm.running_var = _random(channels, seed=7), _random(channels, seed=8).abs() + 0.1
    return norm


@torch.no_grad()
def test_batch_norm_after_a_convolution() -> None:
    weight, bias, x, norm = _random(6, 4, 3, 3), _random(6), _random(2, 4, 9, 9), _batch_norm(6)
    folded = F.conv2d(x, *fold_batch_norm_after(weight, bias, norm), stride=2, padding=1)
    torch.testing.assert_close(folded, norm(F.conv2d(x, weight, bias, stride=2, padding=1)), rtol=0, atol=1e-12)


@torch.no_grad()
def test_batch_norm_before_a_convolution_without_padding() -> None:
    weight, bias, x, norm = _random(6, 4, 2, 2), _random(6), _random(2, 4, 8, 8), _batch_norm(4)
    folded = F.conv2d(x, *fold_batch_norm_before(weight, bias, norm), stride=2)
    torch.testing.assert_close(folded, F.conv2d(norm(x), weight, bias, stride=2), rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_last_batch_norm_and_the_mean_commute() -> None:
    weight, bias, x, norm = _random(5, 4), _random(5), _random(2, 4, 7, 7), _batch_norm(4)
    folded = F.linear(x.mean((2, 3)), *fold_batch_norm_before(weight, bias, norm))
    torch.testing.assert_close(folded, F.linear(norm(x).mean((2, 3)), weight, bias), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [3, 5])
def test_residual_depthwise(kernel: int) -> None:
    weight, bias, x = _random(4, 1, kernel, kernel), _random(4), _random(2, 4, 9, 7)
    wanted = x + F.conv2d(x, weight, bias, padding=kernel // 2, groups=4)
    folded = F.conv2d(x, fold_residual(weight), bias, padding=kernel // 2, groups=4)
    torch.testing.assert_close(folded, wanted, rtol=0, atol=1e-13)


def test_affine_of_a_norm() -> None:
    weight, bias, scale, shift, x = _random(5, 4), _random(5), _random(4), _random(4, seed=2), _random(3, 4)
    wanted = F.linear(x * scale + shift, weight, bias)
    torch.testing.assert_close(F.linear(x, *fold_affine(weight, bias, scale, shift)), wanted, rtol=0, atol=1e-13)


def test_folding_changes_no_weight_of_the_reference(tiny_card: Card) -> None:
    reference = build_reference(random_checkpoint(tiny_card), (64, 64))
    before = {key: value.clone() for key, value in reference.state_dict().items()}
    fold_network(reference, Geometry.of(tiny_card, (64, 64)))
    assert all(torch.equal(before[key], value) for key, value in reference.state_dict().items())


@pytest.mark.parametrize(("size", "kept"), [((64, 64), False), ((64, 72), True)])
def test_the_affine_stays_where_the_normed_map_is_padded(tiny_card: Card, size: tuple[int, int], kept: bool) -> None:
    """Zero padding follows the norm: folded, the padding would no longer be zero."""
    reference = build_reference(random_checkpoint(tiny_card), size)
    weights = fold_network(reference, Geometry.of(tiny_card, size))
    assert ("norm.weight" in weights.at("stage3.block1.attn1")) == kept
    dbra = weights.at("stage3.block1.attn2")
    assert ("norm.weight" in dbra) == kept
    assert ("samples.weight" in dbra) != kept, "the samples get the affine that the norm lost"
    assert not [key for key in weights if key.endswith("norm2.weight")]


def test_dtypes(tiny_card: Card) -> None:
    reference = build_reference(random_checkpoint(tiny_card), (64, 64))
    for dtype in (torch.float32, torch.float64):
        weights = fold_network(reference, Geometry.of(tiny_card, (64, 64)), dtype)
        assert {tensor.dtype for tensor in weights.values()} == {dtype}
