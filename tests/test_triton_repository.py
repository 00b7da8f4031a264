"""Model repositories: whole or not at all, and versions that leave the older ones as they are."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from served_bundles import LABELS, make_bundle, make_plan_bundle

from debiexport.bundle import sha256_of
from debiexport.cards import Card
from debiexport.errors import BundleError, InputError, OutputError, UsageError
from debiexport.runtimes.session import RECOMMENDED, SessionOptions
from debiexport.targets.tensorrt.profile import Profile
from debiexport.triton import merging, repository
from debiexport.triton.lint import lint_repository
from debiexport.triton.presets import LATENCY, THROUGHPUT, ServingOptions
from debiexport.triton.protos import from_text
from debiexport.triton.repository import write_repository

OneLine = Callable[[BaseException], str]
Make = Callable[..., Path]


@pytest.fixture
def make(tiny_card: Card, tmp_path: Path) -> Make:
    """Bundles by name; see `make_bundle`."""
    return lambda name, *args, **options: make_bundle(tmp_path / name, tiny_card, *args, **options)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, by its path; None for folders."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def nothing_beside(path: Path, *expected: str) -> None:
    """No temporary folder was left."""
    assert {other.name for other in path.parent.iterdir() if other.name.startswith(".")} == set(expected)


def config_of(folder: Path) -> Any:
    return from_text((folder / "config.pbtxt").read_text())


def test_a_repository_holds_what_triton_loads(make: Make, tmp_path: Path) -> None:
    bundle, path = make("a"), tmp_path / "deep" / "repository"
    result = write_repository([bundle], path)
    assert set(contents(path)) == {
        "tiny_debi",
        "tiny_debi/config.pbtxt",
        "tiny_debi/labels.txt",
        "tiny_debi/1",
        "tiny_debi/1/model.onnx",
    }
    assert (path / "tiny_debi/labels.txt").read_text() == "".join(f"{label}\n" for label in LABELS)
    assert (path / "tiny_debi/1/model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()
    (version,) = result.versions
    assert (version.name, version.version, version.max_batch) == ("tiny_debi", 1, 8)
    assert version.file.is_file()
    assert str(result) == f"{path}: tiny_debi version 1: onnxruntime_onnx, batches of up to 8"
    assert lint_repository(path).findings == ()
    nothing_beside(path)


def test_others_may_read_it(make: Make, tmp_path: Path) -> None:
    """Triton's container is another user."""
    before = os.umask(0o022)
    try:
        write_repository([make("a")], tmp_path / "repository")
    finally:
        os.umask(before)
    for path in (tmp_path / "repository", *(tmp_path / "repository").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def test_bundles_of_one_model_become_its_versions(make: Make, tmp_path: Path) -> None:
    bundles, path = [make("a"), make("b", seed=1), make("c", 2)], tmp_path / "repository"
    result = write_repository([*map(str, bundles[:2]), f"other={bundles[2]}"], path)
    assert [(v.name, v.version) for v in result.versions] == [("tiny_debi", 1), ("tiny_debi", 2), ("other", 1)]
    for version, bundle in ((1, bundles[0]), (2, bundles[1])):
        assert sha256_of(path / f"tiny_debi/{version}/model.onnx") == sha256_of(bundle / "model.onnx")
        parameter = config_of(path / "tiny_debi").parameters[f"{version}.model_sha256"].string_value
        assert parameter == sha256_of(bundle / "model.onnx")
    assert config_of(path / "other").max_batch_size == 0
    assert lint_repository(path).findings == ()


def test_a_version_leaves_the_older_ones_as_they_are(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path)
    before = contents(path)
    result = write_repository([make("b", seed=1)], path)
    assert [version.version for version in result.versions] == [2]
    assert "tiny_debi keeps the settings of its config.pbtxt" in result.notes
    after = contents(path)
    text, older = after.pop("tiny_debi/config.pbtxt"), before.pop("tiny_debi/config.pbtxt")
    assert isinstance(text, bytes) and isinstance(older, bytes) and text.startswith(older.rstrip())
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"tiny_debi/2", "tiny_debi/2/model.onnx"}
    assert lint_repository(path).findings == ()
    nothing_beside(path)


def test_a_free_version_follows_the_highest(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path)
    (path / "tiny_debi/1").rename(path / "tiny_debi/7")
    (path / "tiny_debi/09").mkdir()
    (path / "tiny_debi/warmup").mkdir()
    assert [v.version for v in write_repository([make("b", seed=1), make("c", seed=2)], path).versions] == [8, 9]


