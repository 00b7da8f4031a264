"""Plain Kubernetes: a Deployment, a Service, a HorizontalPodAutoscaler and a PodDisruptionBudget."""

from __future__ import annotations

from typing import Any

from debiexport.triton.pod import (
    EXIT_S,
    GRPC,
    HTTP,
    METRICS,
    Ports,
    container_security,
    disruption_budget,
    drain,
    grace_seconds,
    labels,
    pod_security,
    probes,
    resources,
    scaler,
    scratch,
    spread,
)
from debiexport.triton.workload import Workload

MOUNT = "/models"


def kubernetes_manifests(workload: Workload) -> dict[str, dict[str, Any]]:
    """Manifests by the name of their file."""
    return {
        "deployment.yaml": _deployment(workload),
        "service.yaml": _service(workload),
        "horizontalpodautoscaler.yaml": scaler(workload, workload.name),
        "poddisruptionbudget.yaml": disruption_budget(workload, labels(workload)),
    }


def _deployment(workload: Workload) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": workload.name, "labels": labels(workload)},
        # No replicas: each time that the manifest is applied they would undo what the autoscaler has chosen.
        "spec": {
            "selector": {"matchLabels": labels(workload)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "minReadySeconds": 5,
            "template": {
                "metadata": {"labels": labels(workload), "annotations": Ports().scraping()},
                "spec": _pod(workload),
            },
        },
    }


def _pod(workload: Workload) -> dict[str, Any]:
    volume, mount = scratch()
    volumes, mounts = [volume], [mount]
    repository = workload.storage
    if workload.claim is not None:
        claim, folder = workload.claim
        repository = f"{MOUNT}/{folder}".rstrip("/")
        source = {"claimName": claim, "readOnly": True}
        volumes.append({"name": "models", "persistentVolumeClaim": source})
        mounts.append({"name": "models", "mountPath": MOUNT, "readOnly": True})
    return {
        "terminationGracePeriodSeconds": grace_seconds(),
        **pod_security(),
        **spread(labels(workload)),
        "containers": [
            {
                "name": "triton",
                "image": workload.image,
                "command": ["tritonserver"],
                "args": [
                    f"--model-repository={repository}",
                    # Served is what is written, and nothing that Triton adds to it.
                    "--disable-auto-complete-config",
                    "--strict-readiness=true",
                    f"--exit-timeout-secs={EXIT_S}",
                ],
                "ports": Ports().named(),
                **probes(Ports()),
                "lifecycle": drain(),
                "resources": resources(workload),
                "securityContext": container_security(),
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }


def _service(workload: Workload) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": workload.name, "labels": labels(workload)},
        "spec": {
            "selector": labels(workload),
            "ports": [
                {"name": "http", "port": HTTP, "targetPort": "http", "appProtocol": "http"},
                {"name": "grpc", "port": GRPC, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"},
                {"name": "metrics", "port": METRICS, "targetPort": "metrics", "appProtocol": "http"},
            ],
        },
    }
