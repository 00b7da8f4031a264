"""Judging by stored answers: near-ties are named, wrong routes and wrong numbers condemn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from debiexport import golden as module
from debiexport.bundle import Bundle, open_bundle
from debiexport.errors import BundleError
from debiexport.golden import Golden, judge_golden, kept_values, read_golden
from debiexport.parity import JudgedImage
from debiexport.parity_inputs import NAMES
from debiexport.parity_report import ParityReport
from debiexport.runtimes.base import Array

OneLine = Callable[[BaseException], str]


@pytest.fixture
def bundle(static_bundle: Path) -> Bundle:
    return open_bundle(static_bundle)


@pytest.fixture
def golden(bundle: Bundle) -> Golden:
    return read_golden(bundle.path / "golden.npz", bundle.geometry)


@pytest.fixture
def block(bundle: Bundle) -> str:
    """An attention that chooses one region of four."""
    (name, *_) = [a.name for a in bundle.geometry.routed if a.top_k == 1]
    return name


def judge(bundle: Bundle, golden: Golden) -> ParityReport:
    return judge_golden(bundle.runtime(1), golden, bundle.geometry)


def flip(golden: Golden, block: str, image: int, row: int, gap: float) -> None:
    """Store another choice of one region, whose gap was this."""
    golden.routes[block][image, row] = (golden.routes[block][image, row] + 1) % 4
    golden.gaps[block][image, row] = gap


def rewrite(path: Path, **changes: Any) -> None:
    """Replace arrays (by name, "/" as "__"), or remove those that are None."""
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    for name, value in changes.items():
        if value is None:
            del arrays[name.replace("__", "/")]
        else:
            arrays[name.replace("__", "/")] = value
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def refusal(bundle: Bundle, one_line: OneLine) -> str:
    with pytest.raises(BundleError) as caught:
        read_golden(bundle.path / "golden.npz", bundle.geometry)
    message = one_line(caught.value)
    assert "golden.npz" in message
    return message


# ----------------------------------------------------------------------------------------- judging


def test_content(bundle: Bundle, golden: Golden) -> None:
    assert golden.names == NAMES
    assert golden.images.shape == (7, 3, 64, 64)
    assert golden.outputs["logits"].shape == (7, 6)
    assert set(golden.routes) == {a.name for a in bundle.geometry.routed if not a.routes_everywhere}
    assert all(limit > 0 for limit in golden.tie_limits.values())
    assert golden.tolerance >= golden.noise_floor > 0
    assert golden.precision == "float32"


def test_holds(bundle: Bundle, golden: Golden) -> None:
    report = judge(bundle, golden)
    assert report.ok
    assert report.method == "golden"
    assert report.notes == ()
    assert [o.batch for o in report.outputs] == [3]
    assert report.outputs[0].images >= 6
    assert all(block.rows > 0 for block in report.blocks if block.chooses)


def test_every_batch(dynamic_bundle: Path) -> None:
    bundle = open_bundle(dynamic_bundle)
    report = judge(bundle, read_golden(bundle.path / "golden.npz", bundle.geometry))
    assert report.ok
    assert [o.batch for o in report.outputs] == [1, 2, 5]


# ------------------------------------------------------------------------ features, bytes, limits


FEATURES = ("feature1", "feature2", "feature3", "feature4")


@pytest.fixture
def dense(seg_bundle: Path) -> tuple[Bundle, Golden]:
    bundle = open_bundle(seg_bundle)
    return bundle, read_golden(bundle.path / "golden.npz", bundle.geometry)


def test_features_are_sampled(dense: tuple[Bundle, Golden]) -> None:
    bundle, golden = dense
    assert tuple(golden.outputs) == FEATURES
    assert all(output.shape == (7, 4098) and output.dtype == np.float32 for output in golden.outputs.values())
    report = judge(bundle, golden)
    assert report.ok, report.failures
    assert report.outputs[0].output in FEATURES
    assert report.outputs[0].top1_agreement is None


@pytest.mark.parametrize("column", [17, 4096, 4097], ids=["sample", "mean", "deviation"])
@pytest.mark.parametrize("output", FEATURES)
def test_wrong_features(dense: tuple[Bundle, Golden], output: str, column: int) -> None:
    bundle, golden = dense
    golden.outputs[output][:, column] += 1e-3
    (failure,) = judge(bundle, golden).failures
    assert f"in {output} is above" in failure


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite(dense: tuple[Bundle, Golden], value: float) -> None:
    """One position, which no sample need hold."""

    def spoil(name: str, array: Array) -> Array:
        if name == "feature1":
            array[0, 3, 5, 7] = value
        return array

    bundle, golden = dense
    with np.errstate(invalid="ignore"):
        report = judge_golden(_Broken(bundle, spoil), golden, bundle.geometry)
    assert report.failures == ["batch 2: outputs are not finite"]


@pytest.mark.parametrize("shape", [(7, 4097), (6, 4098), (7, 8, 16, 24)])
def test_wrong_shapes_of_features(dense: tuple[Bundle, Golden], shape: tuple[int, ...], one_line: OneLine) -> None:
    rewrite(dense[0].path / "golden.npz", feature1=np.zeros(shape, np.float32))
    assert "feature1" in refusal(dense[0], one_line)


def test_kept_values() -> None:
    logits = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert kept_values(logits) is logits
    maps = np.random.default_rng(0).standard_normal((2, 5, 40, 50), dtype=np.float32)
    kept = kept_values(maps)
    assert (kept.shape, kept.dtype) == ((2, 4098), np.float32)
    positions = [(2654435769 * i % 2**32) * 10000 // 2**32 for i in range(4096)]
    assert len(set(positions)) == 4096
    assert np.array_equal(kept[:, :-2], maps.reshape(2, -1)[:, positions])
    np.testing.assert_allclose(kept[:, -2], maps.mean((1, 2, 3)), atol=1e-7)
    np.testing.assert_allclose(kept[:, -1], maps.std((1, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("pixels", [1, 100, 70_000_000])
def test_kept_positions_lie_inside_of_maps_of_every_size(pixels: int) -> None:
    array = np.broadcast_to(np.float32(1), (1, 1, 1, pixels))
    if pixels < 1000:
        array = np.arange(pixels, dtype=np.float32).reshape(1, 1, 1, pixels)
        assert set(kept_values(array)[0, :-2]) == set(range(pixels))
    else:
        assert np.array_equal(kept_values(array)[0], [1] * 4097 + [0])


def test_bytes(uint8_bundle: Path, one_line: OneLine) -> None:
    bundle = open_bundle(uint8_bundle)
    golden = read_golden(uint8_bundle / "golden.npz", bundle.geometry, "uint8")
    assert (golden.images.dtype, golden.images.shape) == (np.uint8, (7, 64, 64, 3))
    assert judge(bundle, golden).ok
    assert "images uint8" in refusal(bundle, one_line)  # read as if it were normalised


def test_large_images_are_bounded(dense: tuple[Bundle, Golden], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is kept in any case, of the others those that there is room for."""
    random = np.random.default_rng(0)
    images = [random.standard_normal((3, 64, 96), dtype=np.float32) for _ in range(4)]
    images[2] = np.zeros((3, 64, 96), np.float32)
    judged = [JudgedImage(str(i), image, {}, {}, {}) for i, image in enumerate(images)]

    def names(limit: int) -> str:
        monkeypatch.setattr(module, "MAX_IMAGE_BYTES", limit)
        return "".join(image.name for image in module._kept_images(judged))

    assert names(4 * 73728) == "0123"
    assert names(4 * 73728 - 1) == "0123"  # compressed they fit
    assert names(150_000) == "012"
    assert names(80_000) == "02"
    assert names(1) == "0"