def test_what_somebody_tuned_and_wrote_is_kept(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path)
    config = path / "tiny_debi/config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 3  # measured in May"))
    config.chmod(0o640)
    write_repository([make("b", seed=1)], path)
    assert "count: 3  # measured in May" in config.read_text()
    assert config_of(path / "tiny_debi").instance_group[0].count == 3
    assert config.stat().st_mode & 0o777 == 0o640


def test_a_policy_that_leaves_the_new_version_out_is_said(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path)
    config = path / "tiny_debi/config.pbtxt"
    config.write_text(config.read_text().replace("latest {\n    num_versions: 2\n  }", "specific { versions: 1 }"))
    result = write_repository([make("b", seed=1)], path)
    assert any("version_policy names, and 2 is none of them" in note for note in result.notes)


def test_versions_that_are_served_no_more_are_said(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "repository"
    write_repository([make("a"), make("b", seed=1)], path)
    third = write_repository([make("c", seed=2)], path)
    assert "Triton serves versions 2 and 3 of tiny_debi; 1 stays in the folder" in third.notes
    assert (path / "tiny_debi/1/model.onnx").is_file()
    fourth = write_repository([make("d", seed=3)], path)
    assert "Triton serves versions 3 and 4 of tiny_debi; 1 and 2 stay in the folder" in fourth.notes
    config = path / "tiny_debi/config.pbtxt"
    config.write_text(config.read_text().replace("num_versions: 2", "num_versions: 1"))
    fifth = write_repository([make("e", seed=4)], path)
    assert "Triton serves version 5 of tiny_debi; 1, 2, 3 and 4 stay in the folder" in fifth.notes
    config.write_text(config.read_text().replace("latest {\n    num_versions: 1\n  }", "all {}"))
    assert write_repository([make("f", seed=5)], path).notes == ("tiny_debi keeps the settings of its config.pbtxt",)


def test_three_versions_at_once_leave_one_out(make: Make, tmp_path: Path) -> None:
    result = write_repository([make("a"), make("b", seed=1), make("c", seed=2)], tmp_path / "r")
    assert result.notes == ("Triton serves versions 2 and 3 of tiny_debi; 1 stays in the folder",)


def test_the_result_says_the_batch_of_the_configuration(make: Make, tiny_card: Card, tmp_path: Path) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path, max_batch=3)
    (version,) = write_repository([make("b", seed=1)], path).versions
    assert version.max_batch == config_of(path / "tiny_debi").max_batch_size == 3
    plans = [make_plan_bundle(tmp_path / f"p{most}", tiny_card, Profile(1, 2, most)) for most in (4, 8)]
    written = write_repository([f"plan={plan}" for plan in plans], path).versions
    assert [one.max_batch for one in written] == [4, 4]


def test_settings_that_a_model_does_not_have_are_refused(make: Make, tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path)
    before = contents(path)
    options = ServingOptions(THROUGHPUT, instances=2, threads=3, gpu=True)
    with pytest.raises(UsageError) as caught:
        write_repository([f"new={make('n', 1)}", make("b", seed=1)], path, options=options, max_batch=32)
    text = one_line(caught.value)
    for words in (
        f"{path}/tiny_debi/config.pbtxt has other settings",
        "max_batch_size is 8, not 32 (--max-batch)",
        "max_queue_delay_microseconds is 0, not 2000 (--preset throughput)",
        "default_timeout_microseconds is 1000000, not 10000000 (--preset throughput)",
        "max_queue_size is 64, not 256 (--preset throughput)",
        "the count of instance_group is 1, not 2 (--instances)",
        "the kind of instance_group is KIND_CPU, not KIND_GPU (--gpu)",
        "intra_op_thread_count is 4, not 3 (--threads)",
        "leave those options out, or write a new repository with another --output",
    ):
        assert words in text
    assert contents(path) == before
    nothing_beside(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ServingOptions(queue_delay_us=5),
            "max_queue_delay_microseconds is 0, not 5 (queue_delay_us): leave that option",
        ),
        (ServingOptions(timeout_us=7), "default_timeout_microseconds is 1000000, not 7 (timeout_us)"),
        (ServingOptions(LATENCY, max_queue=9), "max_queue_size is 64, not 9 (max_queue)"),
        (ServingOptions(instances=2), "the count of instance_group is 1, not 2 (--instances)"),
    ],
)
def test_a_single_setting_is_refused(make: Make, tmp_path: Path, options: ServingOptions, words: str) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path)
    with pytest.raises(UsageError, match=re.escape(words)):
        write_repository([make("b", seed=1)], path, options=options)


