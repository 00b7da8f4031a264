"""What TensorRT's engine inspector says of an engine, read as a proof of its precision.

That a graph is fp16 does not make the engine so, and a builder that was asked wrongly does not say it. The inspector
lists the layers that really run, with the type of every tensor. What it says in a way that is not known here counts as
not proven, never as float32.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import onnx

from debiexport.errors import BundleError, ParityError, UsageError

FP16, FP32 = "fp16", "fp32"
GEMM, CONVOLUTION, ATTENTION, PLUGIN = "gemm", "convolution", "attention", "plugin"
UNKNOWN = "unknown"
SHOWN = 3

# "Half" or "Float" inside of a fused part, "Row major linear FP16 format" elsewhere.
_TYPES = {
    "half": "fp16",
    "float": "fp32",
    "bfloat16": "bf16",
    **{
        name: name for name in ("fp32", "fp16", "bf16", "fp8", "fp4", "int64", "int32", "int8", "int4", "uint8", "bool")
    },
}
_MULTIPLIED = ("fp32", "fp16", "bf16", "fp8", "fp4", "int8", "int4")
_WORD = re.compile(r"[A-Za-z]+\d*")
_FORMAT_KEYS = ("Format/Datatype", "Datatype", "DataType", "Format")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# The first that fits the layer's type or kernel; a `correlation` is a convolution, an `Fc` a product with weights.
_KINDS = (
    (ATTENTION, re.compile(r"mha|attention", re.IGNORECASE)),
    (PLUGIN, re.compile(r"^plugin", re.IGNORECASE)),
    (CONVOLUTION, re.compile(r"conv(?!ert)|correlation", re.IGNORECASE)),
    (GEMM, re.compile(r"gemm|gemv|matrix_?multiply|matmul|^fc$|fully_?connected", re.IGNORECASE)),
)
_FUSED_SUFFIX = re.compile(r"_myl\d+_\d+$")
_FUSED_PRODUCT = re.compile(r"^__myl_\w*?Fc(?![a-z])")
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")


@dataclass(frozen=True)
class Product:
    """A layer that multiplies matrices: where a network's time goes, and where a narrow type counts.

    Attributes:
        name: of the layer.
        kind: "gemm", "convolution", "attention" or "plugin".
        type: of the first tensor that it reads (of those that are multiplied), such as "fp16"; what it writes may be
            wider.
        nodes: of the ONNX graph that it stands for, as far as told.
        tf32: whether its kernel rounds float32 to 10 bits.
    """

    name: str
    kind: str
    type: str
    nodes: tuple[str, ...]
    tf32: bool


@dataclass(frozen=True)
class PrecisionSummary:
    """The types in an engine.

    Attributes:
        layers: their number.
        outputs: number of layers by the type of their first output, of those that have one.
        products: every layer that multiplies matrices.
        unknown: layers with a type that is not known here, each with the inspector's words.
    """

    layers: int
    outputs: dict[str, int]
    products: tuple[Product, ...]
    unknown: tuple[str, ...]

    @property
    def output_shares(self) -> dict[str, float]:
        """Share of the layers by type of their output."""
        return _shares(self.outputs)

    @property
    def product_shares(self) -> dict[str, float]:
        """Share of the products by type."""
        return _shares(Counter(product.type for product in self.products))

    def check(self, precision: str, float32_nodes: Collection[str] = ()) -> list[str]:
        """What in the engine is not of a precision; nothing if it is proven.

        Args:
            precision: "fp16" or "fp32".
            float32_nodes: names of ONNX products that an fp16 graph keeps in float32, see `float32_products`.

        Raises:
            UsageError: no such precision.
        """
        if precision not in (FP16, FP32):
            raise UsageError(f"the precision is {precision!r}: give {FP16} or {FP32}")
        exempt = set(map(_plain, float32_nodes))
        found = [f"a type that is not known: {told}" for told in self.unknown]
        if not self.products:
            found.append("the inspector shows no layer that multiplies matrices, so nothing is proven")
        for product in self.products:
            kept = precision == FP16 and not exempt.isdisjoint(map(_plain, product.nodes))
            wanted = FP32 if kept else precision
            if product.type not in (wanted, UNKNOWN):
                found.append(f"{product.kind} {product.name} is in {product.type}, wanted is {wanted}")
            if product.tf32 and wanted == FP32:
                found.append(f"{product.kind} {product.name} rounds float32 to 10 bits (TF32)")
        if precision == FP32 and (count := self.outputs.get(FP16, 0)):
            found.append(f"{count} of {self.layers} layers write fp16")
        return found

    def to_dict(self) -> dict[str, Any]:
        kinds = Counter((product.kind, product.type) for product in self.products)
        return {
            "layers": self.layers,
            "outputs": dict(sorted(self.outputs.items())),
            "products": [{"kind": kind, "type": type_, "layers": n} for (kind, type_), n in sorted(kinds.items())],
            "unknown": list(self.unknown),
        }

    def __str__(self) -> str:
        shares = ", ".join(f"{type_} {share:.0%}" for type_, share in sorted(self.product_shares.items())) or "none"
        return f"{self.layers} layers, of {len(self.products)} that multiply matrices: {shares}"


def read_inspector(text: str) -> PrecisionSummary:
    """Read the inspector's JSON of a whole engine.

    Raises:
        BundleError: it is no such JSON, or names layers without details.
    """
    try:
        data = json.loads(text)
        layers = data["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"the engine inspector says {_line(text)!r}: no JSON with Layers; build again") from error
    if not isinstance(layers, list) or not layers or not all(isinstance(layer, dict) for layer in layers):
        raise BundleError(
            f"the engine inspector gives no details of the layers, {_line(text)!r}: build with profiling verbosity"
            " DETAILED"
        )
    outputs: Counter[str] = Counter()
    products: list[Product] = []
    unknown: list[str] = []
    for layer in layers:
        name = str(layer.get("Name", ""))
        inputs, made = (_types(name, layer.get(side), unknown) for side in ("Inputs", "Outputs"))
        outputs.update(made[:1])
        kind = _kind(layer)
        if kind is not None:
            multiplied = [type_ for type_ in (*inputs, *made) if type_ in (*_MULTIPLIED, UNKNOWN)]
            if not multiplied:
                unknown.append(f"{name}: no tensor that can be multiplied")
            tf32 = "tf32" in str(layer.get("TacticName", "")).lower()
            products.append(Product(name, kind, next(iter(multiplied), UNKNOWN), _nodes(layer), tf32))
    return PrecisionSummary(len(layers), dict(outputs), tuple(products), tuple(unknown))


def require_precision(summary: PrecisionSummary, precision: str, float32_nodes: Collection[str] = ()) -> None:
    """Refuse an engine that is not proven to be of a precision.

    Args:
        summary: of the engine.
        precision, float32_nodes: see `PrecisionSummary.check`.

    Raises:
        ParityError: it is not.
    """
    failures = summary.check(precision, float32_nodes)
    if failures:
        more = f" and {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
        raise ParityError(
            f"the engine is not proven to be {precision} ({summary}): {'; '.join(failures[:SHOWN])}{more}: check the"
            " types of the ONNX model's tensors, and build again"
        )


def float32_products(model: onnx.ModelProto) -> set[str]:
    """Names of the products of a typed graph whose first input is float32."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    types.update({tensor.name: tensor.data_type for tensor in inferred.initializer})
    products = (node for node in inferred.node if node.op_type in _PRODUCTS and node.domain in ("", "ai.onnx"))
    return {node.name for node in products if types.get(node.input[0]) == onnx.TensorProto.FLOAT}


