"""KServe: an InferenceService that its runtime for Triton serves, and what scales and protects its pods.

In KServe's raw deployment mode, which needs no Knative and has HTTP and gRPC at once. KServe then makes a Deployment of
the InferenceService's name with "-predictor"; it is told to leave the scaling to the autoscaler here.
"""

from __future__ import annotations

from typing import Any

from debiexport.triton.pod import (
    EXIT_S,
    LEAST_PODS,
    MOST_PODS,
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

RUNTIME = "kserve-tritonserver"
PORTS = Ports(http=8080, grpc=9000)
"""Where KServe's runtime lets Triton listen."""


def kserve_manifests(workload: Workload) -> dict[str, dict[str, Any]]:
    """Manifests by the name of their file."""
    selector = {"serving.kserve.io/inferenceservice": workload.name}  # a label that KServe gives the pods
    return {
        "inferenceservice.yaml": _inference_service(workload, selector),
        "horizontalpodautoscaler.yaml": scaler(workload, f"{workload.name}-predictor"),
        "poddisruptionbudget.yaml": disruption_budget(workload, selector),
    }


def _inference_service(workload: Workload, selector: dict[str, str]) -> dict[str, Any]:
    volume, mount = scratch()
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": workload.name,
            "labels": labels(workload),
            "annotations": {
                "serving.kserve.io/deploymentMode": "RawDeployment",
                "serving.kserve.io/autoscalerClass": "external",
                # KServe's own scraping is of a port of Knative's, and would write over the annotations after it.
                "serving.kserve.io/enable-prometheus-scraping": "false",
                **PORTS.scraping(),
            },
        },
        "spec": {
            "predictor": {
                "minReplicas": LEAST_PODS,
                "maxReplicas": MOST_PODS,
                "terminationGracePeriodSeconds": grace_seconds(),
                **pod_security(),
                **spread(selector),
                "model": {
                    "modelFormat": {"name": "triton", "version": "2"},
                    "runtime": RUNTIME,
                    "protocolVersion": "v2",
                    "storageUri": workload.storage,
                    "image": workload.image,
                    # After those of the runtime, which name the repository and the ports.
                    "args": [
                        "--disable-auto-complete-config",
                        "--strict-readiness=true",
                        f"--exit-timeout-secs={EXIT_S}",
                    ],
                    # KServe makes its Service of them: the first becomes port 80, the others stay what they are.
                    "ports": PORTS.named(),
                    **probes(PORTS),
                    "lifecycle": drain(),
                    "resources": resources(workload),
                    "securityContext": container_security(),
                    "volumeMounts": [mount],
                },
                "volumes": [volume],
            }
        },
    }
