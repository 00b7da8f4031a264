"""What a build with TensorRT for RTX found out about a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from debiexport.errors import EngineError


@dataclass(frozen=True)
class RtxTensor:
    """A tensor between layers.

    Attributes:
        dtype: in ONNX's words: "float32", "float16", "bfloat16", "int64", "bool", ...
        shape: -1 for a size that is not fixed; None where not even the rank is known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class RtxLayer:
    """A layer of the parsed network, before anything is fused.

    Attributes:
        name: TensorRT's, which is the node's for the layer that does the node's work.
        type: TensorRT's, such as "MATRIX_MULTIPLY" or "PLUGIN_V3".
        node: the ONNX node it was made for; "" for a constant or a helper.
        inputs, outputs: those left out are not among them.
    """

    name: str
    type: str
    node: str
    inputs: tuple[RtxTensor, ...]
    outputs: tuple[RtxTensor, ...]


@dataclass(frozen=True)
class RtxGridSample:
    """How a GridSample was understood.

    Attributes:
        mode: "linear", "nearest" or "cubic".
        padding: what is read outside: "fill" (zeros), "clamp" (the border) or "reflect".
    """

    name: str
    mode: str
    align_corners: bool
    padding: str


@dataclass(frozen=True)
class RtxBuild:
    """A graph that TensorRT for RTX has built for some GPUs.

    Attributes:
        version: of TensorRT for RTX.
        capabilities: what it was built for, see `capabilities`.
        profile: smallest, preferred and largest batch; None where it is fixed.
        layers: of the parsed network.
        grid_samples: one each GridSample.
        attentions: matrix products that were recognised as half of an attention, one name each. Those that are not
            are computed one by one, with the scores in memory. Being recognised is no promise of one fused kernel:
            `scratch_bytes` tells whether the scores are held after all.
        parse_s, build_s: seconds.
        peak_rss_mb: largest resident memory of the process that built; None where it cannot be read.
        scratch_bytes: memory that the engine needs besides weights, inputs and outputs, for the largest batch; None if
            the builder does not say.
        plan_bytes, plan_sha256: of the plan.
    """

    version: str
    capabilities: tuple[str, ...]
    profile: tuple[int, int, int] | None
    layers: tuple[RtxLayer, ...]
    grid_samples: tuple[RtxGridSample, ...]
    attentions: tuple[str, ...]
    parse_s: float
    build_s: float
    peak_rss_mb: float | None
    scratch_bytes: int | None
    plan_bytes: int
    plan_sha256: str

    def layer_types(self) -> Counter[str]:
        """How many layers there are of each type."""
        return Counter(layer.type for layer in self.layers)

    def tensor_types(self) -> Counter[str]:
        """How many results of layers there are of each dtype."""
        return Counter(tensor.dtype for layer in self.layers for tensor in layer.outputs)

    def unfused(self, expected: Collection[str]) -> list[str]:
        """Those of the nodes, matrix products of attentions, that were not recognised as such; in their order."""
        found = set(self.attentions)
        return [name for name in expected if name not in found]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RtxBuild:
        """The report that `to_dict` wrote.

        Raises:
            EngineError: a figure is missing, or none.
        """
        try:
            profile = data["profile"]
            return cls(
                version=_typed(data["version"], str),
                capabilities=tuple(_typed(name, str) for name in _list(data["capabilities"])),
                profile=None if profile is None else _profile(_list(profile)),
                layers=tuple(_layer(_typed(one, dict)) for one in _list(data["layers"])),
                grid_samples=tuple(_grid_sample(_typed(one, dict)) for one in _list(data["grid_samples"])),
                attentions=tuple(_typed(name, str) for name in _list(data["attentions"])),
                parse_s=_amount(data["parse_s"]),
                build_s=_amount(data["build_s"]),
                peak_rss_mb=None if data["peak_rss_mb"] is None else _amount(data["peak_rss_mb"]),
                scratch_bytes=None if data["scratch_bytes"] is None else _count(data["scratch_bytes"]),
                plan_bytes=_count(data["plan_bytes"]),
                plan_sha256=_digest(data["plan_sha256"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"the report of a build with TensorRT is damaged ({type(error).__name__}: {str(error)[:200]}): build"
                " again"
            ) from error

    def __str__(self) -> str:
        peak = "" if self.peak_rss_mb is None else f", peak {self.peak_rss_mb:.0f} MB"
        return (
            f"TensorRT for RTX {self.version} builds it for {', '.join(self.capabilities)}: {len(self.layers)} layers,"
            f" plan {self.plan_bytes / 1e6:.1f} MB, parsed in {self.parse_s:.1f} s, built in {self.build_s:.1f} s{peak}"
        )


def _layer(data: Mapping[str, Any]) -> RtxLayer:
    return RtxLayer(
        name=_typed(data["name"], str),
        type=_typed(data["type"], str),
        node=_typed(data["node"], str),
        inputs=tuple(_tensor(_typed(one, dict)) for one in _list(data["inputs"])),
        outputs=tuple(_tensor(_typed(one, dict)) for one in _list(data["outputs"])),
    )


def _tensor(data: Mapping[str, Any]) -> RtxTensor:
    shape = data["shape"]
    sizes = None if shape is None else tuple(_typed(size, int) for size in _list(shape))
    return RtxTensor(_typed(data["name"], str), _typed(data["dtype"], str), sizes)


def _grid_sample(data: Mapping[str, Any]) -> RtxGridSample:
    name, mode, padding = (_typed(data[key], str) for key in ("name", "mode", "padding"))
    return RtxGridSample(name, mode, _typed(data["align_corners"], bool), padding)


def _profile(sizes: Collection[Any]) -> tuple[int, int, int]:
    smallest, preferred, largest = (_count(size) for size in sizes)
    if not 1 <= smallest <= preferred <= largest:
        raise ValueError(f"{[smallest, preferred, largest]} is no range of batches")
    return smallest, preferred, largest


def _digest(value: Any) -> str:
    text = str(_typed(value, str))
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"{text[:70]!r} is no SHA-256")
    return text


def _list(value: Any) -> Collection[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{str(value)[:60]!r} is no list")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _amount(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is no amount")
    return float(value)


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{str(value)[:60]!r} is no {kind.__name__}")
    return value
