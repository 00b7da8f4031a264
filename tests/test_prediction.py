"""Classifying and measuring accuracy, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from debiexport.bundle import Bundle, open_bundle
from debiexport.errors import BundleError, ImageError, UsageError
from debiexport.manifest import MANIFEST
from debiexport.prediction import PredictResult, evaluate, predict
from debiexport.preprocess import load_batch

OneLine = Callable[[BaseException], str]
LABELS = ["ant", "bee", "cät", "dog", "eel", "fox"]


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    paths = []
    for i in range(10):
        random = np.random.default_rng(i)
        coarse = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        path = folder / f"{9 - i}.png"  # the order given is not the alphabetical one
        Image.fromarray(coarse).resize((100, 80), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


def label(bundle: Path, labels: list[str] | None = None) -> Bundle:
    data = json.loads((bundle / MANIFEST).read_text())
    data["labels"] = labels or LABELS
    (bundle / MANIFEST).write_text(json.dumps(data))
    return open_bundle(bundle)


def expected(bundle: Path, images: list[Path]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Probabilities, one image at a time where the batch allows it."""
    opened = open_bundle(bundle)
    manifest, runtime = opened.manifest, opened.runtime(1)
    rows = []
    for path in images:
        batch = load_batch([path] * (runtime.batch or 1), manifest.card.preprocessing, manifest.image_size)
        logits = runtime.run({"images": batch})["logits"][0].astype(np.float64)
        rows.append(np.exp(logits) / np.exp(logits).sum())
    return np.stack(rows)


def same(result: PredictResult, shares: np.ndarray[tuple[int, int], np.dtype[np.float64]], images: list[Path]) -> None:
    assert [p.image for p in result.predictions] == [str(path) for path in images]
    for prediction, row in zip(result.predictions, shares, strict=True):
        found = {score.index: score.probability for score in prediction.classes}
        np.testing.assert_allclose([found[i] for i in sorted(found)], row[sorted(found)], rtol=1e-3)


# ----------------------------------------------------------------------------------------- predict


def test_probabilities(dynamic_bundle: Path, images: list[Path]) -> None:
    result = predict(dynamic_bundle, images, top=6)
    assert [note for note in result.notes if "mean nothing" not in note] == []
    same(result, expected(dynamic_bundle, images), images)
    for prediction in result.predictions:
        shares = [score.probability for score in prediction.classes]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
        assert {score.index for score in prediction.classes} == set(range(6))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10])
def test_static_batch_is_filled_up(static_bundle: Path, images: list[Path], count: int) -> None:
    same(predict(static_bundle, images[:count], top=6), expected(static_bundle, images[:count]), images[:count])


def test_bytes_give_the_same_classes(uint8_bundle: Path, dynamic_bundle: Path, images: list[Path]) -> None:
    """Image files are bytes to begin with: normalised inside or outside of the model, they are the same."""
    same(predict(uint8_bundle, images, top=6), expected(dynamic_bundle, images), images)


def test_features_are_no_classes(seg_bundle: Path, images: list[Path], one_line: OneLine) -> None:
    with pytest.raises(UsageError, match="predict needs classes") as caught:
        predict(seg_bundle, images)
    assert "gives features" in one_line(caught.value)
    with pytest.raises(UsageError, match="--eval needs classes"):
        evaluate(open_bundle(seg_bundle), images[0].parent)


def test_an_image_given_twice(dynamic_bundle: Path, images: list[Path]) -> None:
    twice = [images[1], images[0], images[1]]
    first, _, third = predict(dynamic_bundle, [str(path) for path in twice], threads=1).predictions
    assert first.image == third.image
    assert [score.index for score in first.classes] == [score.index for score in third.classes]


@pytest.mark.parametrize(("top", "classes"), [(1, 1), (3, 3), (6, 6), (100, 6)])
def test_top(dynamic_bundle: Path, images: list[Path], top: int, classes: int) -> None:
    (prediction,) = predict(dynamic_bundle, images[:1], top=top).predictions
    assert len(prediction.classes) == classes


def test_labels(dynamic_bundle: Path, images: list[Path]) -> None:
    (plain,) = predict(dynamic_bundle, images[:1]).predictions
    assert {score.label for score in plain.classes} == {None}
    assert f"class {plain.classes[0].index}" in str(plain)
    (named,) = predict(label(dynamic_bundle), images[:1]).predictions
    assert [score.label for score in named.classes] == [LABELS[score.index] for score in named.classes]
    assert LABELS[named.classes[0].index] in str(named)


