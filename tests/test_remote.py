"""Classifying with a server gives what the bundle itself gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_inference_server import Script, http_server
from PIL import Image
from real_triton import Ports
from served_bundles import LABELS, make_bundle
from two_servers import embedded_server

from debiexport.cards import Card
from debiexport.cli.main import run
from debiexport.errors import DebiexportError, ImageError, UsageError
from debiexport.prediction import predict
from debiexport.remote import predict_remote
from debiexport.triton.model_config import model_config
from debiexport.triton.served import served_models

OneLine = Callable[[BaseException], str]


@pytest.fixture(scope="module")
def bundles(
    _dynamic_bundle: Path, _seg_bundle: Path, tiny_card: Card, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Two networks as they are exported, and two of a pair of operations for the other forms of a model."""
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "dynamic": _dynamic_bundle,
        "static": make_bundle(folder / "static", tiny_card, 3),
        "bytes": make_bundle(folder / "bytes", tiny_card, input="uint8"),
        "backbone": _seg_bundle,
    }


@pytest.fixture(scope="module")
def ports(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    log = tmp_path_factory.mktemp("server") / "log"
    with embedded_server([f"{name}={path}" for name, path in bundles.items()], log) as ports:
        yield ports


@pytest.fixture(params=["http", "grpc"])
def server(request: pytest.FixtureRequest, ports: Ports) -> str:
    return ports.http if request.param == "http" else f"grpc://{ports.grpc}"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number}.png" for number in range(10)]
    for number, path in enumerate(paths):
        coarse = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((100 + number, 80), Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.fixture
def script(tiny_card: Card, tmp_path: Path) -> Script:
    (served,) = served_models(make_bundle(tmp_path / "bundle", tiny_card))
    return Script(model_config(served), lambda batch: np.tile([0, 0, 9, 0, 8, 0], (batch, 1)))


@pytest.mark.parametrize("name", ["dynamic", "static", "bytes"])
@pytest.mark.parametrize("count", [1, 10])
def test_predictions(name: str, count: int, server: str, bundles: dict[str, Path], images: list[Path]) -> None:
    """To the last bit: both prepare images in the same way, and put as many of them together."""
    found = predict_remote(server, name, images[:count], top=6)
    wanted = predict(bundles[name], images[:count], top=6, threads=1)
    assert found.predictions == wanted.predictions
    assert found.failures == ()
    random = f"the weights of {name!r} at {server} are random, seed 0: its outputs mean nothing"
    assert found.notes == ((random,) if name == "dynamic" else ())


def test_images_that_cannot_be_used(server: str, images: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    mixed = [images[0], tmp_path / "nowhere.png", images[1], text]
    found = predict_remote(server, "dynamic", mixed, keep_going=True)
    assert [each.image for each in found.predictions] == [str(images[0]), str(images[1])]
    assert [(each.image, each.exit_code) for each in found.failures] == [(str(mixed[1]), 2), (str(text), 4)]
    with pytest.raises(UsageError, match=r"nowhere\.png"):
        predict_remote(server, "dynamic", mixed)
    with pytest.raises(ImageError, match=r"text\.png"):
        predict_remote(server, "dynamic", mixed[2:])


def test_refusals(server: str, images: list[Path], one_line: OneLine) -> None:
    for model, words in (
        ("nobody", "give --model one of its models: backbone, bytes, dynamic, static"),
        ("backbone", "needs classes"),
    ):
        with pytest.raises(UsageError, match=words) as refused:
            predict_remote(server, model, images)
        one_line(refused.value)


@pytest.mark.parametrize(
    ("images", "top", "words"),
    [([], 5, "no images"), ("a.png", 5, "give a list of files"), (["a.png"], 0, "--top is 0")],
)
def test_arguments(images: list[str], top: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        predict_remote("127.0.0.1:1", "model", images, top=top)


def test_batches_and_labels(script: Script, images: list[Path]) -> None:
    """Batches of eight, or of what the server allows."""
    script.config.parameters["labels"].string_value = json.dumps(LABELS)
    with http_server(script) as server:
        result = predict_remote(server, "tiny_debi", images, top=2)
        assert [str(score).split()[0] for score in result.predictions[9].classes] == ["cat", "emu"]
        assert result.notes == ()
        script.config.max_batch_size = 4
        predict_remote(server, "tiny_debi", images)
    assert script.batches == [8, 2, 4, 4, 2]


def test_a_fixed_batch_is_filled_up(tiny_card: Card, images: list[Path], tmp_path: Path) -> None:
    (served,) = served_models(make_bundle(tmp_path / "bundle", tiny_card, 4))
    script = Script(model_config(served), lambda batch: np.eye(6)[:batch])
    with http_server(script) as server:
        result = predict_remote(server, "tiny_debi", images, top=1)
    assert script.batches == [4, 4, 4]
    assert [each.classes[0].index for each in result.predictions] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 5), (2, 6, 1)])
def test_wrong_shapes(shape: tuple[int, ...], script: Script, images: list[Path], one_line: OneLine) -> None:
    script.logits = lambda batch: np.zeros(shape)
    with http_server(script) as server, pytest.raises(DebiexportError, match="numbers of the shape") as refused:
        predict_remote(server, "tiny_debi", images[:2])
    one_line(refused.value)


# -------------------------------------------------------------------------------------- command line


def test_command(server: str, images: list[Path], capsys: pytest.CaptureFixture[str], bundles: dict[str, Path]) -> None:
    asked = ["predict", "--server", server, "--model", "dynamic"]
    assert run([*asked, str(images[0]), str(images[1]), "--json", "--top", "2"]) == 0
    data = json.loads(capsys.readouterr().out)
    wanted = predict(bundles["dynamic"], images[:2], top=2, threads=1)
    assert data["predictions"] == [each.to_dict() for each in wanted.predictions]
    assert run([*asked, str(images[0])]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{images[0]}: class ")
    assert "note: the weights of 'dynamic'" in said.err


def test_command_with_bad_images_among_good_ones(
    ports: Ports, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["predict", "--server", ports.http, "--model", "dynamic", str(tmp_path / "nowhere.png"), str(images[0])]
    assert run(asked) == 2
    said = capsys.readouterr()
    assert said.out.startswith(f"{images[0]}: class ")
    assert "error: no file" in said.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--server", "127.0.0.1:1", "a.png"], "--server needs --model"),
        (["--model", "debi_nano", "BUNDLE", "a.png"], "--model debi_nano is of a server: give --server too"),
        (
            ["--server", "127.0.0.1:1", "--model", "debi_nano", "BUNDLE", "a.png"],
            "is a folder: give a bundle or --server",
        ),
        (["--server", "127.0.0.1:1", "--model", "m", "a.png", "--threads", "2"], "--threads 2 is of a bundle"),
        (["--server", "127.0.0.1:1", "--model", "m"], "Missing argument"),
        (["--server", "127.0.0.1:1", "--model", "m", "a.png"], "no inference server answers at 127.0.0.1:1"),
        (["--server", "ftp://host", "--model", "m", "a.png"], "give host:port or grpc://host:port"),
        (["a.png"], "give BUNDLE and image files, or --server, --model and image files"),
    ],
)
def test_bad_options(options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bundle").mkdir()
    assert run(["predict", *(str(tmp_path / "bundle") if each == "BUNDLE" else each for each in options)]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def test_an_overloaded_server(script: Script, images: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    script.refuse = 503
    with http_server(script) as server:
        assert run(["predict", "--server", server, "--model", "tiny_debi", str(images[0])]) == 1
    assert "is overloaded or stopping" in capsys.readouterr().err
