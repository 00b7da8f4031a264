"""The places of a network in order, and the runs that they are measured on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from debiexport.cards import Card
from debiexport.checkpoint import random_checkpoint
from debiexport.geometry import Geometry
from debiexport.loading import build_reference
from debiexport.names import stream_names
from debiexport.oracle import Oracle
from debiexport.parity import EPSILON, FACTOR
from debiexport.parity_inputs import parity_images
from debiexport.parity_report import BlockParity
from debiexport.places import Part, PlaceParity, measure_places, parts_of, runs, without
from debiexport.runtimes.base import Arrays

SIZE = (64, 64)


def test_parts_are_in_the_order_of_the_network(tiny_card: Card, tiny_seg_card: Card) -> None:
    parts = parts_of(Geometry.of(tiny_card, SIZE))
    assert [part.name for part in parts] == [*stream_names(tiny_card), "logits"]
    assert [part.is_output for part in parts] == [False] * 30 + [True]
    assert parts[1].places == ("stage1.block1.attn1.affinity", "stage1.block1.attn1.routes", "stage1.block1.attn1")
    assert parts[-3].places == ("stage4.block1.attn2",), "all regions: nothing to choose"
    names = [part.name for part in parts_of(Geometry.of(tiny_seg_card, SIZE))]
    assert (
        names.index("feature1") == names.index("stage1.block1.mlp2") + 1 == names.index("stage2.block1.pos_embed1") - 1
    )
    assert names[-1] == "feature4"


def test_a_place_that_is_missing_belongs_to_the_next_part(tiny_card: Card) -> None:
    parts = parts_of(Geometry.of(tiny_card, SIZE))
    kept = without(parts, {parts[0].name, parts[1].name})
    assert len(kept) == len(parts) - 2
    assert kept[0] == Part("stage1.block1.mlp1", parts[1].sites)
    assert kept[0].places[-1] == "stage1.block1.mlp1"
    assert without(parts, set()) == parts


class _Runtime:
    """The reference itself as an artifact.

    Attributes:
        routes: forced on it.
        spoilt: what it returns instead, by name.
    """

    def __init__(self, oracle: Oracle, batch: int | None) -> None:
        self.oracle, self.batch = oracle, batch
        self.routes: Arrays = {}
        self.spoilt: Arrays = {}

    def run(self, inputs: Arrays, taps: tuple[str, ...] = ()) -> Arrays:
        found = [self.oracle.inside(image, self.routes).narrow for image in inputs["images"]]
        names = [name for name in (*taps, "logits") if name not in self.spoilt]
        return {name: np.concatenate([one[name] for one in found]) for name in names} | self.spoilt


def test_every_image_is_last_in_a_batch(tiny_card: Card) -> None:
    images = parity_images(tiny_card.preprocessing, SIZE)
    oracle = Oracle(build_reference(random_checkpoint(tiny_card), SIZE))
    looks = list(runs(_Runtime(oracle, None), images))
    assert [(look.image.name, look.batch) for look in looks[:4]] == [
        ("noise", 1),
        ("noise", 2),
        ("noise", 5),
        ("china", 1),
    ]
    assert len(looks) == 3 * len(images)
    for look in looks:
        assert look.stacked.shape == (look.batch, 3, *SIZE)
        np.testing.assert_array_equal(look.stacked[-1], look.image.tensor)
    assert len({image.tobytes() for image in looks[2].stacked}) == 5
    assert str(looks[1]) == "image noise, batch 2"
    assert [look.batch for look in runs(_Runtime(oracle, 3), images[:2])] == [3, 3], "fewer images than a batch"


@pytest.fixture
def parts(tiny_card: Card) -> list[Part]:
    """Without the attentions, which the runtime of these tests leaves to the reference."""
    return [Part(part.name, is_output=part.is_output) for part in parts_of(Geometry.of(tiny_card, SIZE))]


def test_places_are_measured(tiny_card: Card, parts: list[Part]) -> None:
    images = parity_images(tiny_card.preprocessing, SIZE)[:2]
    oracle = Oracle(build_reference(random_checkpoint(tiny_card), SIZE))
    runtime = _Runtime(oracle, 2)
    places = measure_places(runtime, oracle, parts, images, [])
    assert [place.name for place in places] == [part.name for part in parts]
    assert all(place.ok and place.ratio == 0 for place in places)
    assert places[0].shape == (8, 16, 16) and places[-1].shape == (6,)
    for place in places:
        assert place.noise_floor is not None and place.noise_floor >= EPSILON
        assert place.tolerance == FACTOR * place.noise_floor

    wrong_shape = np.zeros((2, 9), np.float32)
    no_number = np.full((2, 8, 16, 16), np.nan, np.float32)
    runtime.spoilt = {"logits": wrong_shape, "stage1.block1.mlp1": no_number}
    off = [place for place in measure_places(runtime, oracle, parts, images, []) if not place.ok]
    assert [(place.name, place.error) for place in off] == [("stage1.block1.mlp1", math.inf), ("logits", math.inf)]
    assert off[1].shape == (9,)
    assert off[1].to_dict()["error"] is None


def test_routing_is_what_parity_found(tiny_card: Card) -> None:
    images = parity_images(tiny_card.preprocessing, SIZE)[:1]
    oracle = Oracle(build_reference(random_checkpoint(tiny_card), SIZE))
    part = parts_of(Geometry.of(tiny_card, SIZE))[1]
    (site,) = part.sites
    runtime = _Runtime(oracle, 1)
    forced = np.zeros((1, 4, 1), np.int64)
    runtime.routes = {site.name: forced}
    runtime.spoilt = {site.site.routes: forced, site.site.affinity: np.zeros((1, 4, 4), np.float32)}
    block = BlockParity(site.name, 4, 1, rows=8, wrong=3, affinity_error=2e-6, noise_floor=1e-7, tolerance=8e-7)
    affinity, routes, stream = measure_places(runtime, oracle, [part], images, [block])
    assert (affinity.name, affinity.shape, affinity.ok) == (site.site.affinity, (4, 4), False)
    assert (routes.name, routes.shape, routes.ok, routes.wrong) == (site.site.routes, (4, 1), False, 3)
    assert stream.ok, "the reference takes the same routes"
    assert PlaceParity(routes.name, (4, 1), rows=8, wrong=0).ok
