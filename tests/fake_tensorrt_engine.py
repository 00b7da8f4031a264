"""What runs engines of the fake TensorRT: runtime, engine, context and inspector; see fake_tensorrt.py."""

from __future__ import annotations

import base64
import ctypes
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from fake_cuda import Work
from fake_tensorrt_types import DataType, ILogger, LayerInformationFormat, TensorIOMode

from debiexport.evaluate.onnx.evaluator import OnnxEvaluator
from debiexport.targets.fused import add_definitions

if TYPE_CHECKING:
    from fake_tensorrt import FakeTensorRT

COMPUTE_NS, ENQUEUE_NS = 2_000_000, 300_000
MAGIC = b"fake plan "
_PRODUCTS = {"Conv": "CaskConvolution", "MatMul": "gemm", "Gemm": "gemm"}
_FORMATS = {
    "FLOAT": ("FP32", "Float"),
    "HALF": ("FP16", "Half"),
    "INT64": ("INT64", "Int64"),
    "INT32": ("INT32", "Int32"),
    "BOOL": ("BOOL", "Bool"),
    "UINT8": ("UINT8", "UInt8"),
    "BF16": ("BF16", "BFloat16"),
}
_ONNX = {
    1: DataType.FLOAT,
    10: DataType.HALF,
    7: DataType.INT64,
    6: DataType.INT32,
    9: DataType.BOOL,
    2: DataType.UINT8,
    16: DataType.BF16,
}
_NUMPY = {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT64: np.int64, DataType.UINT8: np.uint8}


def tensors_of(values: Any) -> list[tuple[str, tuple[int, ...], DataType]]:
    return [
        (
            value.name,
            tuple(side.dim_value if side.HasField("dim_value") else -1 for side in value.type.tensor_type.shape.dim),
            _ONNX[value.type.tensor_type.elem_type],
        )
        for value in values
    ]


class Runtime:
    def __init__(self, logger: Any) -> None:
        assert logger.ready
        self._logger = logger

    @property
    def module(self) -> FakeTensorRT:
        raise NotImplementedError

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        self.module.deserialized += 1
        if not serialized_engine.startswith(MAGIC) or self.module.refuses == "engine":
            self._logger.log(ILogger.Severity.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization")
            return None
        return ICudaEngine(self.module, json.loads(serialized_engine.removeprefix(MAGIC)))


class ICudaEngine:
    def __init__(self, module: FakeTensorRT, plan: dict[str, Any]) -> None:
        self.module_, self.plan = module, plan
        self.model = onnx.load_model_from_string(base64.b64decode(plan["model"]))
        inputs, outputs = (tensors_of(side) for side in (self.model.graph.input, self.model.graph.output))
        self.modes = {t[0]: TensorIOMode.INPUT for t in inputs} | {t[0]: TensorIOMode.OUTPUT for t in outputs}
        self.tensors = {name: (shape, dtype) for name, shape, dtype in (*inputs, *outputs)}

    @cached_property
    def evaluator(self) -> OnnxEvaluator:
        """What computes; the project's own operations do what their definitions say."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        if not model.functions:
            add_definitions(model)
        return OnnxEvaluator(model)

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.modes[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name][1]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return [tuple(shape) for shape in self.plan["shapes"].get(name, [self.get_tensor_shape(name)] * 3)]

    def create_execution_context(self, strategy: Any = None) -> IExecutionContext | None:
        return None if self.module_.refuses == "context" else IExecutionContext(self)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._addresses = engine, dict[str, int]()
        self.shapes = {n: s for n, (s, _) in engine.tensors.items() if engine.modes[n] is TensorIOMode.INPUT}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        self.shapes[name] = tuple(shape)
        inside = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        return inside and self._engine.module_.refuses != "shape"

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return self._engine.module_.refuses != "address"

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self._engine
        if engine.module_.refuses == "run" or any(-1 in shape for shape in self.shapes.values()):
            return False
        shapes = dict(self.shapes)  # as they are when the work is handed over
        engine.module_.cuda.submit(stream_handle, Work(lambda now: self._compute(shapes), COMPUTE_NS), ENQUEUE_NS)
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Read the inputs where they lie on the "GPU", and write the outputs."""
        feeds = {name: self._at(name, shape).copy() for name, shape in shapes.items()}
        results = self._engine.evaluator.run(feeds)
        error = float(self._engine.module_.spoils(next(iter(shapes.values()))[0]))
        for name, result in results.items():
            self._at(name, result.shape)[...] = result + error

    def _at(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        dtype = np.dtype(_NUMPY[self._engine.get_tensor_dtype(name)])
        nbytes = int(np.prod(shape)) * dtype.itemsize
        raw = (ctypes.c_uint8 * nbytes).from_address(self._addresses[name])
        return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)


class EngineInspector:
    execution_context: IExecutionContext | None = None

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format is LayerInformationFormat.JSON
        engine = self._engine
        nodes = engine.model.graph.node
        if not engine.plan["detailed"]:
            return json.dumps({"Layers": [node.name for node in nodes], "Bindings": list(engine.tensors)})
        if engine.module_.layers is not None:
            return engine.module_.layers
        graph = onnx.shape_inference.infer_shapes(engine.model).graph
        types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        layers = [self._layer(node, types) for node in nodes]
        return json.dumps({"Layers": layers, "Bindings": list(engine.tensors)})

    def _layer(self, node: onnx.NodeProto, types: dict[str, int]) -> dict[str, Any]:
        def described(name: str) -> dict[str, Any]:
            told = _ONNX[types[name]].name if self._engine.plan["typed"] or types[name] != 10 else "FLOAT"
            fused = node.op_type not in ("Conv",)
            text = _FORMATS[told][1] if fused else f"Row major linear {_FORMATS[told][0]} format (kLINEAR)"
            context = self.execution_context
            untold = context is None or any(-1 in shape for shape in context.shapes.values())
            if not fused and untold and any(-1 in shape for shape, _ in self._engine.tensors.values()):
                text = "N/A due to dynamic shapes"
            return {"Name": name, "Location": "Device", "Dimensions": [1], "Format/Datatype": text}

        kernel = "tf32f32" if self._engine.plan["tf32"] else "f32f32"
        return {
            "Name": f"{node.name}_myl0_1",
            "LayerType": _PRODUCTS.get(node.op_type, "kgen"),
            "Inputs": [described(name) for name in node.input[:1]],
            "Outputs": [described(name) for name in node.output],
            "TacticName": f"sm80_xmma_gemm_{kernel}" if node.op_type in _PRODUCTS else "__myl_Add_0x1",
            "StreamId": 0,
            "Metadata": f"[ONNX Layer: {node.name}]",
        }