def test_settings_that_a_model_has_may_be_asked_for_again(make: Make, tiny_card: Card, tmp_path: Path) -> None:
    path, options = tmp_path / "repository", ServingOptions(THROUGHPUT, instances=2, threads=3, gpu=True)
    for seed in range(2):
        bundles = [make(f"d{seed}", seed=seed), f"fixed={make(f'f{seed}', 1, seed=seed)}"]
        plan = f"plan={make_plan_bundle(tmp_path / f'p{seed}', tiny_card, Profile(1, 2, 4))}"
        result = write_repository([*bundles, plan], path, options=options, max_batch=4)
    assert [version.version for version in result.versions] == [2, 2, 2]


def test_what_somebody_took_out_is_not_what_is_asked_for(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path)
    config = path / "tiny_debi/config.pbtxt"
    config.write_text(re.sub(r"instance_group \{.*?\n\}\n", "", config.read_text(), flags=re.DOTALL))
    with pytest.raises(UsageError, match="the count of instance_group is not set, not 1"):
        write_repository([make("b", seed=1)], path, options=ServingOptions(instances=1))


def test_what_a_check_refuses_is_not_written(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path)
    before, seen = contents(path), []

    def refuse(adding: Path) -> None:
        seen.extend(sorted(contents(adding)))
        raise UsageError("no")

    with pytest.raises(UsageError, match="no"):
        write_repository([make("b", seed=1)], path, check=refuse)
    assert {"tiny_debi/config.pbtxt", "tiny_debi/2/model.onnx"} <= set(seen)
    assert contents(path) == before
    nothing_beside(path)
    with pytest.raises(UsageError, match="no"):
        write_repository([make("c")], tmp_path / "new", check=refuse)
    assert not (tmp_path / "new").exists()


def test_batches_too_large_for_json_are_said_once(make: Make, tmp_path: Path) -> None:
    """8 x 3 x 64 x 64 float32 are 2 MB of JSON, 32 are 8 MB; as bytes they are 1.6 MB."""
    bundle = make("a")
    assert write_repository([bundle], tmp_path / "small").notes == ()
    (note,) = write_repository([bundle, f"other={bundle}"], tmp_path / "large", max_batch=32).notes
    for words in ("signal 11", "up to 8 MB as JSON", "as binary or over gRPC", "client that you do not trust"):
        assert words in note
    assert write_repository([make("bytes", input="uint8")], tmp_path / "bytes", max_batch=32).notes == ()
    assert any("up to 8 MB as JSON" in note for note in write_repository([bundle], tmp_path / "large").notes)
    (fixed,) = write_repository([make("fixed", 32)], tmp_path / "fixed").notes
    assert "up to 8 MB as JSON" in fixed


def test_a_model_can_join_others(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path)
    before = contents(path)
    write_repository([f"other={make('b', 1)}"], path)
    after = contents(path)
    assert {name: after[name] for name in before} == before
    assert "other/1/model.onnx" in after


def test_plans_are_written_as_plans(tiny_card: Card, tmp_path: Path) -> None:
    bundle = make_plan_bundle(tmp_path / "b", tiny_card, Profile(1, 1, 1), Profile(1, 2, 4))
    path = tmp_path / "repository"
    result = write_repository([bundle], path)
    assert [(v.name, v.max_batch) for v in result.versions] == [("tiny_debi_b1", 0), ("tiny_debi_b1-2-4", 4)]
    assert (path / "tiny_debi_b1-2-4/1/model.plan").read_bytes() == b"a plan for 1:2:4"
    assert config_of(path / "tiny_debi_b1").platform == "tensorrt_plan"
    assert lint_repository(path).findings == ()


def test_session_options_that_triton_lacks_are_said(make: Make, tmp_path: Path) -> None:
    spinning = SessionOptions(entries={"session.intra_op.allow_spinning": "0"})
    (note,) = write_repository([make("a", session=spinning)], tmp_path / "r").notes
    assert "no setting for session.intra_op.allow_spinning of tiny_debi" in note
    for name, session in (("b", SessionOptions()), ("c", RECOMMENDED)):
        assert write_repository([make(name, session=session)], tmp_path / f"r-{name}").notes == ()


@pytest.mark.parametrize(("gpu", "said"), [(None, True), (False, True), (True, False)])
def test_how_a_cpu_computes_is_said_where_a_cpu_does(
    tiny_card: Card, tmp_path: Path, gpu: bool | None, said: bool
) -> None:
    bundle = make_plan_bundle(tmp_path / "b", tiny_card, Profile(1, 1, 1), fingerprint=None)
    first = write_repository([bundle], tmp_path / "r", options=ServingOptions(gpu=gpu))
    second = write_repository([bundle], tmp_path / "r")  # which keeps what it runs on
    assert [any("computes in float32" in note for note in result.notes) for result in (first, second)] == [said] * 2


