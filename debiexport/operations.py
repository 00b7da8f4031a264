"""The first operation of a part that does not compute what it should.

A part is cut out of the model and out of the graph that the checkpoint gives. Both stretches take the same: what the
artifact has at the place before, and its routes. Both are run as they are written, nothing fused, by the same
runtime. An operation that is in order so gives the same numbers to the bit; where the order of its additions is
not fixed, to a few roundings of its largest value. So its tolerance is `TOLERANCE`, relative to the largest value
expected of it; of whole numbers and truth values none may differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from debiexport.errors import BundleError
from debiexport.graph.cut import cut, original
from debiexport.graph.differences import GraphDifference
from debiexport.metrics import relative_error
from debiexport.parity import EPSILON, FACTOR
from debiexport.parity_report import json_value
from debiexport.places import Part, Run, shape_text
from debiexport.runtimes.base import Array, Arrays
from debiexport.runtimes.ort import OrtGraph
from debiexport.signature import IMAGES

TOLERANCE = FACTOR * EPSILON
_SHOWN = 3

Runner = Callable[[onnx.ModelProto], Callable[[Arrays], Arrays]]
"""Loads a stretch, and gives a function from its inputs to all of its outputs."""

Seen = Callable[[], Iterable[tuple[Run, Arrays]]]


@dataclass(frozen=True)
class Operation:
    """An operation whose output leaves the tolerance.

    Attributes:
        name: of the node in the model.
        kind: such as `Conv`.
        part: place at the end of the part that holds it.
        output: name of the tensor that is off.
        shape: of that tensor.
        expected_shape: of what was expected.
        error: relative error, see `metrics`; of whole numbers and truth values the share that differs. Infinite where
            it is not finite or has another shape.
        tolerance: what `error` may be.
        seen_on: image and batch that showed it.
        differences: how the node differs from the expected one, as sentences.
    """

    name: str
    kind: str
    part: str
    output: str
    shape: tuple[int, ...]
    expected_shape: tuple[int, ...]
    error: float
    tolerance: float
    seen_on: str
    differences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """`error` is null where it is infinite."""
        data = {key: json_value(value) for key, value in vars(self).items()}
        lists = ("shape", "expected_shape", "differences")
        return data | {key: list(data[key]) for key in lists}

    def __str__(self) -> str:
        shape = shape_text(self.shape)
        if self.shape != self.expected_shape:
            shape += f", expected {shape_text(self.expected_shape)}"
        named = "" if self.output == self.name else f" ({self.kind} to {self.output})"
        error = f"error {self.error:.1e}, tolerance {self.tolerance:.1e}"
        return f"{self.name}{named} {shape}: {error}, seen on {self.seen_on}"


class Comparison:
    """A model and the graph that it should be, compared part by part.

    Args:
        actual: the model.
        expected: the graph that the checkpoint gives.
        difference: of the two, from `compare_graphs`.
        parts: of the network, in order, each with its places in the model.
        runner: runs a stretch.
    """

    def __init__(
        self,
        actual: onnx.ModelProto,
        expected: onnx.ModelProto,
        difference: GraphDifference,
        parts: Sequence[Part],
        runner: Runner,
    ) -> None:
        self.actual, self.expected, self.difference = actual, expected, difference
        self.parts, self.runner = parts, runner
        made = {name for node in expected.graph.node for name in node.output}
        # What a part is given: the stream before it, and routes.
        stream = [part for part in parts if not part.is_output]
        given = [name for part in stream for name in (part.name, *(a.site.routes for a in part.sites))]
        self._given = [name for name in given if name in made]

    def first_operation(self, part: Part, seen: Seen) -> Operation | None:
        """The first operation of a part, in the model's order, whose output leaves the tolerance.

        The choice of regions comes first: what follows takes the artifact's choice, whatever that is.

        Args:
            part: with all of its places in both models.
            seen: gives runs of the artifact and its tensors at every place; the first that shows a fault decides.

        Raises:
            BundleError: the runtime cannot run the part.
        """
        choices = [(site.site.affinity, site.site.routes) for site in part.sites]
        for targets in (*choices, part.places):
            given = [name for name in self._given if name != part.name]
            actual, expected = (cut(model, given, targets) for model in (self.actual, self.expected))
            if self._suspicious(actual, expected):
                sides = [self._loaded(actual), self._loaded(expected)]
                for run, tensors in seen():
                    found = self._first(part, run, actual, *(side(tensors | {IMAGES: run.stacked}) for side in sides))
                    if found is not None:
                        return found
        return None

    def _loaded(self, stretch: onnx.ModelProto) -> Callable[[Arrays], Arrays]:
        """A function from the artifact's tensors, rounded to the types that a stretch takes, to all of its outputs."""
        run = self.runner(stretch)
        types = {
            value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            for value in stretch.graph.input
        }
        return lambda tensors: run({n: tensors[n].astype(dtype, copy=False) for n, dtype in types.items()})

    def _first(
        self, part: Part, run: Run, stretch: onnx.ModelProto, actual: Arrays, expected: Arrays
    ) -> Operation | None:
        for node in stretch.graph.node:
            for name in node.output:
                if name not in expected:
                    continue
                error, tolerance = _error(actual[name], expected[name])
                if not error <= tolerance:
                    return Operation(
                        name=node.name or original(name),
                        kind=node.op_type,
                        part=part.name,
                        output=original(name),
                        shape=actual[name].shape,
                        expected_shape=expected[name].shape,
                        error=error,
                        tolerance=tolerance,
                        seen_on=str(run),
                        differences=self.difference.changed.get(original(name), ()),
                    )
        return None

    def changes(self, part: Part) -> list[tuple[str, str]]:
        """Every difference in the nodes of a part: (output, what differs), in the model's order."""
        nodes = cut(self.actual, [name for name in self._given if name != part.name], part.places).graph.node
        outputs = [original(node.output[0]) for node in nodes]
        return [(name, text) for name in outputs for text in self.difference.changed.get(name, ())]

    def _suspicious(self, actual: onnx.ModelProto, expected: onnx.ModelProto) -> bool:
        """Whether anything in the stretches differs at all: two that are the same give the same."""
        ours, theirs = ({original(n) for node in side.graph.node for n in node.output} for side in (actual, expected))
        found = self.difference
        return bool(ours & {*found.changed, *found.added} or theirs & set(found.missing))


