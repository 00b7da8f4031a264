"""A whole network on a GPU in torch: as released, rewritten, and rewritten with the kernels.

eager     the reference network, which gathers keys and values as the released code does; float16 is `half()` of it
native    the static network in the lowering that TensorRT gets without plugins
plugins   the same with both kernels

Each takes float32 images and gives float32 logits, launched operation by operation and as a CUDA graph; the static
networks as graphs with convolutions in both memory formats. Weights are random, which does not matter for time. The
logits of every subject are compared with the reference in float64 that is forced to the subject's own routes.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from gpu_cases import IMAGE_SIZE, NetworkCase
from gpu_device import Gpu, in_a_line
from gpu_eager import DTYPES
from gpu_half import HalfNetwork
from gpu_timing import NETWORK_PLAN, Timings
from torch import Tensor, nn

from debiexport.bench.contention import compare
from debiexport.bench.counters import take_snapshot
from debiexport.bench.runner import Plan
from debiexport.bench.statistics import plain
from debiexport.cards import load_card
from debiexport.checkpoint import random_checkpoint
from debiexport.environment import usable_cpus
from debiexport.loading import build_reference
from debiexport.lowerings import TENSORRT_LOWERINGS
from debiexport.metrics import relative_error, top_agreement
from debiexport.names import LOGITS, ROUTES
from debiexport.plain import released_gathering
from debiexport.reference.network import ReferenceNetwork
from debiexport.static.network import StaticNetwork
from debiexport.static.taps import Taps

EAGER, NATIVE, PLUGINS = "eager", "native", "plugins"
GRAPH, CHANNELS_LAST = "CUDA graph", "channels last"
JUDGED_IMAGES = 8
MARGIN = 8.0
"""Times its rounding noise that a network may be off, as for every artifact; in float16 the noise is 2**13 times."""

HALF_NOISE = 2.0**13  # the unit roundoff of float16 over that of float32
_SEED = 11

Routes = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Network:
    """A network on the GPU.

    Attributes:
        run: float32 images (N, 3, H, W) -> logits (N, classes) in float32.
        answer: the same with the routes by attention.
        capturing: what has to be around `run` while it is captured.
    """

    run: Callable[[Tensor], Tensor]
    answer: Callable[[Tensor], tuple[Tensor, Routes]]
    capturing: Callable[[], AbstractContextManager[Any]] = nullcontext


@lru_cache(maxsize=2)
def reference_network(card: str) -> ReferenceNetwork:
    """Of a card, float32, on the CPU, with random weights."""
    return build_reference(random_checkpoint(load_card(card)), IMAGE_SIZE)


@lru_cache(maxsize=4)
def _static_network(reference: ReferenceNetwork, lowering: str) -> StaticNetwork:
    """Folding takes seconds, and the cards take turns."""
    return StaticNetwork.of(reference, lowering=TENSORRT_LOWERINGS[lowering])


def measure_network(
    case: NetworkCase, gpu: Gpu, plan: Plan = NETWORK_PLAN, reference: ReferenceNetwork | None = None
) -> dict[str, Any]:
    """Compare and time all subjects of a case; what fails is said under `failed` with its reason.

    Args:
        case: the network.
        gpu: to run on.
        plan: of the measurement.
        reference: instead of that of the case's card.
    """
    reference = reference or reference_network(case.card)
    images = example_images(case.batch, reference.image_size).to(gpu.device)
    timings, failed = Timings(gpu, plan), {}
    rows: dict[str, dict[str, Any]] = {}
    with torch.no_grad():
        judge = Judge(reference, gpu, images)
        for kind, build in _kinds(reference, case.precision, gpu):
            try:
                network = build()
                told = judge.compare(network, case.precision)
            except Exception as error:  # drivers, compilers and torch have no common root
                failed[kind] = in_a_line(error)
                continue
            for name, add in _launches(kind, network, images, timings, gpu):
                try:
                    add()
                except Exception as error:
                    failed[name] = in_a_line(error)
                else:
                    rows[name] = {"ours": kind.startswith(PLUGINS), **told}
        before = take_snapshot()
        measured = timings.measure()
        contention = compare(before, take_snapshot(), usable_cpus())
    for name, one in measured.items():
        rows[name] |= one | {"images_per_s": plain(case.batch * 1e3 / timings.p50_ms(name))}
    right = [name for name, row in rows.items() if row["ours"] and row["correct"] and name.endswith(GRAPH)]
    best = min(right, key=timings.p50_ms, default=None)
    result = {
        "kind": "network",
        "card": case.card,
        "precision": case.precision,
        "batch": case.batch,
        "image_size": list(reference.image_size),
        "tolerance": plain(judge.tolerance(case.precision)),
        "subjects": rows,
        "best": best,
        "ratios": {} if best is None else {f"{n} / {best}": timings.ratio(n, best) for n in rows if n != best},
        "failed": failed,
        "contention": contention.to_dict(),
    }
    timings.close()
    gc.collect()
    return result


class Judge:
    """Compares networks with the reference in float64.

    Args:
        reference: the weights.
        gpu: to compute on.
        images: of which at most `JUDGED_IMAGES` are looked at.
    """

    def __init__(self, reference: ReferenceNetwork, gpu: Gpu, images: Tensor) -> None:
        self._images = images[:JUDGED_IMAGES]
        self._wide = copy.deepcopy(reference).to(gpu.device, torch.float64)
        self._noise = self._error(eager(reference, torch.float32, gpu.device))[0]

    def tolerance(self, precision: str) -> float:
        """Relative error that a network may have."""
        return MARGIN * self._noise * (HALF_NOISE if precision == "fp16" else 1.0)

    def compare(self, network: Network, precision: str) -> dict[str, Any]:
        """Relative error and agreement of the logits, and whether they are the network's."""
        error, agreement = self._error(network)
        correct = error <= self.tolerance(precision)
        return {"relative_error": plain(error), "top1_agreement": plain(agreement), "correct": correct}

    def _error(self, network: Network) -> tuple[float, float]:
        logits, routes = network.answer(self._images)
        forced = self._wide.run(self._images.double(), {name: x.long() for name, x in routes.items()})
        given, wanted = logits.double().cpu().numpy(), forced.outputs[LOGITS].cpu().numpy()
        return relative_error(given, wanted), top_agreement(given, wanted, 1)


