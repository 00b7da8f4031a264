"""`golden.npz`: inputs and the reference's answers, so that a bundle can be checked without torch.

It holds what the forced reference answered at the export, the artifact's routes there, and how close each
choice of regions was. On another machine an artifact may take the other side of a near-tie; everything
after that flip then differs for a good reason, and without the reference it cannot be told from a fault.
Such an image is judged up to the flip, and named.

Logits are stored in full. A feature map is stored as `kept_values` of it: 4096 positions, the mean and the
population's standard deviation. Position i = 0..4095 of the map, flattened as (C, H, W) with n values, is
`((2654435769 i mod 2^32) n) // 2^32`: steps of the golden ratio, which cover the map evenly, the same with
every numpy. Of large images only the first few that fit into `MAX_IMAGE_BYTES` are stored.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from debiexport.errors import BundleError
from debiexport.geometry import AttentionGeometry, Geometry
from debiexport.parity import JudgedImage, Judgement, OutputTally, batches_to_try, index_groups
from debiexport.parity_report import BlockParity, ParityReport
from debiexport.routes import are_valid, as_routes, route_sets
from debiexport.runtimes.base import Array, Arrays, Runtime
from debiexport.signature import IMAGES, NORMALIZED, input_spec

GOLDEN = "golden.npz"
MAX_IMAGE_BYTES = 24_000_000  # of all stored images together, compressed; the first is stored whatever it takes
KEPT_POSITIONS = 4096
_GOLDEN_RATIO = 2654435769  # its fraction in units of 2^-32


@dataclass(frozen=True)
class Golden:
    """The content of a golden file.

    Attributes:
        names: of the images.
        images: as the artifact takes them: (P, 3, H, W) float32, normalised, or (P, H, W, 3) of bytes.
        outputs: `kept_values` (P, K) of the reference in float32 with the artifact's routes, by output name.
        routes: (P, R, k) by attention.
        gaps: (P, R) between the k-th and (k+1)-th affinity of the reference, by attention.
        tie_limits: gap that rounding explains, by attention.
        noise_floor, tolerance: of the outputs' relative error.
        precision: of the artifact.
        min_psnr_db: see `ParityReport`.
    """

    names: tuple[str, ...]
    images: Array
    outputs: Arrays
    routes: Arrays
    gaps: Arrays
    tie_limits: dict[str, float]
    noise_floor: float
    tolerance: float
    precision: str
    min_psnr_db: float | None = None


def kept_values(output: Array) -> Array:
    """What is kept of an output (N, ...): logits (N, K) as they are, a sample and statistics of a map (N, C, H, W)."""
    if output.ndim == 2:
        return output
    flat = output.reshape(len(output), -1)
    turns = np.arange(KEPT_POSITIONS, dtype=np.uint64) * np.uint64(_GOLDEN_RATIO) % np.uint64(2**32)
    positions = turns * np.uint64(flat.shape[1]) >> np.uint64(32)
    wide = flat.astype(np.float64)
    columns = (flat[:, positions.astype(np.int64)], wide.mean(1)[:, None], wide.std(1)[:, None])
    kept: Array = np.concatenate(columns, axis=1).astype(np.float32)
    return kept


def _kept_images(images: Sequence[JudgedImage]) -> list[JudgedImage]:
    """All of them, or those that the limit has room for."""
    if sum(image.image.nbytes for image in images) <= MAX_IMAGE_BYTES:
        return list(images)
    kept: list[JudgedImage] = []
    room = MAX_IMAGE_BYTES
    for image in images:
        size = len(zlib.compress(image.image.tobytes(), 1))
        if size <= room or not kept:
            kept.append(image)
            room -= size
    return kept


def write_golden(path: Path, judgement: Judgement) -> None:
    """Write what a judgement rests on."""
    images, report = _kept_images(judgement.images), judgement.report
    meta = {
        "names": [image.name for image in images],
        "tie_limits": judgement.tie_limits,
        "noise_floor": report.noise_floor,
        "tolerance": report.tolerance,
        "precision": report.precision,
        "min_psnr_db": report.min_psnr_db,
    }
    arrays: Arrays = {
        "meta": np.array(json.dumps(meta)),
        "images": np.stack([image.image for image in images]),
    }
    for name in images[0].outputs:
        arrays[name] = np.concatenate([kept_values(image.outputs[name][None]) for image in images])
    for name in judgement.tie_limits:
        arrays[f"routes/{name}"] = np.stack([image.routes[name] for image in images]).astype(np.int32)
        arrays[f"gaps/{name}"] = np.stack([image.gaps[name] for image in images])
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_golden(path: Path, geometry: Geometry, input: str = NORMALIZED) -> Golden:
    """Read a golden file whose hash has been checked.

    Args:
        path: of the file.
        geometry: sizes of the network.
        input: form of the images.

    Raises:
        BundleError: it is damaged, or belongs to another network.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            meta = json.loads(str(data["meta"]))
            choosing = [a for a in geometry.routed if not a.routes_everywhere]
            golden = Golden(
                names=tuple(meta["names"]),
                images=data["images"],
                outputs={name: data[name] for name in geometry.output_shapes},
                routes={a.name: data[f"routes/{a.name}"] for a in choosing},
                gaps={a.name: data[f"gaps/{a.name}"] for a in choosing},
                tie_limits={a.name: float(meta["tie_limits"][a.name]) for a in choosing},
                noise_floor=float(meta["noise_floor"]),
                tolerance=float(meta["tolerance"]),
                precision=str(meta["precision"]),
                min_psnr_db=None if meta["min_psnr_db"] is None else float(meta["min_psnr_db"]),
            )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{path} is damaged ({error}): export again") from error
    count = len(golden.names)
    images = input_spec(geometry.image_size, count, input)
    _check_array(path, "images", golden.images, np.dtype(images.dtype).kind, images.shape)
    for name, shape in geometry.output_shapes.items():
        kept = math.prod(shape) if len(shape) == 1 else KEPT_POSITIONS + 2
        _check_array(path, name, golden.outputs[name], "f", (count, kept))
    for a in choosing:
        _check_array(path, a.site.routes, golden.routes[a.name], "i", (count, a.region_count, a.top_k))
        _check_array(path, f"gaps of {a.name}", golden.gaps[a.name], "f", (count, a.region_count))
        if not are_valid(golden.routes[a.name], a).all():
            raise BundleError(f"{path} holds no valid {a.site.routes}: export again")
    return golden