def load_stretch(stretch: onnx.ModelProto, threads: int | None, provider: str) -> Callable[[Arrays], Arrays]:
    """A `Runner`: ONNX Runtime."""
    return OrtGraph(stretch, "a part of the model", threads, provider).run


def find_operation(comparison: Comparison, first: str, seen: Seen) -> tuple[Operation | None, list[str]]:
    """The first operation that is off, and what else a user should know.

    Parts are searched from the one of the first place that is off on. Where nothing is found, a fault that is within
    the tolerance at its own place may have grown later, so the parts before are searched too.

    Args:
        comparison: of the model with the expected graph.
        first: stable name of the first place that is off.
        seen: see `Comparison.first_operation`.
    """
    if not comparison.difference:
        return None, [
            "the model is, node by node, the graph that is exported here: what is off is the rewrite or the runtime;"
            " please report it with `debiexport doctor`"
        ]
    parts, notes = comparison.parts, []
    start = next(i for i, part in enumerate(parts) if first in part.places)
    refused: list[str] = []
    for part in (*parts[start:], *parts[:start]):
        try:
            operation = comparison.first_operation(part, seen)
        except BundleError as error:
            refused.append(f"the operations of {part.name} cannot be compared: {error}")
            continue
        if operation is None:
            continue
        if part is not parts[start]:
            notes.append(f"the operations of {parts[start].name} are as expected; the one found is in {part.name}")
        if not operation.differences:
            changes = comparison.changes(part)[:_SHOWN]
            notes += [f"{operation.name} itself is as expected; in {name}, {text}" for name, text in changes]
        return operation, [*refused[:1], *notes]
    return None, [*refused[:1], "no operation leaves its tolerance by itself"]


def _error(actual: Array, expected: Array) -> tuple[float, float]:
    """How far an output is off, and how far it may be; see `Operation`."""
    exact = not (np.issubdtype(expected.dtype, np.floating) and np.issubdtype(actual.dtype, np.floating))
    tolerance = 0.0 if exact else TOLERANCE
    if actual.shape != expected.shape:
        return math.inf, tolerance
    if exact:
        return float(np.mean(actual != expected)) if expected.size else 0.0, tolerance
    if not expected.size or np.array_equal(actual, expected, equal_nan=True):
        return 0.0, tolerance
    error = relative_error(actual, expected)
    return (math.inf if math.isnan(error) else error), tolerance
