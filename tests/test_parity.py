"""Parity holds for the right network, fails for every wrong one, and explains near-ties.

The artifact here is the static network in torch, with the faults of interest put into it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from debiexport.cards import Card
from debiexport.checkpoint import random_checkpoint
from debiexport.geometry import Geometry
from debiexport.loading import build_reference
from debiexport.oracle import Oracle
from debiexport.parity import Judgement, judge
from debiexport.parity_inputs import ParityImage, parity_images
from debiexport.runtimes.base import Array, Arrays
from debiexport.static.network import StaticNetwork
from debiexport.static.ops.norm.instance import InstanceNorm
from debiexport.static.taps import Taps

SIZE = (64, 64)


class StaticRuntime:
    """A static network run as an artifact; `spoil` may change what it returns."""

    def __init__(self, network: StaticNetwork, batch: int | None = None) -> None:
        self.network, self.batch = network, batch
        self.spoil: Callable[[Arrays], None] = lambda results: None

    def run(self, inputs: Mapping[str, Array], taps: Sequence[str] = ()) -> Arrays:
        inside = Taps()
        with torch.no_grad():
            outputs = self.network.outputs(torch.from_numpy(inputs["images"]), inside)
        named = dict(zip(self.network.output_names, (t.numpy() for t in outputs), strict=True))
        results = named | {name: inside[name].numpy() for name in taps if name in inside}
        self.spoil(results)
        return results


@pytest.fixture(scope="module")
def images(tiny_card: Card) -> list[ParityImage]:
    return parity_images(tiny_card.preprocessing, SIZE)


@pytest.fixture(scope="module")
def oracle(tiny_card: Card) -> Oracle:
    return Oracle(build_reference(random_checkpoint(tiny_card), SIZE))


@pytest.fixture
def runtime(tiny_card: Card) -> StaticRuntime:
    reference = build_reference(random_checkpoint(tiny_card), SIZE)
    return StaticRuntime(StaticNetwork.of(reference, SIZE))


@pytest.fixture
def verdict(tiny_card: Card, images: list[ParityImage], oracle: Oracle) -> Callable[[StaticRuntime], Judgement]:
    return lambda runtime: judge(runtime, oracle, Geometry.of(tiny_card, SIZE), images)


@pytest.fixture
def seg_runtime(tiny_seg_card: Card) -> StaticRuntime:
    return StaticRuntime(StaticNetwork.of(build_reference(random_checkpoint(tiny_seg_card), SIZE)))


@pytest.fixture(scope="module")
def seg_verdict(tiny_seg_card: Card, images: list[ParityImage]) -> Callable[[StaticRuntime], Judgement]:
    oracle = Oracle(build_reference(random_checkpoint(tiny_seg_card), SIZE))
    return lambda runtime: judge(runtime, oracle, Geometry.of(tiny_seg_card, SIZE), images[:3])


def test_a_backbone_passes(seg_runtime: StaticRuntime, seg_verdict: Callable[[StaticRuntime], Judgement]) -> None:
    report = seg_verdict(seg_runtime).report
    assert report.ok, report.failures
    assert report.tolerance < 1e-5
    for output in report.outputs:
        assert output.output in ("feature1", "feature2", "feature3", "feature4")
        assert output.top1_agreement is output.top5_agreement is None
        assert f"in {output.output}" in str(output) and "top-1" not in str(output)
        assert output.to_dict()["top1_agreement"] is None


@pytest.mark.parametrize("output", ["feature1", "feature2", "feature3", "feature4"])
def test_every_output_of_a_backbone_is_judged(
    seg_runtime: StaticRuntime, seg_verdict: Callable[[StaticRuntime], Judgement], output: str
) -> None:
    """A wrong epsilon in the norm of one output: nothing else notices."""
    norm = _module(seg_runtime.network, f"{output}.norm")
    assert isinstance(norm, InstanceNorm)
    assert norm.eps == 1e-5
    norm.eps = 1e-3
    report = seg_verdict(seg_runtime).report
    assert not report.ok
    assert all(f"in {output} is above" in failure for failure in report.failures)
    assert {entry.output for entry in report.outputs} == {output}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_every_output_of_a_backbone_must_be_finite(
    seg_runtime: StaticRuntime, seg_verdict: Callable[[StaticRuntime], Judgement], value: float
) -> None:
    def spoil(results: Arrays) -> None:
        results["feature2"] = results["feature2"].copy()
        results["feature2"][0, 0, 0, 0] = value

    seg_runtime.spoil = spoil
    report = seg_verdict(seg_runtime).report
    assert "batch 1: outputs are not finite" in report.failures
    json.dumps(report.to_dict(), allow_nan=False)


def test_bytes_are_judged_by_what_they_mean(tiny_card: Card, oracle: Oracle) -> None:
    reference = build_reference(random_checkpoint(tiny_card), SIZE)
    runtime = StaticRuntime(StaticNetwork.of(reference, SIZE, input="uint8"))
    images = parity_images(tiny_card.preprocessing, SIZE, "uint8")[:3]
    judgement = judge(runtime, oracle, Geometry.of(tiny_card, SIZE), images)
    assert judgement.report.ok, judgement.report.failures
    assert all(image.image.dtype == np.uint8 for image in judgement.images)
    _module(runtime.network, "pixels").shift += 1e-4
    assert not judge(runtime, oracle, Geometry.of(tiny_card, SIZE), images).report.ok


def test_the_right_network_passes(runtime: StaticRuntime, verdict: Callable[[StaticRuntime], Judgement]) -> None:
    report = verdict(runtime).report
    assert report.ok, report.failures
    assert [output.batch for output in report.outputs] == [1, 2, 5]
    assert all(output.relative_error < report.tolerance for output in report.outputs)
    assert {output.output for output in report.outputs} == {"logits"}
    assert report.tolerance < 1e-5
    assert str(report).startswith("parity holds")


def test_every_routed_attention_is_reported(
    runtime: StaticRuntime, verdict: Callable[[StaticRuntime], Judgement], tiny_card: Card
) -> None:
    blocks = verdict(runtime).report.blocks
    assert [block.name for block in blocks] == [g.name for g in Geometry.of(tiny_card, SIZE).routed]
    assert [block.rows > 0 for block in blocks] == [block.chooses for block in blocks]
    assert str(blocks[-1]) == "stage4.block1.attn2: all 4 regions, nothing to choose"


def test_the_report_is_json(runtime: StaticRuntime, verdict: Callable[[StaticRuntime], Judgement]) -> None:
    data = json.loads(json.dumps(verdict(runtime).report.to_dict(), allow_nan=False))
    assert data["ok"]
    assert len(data["routes"]) == 10


def test_a_fixed_batch_is_run_at_that_batch(
    runtime: StaticRuntime, verdict: Callable[[StaticRuntime], Judgement]
) -> None:
    runtime.batch = 3
    outputs = verdict(runtime).report.outputs
    assert [(output.batch, output.images) for output in outputs] == [(3, 9)]


def _module(network: StaticNetwork, path: str) -> nn.Module:
    return network.get_submodule(path)


def _epsilon(network: StaticNetwork) -> None:
    norm = _module(network, "stage1.block1.attn2.agent_norm")
    assert isinstance(norm, InstanceNorm)
    norm.eps = 1e-4


def _one_weight(network: StaticNetwork) -> None:
    _module(network, "stage3.block2.mlp1.linear1").weight.data[0, 0] += 0.01


def _no_enhancement(network: StaticNetwork) -> None:
    _module(network, "stage2.block1.attn1.lepe").weight.data.zero_()


def _no_offsets(network: StaticNetwork) -> None:
    _module(network, "stage1.block1.attn2.offset.pointwise").weight.data.zero_()


def _swapped_axes(network: StaticNetwork) -> None:
    positions = _module(network, "stage1.block1.attn2.positions")
    positions.register_forward_hook(lambda module, args, out: out.flip(-1))


def _no_bias(network: StaticNetwork) -> None:
    _module(network, "stage4.block1.attn2.bias").register_forward_hook(lambda module, args, out: out * 0)


def _wrong_scale(network: StaticNetwork) -> None:
    _module(network, "stage2.block1.attn1.q").weight.data.mul_(1.001)


def _residual(network: StaticNetwork) -> None:
    _module(network, "stage1.block1.pos_embed1").weight.data[0, 0, 1, 1] -= 1


def _head_bias(network: StaticNetwork) -> None:
    _module(network, "head").bias.data[2] += 1e-3


FAULTS = [
    _epsilon,
    _one_weight,
    _no_enhancement,
    _no_offsets,
    _swapped_axes,
    _no_bias,
    _wrong_scale,
    _residual,
    _head_bias,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_every_fault_is_found(
    runtime: StaticRuntime, verdict: Callable[[StaticRuntime], Judgement], fault: Callable[[StaticNetwork], None]
) -> None:
    fault(runtime.network)
    report = verdict(runtime).report
    assert not report.ok
    assert str(report).startswith("parity is lost")


def _worst_regions(routing: nn.Module) -> None:
    """The routing takes the regions of least affinity instead of most."""
    original = torch.Tensor.topk

    def forward(*args: object, **kwargs: object) -> torch.Tensor:
        torch.Tensor.topk = lambda self, k, dim=-1: original(self, k, dim=dim, largest=False)  # type: ignore
        try:
            return type(routing).forward(routing, *args, **kwargs)
        finally:
            torch.Tensor.topk = original  # type: ignore

    routing.forward = forward  # type: ignore


def test_wrong_routes_are_found_and_the_block_is_named(
    runtime: StaticRuntime, verdict: Callable[[StaticRuntime], Judgement]
) -> None:
    """With the reference forced to the wrong routes the outputs agree: only the comparison of routes can tell."""
    _worst_regions(_module(runtime.network, "stage3.block1.attn1.routing"))
    report = verdict(runtime).report
    assert report.outputs[0].relative_error < report.tolerance
    assert len(report.failures) == 1
    assert "stage3.block1.attn1" in report.failures[0]
    assert "routed wrongly" in report.failures[0]


def test_a_near_tie_condemns_nothing_after_it(tiny_card: Card, images: list[ParityImage]) -> None:
    """Regions with affinities closer than rounding: either may be taken, and the rest is judged exactly.

    The keys of stage 1's BRA are made equal up to rounding, so that its routes are a matter of rounding.
    """
    checkpoint = random_checkpoint(tiny_card)
    state = copy.deepcopy(checkpoint.state)
    key = "stages.0.0.attn1.qkv.qkv.weight"
    state[key][8:16] = 0  # k is its bias everywhere: all affinities of a row are equal but for rounding
    reference = build_reference(type(checkpoint)(state, tiny_card, None, "tied"), SIZE)
    runtime = StaticRuntime(StaticNetwork.of(reference, SIZE))
    report = judge(runtime, Oracle(reference), Geometry.of(tiny_card, SIZE), images).report
    tied = report.blocks[0]
    assert tied.name == "stage1.block1.attn1"
    assert tied.near_ties > 0, "rounding took the other side nowhere: the test shows nothing"
    assert tied.wrong == 0
    assert report.ok, report.failures
    assert all(block.agreement == 1 for block in report.blocks[1:])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_must_be_finite(
    runtime: StaticRuntime, verdict: Callable[[StaticRuntime], Judgement], value: float
) -> None:
    def spoil(results: Arrays) -> None:
        results["logits"] = results["logits"].copy()
        results["logits"][0, 0] = value

    runtime.spoil = spoil
    report = verdict(runtime).report
    assert "batch 1: outputs are not finite" in report.failures
    json.dumps(report.to_dict(), allow_nan=False)


def test_invalid_routes_are_wrong(runtime: StaticRuntime, verdict: Callable[[StaticRuntime], Judgement]) -> None:
    def spoil(results: Arrays) -> None:
        for name in results:
            if name == "stage2.block1.attn1.routes":
                results[name] = np.zeros_like(results[name])

    runtime.spoil = spoil
    failures = verdict(runtime).report.failures
    assert any("stage2.block1.attn1" in failure and "routed wrongly" in failure for failure in failures)


def test_an_affinity_that_is_off_is_named(
    runtime: StaticRuntime, verdict: Callable[[StaticRuntime], Judgement]
) -> None:
    """Routes and outputs may still agree; the affinities say where it went wrong."""

    def spoil(results: Arrays) -> None:
        name = "stage3.block2.attn2.affinity"
        if name in results:
            results[name] = results[name] * 1.001

    runtime.spoil = spoil
    failures = verdict(runtime).report.failures
    assert len(failures) == 1
    assert "stage3.block2.attn2: affinity error" in failures[0]


def test_a_block_missing_from_the_report_is_a_failure() -> None:
    from debiexport.parity_report import BlockParity

    missing = BlockParity("stage1.block1.attn1", regions=49, top_k=4)
    assert missing.failure is not None
    assert "missing" in missing.failure
    assert BlockParity("stage4.block1.attn1", regions=49, top_k=49).failure is None


def test_images_are_answered_once(oracle: Oracle, images: list[ParityImage]) -> None:
    first = oracle.forced(images[0].tensor, {})
    assert oracle.forced(images[0].tensor, {}) is first
    assert first.outputs["logits"].dtype == np.float32
    assert first.wide_outputs["logits"].dtype == np.float64
