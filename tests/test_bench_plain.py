"""The plain export is the released form, and computes the reference."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from debiexport.bench.opponents import OpponentFailed, check_opponents, prepare
from debiexport.bench.subjects import normalised, pool_of
from debiexport.bundle import open_bundle
from debiexport.cards import Card, load_card
from debiexport.checkpoint import random_checkpoint
from debiexport.errors import DebiexportError, MissingDependencyError, ParityError
from debiexport.loading import build_reference
from debiexport.plain import check_histogram, export_plain, gathered_attention, released_gathering
from debiexport.reference import bra, regions
from debiexport.runtimes.ort import OrtRuntime


@pytest.fixture(scope="module")
def plain(tiny_card: Card) -> onnx.ModelProto:
    return export_plain(build_reference(random_checkpoint(tiny_card), (64, 64)), 2)


def test_gathering_as_released_is_the_same_attention() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 9, 3, 8), torch.randn(2, 9, 5, 8), torch.randn(2, 9, 5, 8)
    routes = torch.rand(2, 9, 9).topk(4).indices
    expected = regions.routed_attention(q, k, v, routes, 2, 0.3)
    torch.testing.assert_close(gathered_attention(q, k, v, routes, 2, 0.3), expected)


def test_the_reference_is_put_back() -> None:
    def fail() -> None:
        with released_gathering():
            assert vars(bra)["routed_attention"] is gathered_attention
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert vars(bra)["routed_attention"] is regions.routed_attention


def test_histogram_of_the_released_form(plain: onnx.ModelProto) -> None:
    counts = Counter(node.op_type for node in plain.graph.node)
    # 5 blocks: the first attention routes in all, twice with BRA in stage 3; the second is DBRA.
    assert (counts["GatherElements"], counts["GridSample"]) == (20, 12)
    assert counts["Expand"] >= 20
    assert [value.name for value in plain.graph.output] == ["logits"]
    names = {node.name for node in plain.graph.node}
    assert "stage3.block2.attn2/GatherElements" in names
    assert not [name for name in names if name.startswith("stages.")]


def test_another_form_is_refused(plain: onnx.ModelProto, tiny_bi_card: Card) -> None:
    with pytest.raises(DebiexportError, match="not the released form") as caught:
        check_histogram(plain, tiny_bi_card)
    assert "\n" not in str(caught.value)


def test_the_bias_is_exported_in_one_piece(
    plain: onnx.ModelProto, tiny_card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the map: the reference computes it piece by piece only where it is run."""
    monkeypatch.setattr("debiexport.reference.dbra.MAX_BIAS_BYTES", 1)
    again = export_plain(build_reference(random_checkpoint(tiny_card), (64, 64)), 2)
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in plain.graph.node]


def test_histogram_of_debi_t() -> None:
    """14 routed attentions, 8 of them DBRA."""
    nodes = [onnx.helper.make_node(op, ["x"], ["y"]) for op in ["GatherElements", "Expand"] * 28 + ["GridSample"] * 16]
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    model = onnx.helper.make_model(graph)
    check_histogram(model, load_card("debi_t"))
    model.graph.node.pop()
    with pytest.raises(DebiexportError, match="15 GridSample"):
        check_histogram(model, load_card("debi_t"))


def test_plain_computes_the_reference(plain: onnx.ModelProto, tiny_card: Card, tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    path.write_bytes(plain.SerializeToString())
    network = build_reference(random_checkpoint(tiny_card), (64, 64))
    images = np.random.default_rng(5).normal(0, 1, (2, 3, 64, 64)).astype(np.float32)
    runtime = OrtRuntime(path, 1)
    assert runtime.batch == 2
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(runtime.run({"images": images})["logits"], expected, atol=1e-5 * np.abs(expected).max())


def test_an_opponent_that_is_wrong_is_not_timed(
    dynamic_bundle: Path, plain: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(plain)
    weight = next(t for t in spoilt.graph.initializer if list(t.dims) == [6])  # the head's bias
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + 1, weight.name))
    monkeypatch.setattr("debiexport.plain.export_plain", lambda network, batch: spoilt)
    bundle = open_bundle(dynamic_bundle)
    with pytest.raises(ParityError, match="plain does not compute the reference") as caught:
        prepare(["plain"], bundle, None, batch=2, threads=1, provider="cpu", folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, OpponentFailed) and caught.value.parity.failures


@pytest.mark.parametrize("absent", ["torch", "openvino"])
def test_missing_packages(dynamic_bundle: Path, monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    monkeypatch.setattr("debiexport.extras.find_spec", lambda name: None if name == absent else object())
    with pytest.raises(MissingDependencyError, match=f"needs {absent}, not installed here: pip install"):
        check_opponents(["openvino"], [open_bundle(dynamic_bundle)], None, "cpu")


def test_bytes_become_what_opponents_take(tiny_card: Card) -> None:
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    (found,) = normalised([images], tiny_card.preprocessing)
    assert (found.shape, found.dtype) == ((2, 3, 4, 5), np.float32)
    assert found[1, 2, 3, 4] == pytest.approx((images[1, 3, 4, 2] / 255 - 0.3) / 0.3, rel=1e-5)
    floats = [np.zeros((1, 3, 4, 4), np.float32)]
    assert normalised(floats, tiny_card.preprocessing)[0] is floats[0]


def test_pool_holds_different_batches(dynamic_bundle: Path) -> None:
    pool = pool_of(open_bundle(dynamic_bundle), 3)
    assert len(pool) > 1
    assert {images.shape for images in pool} == {(3, 3, 64, 64)}
    assert len({images.tobytes() for images in pool}) == len(pool)
