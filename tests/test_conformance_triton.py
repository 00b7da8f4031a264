"""What is generated for Triton loads in the real Triton, and is rolled out under load without losing a request."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from protocol_clients import BINARY, GRPC, PROTOCOLS, Array, Client, Refused, code_of
from real_triton import Ports, TritonFailed, real_triton, servable
from served_bundles import LABELS, make_bundle, make_plan_bundle
from two_servers import PATIENT, eventually, images, other_weights, same_bits

from debiexport.bundle import open_bundle
from debiexport.cards import Card
from debiexport.runtimes.ort import OrtRuntime
from debiexport.targets.tensorrt.profile import Profile
from debiexport.triton.presets import THROUGHPUT
from debiexport.triton.repository import write_repository

NAME = "tiny"


def test_every_choice_loads_in_triton(tiny_card: Card, tmp_path: Path) -> None:
    """Presets, instances, labels, fixed and free batches, plans: what is generated is a model that is ready."""
    repository, small = tmp_path / "repository", make_bundle(tmp_path / "small", tiny_card)
    fixed = make_bundle(tmp_path / "fixed", tiny_card, 2, input="uint8", labels=None)
    plans = make_plan_bundle(tmp_path / "plans", tiny_card, Profile(1, 2, 4), Profile(3, 3, 3))
    patient = replace(PATIENT, preset=THROUGHPUT, instances=2)
    for names, options in ((("small", "fixed"), PATIENT), (("eager", "eager_fixed", "plans"), patient)):
        bundles = [f"{name}={path}" for name, path in zip(names, (small, fixed, plans), strict=False)]
        write_repository(bundles, repository, options=options)
    onnx_models = {"plans_b1-2-4": plans / "model-b1-2-4.onnx", "plans_b3": plans / "model-b3.onnx"}
    copy = servable(repository, tmp_path / "copy", onnx_models)
    with real_triton(copy, tmp_path / "triton.log") as ports, Client(ports.http, ports.grpc, BINARY) as client:
        ready = ["eager", "eager_fixed", "fixed", "plans_b1-2-4", "plans_b3", "small"]
        assert client.index() == [(name, "1", "READY") for name in ready]
        given = images(open_bundle(small), 3)
        wanted = onnxruntime_of(small / "model.onnx", given)
        best = [LABELS[index] for index in wanted["logits"].argmax(axis=1)]
        for name in ("small", "eager", "plans_b1-2-4", "plans_b3"):
            same_bits(client.infer(name, {"images": given}).outputs, wanted)
            if client.config(name).max_batch_size:  # or Triton looks for one class in the whole tensor
                assert client.best_labels(name, {"images": given}, "logits") == best
        given = images(open_bundle(fixed), 2)
        for name in ("fixed", "eager_fixed"):
            same_bits(client.infer(name, {"images": given}).outputs, onnxruntime_of(fixed / "model.onnx", given))


def test_triton_refuses_a_broken_repository(tiny_card: Card, tmp_path: Path) -> None:
    """So that a repository which loads says something."""
    repository = tmp_path / "repository"
    write_repository([f"small={make_bundle(tmp_path / 'small', tiny_card)}"], repository)
    (repository / "small" / "1" / "model.onnx").write_bytes(b"no model")
    with (
        pytest.raises(TritonFailed, match=r"failed to load 'small' version 1.*INVALID_PROTOBUF"),
        real_triton(repository, tmp_path / "log"),
    ):
        pass


def test_a_plan_loads_in_triton(engine_bundle: Path, tmp_path: Path) -> None:
    """Its configuration, warm-up and batching are Triton's own; ONNX Runtime computes in the plan's place."""
    bundle = open_bundle(engine_bundle)
    write_repository([f"plan={engine_bundle}"], tmp_path / "repository", options=PATIENT)
    onnx_model = bundle.file("model")
    repository = servable(tmp_path / "repository", tmp_path / "copy", {"plan": onnx_model})
    given = images(bundle, 4)
    with real_triton(repository, tmp_path / "triton.log") as ports, Client(ports.http, ports.grpc, GRPC) as client:
        assert client.metadata("plan")["platform"] == "tensorrt_plan"
        config = client.config("plan")
        assert config.optimization.cuda.graphs
        assert config.max_batch_size == 4
        same_bits(client.infer("plan", {"images": given}).outputs, onnxruntime_of(onnx_model, given))
        warmed_up = 1 + 4  # a request for each image of both warm-ups
        eventually(lambda: client.statistics("plan", "1")["requests"], warmed_up + 1)


def onnxruntime_of(model: Path, given: Array) -> dict[str, Array]:
    return OrtRuntime(model, 1).run({"images": given})


def test_versions_are_rolled_out_under_load(dynamic_bundle: Path, tmp_path: Path) -> None:
    """A second version answers from some moment on, and no request fails; a broken third one changes nothing."""
    first, second = dynamic_bundle, other_weights(dynamic_bundle, tmp_path / "second")
    repository = tmp_path / "repository"
    write_repository([f"{NAME}={first}"], repository, options=PATIENT)
    given = images(open_bundle(first), 1)
    with (
        real_triton(repository, tmp_path / "triton.log") as ports,
        Load(ports, given) as load,
        Client(ports.http, ports.grpc, BINARY) as client,
    ):
        load.wait_for("1")
        write_repository([f"{NAME}={second}"], repository)
        client.load(NAME)
        load.wait_for("2")
        shutil.copytree(repository / NAME / "2", repository / NAME / "3")
        broken = repository / NAME / "3" / "model.onnx"
        broken.write_bytes(broken.read_bytes()[:1000])
        with pytest.raises(Refused) as refused:
            client.load(NAME)
        assert "version 3" in str(refused.value)
        load.wait_for("2")
        assert client.model_ready(NAME, "2")
        assert code_of(lambda: client.infer(NAME, {"images": given}, version="3")) != 200
    assert load.errors == []
    for versions in load.versions.values():
        assert versions == sorted(versions)  # once the new one has answered, the old one does not
        assert set(versions) == {"1", "2"}


class Load:
    """Clients that ask for the newest version without a pause, one over each protocol, and keep what they are told.

    Attributes:
        versions: that answered, in order, by protocol.
        errors: what failed.
    """

    def __init__(self, ports: Ports, given: Array) -> None:
        self._ports, self._given, self._end = ports, given, threading.Event()
        self._answered = threading.Condition()
        self.versions: dict[str, list[str]] = {protocol: [] for protocol in PROTOCOLS}
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(protocol,)) for protocol in PROTOCOLS]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for(self, version: str) -> None:
        """Wait until every client has had a few more answers, the last of them of a version."""
        with self._answered:
            before = {protocol: len(answers) for protocol, answers in self.versions.items()}

            def told() -> bool:
                new = [answers[before[protocol] :][-3:] for protocol, answers in self.versions.items()]
                return all(answers == [version] * 3 for answers in new)

            assert self._answered.wait_for(told, 60), (self.versions, self.errors[-3:])

    def _ask(self, protocol: str) -> None:
        with Client(self._ports.http, self._ports.grpc, protocol) as client:
            while not self._end.is_set():
                try:
                    version = client.infer(NAME, {"images": self._given}, ["logits"]).version
                except Exception as error:  # whatever a client meets is a request lost
                    with self._answered:
                        self.errors.append(f"{protocol}: {type(error).__name__}: {error}")
                else:
                    with self._answered:
                        self.versions[protocol].append(version)
                        self._answered.notify_all()
