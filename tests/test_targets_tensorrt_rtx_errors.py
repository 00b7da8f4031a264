"""What TensorRT for RTX refuses, provoked with the package itself, and what is said about it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import rtx_models as models
from onnx import TensorProto
from rtx_models import F16, F32, needs_rtx

from debiexport.targets.tensorrt.rtx import build
from debiexport.targets.tensorrt.rtx_errors import Refusal, builder_refusals, explain, parser_refusals


class Case(NamedTuple):
    """A model, what stands in the message about it, and what it is built for."""

    model: onnx.ModelProto | bytes
    words: str
    capability: str = "sm89"
    profile: tuple[int, int, int] | None = None


MIXED = "its operands are float16 and float32, and must have one type: cast one of them"
RANK = "a tensor has more than 8 dimensions, the most that TensorRT takes: reshape it before"
CASES = {
    "product": Case(models.mixed("MatMul", name="proj"), f"proj (MatMul): {MIXED}"),
    "sum": Case(models.mixed("Add"), f"add (Add): {MIXED}"),
    "choice": Case(models.mixed("Where"), f"where (Where): {MIXED}"),
    "joined": Case(models.mixed("Concat", axis=0), "its operands are float32 and float16, and must have one type"),
    "grid": Case(
        models.grid_sample(F16, F32),
        "bias (GridSample): GridSample's input is float16 and its grid float32: cast the input to the type of its grid",
    ),
    "layer norm": Case(
        models.normalization("LayerNormalization", np.float32, np.float32),
        "norm (LayerNormalization): its input is float16 and its scale float32: cast the input, or store the scale",
    ),
    "layer norm bias": Case(
        models.normalization("LayerNormalization", np.float16, np.float32), "and its bias float32: cast the input"
    ),
    "instance norm": Case(
        models.normalization("InstanceNormalization", np.float32, np.float32),
        "norm (InstanceNormalization): its input is float16 and its scale float32: store scale and bias",
    ),
    "large k": Case(models.top_k(3841), "topk: TopK's K is over 3840, the most that TensorRT takes: choose a smaller"),
    "computed k": Case(models.computed_top_k(), "topk (TopK): TopK's K is computed from data and must be constant"),
    "rank inside": Case(models.reshape([1] * 7 + [2, 8]), f"reshape (Reshape): {RANK}"),
    "rank outside": Case(models.relu([1] * 9), RANK),
    "operation": Case(models.unary("Det"), "det (Det): TensorRT has no operation Det: choose a lowering without it"),
    "plugin": Case(
        models.unary("RegionAttention", domain="debiexport"),
        "regionattention (RegionAttention): no plugin RegionAttention is registered: build with the plugins",
    ),
    "plugins": Case(
        models.model(
            [
                models.node("RegionAttention", "x", "z", domain="debiexport", name="a"),
                models.node("Other", "z", "y", domain="debiexport", name="b"),
            ],
            {"x": (F32, (2,))},
            {"y": (F32, (2,))},
        ),
        "or export without this operation; b (Other): no plugin Other is registered",
    ),
    "type": Case(models.cast(TensorProto.INT16), "cast (Cast): it has a type that TensorRT does not know: cast to"),
    "bytes": Case(models.unary("Transpose", TensorProto.UINT8), "transpose (Transpose): it takes no uint8: cast its"),
    "any batch": Case(
        models.relu(("N", 3, 4, 4)), "an input's size is not fixed, or an input gives a shape: export with a fixed"
    ),
    "one batch only": Case(
        models.one_batch_only(),
        "add: not every batch of the range is possible (dimensions not compatible for elementwise): export with",
        profile=(1, 2, 4),
    ),
    "fixed batch": Case(
        models.relu((2, 3, 4, 4)),
        "the input images has a batch of 2, and 1:2:4 was asked for: export with any batch",
        profile=(1, 2, 4),
    ),
    "any height": Case(
        models.relu(("N", 3, "H", 4)),
        "the input images has sizes besides the batch that are not fixed, (-1, 3, -1, 4): export for one size",
        profile=(1, 2, 4),
    ),
    "turing": Case(
        models.product(), "matmul: Turing (sm75) multiplies no float32 matrices: export in fp16, or", capability="sm75"
    ),
    "no model": Case(b"no model", "the file is no ONNX model with outputs: export again"),
    "empty": Case(b"", "the file is no ONNX model with outputs: export again"),
    "dangling": Case(
        models.model([models.node("Relu", "nothing", "y")], {"x": (F32, (2,))}, {"y": (F32, (2,))}),
        "relu (Relu): an input of it comes from nowhere, so the file is damaged: export again",
    ),
    "unknown": Case(
        models.model(
            [models.node("MatMul", "x w", "y")], {"x": (F32, (2, 8)), "w": (F32, (7, 4))}, {"y": (F32, (2, 4))}
        ),
        "matmul (MatMul): matmul: last dimension of input0 = 8 and second to last dimension of input1 = 7 but must",
    ),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the worker answers to each case; one process for all, to import TensorRT once."""
    folder = tmp_path_factory.mktemp("models")
    requests = {}
    for i, (name, case) in enumerate(CASES.items()):
        path = folder / f"{i}.onnx"
        path.write_bytes(case.model if isinstance(case.model, bytes) else case.model.SerializeToString())
        requests[name] = {
            "model": str(path),
            "plan": None,
            "capabilities": [case.capability],
            "profile": case.profile,
            "with_plugins": False,
        }
    given, told = folder / "requests.json", folder / "answers.json"
    given.write_text(json.dumps(requests))
    program = (
        "import json, sys; from pathlib import Path; from debiexport.targets.tensorrt.rtx_worker import answer;"
        " requests = json.loads(Path(sys.argv[1]).read_text());"
        " Path(sys.argv[2]).write_text(json.dumps({name: answer(each) for name, each in requests.items()}))"
    )
    subprocess.run([sys.executable, "-c", program, given, told], check=True, capture_output=True, timeout=120)
    return dict(json.loads(told.read_text()))


