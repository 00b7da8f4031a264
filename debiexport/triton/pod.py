"""What the plain Deployment and KServe have in common: how Triton's container is started, probed and drained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from debiexport.triton.workload import Workload

HTTP, GRPC, METRICS = 8000, 8001, 8002
UID = 1000  # triton-server in NVIDIA's container
DRAIN_S, EXIT_S, SPARE_S = 20, 30, 10
"""Seconds: until every balancer has heard that the pod is going, before Triton is told; for what it then still has to
do; and until it is ended."""
START_S = 300
"""Seconds that loading and warming up every model may take."""
PENDING = "nv_inference_pending_request_count"
"""Triton's gauge of the requests that wait, by model: what more pods would help with. Time spent in queues only grows,
and CPU says little where a GPU computes."""
LEAST_PODS, MOST_PODS = 2, 8


@dataclass(frozen=True)
class Ports:
    """Where Triton listens in the container."""

    http: int = HTTP
    grpc: int = GRPC
    metrics: int = METRICS

    def named(self) -> list[dict[str, Any]]:
        """The ports of the container; with their protocol, as KServe copies them and compares."""
        return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in vars(self).items()]

    def scraping(self) -> dict[str, str]:
        """Annotations that lead Prometheus to the metrics."""
        return {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(self.metrics),
            "prometheus.io/path": "/metrics",
        }


def probes(ports: Ports) -> dict[str, Any]:
    """Ready only when every model is loaded and warmed up; restarted only when the server itself hangs."""

    def get(path: str) -> dict[str, Any]:
        return {"path": path, "port": ports.http}

    return {
        "startupProbe": {"httpGet": get("/v2/health/ready"), "periodSeconds": 5, "failureThreshold": START_S // 5},
        "readinessProbe": {
            "httpGet": get("/v2/health/ready"),
            "periodSeconds": 5,
            "timeoutSeconds": 3,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "httpGet": get("/v2/health/live"),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
    }


def drain() -> dict[str, Any]:
    """Wait before Triton hears of its end: it goes on serving, and meanwhile nobody sends it anything new."""
    return {"preStop": {"exec": {"command": ["/bin/sh", "-c", f"sleep {DRAIN_S}"]}}}


def resources(workload: Workload) -> dict[str, Any]:
    """The same for requests and limits, so that a pod is never among the first to be evicted."""
    needs = {"cpu": str(workload.cpus), "memory": f"{workload.memory_mib}Mi"}
    if workload.gpus:
        needs["nvidia.com/gpu"] = str(workload.gpus)
    return {"requests": dict(needs), "limits": dict(needs)}


def pod_security() -> dict[str, Any]:
    """Fields of a pod: it runs as NVIDIA's user without rights, and knows nothing of the cluster."""
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def spread(selector: dict[str, str]) -> dict[str, Any]:
    """A field of a pod: on as many nodes as there are."""
    return {
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector},
            }
        ]
    }


def container_security() -> dict[str, Any]:
    """Triton needs no rights, and writes to /tmp alone."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def scratch() -> tuple[dict[str, Any], dict[str, Any]]:
    """A volume for /tmp, and its mount."""
    return {"name": "tmp", "emptyDir": {}}, {"name": "tmp", "mountPath": "/tmp"}


def labels(workload: Workload) -> dict[str, str]:
    return {"app.kubernetes.io/name": "triton", "app.kubernetes.io/instance": workload.name}


def grace_seconds() -> int:
    return DRAIN_S + EXIT_S + SPARE_S


def scaler(workload: Workload, deployment: str) -> dict[str, Any]:
    """A HorizontalPodAutoscaler on the queue; it needs an adapter that serves Triton's gauge, summed by pod."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": workload.name, "labels": labels(workload)},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
            "minReplicas": LEAST_PODS,
            "maxReplicas": MOST_PODS,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": PENDING},
                        "target": {"type": "AverageValue", "averageValue": str(workload.full_queue)},
                    },
                }
            ],
            "behavior": {
                "scaleUp": {"stabilizationWindowSeconds": 0},
                "scaleDown": {"stabilizationWindowSeconds": 300},
            },
        },
    }


def disruption_budget(workload: Workload, selector: dict[str, str]) -> dict[str, Any]:
    """Draining nodes takes one pod at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": workload.name, "labels": labels(workload)},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}},
    }