def test_a_largest_batch_for_a_fixed_one_is_said(make: Make, tmp_path: Path) -> None:
    result = write_repository([make("a", 2)], tmp_path / "r", max_batch=4)
    assert result.notes == ("tiny_debi has a fixed batch of 2: --max-batch is not for it",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 2}, "it takes a fixed batch, the others any batch"),
        ({"input": "uint8"}, "its inputs are images TYPE_UINT8"),
        ({"labels": tuple("abcdef")}, "its labels are others"),
        ({"labels": None}, "its labels are others"),
    ],
)
def test_another_model_cannot_become_a_version(
    make: Make, tmp_path: Path, one_line: OneLine, options: dict[str, Any], words: str
) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path)
    before = contents(path)
    with pytest.raises(BundleError, match=f"cannot become version 2 of tiny_debi: {words}") as caught:
        write_repository([make("b", **options)], path)
    assert "tiny_debi_2=BUNDLE" in one_line(caught.value)
    assert contents(path) == before
    nothing_beside(path)


def test_other_preprocessing_cannot_become_a_version(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path)
    config = path / "tiny_debi/config.pbtxt"
    config.write_text(config.read_text().replace("bicubic", "bilinear"))
    with pytest.raises(BundleError, match="its preprocessing is"):
        write_repository([make("b", seed=1)], path)


def test_a_plan_of_smaller_batches_cannot_become_a_version(tiny_card: Card, tmp_path: Path) -> None:
    large, small = Profile(1, 4, 8), Profile(1, 2, 4)
    path = tmp_path / "repository"
    write_repository([make_plan_bundle(tmp_path / "a", tiny_card, large)], path)
    with pytest.raises(BundleError, match="batches of at most 4, max_batch_size is 8"):
        write_repository([make_plan_bundle(tmp_path / "b", tiny_card, small)], path)
    with pytest.raises(BundleError, match="it is of onnxruntime_onnx, the others of tensorrt_plan"):
        write_repository([make_bundle(tmp_path / "c", tiny_card)], path)


