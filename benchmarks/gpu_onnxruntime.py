"""A whole network in ONNX Runtime on a GPU: exported as released, and rewritten for TensorRT without plugins.

Images and logits stay on the GPU, so that nothing but the network is timed: on the host's clock, since ONNX Runtime
hands over its work operation by operation. Each model is compared with the reference like the networks in torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from gpu_cases import OnnxCase
from gpu_device import Gpu, in_a_line
from gpu_network import Judge, Network, Routes, example_images, reference_network
from gpu_timing import NETWORK_PLAN, Timings
from torch import Tensor

from debiexport.bench.runner import Plan
from debiexport.bench.statistics import plain
from debiexport.errors import MissingDependencyError
from debiexport.geometry import Geometry
from debiexport.lowerings import TENSORRT_LOWERINGS
from debiexport.names import LOGITS, ROUTES
from debiexport.reference.network import ReferenceNetwork
from debiexport.signature import IMAGES

PLAIN = "plain fp32"
NATIVE = {"fp32": "native fp32", "fp16": "native fp16"}
_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
"""Of the providers: float32 means float32."""


def measure_onnx(
    case: OnnxCase,
    gpu: Gpu,
    plan: Plan = NETWORK_PLAN,
    reference: ReferenceNetwork | None = None,
    provider: str = "cuda",
) -> dict[str, Any]:
    """Export, compare and time; what fails is said under `failed` with its reason.

    Args:
        case: the network.
        gpu: to run on.
        plan: of the measurement.
        reference: instead of that of the case's card.
        provider: of ONNX Runtime.

    Raises:
        MissingDependencyError: this ONNX Runtime does not have the provider.
    """
    from debiexport.runtimes.ort import check_provider

    check_provider(provider)
    reference = reference or reference_network(case.card)
    images = example_images(case.batch, reference.image_size).to(gpu.device)
    timings, failed = Timings(gpu, plan), {}
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="debiexport-") as folder, torch.no_grad():
        judge = Judge(reference, gpu, images)
        for name, precision, write in _models(reference, case.batch, Path(folder) / "model.onnx"):
            try:
                path = write()
                told = judge.compare(_network(path, reference, provider, case.batch), precision)
                timings.add_direct(name, Bound.of(path, images, provider))
            except Exception as error:  # exporters and runtimes have no common root
                failed[name] = in_a_line(error)
            else:
                rows[name] = {"ours": name != PLAIN, **told}
        for name, one in timings.measure().items():
            rows[name] |= one | {"images_per_s": plain(case.batch * 1e3 / timings.p50_ms(name))}
    right = [name for name, row in rows.items() if row["ours"] and row["correct"]]
    best = min(right, key=timings.p50_ms, default=None)
    result = {
        "kind": "onnxruntime",
        "card": case.card,
        "batch": case.batch,
        "image_size": list(reference.image_size),
        "subjects": rows,
        "best": best,
        "ratios": {f"{PLAIN} / {name}": timings.ratio(PLAIN, name) for name in right if PLAIN in rows},
        "failed": failed,
    }
    timings.close()
    return result


def _models(reference: ReferenceNetwork, batch: int, path: Path) -> Iterator[tuple[str, str, Callable[[], Path]]]:
    """Name, precision, and what writes the model."""
    yield PLAIN, "fp32", partial(_write_plain, reference, batch, path)
    exported = cache(partial(_native, reference, batch))
    for precision, name in NATIVE.items():
        yield name, precision, partial(_write_typed, exported, precision, path)


def _write_plain(reference: ReferenceNetwork, batch: int, path: Path) -> Path:
    from debiexport.plain import export_plain

    path.write_bytes(export_plain(reference, batch).SerializeToString())
    return path


def _native(reference: ReferenceNetwork, batch: int) -> onnx.ModelProto:
    from debiexport.static.network import StaticNetwork
    from debiexport.targets.onnx import to_onnx

    return to_onnx(StaticNetwork.of(reference, lowering=TENSORRT_LOWERINGS["native"]), batch=batch)


def _write_typed(exported: Callable[[], onnx.ModelProto], precision: str, path: Path) -> Path:
    from debiexport.graph.typed import typed

    path.write_bytes(typed(exported(), precision).SerializeToString())
    return path


def _network(path: Path, reference: ReferenceNetwork, provider: str, batch: int) -> Network:
    """The model as the judge takes it, by way of the host."""
    from debiexport.runtimes.ort import OrtRuntime

    runtime = OrtRuntime(path, provider=provider)
    routed = Geometry.of(reference.card, reference.image_size).routed
    taps = [f"{one.name}.{ROUTES}" for one in routed if not one.routes_everywhere]

    def answer(images: Tensor) -> tuple[Tensor, Routes]:
        given = images[[i % len(images) for i in range(batch)]]  # the model takes so many and no fewer
        found = runtime.run({IMAGES: given.cpu().numpy()}, taps)
        tensors = {name: torch.from_numpy(x)[: len(images)].to(images.device) for name, x in found.items()}
        return tensors.pop(LOGITS), {name.removesuffix(f".{ROUTES}"): x for name, x in tensors.items()}

    return Network(lambda images: answer(images)[0], answer)


@dataclass(frozen=True, eq=False)
class Bound:
    """A model whose images and logits stay where they are; calling it runs it once.

    Attributes:
        session, binding: of ONNX Runtime.
        images, logits: memory that the binding reads and writes.
    """

    session: Any
    binding: Any
    images: Tensor
    logits: Tensor

    @classmethod
    def of(cls, path: Path, images: Tensor, provider: str) -> Bound:
        """Load a model for these images.

        Raises:
            MissingDependencyError: ONNX Runtime falls back to another provider.
        """
        import onnxruntime as ort

        from debiexport.runtimes.ort import PROVIDERS

        options, wanted = ort.SessionOptions(), PROVIDERS[provider]
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=[(wanted, _OPTIONS[provider])])
        if session.get_providers()[0] != wanted:
            raise MissingDependencyError(f"ONNX Runtime fell back from {wanted} to {session.get_providers()[0]}")
        images = images.contiguous()
        logits = torch.empty(tuple(session.get_outputs()[0].shape), device=images.device)
        binding, place = session.io_binding(), images.device.index or 0
        for bind, name, tensor in ((binding.bind_input, IMAGES, images), (binding.bind_output, LOGITS, logits)):
            bind(name, provider, place, np.float32, tuple(tensor.shape), tensor.data_ptr())
        return cls(session, binding, images, logits)

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)