def example_images(batch: int, image_size: tuple[int, int]) -> Tensor:
    """Normalised images of noise (N, 3, H, W), always the same."""
    return torch.randn(batch, 3, *image_size, generator=torch.Generator().manual_seed(_SEED))


def eager(reference: ReferenceNetwork, dtype: torch.dtype, device: torch.device) -> Network:
    """The reference network as released."""
    network = copy.deepcopy(reference).to(device, dtype)

    def run(images: Tensor) -> Tensor:
        with released_gathering():
            return network(images.to(dtype)).float()  # type: ignore[no-any-return]

    def answer(images: Tensor) -> tuple[Tensor, Routes]:
        with released_gathering():
            found = network.run(images.to(dtype))
        return found.outputs[LOGITS].float(), found.routes

    # It makes its coordinates on the CPU and copies them, which a graph cannot hold: they are made on the GPU there.
    return Network(run, answer, lambda: torch.device(device))


def static(reference: ReferenceNetwork, lowering: str, precision: str, device: torch.device, last: bool) -> Network:
    """The static network in a lowering for TensorRT.

    Args:
        reference: the weights.
        lowering: its name.
        precision: "fp16" is that of the typed graph, see `gpu_half`.
        device: to run on.
        last: whether images and convolutions have their channels last in memory.
    """
    built = copy.deepcopy(_static_network(reference, lowering))
    network = (HalfNetwork(built) if precision == "fp16" else built).to(device)
    form = torch.channels_last if last else torch.contiguous_format
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=form)

    def answer(images: Tensor) -> tuple[Tensor, Routes]:
        taps = Taps()
        logits = network.outputs(images.contiguous(memory_format=form), taps)[0]
        end = f".{ROUTES}"
        return logits, {name.removesuffix(end): x for name, x in taps.items() if name.endswith(end)}

    return Network(lambda images: answer(images)[0], answer)


def _kinds(reference: ReferenceNetwork, precision: str, gpu: Gpu) -> Iterator[tuple[str, Callable[[], Network]]]:
    yield EAGER, partial(eager, reference, DTYPES[precision], gpu.device)
    for lowering in (NATIVE, PLUGINS):
        yield lowering, partial(static, reference, lowering, precision, gpu.device, False)
        yield f"{lowering}, {CHANNELS_LAST}", partial(static, reference, lowering, precision, gpu.device, True)


def _launches(
    kind: str, network: Network, images: Tensor, timings: Timings, gpu: Gpu
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Ways to launch a network by name, and what adds each to the timings."""

    def work() -> Tensor:
        with torch.inference_mode():
            return network.run(images)

    def graph() -> None:
        with network.capturing():
            captured = gpu.capture(work)
        timings.add_graph(f"{kind}, {GRAPH}", captured)

    yield f"{kind}, {GRAPH}", graph
    if CHANNELS_LAST not in kind:
        yield kind, partial(timings.add_direct, kind, work)