def test_result_as_dict(dynamic_bundle: Path, images: list[Path]) -> None:
    result = predict(dynamic_bundle, images[:2], top=1)
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [entry["image"] for entry in data["predictions"]] == [str(path) for path in images[:2]]
    assert str(images[1]) in str(result)


def test_unverified_bundles_are_told(dynamic_bundle: Path, images: list[Path]) -> None:
    left = dynamic_bundle.rename(dynamic_bundle.with_name("x.unverified"))
    (note,) = (note for note in predict(left, images[:1]).notes if "mean nothing" not in note)
    assert "do not rely" in note


@pytest.mark.parametrize("top", [0, -1])
def test_top_below_one(dynamic_bundle: Path, images: list[Path], one_line: OneLine, top: int) -> None:
    with pytest.raises(UsageError, match="--top") as caught:
        predict(dynamic_bundle, images, top=top)
    one_line(caught.value)


def test_no_images(dynamic_bundle: Path) -> None:
    with pytest.raises(UsageError, match="no images"):
        predict(dynamic_bundle, [])


def test_bad_images(dynamic_bundle: Path, images: list[Path], one_line: OneLine) -> None:
    text = images[0].with_name("text.png")
    text.write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png") as caught:
        predict(dynamic_bundle, [images[0], text])
    one_line(caught.value)
    with pytest.raises(UsageError, match=r"nowhere\.png"):
        predict(dynamic_bundle, [images[0], images[0].with_name("nowhere.png")])


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("places", [[0], [4], [10], [0, 1, 2], [3, 7, 8, 13], list(range(3, 13)), list(range(10, 13))])
def test_bad_images_do_not_cost_the_others(
    dynamic_bundle: Path, static_bundle: Path, images: list[Path], kind: str, places: list[int]
) -> None:
    """In any place, more or fewer than a batch of them, the others' numbers are what they are without them."""
    bundle = dynamic_bundle if kind == "dynamic" else static_bundle
    text, nowhere = images[0].with_name("text.png"), images[0].with_name("nowhere.png")
    text.write_text("no image")
    good = iter(images)
    given = [
        (text if place % 2 else nowhere) if place in places else next(good)
        for place in range(len(images) + len(places))
    ]
    result = predict(bundle, given, top=6, keep_going=True)
    used = [path for path in given if path in images]
    same(result, expected(bundle, used), used)
    bad = [path for path in given if path not in images]
    assert [failure.image for failure in result.failures] == [str(path) for path in bad]
    assert all(failure.image in failure.reason and "\n" not in failure.reason for failure in result.failures)
    assert [failure.exit_code for failure in result.failures] == [4 if path == text else 2 for path in bad]
    data = json.loads(json.dumps(result.to_dict()))
    assert [entry["image"] for entry in data["failures"]] == [str(path) for path in bad]
    assert len(data["predictions"]) == len(used)
    assert str(result.failures[0]) in str(result)


def test_nothing_but_bad_images(dynamic_bundle: Path, images: list[Path]) -> None:
    result = predict(dynamic_bundle, [images[0].with_name("nowhere.png")] * 2, keep_going=True)
    assert (result.predictions, len(result.failures)) == ((), 2)


def test_altered_bundle(dynamic_bundle: Path, images: list[Path]) -> None:
    with (dynamic_bundle / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError):
        predict(dynamic_bundle, images)


# ---------------------------------------------------------------------------------------- evaluate