def test_wrong_route(bundle: Bundle, golden: Golden, block: str) -> None:
    flip(golden, block, image=3, row=2, gap=10 * golden.tie_limits[block])
    report = judge(bundle, golden)
    assert not report.ok
    assert f"{block}: 1 of" in report.failures[0]
    (wrong,) = [b for b in report.blocks if b.name == block]
    assert (wrong.wrong, wrong.near_ties) == (1, 0)


def test_near_tie_is_named(bundle: Bundle, golden: Golden, block: str) -> None:
    before = judge(bundle, golden).outputs[0].images
    flip(golden, block, image=3, row=2, gap=golden.tie_limits[block])
    golden.outputs["logits"][3] += 100  # what follows a flip cannot be judged
    report = judge(bundle, golden)
    assert report.ok, report.failures
    (note,) = report.notes
    assert repr(NAMES[3]) in note
    assert block in note
    assert [o.images for o in report.outputs] == [before - 1]
    (near,) = [b for b in report.blocks if b.name == block]
    assert (near.wrong, near.near_ties) == (0, 1)


def test_a_near_tie_excuses_no_wrong_route_beside_it(bundle: Bundle, golden: Golden, block: str) -> None:
    flip(golden, block, image=3, row=2, gap=0)
    flip(golden, block, image=3, row=3, gap=10 * golden.tie_limits[block])
    assert not judge(bundle, golden).ok


def test_a_near_tie_excuses_no_other_image(bundle: Bundle, golden: Golden, block: str) -> None:
    flip(golden, block, image=3, row=2, gap=0)
    golden.outputs["logits"][2] *= 1.01
    report = judge(bundle, golden)
    assert not report.ok
    assert "relative error" in report.failures[0]