def _kind(layer: dict[str, Any]) -> str | None:
    """What sort of product a layer is; None if it is none."""
    type_, name, kernel = (str(layer.get(key, "")) for key in ("LayerType", "Name", "TacticName"))
    if type_ in ("Reformat", "Constant", "NoOp", "signal", "wait"):
        return None
    told = (type_, kernel) if type_ != "kgen" else (_fused_name(name), _fused_name(kernel))
    for kind, pattern in _KINDS:
        if any(pattern.search(text) for text in told):
            return kind
    return GEMM if any(_FUSED_PRODUCT.search(text) for text in (name, kernel)) else None


def _fused_name(text: str) -> str:
    """The name of a generated kernel, if it is named after what it does and not after the nodes it stands for."""
    return text if text.startswith(("_gemm", "_gemv", "__myl_")) else ""


def _types(layer: str, tensors: Any, unknown: list[str]) -> list[str]:
    """The types of a layer's inputs or outputs; what is not known is added to `unknown`."""
    found = []
    for tensor in tensors if isinstance(tensors, list) else []:
        texts = [str(tensor[key]) for key in _FORMAT_KEYS if key in tensor] if isinstance(tensor, dict) else []
        type_ = next((known for text in texts if (known := _type(text)) is not None), None)
        if type_ is None:
            unknown.append(f"{layer}: {_line(' '.join(texts) if texts else str(tensor))!r}")
        found.append(type_ or UNKNOWN)
    return found


def _type(text: str) -> str | None:
    """The type that a description of a format names; None if it is none or more than one."""
    named = {_TYPES[word] for word in map(str.lower, _WORD.findall(text)) if word in _TYPES}
    return named.pop() if len(named) == 1 else None


def _nodes(layer: dict[str, Any]) -> tuple[str, ...]:
    """The ONNX nodes that a layer's metadata names; without any, those that its name is put together from."""
    named = _ONNX_NODE.findall(str(layer.get("Metadata", "")))
    parts = _FUSED_SUFFIX.sub("", str(layer.get("Name", ""))).split("+")
    return tuple(dict.fromkeys(named or [part.strip() for part in parts]))


def _plain(node: str) -> str:
    """A node's name as the names of fused layers have it."""
    return node.replace(".", "_")


def _shares(counts: dict[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