def sort_into(root: Path, images: list[Path], names: list[str]) -> Path:
    for path, name in zip(images, names, strict=True):
        (root / name).mkdir(parents=True, exist_ok=True)
        path.rename(root / name / path.name)
    return root


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("batch", ["dynamic", "static"])
def test_accuracy(
    dynamic_bundle: Path, static_bundle: Path, images: list[Path], tmp_path: Path, labelled: bool, batch: str
) -> None:
    """Four images under their best class, three under their second, three under their last of six."""
    path = dynamic_bundle if batch == "dynamic" else static_bundle
    order = np.argsort(-expected(path, images), axis=1)
    rank = [0] * 4 + [1] * 3 + [5] * 3
    names = LABELS if labelled else [str(i) for i in range(6)]
    root = sort_into(tmp_path / "eval", images, [names[order[i, rank[i]]] for i in range(10)])
    (root / "README.txt").write_text("not a class")
    (root / ".cache").mkdir()
    next(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")).joinpath(".DS_Store").write_text("x")
    bundle = label(path) if labelled else open_bundle(path)
    lines: list[str] = []
    accuracy = evaluate(bundle, root, threads=1, progress=lines.append)
    assert (accuracy.images, accuracy.top1, accuracy.top5) == (10, 0.4, 0.7)
    assert accuracy.to_dict() == {"images": 10, "top1": 0.4, "top5": 0.7, "skipped": []}
    assert str(accuracy) == "top-1 40.00%, top-5 70.00% of 10 images"
    assert "10 images" in lines[0]


@pytest.mark.parametrize(("labelled", "name", "words"), [(True, "0", "labels"), (False, "ant", "class indices")])
def test_folder_of_no_class(
    dynamic_bundle: Path, images: list[Path], tmp_path: Path, one_line: OneLine, labelled: bool, name: str, words: str
) -> None:
    bundle = label(dynamic_bundle) if labelled else open_bundle(dynamic_bundle)
    root = sort_into(tmp_path / "eval", images, [name] * 10)
    with pytest.raises(UsageError, match=words) as caught:
        evaluate(bundle, root)
    assert repr(name) in one_line(caught.value)


def test_label_of_several_classes(dynamic_bundle: Path, images: list[Path], tmp_path: Path) -> None:
    """ImageNet has two cranes: a folder of that name is of neither for certain."""
    bundle = label(dynamic_bundle, ["crane", "bee", "crane", "dog", "eel", "fox"])
    with pytest.raises(UsageError, match=r"label 'crane': .*--labels .* \('crane' is of 0 and 2\)"):
        evaluate(bundle, sort_into(tmp_path / "eval", images, ["crane"] * 10))
    with pytest.raises(UsageError, match=r"must be labels, as bee, dog, eel$"):
        evaluate(bundle, sort_into(tmp_path / "other", list((tmp_path / "eval" / "crane").iterdir()), ["ant"] * 10))


def test_a_single_class_folder(dynamic_bundle: Path, images: list[Path], tmp_path: Path, one_line: OneLine) -> None:
    root = sort_into(tmp_path / "eval", images, ["0"] * 10)
    with pytest.raises(UsageError, match=r"holds files and no class folders .* named as 0, 1, 2$") as caught:
        evaluate(open_bundle(dynamic_bundle), root / "0")
    one_line(caught.value)


@pytest.mark.parametrize("kind", ["nowhere", "empty", "empty classes", "file"])
def test_nothing_to_measure(dynamic_bundle: Path, tmp_path: Path, one_line: OneLine, kind: str) -> None:
    root = tmp_path / "eval"
    if kind == "file":
        root.write_text("x")
    elif kind != "nowhere":
        (root / "0" if kind == "empty classes" else root).mkdir(parents=True)
    with pytest.raises(UsageError, match="--eval") as caught:
        evaluate(open_bundle(dynamic_bundle), root)
    one_line(caught.value)


@pytest.mark.parametrize("batch", ["dynamic", "static"])
def test_broken_images_among_them(
    dynamic_bundle: Path, static_bundle: Path, images: list[Path], tmp_path: Path, batch: str
) -> None:
    """They are listed and not counted, and the others are still compared with their own classes."""
    bundle = open_bundle(dynamic_bundle if batch == "dynamic" else static_bundle)
    best = np.argmax(expected(bundle.path, images), axis=1)
    names = [str(best[i] if i < 6 else (best[i] + 1) % 6) for i in range(10)]
    root = sort_into(tmp_path / "eval", images, names)
    whole = evaluate(bundle, root)
    assert (whole.images, whole.top1, whole.skipped) == (10, 0.6, ())
    folders = sorted(path for path in root.iterdir())
    broken = [folders[0] / "0.png", folders[0] / "a.png", folders[-1] / "zzz.png"]
    for path in broken:
        path.write_text("no image")
    accuracy = evaluate(bundle, root)
    assert (accuracy.images, accuracy.top1, accuracy.top5) == (10, 0.6, whole.top5)
    assert [failure.image for failure in accuracy.skipped] == [str(path) for path in broken]
    assert str(accuracy) == f"{whole}, skipped 3"
    assert [entry["image"] for entry in accuracy.to_dict()["skipped"]] == [str(path) for path in broken]


def test_nothing_but_broken_images(dynamic_bundle: Path, tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / "eval" / "0").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (tmp_path / "eval" / "0" / name).write_text("no image")
    with pytest.raises(ImageError, match=r"not one of its 2 files can be used; the first: .*a\.png") as caught:
        evaluate(open_bundle(dynamic_bundle), tmp_path / "eval")
    one_line(caught.value)
