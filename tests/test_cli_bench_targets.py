"""Which bundles `bench` measures by themselves; manifests alone are enough to tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from debiexport.cards import Card
from debiexport.cli.bench_targets import measured_alone, refuse_options
from debiexport.errors import UsageError
from debiexport.lowerings import LOWERINGS
from debiexport.manifest import COREML, MANIFEST, ONNX, TENSORRT, Manifest

OneLine = Callable[[BaseException], str]


@pytest.fixture
def bundle(tiny_card: Card, tmp_path: Path) -> Callable[..., Path]:
    """A folder with the manifest of a target."""

    def make(target: str, name: str = "") -> Path:
        folder = tmp_path / (name or target)
        folder.mkdir()
        Manifest(target, tiny_card, "x", None, (64, 64), (), LOWERINGS["cpu"], {}, None, {}).write(folder)
        return folder

    return make


@pytest.mark.parametrize(("target", "found"), [(ONNX, None), (COREML, COREML), (TENSORRT, TENSORRT)])
def test_one_bundle(bundle: Callable[..., Path], target: str, found: str | None) -> None:
    assert measured_alone([bundle(target)]) == found


def test_several_onnx_bundles_are_compared(bundle: Callable[..., Path]) -> None:
    assert measured_alone([bundle(ONNX, "a"), bundle(ONNX, "b")]) is None
    assert measured_alone([]) is None


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (COREML, "2 Core ML bundles were given: measure one at a time, as its compute units take the turns"),
        (TENSORRT, "2 TensorRT bundles were given: measure one at a time, as its engines take the GPU"),
    ],
)
def test_one_at_a_time(bundle: Callable[..., Path], one_line: OneLine, target: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        measured_alone([bundle(target, "a"), bundle(target, "b")])
    assert one_line(caught.value) == words


@pytest.mark.parametrize("targets", [(ONNX, TENSORRT), (TENSORRT, ONNX), (COREML, TENSORRT), (TENSORRT, COREML)])
def test_of_one_target(bundle: Callable[..., Path], one_line: OneLine, targets: tuple[str, str]) -> None:
    paths = [bundle(target) for target in targets]
    with pytest.raises(UsageError) as caught:
        measured_alone(paths)
    first = next(path for path, target in zip(paths, targets, strict=True) if target != ONNX)
    (other,) = set(paths) - {first}
    text = one_line(caught.value)
    assert text.startswith(f"{first} is a ") and f"{other} is not: they run in different ways" in text


def test_what_is_no_bundle_is_said_where_it_is_opened(bundle: Callable[..., Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / MANIFEST).write_text("{")
    assert measured_alone([broken]) is None and measured_alone([tmp_path / "nowhere"]) is None
    with pytest.raises(UsageError, match="is not: they run in different ways"):
        measured_alone([bundle(TENSORRT), broken])


@pytest.mark.parametrize(
    ("target", "how"),
    [(COREML, "timed by itself on each choice of compute units"), (TENSORRT, "timed by itself on the GPU")],
)
def test_options_that_do_not_apply(one_line: OneLine, target: str, how: str) -> None:
    refuse_options(target, {"--against": False, "--threads": False})
    with pytest.raises(UsageError) as caught:
        refuse_options(target, {"--against": False, "--threads": True, "--profile": True})
    assert one_line(caught.value).startswith("--threads does not apply to a ") and how in str(caught.value)
