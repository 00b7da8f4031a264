"""The GPU benchmark's networks on a CPU, and the smallest one on a GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_bi_toml
from fake_gpu import QUICK, FakeGpu, OneLine, OnOneDevice, on_a_gpu
from gpu_results import network_result

from debiexport.cards import Card, parse_card
from debiexport.checkpoint import random_checkpoint
from debiexport.errors import MissingDependencyError, UsageError
from debiexport.loading import build_reference
from debiexport.lowerings import LOWERINGS, TENSORRT_LOWERINGS
from debiexport.reference.network import ReferenceNetwork
from debiexport.static.network import StaticNetwork
from debiexport.static.taps import Taps

# isort: split
import gpu_device
import gpu_eager
import gpu_network
from gpu_cases import NetworkCase, OnnxCase
from gpu_half import HalfNetwork
from gpu_network import example_images, measure_network
from gpu_onnxruntime import measure_onnx


@pytest.fixture(scope="session")
def small(tiny_wide_card: Card) -> ReferenceNetwork:
    return build_reference(random_checkpoint(tiny_wide_card), (64, 64))


@pytest.mark.parametrize("lowering", TENSORRT_LOWERINGS)
def test_float16_is_that_of_the_typed_graph(lowering: str, small: ReferenceNetwork, tmp_path: Path) -> None:
    from debiexport.evaluate.onnx.evaluator import OnnxEvaluator
    from debiexport.graph.typed import typed
    from debiexport.targets.onnx import to_onnx

    network = StaticNetwork.of(small, lowering=TENSORRT_LOWERINGS[lowering])
    images, taps, single = example_images(6, (64, 64)), Taps(), Taps()
    with torch.no_grad():
        expected = network.outputs(images, single)[0]
    path = tmp_path / "model.onnx"
    path.write_bytes(typed(to_onnx(network, batch=len(images)), "fp16").SerializeToString())
    with torch.no_grad():
        [logits] = HalfNetwork(network).outputs(images, taps)
    assert logits.dtype == torch.float32
    judged = OnnxEvaluator(path).run({"images": images.numpy()}, list(taps))
    routes = [name for name in taps if name.endswith(".routes")]
    same = [np.sort(taps[name].numpy(), -1) == np.sort(judged[name], -1) for name in routes]
    alike = np.all([one.all((1, 2)) for one in same], 0)  # images without a near-tie that fell another way
    assert alike.sum() >= 2
    for name, tensor in {**taps, "logits": logits}.items():
        if name in routes:
            continue
        # Both round where the types say so, each adding up in an order of its own: they are as far from float32 as
        # from each other.
        exact = (single | {"logits": expected})[name].numpy()
        noise = np.abs(judged[name] - exact)[alike].max()
        assert np.abs(tensor.float().numpy() - judged[name])[alike].max() <= 2.5 * noise, name
        wide = name == "logits" or name.endswith(".affinity")
        assert tensor.dtype == (torch.float32 if wide else torch.float16), name


def test_float16_keeps_positions_and_tables(small: ReferenceNetwork) -> None:
    network = StaticNetwork.of(small, lowering=TENSORRT_LOWERINGS["plugins"])
    table = network.get_submodule("stage2.block1.attn2.bias").table
    assert isinstance(table, torch.Tensor)
    half = HalfNetwork(network).network
    kept = half.get_submodule("stage2.block1.attn2.bias").table
    assert isinstance(kept, torch.Tensor)
    assert torch.equal(kept, table)
    assert kept.dtype == half.get_submodule("stage2.block1.attn2.positions").centres.dtype == torch.float32
    assert half.stem.conv1.weight.dtype == torch.float16


def test_float16_of_another_lowering_is_refused(small: ReferenceNetwork, one_line: OneLine) -> None:
    with pytest.raises(UsageError, match="by GridSampling has no types of its own in float16") as caught:
        HalfNetwork(StaticNetwork.of(small, lowering=LOWERINGS["grid_sample"]))
    assert "native, plugins" in one_line(caught.value)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_networks_can_be_captured(precision: str, small: ReferenceNetwork) -> None:
    meta = torch.device("meta")
    networks = [gpu_network.eager(small, gpu_eager.DTYPES[precision], meta)]
    networks += [gpu_network.static(small, name, precision, meta, last) for name, last in FORMATS]
    images = torch.empty(2, 3, 64, 64, device=meta)
    for network in networks:
        with torch.no_grad(), network.capturing(), OnOneDevice():
            logits = network.run(images)
        assert (tuple(logits.shape), logits.dtype) == ((2, 6), torch.float32)


FORMATS = [(lowering, last) for lowering in TENSORRT_LOWERINGS for last in (False, True)]


def test_channels_last_is_how_convolutions_lie_in_memory(small: ReferenceNetwork, monkeypatch: Any) -> None:
    seen: list[bool] = []
    conv = torch.nn.functional.conv2d

    def spy(x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(weight.is_contiguous(memory_format=torch.channels_last))
        return conv(x, weight, *rest)

    monkeypatch.setattr(torch.nn.functional, "conv2d", spy)
    for last in (False, True):
        network = gpu_network.static(small, "native", "fp32", torch.device("cpu"), last)
        seen.clear()
        network.run(example_images(1, (64, 64)))
        assert all(seen) == last


def test_a_network_is_measured(small: ReferenceNetwork) -> None:
    found = measure_network(NetworkCase("small", "fp32", 2), FakeGpu(), QUICK, small)  # type: ignore[arg-type]
    json.dumps(found, allow_nan=False)
    kinds = ["eager", "native", "native, channels last", "plugins", "plugins, channels last"]
    direct = ["eager", "native", "plugins"]
    assert not found["failed"]
    assert set(found["subjects"]) == {f"{kind}, CUDA graph" for kind in kinds} | set(direct)
    for name, row in found["subjects"].items():
        assert row["correct"], name
        assert row["relative_error"] <= found["tolerance"] < 1e-4
        assert row["top1_agreement"] == 1
        assert row["ours"] == name.startswith("plugins")
        assert row["images_per_s"] == pytest.approx(2000 / row["p50_ms"]["value"], rel=1e-4)
    assert found["best"] in ("plugins, CUDA graph", "plugins, channels last, CUDA graph")
    by_hand = network_result(NetworkCase("small", "fp32", 2))  # what the tests of the tables read
    assert set(by_hand) <= set(found)
    assert set(by_hand["subjects"]["eager"]) <= set(found["subjects"]["eager"])
    assert f"eager / {found['best']}" in found["ratios"]


def test_a_network_is_measured_in_float16(small: ReferenceNetwork) -> None:
    found = measure_network(NetworkCase("small", "fp16", 1), FakeGpu(), QUICK, small)  # type: ignore[arg-type]
    assert 0.001 < found["tolerance"] < 0.1
    for name in ("native", "plugins", "plugins, channels last, CUDA graph"):
        assert found["subjects"][name]["correct"]
        assert found["subjects"][name]["relative_error"] > 1e-5


def test_a_wrong_network_is_marked(small: ReferenceNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu_network.static

    def wrong(reference: Any, lowering: str, *rest: Any) -> Any:
        network = right(reference, lowering, *rest)
        if lowering == "native":
            return network

        def answer(images: torch.Tensor) -> Any:
            logits, routes = network.answer(images)
            return logits + 0.1, routes

        return replace(network, answer=answer)

    monkeypatch.setattr(gpu_network, "static", wrong)
    found = measure_network(NetworkCase("small", "fp32", 1), FakeGpu(), QUICK, small)  # type: ignore[arg-type]
    assert not found["subjects"]["plugins"]["correct"]
    assert found["best"] is None
    assert found["ratios"] == {}


def test_onnx_runtime_is_measured() -> None:
    card = parse_card(tiny_bi_toml().encode(), "tiny_bi.toml")  # quickly exported
    reference = build_reference(random_checkpoint(card), (64, 64))
    found = measure_onnx(OnnxCase("tiny_bi", 2), FakeGpu(), QUICK, reference, "cpu")  # type: ignore[arg-type]
    json.dumps(found, allow_nan=False)
    assert not found["failed"]
    assert list(found["subjects"]) == ["plain fp32", "native fp32", "native fp16"]
    assert all(row["correct"] for row in found["subjects"].values())
    assert set(found["ratios"]) == {"plain fp32 / native fp32", "plain fp32 / native fp16"}


def test_onnx_runtime_without_the_provider(small: ReferenceNetwork) -> None:
    with pytest.raises(MissingDependencyError, match="CUDAExecutionProvider"):
        measure_onnx(OnnxCase("small", 1), FakeGpu(), QUICK, small)  # type: ignore[arg-type]


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_network_on_a_gpu(precision: str, small: ReferenceNetwork) -> None:
    found = measure_network(NetworkCase("small", precision, 2), gpu_device.find_gpu(), reference=small)
    assert not found["failed"]
    assert all(row["correct"] for name, row in found["subjects"].items() if not name.startswith("eager"))
