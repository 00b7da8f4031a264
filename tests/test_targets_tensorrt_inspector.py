"""The inspector's words, as TensorRT 10 and 11 write them, read as a proof of the precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import onnx
import pytest
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor, make_tensor_value_info
from tiny_onnx import tiny_model

from debiexport.errors import BundleError, ParityError, UsageError
from debiexport.targets.tensorrt.inspector import (
    ATTENTION,
    CONVOLUTION,
    GEMM,
    PLUGIN,
    PrecisionSummary,
    float32_products,
    read_inspector,
    require_precision,
)

OneLine = Callable[[BaseException], str]


def layer(
    type_: str,
    inputs: list[str],
    outputs: list[str],
    name: str = "x",
    tactic: str = "",
    nodes: tuple[str, ...] = (),
    key: str = "Format/Datatype",
) -> dict[str, Any]:
    tensors = [
        [{"Name": f"{name}.{i}", "Dimensions": [1, 2], key: t} for i, t in enumerate(s)] for s in (inputs, outputs)
    ]
    metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    told = {"Name": name, "LayerType": type_, "Inputs": tensors[0], "Outputs": tensors[1]}
    return {**told, "TacticName": tactic, "StreamId": 0, "Metadata": metadata}


def read(*layers: Any) -> PrecisionSummary:
    return read_inspector(json.dumps({"Layers": list(layers), "Bindings": ["images", "logits"]}))


HALF_10 = "Channel major FP16 format where channel % 8 == 0"


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("BFloat16", "bf16"),
        ("Row major linear FP32", "fp32"),
        ("Row major linear FP32 format (kLINEAR)", "fp32"),
        ("Row major linear FP16 format", "fp16"),
        ("Row major linear BF16 format (kLINEAR)", "bf16"),
        (HALF_10, "fp16"),
        ("Two wide channel vectorized row major FP16 format (kCHW2)", "fp16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("FP8E4M3", "fp8"),
    ],
)
@pytest.mark.parametrize("key", ["Format/Datatype", "Datatype"])
def test_words_for_types(text: str, type_: str, key: str) -> None:
    summary = read(layer("gemm", [text], [text], key=key))
    assert summary.outputs == {type_: 1} and summary.products[0].type == type_ and not summary.unknown


@pytest.mark.parametrize("text", ["N/A due to dynamic shapes", "E8M0", "", "FP16 or FP32", "Row major linear format"])
def test_unknown_words_are_shown_and_never_float32(text: str, one_line: OneLine) -> None:
    summary = read(layer("CaskConvolution", [text], ["Half"], name="stem"), layer("gemm", ["Half"], ["Half"]))
    assert summary.products[0].type == "unknown" and "fp32" not in summary.outputs
    for precision in ("fp16", "fp32"):
        assert any(f"stem: {text!r}" in told for told in summary.check(precision))
    with pytest.raises(ParityError) as caught:
        require_precision(summary, "fp16")
    assert f"{text!r}" in one_line(caught.value) and caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("type_", "name", "tactic", "kind"),
    [
        ("CaskConvolution", "conv1 + relu1", "sm80_xmma_fprop_implicit_gemm_f16f16", CONVOLUTION),
        ("CaskConvActPool", "conv1", "sm80_xmma", CONVOLUTION),
        ("correlation", "stem/Conv_myl0_1", "sm80_xmma_fprop", CONVOLUTION),
        ("CaskDeconvolutionV2", "up", "", CONVOLUTION),
        ("gemm", "__mye6723_unroll0", "sm80_xmma_gemm_f16f16", GEMM),
        ("MatrixMultiply", "matmul_1", "", GEMM),
        ("CaskGemmMatrixMultiply", "matmul_1", "", GEMM),
        ("kgen", "__myl_FcAddCast_myl0_7", "__myl_FcAddCast_0xf1", GEMM),
        ("kgen", "_gemm_mha_v2_myl0_17", "_gemm_mha_v2_0x957a", ATTENTION),
        ("kgen", "_gemv_mha_v1_myl0_17", "", ATTENTION),
        ("PluginV3", "stage1/RegionAttention", "", PLUGIN),
        ("kgen", "__myl_TranReshMove_myl3_3", "__myl_TranReshMove_0x1", None),
        ("kgen", "__myl_MulSumFct_myl3_3", "", None),
        ("kgen", "head/MatMul_first_transpose", "__myl_bb1_4_Tra", None),
        ("Reformat", "Reformatting CopyNode for Input Tensor 0 to conv1", "", None),
        ("Constant", "w of Conv", "", None),
        ("NoOp", "gemm", "", None),
        ("PointWiseV2", "PWN(relu)", "", None),
        ("CaskPooling", "pool", "sm50_xmma_cudnn_pooling_fw_4d", None),
        ("Convert", "cast", "", None),
    ],
)
def test_which_layers_multiply(type_: str, name: str, tactic: str, kind: str | None) -> None:
    summary = read(layer(type_, ["Half"], ["Half"], name, tactic))
    assert [product.kind for product in summary.products] == ([] if kind is None else [kind])


def test_an_fp16_engine() -> None:
    summary = read(
        layer("Reformat", ["Row major linear FP32"], ["Row major linear FP16 format"]),
        layer("CaskConvolution", [HALF_10], [HALF_10], "stem"),
        # The scalars of a product are float32, and so may be what it writes.
        layer("gemm", ["Half", "Half", "Float", "Float"], ["Float"], "logits"),
        layer("kgen", ["Int64", "Half"], ["Half"], "_gemm_mha_v2_myl0_2"),
        layer("kgen", ["Float", "Bool"], ["Float"], "__myl_Softmax"),
        layer("wait", [], []),
    )
    assert summary.check("fp16") == []
    require_precision(summary, "fp16")
    assert (summary.layers, summary.outputs) == (6, {"fp16": 3, "fp32": 2})
    assert summary.output_shares == {"fp16": 0.6, "fp32": 0.4} and summary.product_shares == {"fp16": 1.0}
    assert str(summary) == "6 layers, of 3 that multiply matrices: fp16 100%"
    assert summary.to_dict()["products"] == [
        {"kind": "attention", "type": "fp16", "layers": 1},
        {"kind": "convolution", "type": "fp16", "layers": 1},
        {"kind": "gemm", "type": "fp16", "layers": 1},
    ]
    failures = summary.check("fp32")
    assert len(failures) == 4 and "3 of 6 layers write fp16" in failures


def test_an_fp32_engine_that_was_to_be_fp16(one_line: OneLine) -> None:
    summary = read(*(layer("gemm", ["Float"], ["Float"], f"g{i}") for i in range(5)))
    assert summary.check("fp32") == []
    with pytest.raises(ParityError) as caught:
        require_precision(summary, "fp16")
    text = one_line(caught.value)
    assert "not proven to be fp16 (5 layers, of 5 that multiply matrices: fp32 100%)" in text
    assert "gemm g0 is in fp32, wanted is fp16" in text and "and 2 more" in text and "g3" not in text


def test_products_that_stay_float32_on_purpose() -> None:
    kept = layer("gemm", ["Float"], ["Float"], "scores", "sm80_xmma_gemm_f32f32", ("a/affinity", "a/Mul"))
    summary = read(kept, layer("gemm", ["Half"], ["Half"], "qkv", "", ("a/qkv/MatMul", "a/qkv/Add")))
    assert summary.products[0].nodes == ("a/affinity", "a/Mul")
    assert summary.check("fp16") == ["gemm scores is in fp32, wanted is fp16"]
    assert summary.check("fp16", {"a/affinity"}) == []
    assert summary.check("fp16", {"a/affinity", "a/qkv/MatMul"}) == ["gemm qkv is in fp16, wanted is fp32"]


@pytest.mark.parametrize("name", ["stage1_block0_attn1/affinity_myl0_7", "a/Mul+stage1_block0_attn1/affinity_myl0_7"])
def test_without_metadata_the_name_tells_the_nodes(name: str) -> None:
    summary = read(layer("gemm", ["Float"], ["Float"], name))
    assert len(summary.check("fp16")) == len(summary.check("fp16", {"stage1.block0.attn1/affinity_1"})) == 1
    assert summary.check("fp16", {"stage1.block0.attn1/affinity"}) == []
    assert read(layer("CaskConvolution", ["Half"], ["Half"], "conv1 + relu1")).products[0].nodes == ("conv1", "relu1")


def test_tf32_is_no_float32() -> None:
    rounds = layer("gemm", ["Float"], ["Float"], "g", "sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n", ("a/affinity",))
    told = ["gemm g rounds float32 to 10 bits (TF32)"]
    assert read(rounds).check("fp32") == told
    assert read(rounds).check("fp16", {"a/affinity"}) == told


def test_other_types_and_precisions(one_line: OneLine) -> None:
    summary = read(layer("gemm", ["Int8"], ["Half"], "q"), layer("gemm", ["BFloat16"], ["BFloat16"], "b"))
    assert summary.check("fp16") == ["gemm q is in int8, wanted is fp16", "gemm b is in bf16, wanted is fp16"]
    with pytest.raises(UsageError) as caught:
        summary.check("half")
    assert one_line(caught.value) == "the precision is 'half': give fp16 or fp32"


def test_nothing_that_multiplies_proves_nothing() -> None:
    for summary in (read(layer("kgen", ["Half"], ["Half"], "__myl_Add")), read(layer("Reformat", [], []))):
        assert "nothing is proven" in summary.check("fp16")[0] and "nothing is proven" in summary.check("fp32")[0]
    hidden = read(layer("gemm", [], [], "g"))
    assert hidden.check("fp16") == ["a type that is not known: g: no tensor that can be multiplied"]
    assert hidden.products[0].type == "unknown"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON with Layers"),
        ("not\njson", "no JSON with Layers"),
        ("[]", "no JSON with Layers"),
        ("null", "no JSON with Layers"),
        ('{"Bindings": []}', "no JSON with Layers"),
        ('{"Layers": []}', "no details of the layers"),
        ('{"Layers": "gemm"}', "no details of the layers"),
        ('{"Layers": ["conv1 + relu1", "fc"]}', "build with profiling verbosity DETAILED"),
    ],
)
def test_what_is_no_list_of_layers(text: str, words: str, one_line: OneLine) -> None:
    with pytest.raises(BundleError) as caught:
        read_inspector(text)
    assert words in one_line(caught.value)


def test_tensors_of_another_form() -> None:
    summary = read({**layer("gemm", ["Half"], ["Half"], "g"), "Inputs": ["a string"]}, {"Name": "empty"})
    assert summary.unknown == ("g: 'a string'",) and summary.outputs == {"fp16": 1}


@pytest.mark.parametrize(("dtype", "names"), [(1, {"stem/Conv", "head/MatMul"}), (10, set())])
def test_float32_products_of_a_model(dtype: int, names: set[str]) -> None:
    assert float32_products(tiny_model(1, dtype)) == names


def test_float32_products_of_a_mixed_model() -> None:
    value = make_tensor_value_info
    nodes = [
        make_node("MatMul", ["x", "x"], ["s"], "scores/MatMul"),
        make_node("Cast", ["s"], ["h"], "cast", to=10),
        make_node("MatMul", ["h", "w"], ["o"], "head/MatMul"),
        make_node("MatMul", ["x", "x"], ["q"], "theirs", domain="other"),
    ]
    graph = make_graph(
        nodes,
        "g",
        [value("x", 1, [4, 4])],
        [value("o", 10, [4, 4]), value("q", 1, [4, 4])],
        [make_tensor("w", 10, [4, 4], [1.0] * 16)],
    )
    model = make_model(graph, opset_imports=[make_opsetid("", 20), make_opsetid("other", 1)], ir_version=10)
    assert isinstance(model, onnx.ModelProto)
    assert float32_products(model) == {"scores/MatMul"}
