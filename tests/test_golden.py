"""Judging by stored answers: near-ties are named, wrong routes and wrong numbers condemn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from debiexport.bundle import Bundle, open_bundle
from debiexport.errors import BundleError
from debiexport.golden import Golden, judge_golden, read_golden
from debiexport.parity import ParityReport
from debiexport.parity_inputs import NAMES
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
    assert golden.logits.shape == (7, 6)
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
    golden.logits[3] += 100  # what follows a flip cannot be judged
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
    golden.logits[2] *= 1.01
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
    golden.logits[0, 0] = value
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
