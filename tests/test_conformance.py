"""One client, two servers: what holds for Triton holds for `debiexport serve`, over every protocol.

Results are compared bit by bit with ONNX Runtime on the same batch: where a request fills the batch, no server can put
anything beside it. Where it does not, the result has to be that of one of the batches that can come about.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from protocol_clients import PROTOCOLS, Array, Client, Refused
from real_triton import Ports, real_triton
from served_bundles import make_bundle
from two_servers import PATIENT, embedded_server, eventually, images, other_weights, same_bits

from debiexport.bundle import Bundle, open_bundle
from debiexport.cards import Card
from debiexport.prediction import predict
from debiexport.remote import predict_remote
from debiexport.triton.model_config import model_config
from debiexport.triton.repository import write_repository
from debiexport.triton.served import DEFAULT_MAX_BATCH, served_models

EMBEDDED, TRITON = "embedded", "Triton"
SERVERS = (EMBEDDED, TRITON)
VERSIONED, STATIC, BYTES, BACKBONE = "versioned", "static", "bytes", "backbone"
MODELS = (VERSIONED, STATIC, BYTES, BACKBONE)


@dataclass(frozen=True)
class Served:
    """The bundles by the names that they are served under, a list of versions each."""

    bundles: dict[str, list[Path]]

    @property
    def arguments(self) -> list[str]:
        """As the command lines and `write_repository` take them."""
        return [f"{name}={path}" for name, paths in self.bundles.items() for path in paths]

    def bundle(self, name: str, version: int = 0) -> Bundle:
        """The bundle of a version; the newest where none is given."""
        return open_bundle(self.bundles[name][version - 1])

    def reference(self, name: str, images: Array, version: int = 0) -> dict[str, Array]:
        """What ONNX Runtime gives, with the session options of the bundle."""
        return self.bundle(name, version).ort(1).run({"images": images})


@pytest.fixture(scope="module")
def served(
    _dynamic_bundle: Path, _seg_bundle: Path, tiny_card: Card, tmp_path_factory: pytest.TempPathFactory
) -> Served:
    """Two networks as they are exported, and two of a pair of operations for the other forms of a model."""
    folder = tmp_path_factory.mktemp("served")
    return Served(
        {
            VERSIONED: [_dynamic_bundle, other_weights(_dynamic_bundle, folder / "second")],
            STATIC: [make_bundle(folder / "static", tiny_card, 3)],
            BYTES: [make_bundle(folder / "bytes", tiny_card, input="uint8")],
            BACKBONE: [_seg_bundle],
        }
    )


@pytest.fixture(scope="module")
def servers(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Ports]]:
    """Either server over all bundles, started when it is first asked for."""
    folder = tmp_path_factory.mktemp("servers")
    running: dict[str, Ports] = {}
    with ExitStack() as stack:

        def start(name: str) -> Ports:
            if name not in running and name == EMBEDDED:
                running[name] = stack.enter_context(embedded_server(served.arguments, folder / "embedded.log"))
            elif name not in running:
                write_repository(served.arguments, folder / "repository", options=PATIENT)
                running[name] = stack.enter_context(real_triton(folder / "repository", folder / "triton.log"))
            return running[name]

        yield start


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, servers: Callable[[str], Ports]) -> Ports:
    return servers(request.param)


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(server: Ports, protocol: str) -> Iterator[Client]:
    with Client(server.http, server.grpc, protocol) as opened:
        yield opened


# ------------------------------------------------------------------------------------ what is served


def test_health(client: Client) -> None:
    assert client.live()
    assert client.ready()
    said = client.server_metadata()
    assert said["name"]
    assert said["version"]
    assert {"binary_tensor_data", "model_configuration", "statistics"} <= set(said["extensions"])


def test_models_are_ready(client: Client, served: Served) -> None:
    for name, bundles in served.bundles.items():
        assert client.model_ready(name)
        assert all(client.model_ready(name, str(version)) for version in range(1, len(bundles) + 1))
    assert not client.model_ready("nobody")
    assert not client.model_ready(VERSIONED, "9")


def test_index(client: Client, served: Served) -> None:
    assert client.index() == sorted(
        (name, str(version), "READY")
        for name, bundles in served.bundles.items()
        for version in range(1, len(bundles) + 1)
    )


@pytest.mark.parametrize("name", MODELS)
def test_metadata(client: Client, served: Served, name: str) -> None:
    bundle = served.bundle(name)
    (model,) = bundle.models
    kinds = {"float32": "FP32", "uint8": "UINT8"}
    tensors = {
        side: [
            (spec.name, kinds[spec.dtype], tuple(-1 if each is None else each for each in spec.shape)) for spec in specs
        ]
        for side, specs in (("inputs", model.inputs), ("outputs", model.outputs))
    }
    versions = [str(version) for version in range(1, len(served.bundles[name]) + 1)]
    said = client.metadata(name)
    assert said == {"name": name, "versions": versions, "platform": "onnxruntime_onnx", **tensors}
    assert client.metadata(name, versions[0])["inputs"] == tensors["inputs"]


@pytest.mark.parametrize("name", MODELS)
def test_config(client: Client, served: Served, name: str) -> None:
    (model,) = served_models(served.bundle(name), name)
    wanted, said = model_config(model), client.config(name)
    assert (said.name, said.platform, said.max_batch_size) == (name, wanted.platform, wanted.max_batch_size)
    for found, tensors in ((said.input, wanted.input), (said.output, wanted.output)):
        assert [(t.name, t.data_type, list(t.dims)) for t in found] == [
            (t.name, t.data_type, list(t.dims)) for t in tensors
        ]
    parameters = {key: value.string_value for key, value in said.parameters.items()}
    assert model.interface.items() <= parameters.items()
    version = len(served.bundles[name])
    assert {f"{version}.{key}": value for key, value in model.provenance.items()}.items() <= parameters.items()


# ---------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize(("name", "batch"), [(VERSIONED, 1), (BYTES, 1), (STATIC, 3), (BACKBONE, 2)])
def test_smallest_batch(client: Client, served: Served, name: str, batch: int) -> None:
    given = images(served.bundle(name), batch)
    same_bits(client.infer(name, {"images": given}).outputs, served.reference(name, given))


@pytest.mark.parametrize("name", [VERSIONED, BYTES])
def test_full_batch(client: Client, served: Served, name: str) -> None:
    given = images(served.bundle(name), DEFAULT_MAX_BATCH)
    same_bits(client.infer(name, {"images": given}).outputs, served.reference(name, given))


def test_versions(client: Client, served: Served) -> None:
    given = images(served.bundle(VERSIONED), 2)
    newest = client.infer(VERSIONED, {"images": given}, id="a request")
    assert (newest.model, newest.version, newest.id) == (VERSIONED, "2", "a request")
    for version in (1, 2):
        answer = client.infer(VERSIONED, {"images": given}, version=str(version))
        assert (answer.version, answer.id) == (str(version), "")
        same_bits(answer.outputs, served.reference(VERSIONED, given, version))
    assert not np.array_equal(served.reference(VERSIONED, given, 1)["logits"], newest.outputs["logits"])


def test_one_output_of_several(client: Client, served: Served) -> None:
    given = images(served.bundle(BACKBONE), 2)
    found = client.infer(BACKBONE, {"images": given}, ["feature3", "feature1"]).outputs
    reference = served.reference(BACKBONE, given)
    assert set(found) == {"feature1", "feature3"}
    same_bits(found, {name: reference[name] for name in found})


def test_concurrent_full_batches(server: Ports, protocol: str, served: Served) -> None:
    """Nothing fits beside a full batch, so every answer is exact."""
    for name, batch in ((VERSIONED, DEFAULT_MAX_BATCH), (STATIC, 3)):
        given = [images(served.bundle(name), batch, seed) for seed in range(4)]
        answers = at_once(server, protocol, name, given)
        for asked, found in zip(given, answers, strict=True):
            same_bits(found, served.reference(name, asked))


def test_concurrent_single_images(server: Ports, protocol: str, served: Served) -> None:
    """Which requests share a batch is chance; the bits of an image depend on the batch's size and its place in it."""
    given = [images(served.bundle(VERSIONED), 1, seed) for seed in range(8)]
    answers = at_once(server, protocol, VERSIONED, given)
    runtime = served.bundle(VERSIONED).ort(1)
    for asked, found in zip(given, answers, strict=True):
        possible = {
            row.tobytes()
            for size in range(1, DEFAULT_MAX_BATCH + 1)
            for row in runtime.run({"images": np.repeat(asked, size, axis=0)})["logits"]
        }
        assert found["logits"].tobytes() in possible


