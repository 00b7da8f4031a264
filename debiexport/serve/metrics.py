"""Counters as text for Prometheus, by the names that Triton gives them, so that its dashboards and alerts work here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from debiexport.serve.models import LoadedModel, Models

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")

# Name, what it is, and how it is taken from the protocol's statistics.
_COUNTERS: tuple[tuple[str, str, Callable[[dict[str, Any]], int]], ...] = (
    (
        "nv_inference_request_success",
        "Number of successful inference requests, all batch sizes",
        lambda found: int(found["inference_stats"]["success"]["count"]),
    ),
    ("nv_inference_count", "Number of inferences performed", lambda found: int(found["inference_count"])),
    (
        "nv_inference_exec_count",
        "Number of model executions performed",
        lambda found: int(found["execution_count"]),
    ),
    (
        "nv_inference_request_duration_us",
        "Cumulative inference request duration in microseconds",
        lambda found: _us(found, "success"),
    ),
    (
        "nv_inference_queue_duration_us",
        "Cumulative inference queuing duration in microseconds",
        lambda found: _us(found, "queue"),
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Cumulative compute input duration in microseconds",
        lambda found: _us(found, "compute_input"),
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Cumulative compute inference duration in microseconds",
        lambda found: _us(found, "compute_infer"),
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Cumulative inference compute output duration in microseconds",
        lambda found: _us(found, "compute_output"),
    ),
)


def metrics_text(models: Models) -> str:
    """Every metric of every model, in the format of Prometheus."""
    return "".join(f"{line}\n" for line in _lines(list(models)))


def metrics_app(models: Models) -> Starlette:
    """The application of the metrics' own port."""

    async def metrics(request: Request) -> Response:
        return Response(metrics_text(models), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route("/metrics", metrics)])


def _lines(models: list[LoadedModel]) -> Iterator[str]:
    found = [model.statistics.to_dict() for model in models]
    for name, help, value in _COUNTERS:
        yield from _head(name, help, "counter")
        for model, statistics in zip(models, found, strict=True):
            yield f"{name}{_labels(model)} {value(statistics)}"
    name = "nv_inference_request_failure"
    yield from _head(name, "Number of failed inference requests, all batch sizes", "counter")
    for model in models:
        failures = model.statistics.failures()
        for reason in REASONS:
            yield f"{name}{_labels(model, reason=reason)} {failures.get(reason, 0)}"
    name = "nv_inference_pending_request_count"
    yield from _head(name, "Instantaneous number of pending requests awaiting execution per-model.", "gauge")
    for model in models:
        yield f"{name}{_labels(model)} {model.batcher.waiting}"


def _head(name: str, help: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} {kind}"


def _labels(model: LoadedModel, **more: str) -> str:
    """Names have no characters that would have to be escaped."""
    labels = {"model": model.name, "version": str(model.version), **more}
    return "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def _us(found: dict[str, Any], part: str) -> int:
    return int(found["inference_stats"][part]["ns"]) // 1000