def test_nothing_is_written_of_what_is_refused(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "new" / "repository"
    with pytest.raises(BundleError, match="lost parity"):
        write_repository([make("a"), make("b", verified=False)], path)
    assert not path.parent.exists()


@pytest.mark.parametrize("text", ["", "nonsense {", None])
def test_a_folder_that_is_no_model_is_not_added_to(make: Make, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "repository"
    (path / "tiny_debi").mkdir(parents=True)
    if text is not None:
        (path / "tiny_debi/config.pbtxt").write_text(text)
    before = contents(path)
    with pytest.raises((InputError, BundleError)):
        write_repository([make("a")], path)
    assert contents(path) == before


def test_a_file_is_no_repository(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is not a folder"):
        write_repository([make("a")], tmp_path / "file")
    with pytest.raises(UsageError, match="no bundle"):
        write_repository([], tmp_path / "r")


def test_labels_of_two_lines_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not one line"):
        write_repository([make("a", labels=("a\nb", "c", "d", "e", "f", "g"))], tmp_path / "r")
    assert not (tmp_path / "r").exists()


# ------------------------------------------------------------------------------- failures half-way


@pytest.fixture
def live(make: Make, tmp_path: Path) -> tuple[Path, list[str], dict[str, bytes | None]]:
    """A repository of two models, bundles that add a version to each and a third model, and its content."""
    path = tmp_path / "repository"
    write_repository([make("a"), f"zebra={make('z', 1)}"], path)
    more = [str(make("b", seed=1)), f"middle={make('m')}", f"zebra={make('y', 1, seed=1)}"]
    return path, more, contents(path)


Live = tuple[Path, list[str], dict[str, bytes | None]]


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_a_failure_while_moving_in_undoes_what_was_moved(
    live: Live, monkeypatch: pytest.MonkeyPatch, one_line: OneLine, fails_at: int
) -> None:
    """The moves: a new model, then for each of two models its configuration and its version."""
    path, more, before = live
    calls = 0

    def failing(self: Path, target: Path, original: Callable[..., Path]) -> Path:
        nonlocal calls
        if Path(target).is_relative_to(path):
            calls += 1
            if calls == fails_at:
                raise OSError(28, "No space left on device")
        return original(self, target)

    rename, replace = Path.rename, Path.replace
    monkeypatch.setattr(Path, "rename", lambda self, target: failing(self, target, rename))
    monkeypatch.setattr(Path, "replace", lambda self, target: failing(self, target, replace))
    with pytest.raises(OutputError, match=r"No space left on device\): nothing in it was changed") as caught:
        write_repository(more, path)
    one_line(caught.value)
    assert calls >= fails_at
    monkeypatch.undo()
    assert contents(path) == before
    nothing_beside(path)
    write_repository(more, path)
    assert lint_repository(path).ok


def test_an_interruption_undoes_too(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    path, more, before = live
    move, moved = merging._move, []

    def interrupted(source: Path, destination: Path, done: list[Any]) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(destination)
        move(source, destination, done)

    monkeypatch.setattr(merging, "_move", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_repository(more, path)
    assert moved
    assert contents(path) == before


def test_a_failure_while_copying_changes_nothing(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    path, more, before = live
    copied: list[Path] = []

    def failing(source: Path, to: Path) -> None:
        if copied:
            raise OSError(28, "No space left on device")
        copied.append(to)
        to.write_bytes(source.read_bytes())

    monkeypatch.setattr(repository.shutil, "copyfile", failing)
    with pytest.raises(OutputError, match="No space left on device"):
        write_repository(more, path)
    assert contents(path) == before
    nothing_beside(path)


def test_a_new_repository_is_whole_or_not_there(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(source: Path, to: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(repository.shutil, "copyfile", failing)
    with pytest.raises(OutputError, match="Input/output error"):
        write_repository([make("a")], tmp_path / "new" / "repository")
    assert not (tmp_path / "new").exists()


def test_a_bundle_that_changes_while_it_is_copied_is_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository.shutil, "copyfile", lambda source, to: to.write_bytes(b"half of it"))
    with pytest.raises(BundleError, match="changed while it was copied"):
        write_repository([make("a")], tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_what_somebody_changes_meanwhile_is_not_written_over(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    path, more, _ = live
    config = path / "zebra/config.pbtxt"
    merge = repository.merge

    def late(staged: Path, place: Path) -> None:
        config.write_text("# mine\n" + config.read_text())
        merge(staged, place)

    monkeypatch.setattr(repository, "merge", late)
    with pytest.raises(OutputError, match="was changed meanwhile: run the command again"):
        write_repository(more, path)
    assert config.read_text().startswith("# mine")
    assert {p.name for p in path.iterdir()} == {"tiny_debi", "zebra"}
    assert not (path / "tiny_debi/2").exists()


def test_a_version_that_appears_meanwhile_is_not_replaced(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    path, more, before = live
    merge = repository.merge

    def late(staged: Path, place: Path) -> None:
        (path / "zebra/2").mkdir()
        merge(staged, place)

    monkeypatch.setattr(repository, "merge", late)
    with pytest.raises(OutputError, match="zebra/2 has appeared meanwhile"):
        write_repository(more, path)
    (path / "zebra/2").rmdir()
    assert contents(path) == before


def test_what_would_not_be_served_is_not_written(make: Make, tmp_path: Path, one_line: OneLine) -> None:
    """A manifest that says of its model what the model does not do."""
    bundle = make("a", 2)
    manifest = json.loads((bundle / "manifest.json").read_text())
    model = manifest["artifacts"][0]
    model["batch"] = "dynamic"
    for tensor in (*model["inputs"], *model["outputs"]):
        tensor["shape"][0] = None
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        BundleError, match=r"would not be served: max_batch_size is 8, but 'images' of .* fixed"
    ) as caught:
        write_repository([bundle], tmp_path / "r")
    one_line(caught.value)
    assert not (tmp_path / "r").exists()


def test_additions_are_put_together_on_the_repositorys_own_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "repository"
    path.mkdir()
    assert merging.staging_place(path) == tmp_path / "repository.adding"
    monkeypatch.setattr(merging.os, "access", lambda *_: False)
    assert merging.staging_place(path) == path / "repository.adding"


def test_a_mounted_repository_is_added_to(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "repository"
    write_repository([make("a")], path)
    monkeypatch.setattr(merging.os, "access", lambda *_: False)  # as where its parent is another file system
    write_repository([make("b", seed=1)], path)
    assert sorted(p.name for p in path.iterdir()) == ["tiny_debi"]
    assert (path / "tiny_debi/2/model.onnx").is_file()


@pytest.mark.parametrize("kind", ["seg_bundle", "engine_bundle"])
def test_what_the_exports_write_is_served(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    bundle: Path = request.getfixturevalue(kind)
    result = write_repository([bundle], tmp_path / "repository")
    assert lint_repository(tmp_path / "repository").findings == ()
    (version,) = result.versions
    labels = (tmp_path / "repository" / version.name / "labels.txt").is_file()
    assert not labels  # the tiny cards have none
    shutil.rmtree(tmp_path / "repository")