def test_nothing_left_to_judge(bundle: Bundle, golden: Golden, block: str) -> None:
    for image in range(7):
        flip(golden, block, image, row=0, gap=0)
    report = judge(bundle, golden)
    assert not report.ok
    assert report.failures == ["no output could be compared", *report.failures[1:]]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_wrong_numbers(bundle: Bundle, golden: Golden, value: float) -> None:
    golden.outputs["logits"][0, 0] = value
    assert not judge(bundle, golden).ok


class _Broken:
    """A runtime whose answers are spoilt on the way."""

    def __init__(self, bundle: Bundle, spoil: Callable[[str, Array], Array]) -> None:
        self._runtime, self._spoil = bundle.runtime(1), spoil
        self.batch = self._runtime.batch

    def run(self, inputs: Any, taps: Any = ()) -> dict[str, Array]:
        return {name: self._spoil(name, array.copy()) for name, array in self._runtime.run(inputs, taps).items()}


@pytest.mark.parametrize("value", [-1, 4, 10**12])
def test_routes_that_are_no_regions(bundle: Bundle, golden: Golden, block: str, value: int) -> None:
    def spoil(name: str, array: Array) -> Array:
        if name == f"{block}.routes":
            array[..., 0] = value
        return array

    report = judge_golden(_Broken(bundle, spoil), golden, bundle.geometry)
    assert any(failure.startswith(f"{block}:") for failure in report.failures)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite(bundle: Bundle, golden: Golden, value: float) -> None:
    def spoil(name: str, array: Array) -> Array:
        return np.full_like(array, value) if name == "logits" else array

    report = judge_golden(_Broken(bundle, spoil), golden, bundle.geometry)
    assert report.failures == ["batch 3: outputs are not finite"]
    json.dumps(report.to_dict(), allow_nan=False)


# ----------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_no_npz(bundle: Bundle, one_line: OneLine, content: bytes) -> None:
    (bundle.path / "golden.npz").write_bytes(content)
    assert "damaged" in refusal(bundle, one_line)


def test_a_single_array(bundle: Bundle, one_line: OneLine) -> None:
    with (bundle.path / "golden.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    assert "damaged" in refusal(bundle, one_line)


@pytest.mark.parametrize("position", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_damaged_inside(bundle: Bundle, one_line: OneLine, position: float) -> None:
    path = bundle.path / "golden.npz"
    content = bytearray(path.read_bytes())
    start = int(position * len(content))
    content[start : start + 200] = b"\xaa" * 200
    path.write_bytes(content)
    refusal(bundle, one_line)


def test_pickles_are_not_read(bundle: Bundle, one_line: OneLine) -> None:
    rewrite(bundle.path / "golden.npz", images=np.array([{"a": 1}], dtype=object))
    assert "damaged" in refusal(bundle, one_line)


@pytest.mark.parametrize("name", ["meta", "images", "logits"])
def test_missing_array(bundle: Bundle, one_line: OneLine, name: str) -> None:
    rewrite(bundle.path / "golden.npz", **{name: None})
    refusal(bundle, one_line)


@pytest.mark.parametrize("kind", ["routes", "gaps"])
def test_missing_attention(bundle: Bundle, block: str, one_line: OneLine, kind: str) -> None:
    rewrite(bundle.path / "golden.npz", **{f"{kind}__{block}": None})
    assert block in refusal(bundle, one_line)


@pytest.mark.parametrize("meta", ["", "[]", "{}", '{"names": 5}', '{"names": ["a"], "tie_limits": {}}'])
def test_wrong_meta(bundle: Bundle, one_line: OneLine, meta: str) -> None:
    rewrite(bundle.path / "golden.npz", meta=np.array(meta))
    refusal(bundle, one_line)


@pytest.mark.parametrize("shape", [(7, 3, 64, 32), (6, 3, 64, 64), (0, 3, 64, 64), (64,)])
def test_wrong_images(bundle: Bundle, one_line: OneLine, shape: tuple[int, ...]) -> None:
    rewrite(bundle.path / "golden.npz", images=np.zeros(shape, np.float32))
    refusal(bundle, one_line)


@pytest.mark.parametrize("logits", [np.zeros((7, 5), np.float32), np.zeros((7, 6), np.int64)])
def test_wrong_logits(bundle: Bundle, one_line: OneLine, logits: Array) -> None:
    rewrite(bundle.path / "golden.npz", logits=logits)
    refusal(bundle, one_line)


@pytest.mark.parametrize("value", [-1, 4, 0.5])
def test_wrong_routes(bundle: Bundle, golden: Golden, block: str, one_line: OneLine, value: float) -> None:
    routes = golden.routes[block].astype(type(value))
    routes[0, 0, 0] = value
    rewrite(bundle.path / "golden.npz", **{f"routes__{block}": routes})
    assert block in refusal(bundle, one_line)
