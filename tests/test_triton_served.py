"""What a server offers of a bundle: names, batches, plans, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from served_bundles import FOR_RTX, LABELS, make_bundle, make_plan_bundle

from debiexport.bundle import open_bundle, sha256_of
from debiexport.cards import Card
from debiexport.errors import BundleError, UsageError
from debiexport.targets.tensorrt.profile import Profile
from debiexport.triton.served import check_name, named_bundle, served_models

OneLine = Callable[[BaseException], str]


def test_a_dynamic_bundle_takes_any_batch_up_to_the_servers(tiny_card: Card, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", tiny_card)
    (served,) = served_models(bundle)
    assert (served.name, served.platform, served.filename) == ("tiny_debi", "onnxruntime_onnx", "model.onnx")
    assert (served.batch, served.max_batch) == (None, 8)
    assert served.inputs[0].shape == (None, 3, 64, 64)
    assert served.labels == LABELS
    assert served_models(open_bundle(bundle), max_batch=32)[0].max_batch == 32


def test_a_fixed_batch_stays_what_it_is(tiny_card: Card, tmp_path: Path) -> None:
    (served,) = served_models(make_bundle(tmp_path / "b", tiny_card, 3), max_batch=8)
    assert (served.batch, served.max_batch, served.inputs[0].shape[0]) == (3, 0, 3)


def test_parameters_say_how_to_call_it_and_where_it_comes_from(tiny_card: Card, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", tiny_card)
    (served,) = served_models(bundle)
    assert served.interface.keys() == {"network", "image_size", "input", "preprocessing", "labels"}
    assert json.loads(served.interface["labels"]) == list(served.labels or ())
    assert json.loads(served.interface["preprocessing"])["crop"] == [64, 64]
    assert served.provenance["model_sha256"] == sha256_of(bundle / "model.onnx")
    assert served.provenance["source_sha256"] == "ab" * 32
    assert served.provenance["precision"] == "float32"
    assert served.parameters == {**served.interface, **served.provenance}


def test_a_plan_is_served_within_its_profile(tiny_card: Card, tmp_path: Path) -> None:
    bundle = make_plan_bundle(tmp_path / "b", tiny_card, Profile(1, 2, 4))
    (served,) = served_models(bundle)
    assert (served.platform, served.filename, served.file.name) == ("tensorrt_plan", "model.plan", "model.plan")
    assert (served.batch, served.max_batch, served.tuned_batch, served.largest_batch) == (None, 4, 2, 4)
    assert served.provenance["tensorrt"] == "11.4.0.106"
    assert served.provenance["compute_capability"] == "8.9"
    assert served.provenance["batches"] == "1:2:4"
    assert served_models(bundle, max_batch=2)[0].max_batch == 2
    with pytest.raises(UsageError, match=r"--max-batch is 8, and .* at most 4"):
        served_models(bundle, max_batch=8)


def test_a_plan_of_one_batch_is_fixed(tiny_card: Card, tmp_path: Path) -> None:
    (served,) = served_models(make_plan_bundle(tmp_path / "b", tiny_card, Profile(2, 2, 2)))
    assert (served.batch, served.max_batch) == (2, 0)


def test_a_plan_without_single_images_is_refused(tiny_card: Card, tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(BundleError, match="--batch 1:4:8") as caught:
        served_models(make_plan_bundle(tmp_path / "b", tiny_card, Profile(2, 4, 8)))
    one_line(caught.value)


def test_an_engine_of_tensorrt_for_rtx_is_refused_and_its_model_served(
    tiny_card: Card, tmp_path: Path, one_line: OneLine
) -> None:
    bundle = make_plan_bundle(tmp_path / "b", tiny_card, Profile(1, 1, 1), fingerprint=FOR_RTX)
    with pytest.raises(BundleError, match=r"--engine tensorrt .* --onnx") as caught:
        served_models(bundle)
    one_line(caught.value)
    (served,) = served_models(bundle, onnx=True)
    assert served.platform == "onnxruntime_onnx"
    assert "in float32" in served.notes[0]


def test_a_tensorrt_bundle_without_engines_is_served_as_onnx(tiny_card: Card, tmp_path: Path) -> None:
    typed = make_plan_bundle(tmp_path / "b", tiny_card, Profile(1, 2, 4), fingerprint=None)
    (served,) = served_models(typed)
    assert (served.platform, served.max_batch) == ("onnxruntime_onnx", 8)
    full = make_plan_bundle(tmp_path / "c", tiny_card, Profile(1, 2, 4), fingerprint=None, precision="fp32")
    assert served_models(full)[0].notes == ()


def test_several_models_of_a_bundle_have_names_of_their_own(tiny_card: Card, tmp_path: Path) -> None:
    bundle = make_plan_bundle(tmp_path / "b", tiny_card, Profile(1, 1, 1), Profile(1, 4, 8))
    assert [served.name for served in served_models(bundle)] == ["tiny_debi_b1", "tiny_debi_b1-4-8"]
    assert [served.name for served in served_models(bundle, "x")] == ["x_b1", "x_b1-4-8"]
    assert [served.max_batch for served in served_models(bundle)] == [0, 8]


def test_what_lost_parity_is_refused(tiny_card: Card, tmp_path: Path, one_line: OneLine) -> None:
    bundle = make_bundle(tmp_path / "b", tiny_card, verified=False)
    with pytest.raises(BundleError, match="lost parity") as caught:
        served_models(bundle)
    one_line(caught.value)
    assert served_models(bundle, allow_unverified=True)[0].provenance["verified"] == "false"
    marked = make_bundle(tmp_path / "c.unverified", tiny_card)
    with pytest.raises(BundleError, match="lost parity"):
        served_models(marked)


def test_what_was_altered_is_refused(tiny_card: Card, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", tiny_card)
    with (bundle / "model.onnx").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="was altered"):
        served_models(bundle)


@pytest.mark.parametrize("batch", [0, 1025])
def test_a_batch_out_of_range_is_refused(tiny_card: Card, tmp_path: Path, batch: int) -> None:
    with pytest.raises(UsageError, match=f"--max-batch is {batch}: give 1 to 1024"):
        served_models(make_bundle(tmp_path / "b", tiny_card), max_batch=batch)


@pytest.mark.parametrize("name", ["debi_nano", "a", "A.b-2", "7up", "x" * 128])
def test_names_that_a_model_can_have(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-x", "a/b", "a b", "ä", "x" * 129, "a\n", "a\\b", "a%2e"])
def test_names_that_a_model_cannot_have(name: str, one_line: OneLine) -> None:
    with pytest.raises(UsageError, match="the model's name is") as caught:
        check_name(name)
    one_line(caught.value)


def test_a_bundle_can_be_named(tmp_path: Path) -> None:
    assert named_bundle("artifacts/nano") == (None, Path("artifacts/nano"))
    assert named_bundle("a=b/c=d") == ("a", Path("b/c=d"))
    assert named_bundle("./x=y/z") == (None, Path("./x=y/z"))
    folder = tmp_path / "a=b"
    folder.mkdir()
    assert named_bundle(str(folder)) == (None, folder)
    for text in (f"../x={tmp_path}", f"a/b={tmp_path}"):
        with pytest.raises(UsageError, match="the model's name is"):
            named_bundle(text)
    with pytest.raises(UsageError, match="names no bundle"):
        named_bundle("a=")
    with pytest.raises(UsageError, match="the model's name is"):
        named_bundle("=b")