def at_once(server: Ports, protocol: str, name: str, given: Sequence[Array]) -> list[dict[str, Array]]:
    """The answers to requests that are sent together, each by a client of its own."""
    together = threading.Barrier(len(given))

    def ask(array: Array) -> dict[str, Array]:
        with Client(server.http, server.grpc, protocol) as client:
            together.wait(30)
            return client.infer(name, {"images": array}).outputs

    with ThreadPoolExecutor(len(given)) as pool:
        return list(pool.map(ask, given))


def test_statistics(client: Client, served: Served) -> None:
    given = images(served.bundle(VERSIONED), 3)
    before = client.statistics(VERSIONED, "1")
    for _ in range(2):
        client.infer(VERSIONED, {"images": given}, version="1")
    wanted = {name: count + more for (name, count), more in zip(before.items(), (6, 2, 2), strict=True)}
    eventually(lambda: client.statistics(VERSIONED, "1"), wanted)


@pytest.mark.parametrize("scheme", ["", "grpc://"])
@pytest.mark.parametrize("name", [VERSIONED, STATIC, BYTES])
def test_predict(server: Ports, scheme: str, name: str, served: Served, tmp_path: Path) -> None:
    """`debiexport predict` says the same with either server as with the bundle, to the last bit."""
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for number, file in enumerate(files):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    address = f"{scheme}{server.grpc if scheme else server.http}"
    wanted = predict(served.bundle(name), files, top=6, threads=1)
    assert predict_remote(address, name, files, top=6).predictions == wanted.predictions