@needs_rtx
@pytest.mark.parametrize("name", CASES)
def test_refused(answers: dict[str, Any], name: str) -> None:
    answer = answers[name]
    assert answer["kind"] == "refused", answer
    text = answer["error"]
    assert CASES[name].words in text
    assert "\n" not in text and "CUDA" not in text and "_src" not in text


@needs_rtx
@pytest.mark.parametrize(
    "taken",
    [
        models.top_k(3840),
        models.reshape([1] * 6 + [2, 8]),
        models.normalization("LayerNormalization", np.float16, np.float16),
    ],
    ids=["k", "rank", "norm"],
)
def test_what_is_just_taken(taken: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(taken, path)
    assert build(path, None, ["sm89"]).plan_bytes > 0


# ------------------------------------------------------------------------------- the words themselves


def test_a_text_that_is_not_known_is_shown() -> None:
    text = (
        "Invalid Node - n\n \n[checkMacros.cpp::catchCudaError::250] Error Code 1\nfirst  line " + "x" * 400 + "\nlast"
    )
    told = str(Refusal(text, "n", "Relu"))
    assert told == ("n (Relu): " + "first line " + "x" * 400)[: len("n (Relu): ") + 300]
    inner = "ITensor::getDimensions: Error Code 4: API Usage Error (n: odd (very). In f at /_src/a/b.cpp:12)"
    assert Refusal(inner).verbatim == "n: odd (very)."
    assert str(Refusal("")) == "it gives no reason"
    assert str(Refusal("", operator="Relu")) == "Relu: it gives no reason"


def test_explain() -> None:
    refusals = [Refusal("false", f"n{i}", "Unique") for i in range(5)]
    text = explain([refusals[0], *refusals])
    assert text.startswith("TensorRT refuses the graph: n0 (Unique): TensorRT has no operation Unique")
    assert text.count("n0") == 1 and "n2 (Unique)" in text and "n3" not in text
    assert text.endswith("; and 2 more")
    assert explain([]) == "TensorRT refuses the graph: it gives no reason"


def test_memory() -> None:
    assert "not enough memory" in str(Refusal("IBuilder: Error Code 2: OutOfMemory (Requested size was 12 bytes)"))


def test_the_builder_says_nothing_of_the_missing_driver() -> None:
    lines = ["[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (no driver)", "a reason"]
    assert builder_refusals(lines) == (Refusal("a reason"),)


def test_all_errors_of_a_parser_are_read() -> None:
    def error(name: str) -> SimpleNamespace:
        code = SimpleNamespace(name="INVALID_NODE")
        return SimpleNamespace(
            desc=lambda: f"why {name}", node_name=lambda: name, node_operator=lambda: "Relu", code=lambda: code
        )

    errors = [error("a"), error("b")]
    parser = SimpleNamespace(num_errors=2, get_error=lambda i: errors[i])
    assert parser_refusals(parser) == (
        Refusal("why a", "a", "Relu", "INVALID_NODE"),
        Refusal("why b", "b", "Relu", "INVALID_NODE"),
    )
