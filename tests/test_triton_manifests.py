"""Manifests: valid for Kubernetes, consistent with each other, and of the sizes that the repository asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from served_bundles import FULL, make_bundle, make_plan_bundle

from debiexport.cards import Card
from debiexport.errors import InputError, OutputError, UsageError
from debiexport.targets.tensorrt.profile import Profile
from debiexport.triton.kserve import kserve_manifests
from debiexport.triton.kubernetes import kubernetes_manifests
from debiexport.triton.manifests import check_manifests, manifest_notes, write_manifests
from debiexport.triton.pod import DRAIN_S, EXIT_S, PENDING
from debiexport.triton.presets import ServingOptions
from debiexport.triton.repository import write_repository
from debiexport.triton.workload import Workload, check_storage, object_name, workload_of

KUBERNETES = ("1.30", "1.37")
CPU = Workload("tiny-debi", "triton:1", "pvc://models/serving", 5, 1500, 0, 8)
GPU = Workload("tiny-debi", "triton:1", "s3://bucket/serving", 2, 1500, 1, 8)
# Of V1beta1InferenceService and what it holds; `model` is a container besides.
POD = {
    "terminationGracePeriodSeconds",
    "automountServiceAccountToken",
    "securityContext",
    "topologySpreadConstraints",
    "volumes",
}
PREDICTOR = {"minReplicas", "maxReplicas", "model", *POD}
MODEL = {"modelFormat", "runtime", "protocolVersion", "storageUri"}


def validate(manifest: dict[str, Any]) -> None:
    for version in KUBERNETES:
        kubernetes_validate.validate(manifest, version, strict=True)


def container_of(deployment: dict[str, Any]) -> Any:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize("workload", [CPU, GPU])
def test_plain_manifests_are_valid(workload: Workload) -> None:
    manifests = kubernetes_manifests(workload)
    assert [manifest["kind"] for manifest in manifests.values()] == [
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
    ]
    for manifest in manifests.values():
        validate(manifest)


def test_the_check_sees_a_field_that_is_not_known() -> None:
    deployment = kubernetes_manifests(CPU)["deployment.yaml"]
    container_of(deployment)["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        validate(deployment)


@pytest.mark.parametrize("workload", [CPU, GPU])
def test_kserve_manifests_are_valid(workload: Workload) -> None:
    manifests = kserve_manifests(workload)
    service = manifests.pop("inferenceservice.yaml")
    for manifest in manifests.values():
        validate(manifest)
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert set(service) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(service["spec"]) == {"predictor"}
    predictor = service["spec"]["predictor"]
    assert set(predictor) == PREDICTOR
    assert set(predictor["model"]) >= MODEL
    # The rest is a pod and its container, and KServe makes of them what Kubernetes has to take.
    container = {key: value for key, value in predictor["model"].items() if key not in MODEL}
    pod = {"containers": [{"name": "kserve-container", **container}], **{name: predictor[name] for name in POD}}
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": service["metadata"], "spec": pod})
    assert predictor["model"]["modelFormat"] == {"name": "triton", "version": "2"}
    assert predictor["model"]["protocolVersion"] == "v2"
    assert predictor["model"]["storageUri"] == workload.storage


def test_what_refers_to_each_other_does() -> None:
    manifests = kubernetes_manifests(CPU)
    deployment, service, scaler, budget = manifests.values()
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = (
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
    )
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    ports = {port["name"] for port in container_of(deployment)["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports
    assert "replicas" not in deployment["spec"]  # the autoscaler's to choose
    serving = kserve_manifests(CPU)
    assert serving["horizontalpodautoscaler.yaml"]["spec"]["scaleTargetRef"]["name"] == "tiny-debi-predictor"
    annotations = serving["inferenceservice.yaml"]["metadata"]["annotations"]
    assert annotations["serving.kserve.io/autoscalerClass"] == "external"


def test_pods_are_scaled_on_the_queue() -> None:
    for manifests in (kubernetes_manifests(CPU), kserve_manifests(CPU)):
        (metric,) = manifests["horizontalpodautoscaler.yaml"]["spec"]["metrics"]
        assert metric["pods"]["metric"]["name"] == PENDING == "nv_inference_pending_request_count"
        assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "8"}


@pytest.mark.parametrize("workload", [CPU, GPU])
def test_kserves_pods_are_scraped_as_the_deployments_are(workload: Workload) -> None:
    template = kubernetes_manifests(workload)["deployment.yaml"]["spec"]["template"]
    service = kserve_manifests(workload)["inferenceservice.yaml"]
    scraping = {"prometheus.io/scrape": "true", "prometheus.io/port": "8002", "prometheus.io/path": "/metrics"}
    assert template["metadata"]["annotations"] == scraping
    annotations = service["metadata"]["annotations"]
    assert scraping.items() <= annotations.items()
    assert annotations["serving.kserve.io/enable-prometheus-scraping"] == "false"
    ports = {port["name"]: port["containerPort"] for port in service["spec"]["predictor"]["model"]["ports"]}
    assert ports == {"http": 8080, "grpc": 9000, "metrics": 8002}
    assert next(iter(ports)) == "http"  # KServe's Service leads its port 80 to the first


def test_kserves_pods_are_as_safe_and_as_spread_as_the_deployments() -> None:
    pod = kubernetes_manifests(CPU)["deployment.yaml"]["spec"]["template"]["spec"]
    manifests = kserve_manifests(CPU)
    predictor = manifests["inferenceservice.yaml"]["spec"]["predictor"]
    for name in ("securityContext", "automountServiceAccountToken", "terminationGracePeriodSeconds"):
        assert predictor[name] == pod[name]
    assert predictor["securityContext"]["runAsNonRoot"] is True
    assert predictor["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (theirs,), (ours,) = pod["topologySpreadConstraints"], predictor["topologySpreadConstraints"]
    assert {**theirs, "labelSelector": None} == {**ours, "labelSelector": None}
    assert ours["labelSelector"] == manifests["poddisruptionbudget.yaml"]["spec"]["selector"]


def test_pods_are_probed_and_drained() -> None:
    deployment = kubernetes_manifests(CPU)["deployment.yaml"]
    model = kserve_manifests(CPU)["inferenceservice.yaml"]["spec"]["predictor"]["model"]
    for container, port in ((container_of(deployment), 8000), (model, 8080)):
        paths = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
        assert {get["port"] for get in paths.values()} == {port}
        assert paths["readiness"]["path"] == paths["startup"]["path"] == "/v2/health/ready"
        assert paths["liveness"]["path"] == "/v2/health/live"
        assert f"sleep {DRAIN_S}" in container["lifecycle"]["preStop"]["exec"]["command"]
        assert f"--exit-timeout-secs={EXIT_S}" in container["args"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["resources"]["limits"] == {"cpu": "5", "memory": "1500Mi"}
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > DRAIN_S + EXIT_S


def test_a_repository_on_a_volume_is_mounted_and_one_in_a_store_is_read() -> None:
    pods = [kubernetes_manifests(w)["deployment.yaml"]["spec"]["template"]["spec"] for w in (CPU, GPU)]
    claims = [[v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v] for pod in pods]
    assert claims == [[{"claimName": "models", "readOnly": True}], []]
    repositories = [pod["containers"][0]["args"][0] for pod in pods]
    assert repositories == ["--model-repository=/models/serving", "--model-repository=s3://bucket/serving"]
    gpus = [pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for pod in pods]
    assert gpus == [None, "1"]


def test_files_are_those_of_the_manifests(tmp_path: Path) -> None:
    (tmp_path / "out" / "kubernetes").mkdir(parents=True)
    (tmp_path / "out" / "kubernetes" / "mine.yaml").write_text("kept")
    files = write_manifests(CPU, tmp_path / "out")
    expected = {"kubernetes": kubernetes_manifests(CPU), "kserve": kserve_manifests(CPU)}
    assert {file.relative_to(tmp_path / "out").as_posix() for file in files} == {
        f"{kind}/{name}" for kind, manifests in expected.items() for name in manifests
    }
    for file in files:
        assert yaml.safe_load(file.read_text()) == expected[file.parent.name][file.name]
    assert (tmp_path / "out" / "kubernetes" / "mine.yaml").read_text() == "kept"


def test_manifests_that_differ_are_replaced_only_with_force(tmp_path: Path) -> None:
    write_manifests(CPU, tmp_path)
    write_manifests(CPU, tmp_path)  # the same bytes
    mine = tmp_path / "kserve/inferenceservice.yaml"
    mine.write_text("mine")
    (tmp_path / "kubernetes/service.yaml").unlink()
    for attempt in (check_manifests, write_manifests):
        with pytest.raises(OutputError, match=r"--kserve .*/kserve/inferenceservice.yaml exists .* --force"):
            attempt(CPU, tmp_path)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "kubernetes/service.yaml").exists()
    write_manifests(CPU, tmp_path, force=True)
    check_manifests(CPU, tmp_path)


def test_what_manifests_leave_to_the_user_is_said() -> None:
    assert manifest_notes(CPU) == []
    (store,) = manifest_notes(GPU)
    assert "hold no credentials" in store and "s3://bucket/serving" in store
    assert manifest_notes(replace(CPU, cpus=8)) == []
    (many,) = manifest_notes(replace(CPU, cpus=9))
    assert "asks for 9 CPUs" in many and "lower --threads or --instances" in many
    (mixed,) = manifest_notes(replace(CPU, tensorrt=("10.5.0", "11.4.0")))
    assert "TensorRT 10.5.0 and 11.4.0, and a container has one of them" in mixed


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match=r"--kserve .*/out cannot be written"):
        write_manifests(CPU, tmp_path / "out")
    with pytest.raises(OutputError, match=r"--kserve .*/out cannot be written"):
        check_manifests(CPU, tmp_path / "out")


# ------------------------------------------------------------------------------------------ what a pod needs


def test_a_workload_is_read_off_the_repository(tiny_card: Card, tmp_path: Path) -> None:
    path = tmp_path / "My_Models"
    write_repository([make_bundle(tmp_path / "a", tiny_card)], path, options=ServingOptions(instances=2, threads=3))
    one = workload_of(path)
    assert (one.name, one.cpus, one.gpus, one.full_queue) == ("tiny-debi", 7, 0, 16)
    assert one.claim == ("model-repository", "")
    write_repository([f"z={make_bundle(tmp_path / 'b', tiny_card, 2)}"], path, options=ServingOptions(threads=1))
    two = workload_of(path, storage="gs://b/f", image="i:1")
    assert (two.name, two.cpus, two.claim, two.image) == ("my-models", 8, None, "i:1")
    assert two.memory_mib > one.memory_mib > 1024
    write_repository([make_bundle(tmp_path / "c", tiny_card, seed=1)], path)
    assert workload_of(path).memory_mib > two.memory_mib  # two versions are served at once


def test_a_queue_that_may_be_longer_takes_more_memory(tiny_card: Card, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "a", tiny_card)
    for name, most in (("short", 10), ("long", 10_000)):
        write_repository([bundle], tmp_path / name, options=ServingOptions(max_queue=most))
    more = workload_of(tmp_path / "long").memory_mib - workload_of(tmp_path / "short").memory_mib
    assert more == pytest.approx(9_990 * 8 * 3 * 64 * 64 * 4 / 2**20, abs=2)


def test_plans_need_a_gpu_and_their_tensorrt(tiny_card: Card, tmp_path: Path) -> None:
    write_repository([make_plan_bundle(tmp_path / "a", tiny_card, Profile(1, 2, 4))], tmp_path / "r")
    workload = workload_of(tmp_path / "r", image="triton:1")
    assert (workload.gpus, workload.cpus, workload.tensorrt) == (1, 2, ("11.4.0.106",))
    with pytest.raises(UsageError, match=r"no --image, .* whose TensorRT is 11.4.0.106, as listed in NVIDIA's support"):
        workload_of(tmp_path / "r")
    config = tmp_path / "r/tiny_debi/config.pbtxt"
    newer = replace(FULL, version="11.5.0.1")
    write_repository([make_plan_bundle(tmp_path / "b", tiny_card, Profile(1, 2, 4), fingerprint=newer)], tmp_path / "r")
    assert workload_of(tmp_path / "r", image="triton:1").tensorrt == ("11.4.0.106", "11.5.0.1")
    config.write_text(config.read_text().replace("num_versions: 2", "num_versions: 1"))
    assert workload_of(tmp_path / "r", image="triton:1").tensorrt == ("11.5.0.1",)
    config.write_text(config.read_text().replace('"2.tensorrt"', '"unknown"'))
    with pytest.raises(UsageError, match="whose TensorRT is the version that built it"):
        workload_of(tmp_path / "r")


def test_a_workload_is_foretold(tiny_card: Card, tmp_path: Path) -> None:
    """What is checked before a repository is written is what is written after."""
    path, foretold = tmp_path / "repository", list[Workload]()
    for seed, name in enumerate(("first", "first", "other")):
        bundle = make_bundle(tmp_path / f"b{seed}", tiny_card, seed=seed)
        write_repository(
            [f"{name}={bundle}"], path, check=lambda adding: foretold.append(workload_of(path, adding=adding))
        )
        assert foretold[-1] == workload_of(path)
    assert len(set(foretold)) == 3


@pytest.mark.parametrize("claim", ["MY_claim", "my_claim", "a:b", "a.", "-a", "a-", "a..b", "a" * 254])
def test_a_claim_that_kubernetes_does_not_take_is_refused(claim: str) -> None:
    with pytest.raises(UsageError, match="--storage-uri is"):
        check_storage(f"pvc://{claim}/folder")


@pytest.mark.parametrize(
    "storage", ["pvc://a", "pvc://my-claim.v2/Folder_1", f"pvc://{'a' * 253}/x", "s3://Some_bucket:9000/f"]
)
def test_storage_that_a_cluster_knows_is_taken(storage: str) -> None:
    assert check_storage(storage) == storage


@pytest.mark.parametrize(
    "storage", ["", "models", "/models", "http://x/y", "pvc://", "pvc://a/../b", "s3://a b", "file:///x"]
)
def test_storage_that_a_cluster_does_not_know_is_refused(tiny_card: Card, tmp_path: Path, storage: str) -> None:
    write_repository([make_bundle(tmp_path / "a", tiny_card)], tmp_path / "r")
    with pytest.raises(UsageError, match="--storage-uri is"):
        workload_of(tmp_path / "r", storage=storage)


def test_an_image_without_a_name_is_refused(tiny_card: Card, tmp_path: Path) -> None:
    write_repository([make_bundle(tmp_path / "a", tiny_card)], tmp_path / "r")
    for image in ("", "a b", "ä"):
        with pytest.raises(UsageError, match="--image is"):
            workload_of(tmp_path / "r", image=image)


def test_a_repository_that_cannot_be_read_is_refused(tiny_card: Card, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    with pytest.raises(InputError, match="holds no model"):
        workload_of(tmp_path / "r")
    write_repository([make_bundle(tmp_path / "a", tiny_card)], tmp_path / "r")
    (tmp_path / "r/tiny_debi/config.pbtxt").write_text("nonsense {")
    with pytest.raises(InputError, match="cannot be read"):
        workload_of(tmp_path / "r")


@pytest.mark.parametrize(
    ("text", "name"), [("debi_nano", "debi-nano"), ("A.B", "a-b"), ("7up", "m-7up"), ("-x-", "x"), ("a" * 99, "a" * 40)]
)
def test_names_are_made_fit(text: str, name: str) -> None:
    assert object_name(text) == name


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="no name for Kubernetes"):
        object_name("___")