# ----------------------------------------------------------------------------------------- refusals

NAME = VERSIONED


REFUSALS: dict[str, tuple[int, Callable[[Client, Array], object]]] = {
    "unknown model": (404, lambda client, given: client.infer("nobody", {"images": given}, ["logits"])),
    "unknown version": (404, lambda client, given: client.infer(NAME, {"images": given}, ["logits"], version="9")),
    "unknown input": (400, lambda client, given: client.infer(NAME, {"pictures": given})),
    "an input too many": (400, lambda client, given: client.infer(NAME, {"images": given, "more": given})),
    "no input": (400, lambda client, given: client.infer(NAME, {})),
    "unknown output": (400, lambda client, given: client.infer(NAME, {"images": given}, ["scores"])),
    "another dtype": (400, lambda client, given: client.infer(NAME, {"images": given.astype(np.float64)})),
    "no batch": (400, lambda client, given: client.infer(NAME, {"images": given[0]})),
    "an empty batch": (400, lambda client, given: client.infer(NAME, {"images": given[:0]})),
    "too large a batch": (400, lambda client, given: client.infer(NAME, {"images": np.repeat(given, 9, axis=0)})),
    "smaller images": (400, lambda client, given: client.infer(NAME, {"images": given[..., :32, :32]})),
    "channels last": (400, lambda client, given: client.infer(NAME, {"images": given.transpose(0, 2, 3, 1)})),
    "not the fixed batch": (400, lambda client, given: client.infer(STATIC, {"images": given})),
    "metadata of an unknown model": (404, lambda client, given: client.metadata("nobody")),
    "metadata of an unknown version": (404, lambda client, given: client.metadata(NAME, "9")),
    "configuration of an unknown model": (404, lambda client, given: client.config("nobody")),
    "configuration of an unknown version": (404, lambda client, given: client.config(NAME, "9")),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(client: Client, served: Served, case: str) -> None:
    code, ask = REFUSALS[case]
    given = images(served.bundle(NAME), 1)
    with pytest.raises(Refused) as refused:
        ask(client, given)
    assert refused.value.code == code, refused.value
    assert str(refused.value)
    same_bits(client.infer(NAME, {"images": given}).outputs, served.reference(NAME, given))  # it serves on