def _check_array(path: Path, name: str, array: Array, kind: str, shape: tuple[int | None, ...]) -> None:
    if array.dtype.kind != kind or array.shape != shape or 0 in shape:
        raise BundleError(f"{path} holds {name} {array.dtype} {array.shape}, expected are {shape}: export again")


@dataclass
class _Tally:
    """Adds up what the runs say of one routed attention."""

    geometry: AttentionGeometry
    rows: int = 0
    near_ties: int = 0
    wrong: int = 0

    def add(self, routes: Array, golden_routes: Array, gaps: Array, tie_limit: float) -> bool:
        """Compare (R, k) routes; whether they are the golden ones."""
        valid = are_valid(routes[None], self.geometry)[0]
        safe = np.where(valid[:, None], routes, golden_routes)
        differs = (route_sets(safe, self.geometry) != route_sets(golden_routes, self.geometry)).any(-1)
        near = differs & (gaps <= tie_limit)
        self.rows += len(valid)
        self.near_ties += int(near.sum())
        self.wrong += int((differs & ~near).sum() + (~valid).sum())
        return not (differs.any() or (~valid).any())

    def result(self) -> BlockParity:
        g = self.geometry
        agreement = (self.rows - self.near_ties - self.wrong) / self.rows if self.rows else 1.0
        return BlockParity(g.name, g.region_count, g.top_k, self.rows, agreement, self.near_ties, self.wrong)


def judge_golden(runtime: Runtime, golden: Golden, geometry: Geometry) -> ParityReport:
    """Measure an artifact against the stored answers.

    Args:
        runtime: the artifact; run at its own batch, or at 1, 2 and 5 if its batch is dynamic.
        golden: the stored answers.
        geometry: sizes of the network.

    Raises:
        BundleError: the artifact lacks a tensor that its routing is judged by.
    """
    tallies = {a.name: _Tally(a) for a in geometry.routed}
    choosing = [a for a in geometry.routed if not a.routes_everywhere]
    flipped: dict[str, str] = {}
    outputs = []
    for batch in batches_to_try(runtime):
        tally = OutputTally(batch)
        for indices in index_groups(len(golden.names), batch):
            results, routes = _run(runtime, golden.images[indices], choosing)
            for i, image in enumerate(indices):
                flip = _first_flip({n: r[i] for n, r in routes.items()}, golden, image, tallies)
                if flip is None:
                    tally.add(
                        {name: kept_values(results[name][i : i + 1]) for name in golden.outputs},
                        {name: output[image : image + 1] for name, output in golden.outputs.items()},
                    )
                else:
                    flipped.setdefault(golden.names[image], flip)
        if tally.images:
            outputs.append(tally.result())
    notes = [
        f"image {name!r} takes the other side of a near-tie at {place}: what follows cannot be judged without"
        " the reference; check with --checkpoint"
        for name, place in flipped.items()
    ]
    return ParityReport(
        method="golden",
        precision=golden.precision,
        noise_floor=golden.noise_floor,
        tolerance=golden.tolerance,
        outputs=tuple(outputs),
        blocks=tuple(tally.result() for tally in tallies.values()),
        notes=tuple(notes),
        min_psnr_db=golden.min_psnr_db,
    )


def _run(runtime: Runtime, images: Array, choosing: Sequence[AttentionGeometry]) -> tuple[Arrays, Arrays]:
    results = runtime.run({IMAGES: images})
    inside = runtime.run({IMAGES: images}, [a.site.routes for a in choosing]) if choosing else {}
    return results, {a.name: as_routes(inside[a.site.routes], a) for a in choosing}


def _first_flip(routes: Arrays, golden: Golden, image: int, tallies: dict[str, _Tally]) -> str | None:
    """Name of the first attention whose routes are not the golden ones; later ones are not compared."""
    for name, chosen in routes.items():
        if not tallies[name].add(chosen, golden.routes[name][image], golden.gaps[name][image], golden.tie_limits[name]):
            return name
    return None
