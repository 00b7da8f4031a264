"""Requests and answers as JSON: parsed only where they cannot take more memory than the model's tensors need."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from debiexport.runtimes.base import Array
from debiexport.serve.limits import SPARE_TOKENS, TOO_MANY
from debiexport.serve.refusals import BadRequest, shown
from debiexport.serve.requests import Signature, side_list
from debiexport.signature import TensorSpec
from debiexport.triton.dtypes import protocol_type

TEXT = {str: "a string", int: "a whole number", bool: "true or false", dict: "an object", list: "a list"}


@dataclass(frozen=True)
class Listed:
    """Values in a list, flat or nested as the shape is."""

    data: list[Any]

    def array(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        name, dtype = spec.name, np.dtype(spec.dtype)
        flat = _flat(name, self.data, shape)
        kinds = {int, float} if dtype.kind == "f" else {int}
        if strange := set(map(type, flat)) - kinds:
            raise BadRequest(
                f"input '{name}' has a value of JSON that is {_kind(strange)}, expected"
                f" {protocol_type(spec.dtype)} numbers"
            )
        if dtype.kind == "u" and flat and not (min(flat) >= 0 and max(flat) <= np.iinfo(dtype).max):
            raise BadRequest(
                f"input '{name}' has values from {shown(min(flat))} to {shown(max(flat))}, expected"
                f" {protocol_type(spec.dtype)} of 0 to {np.iinfo(dtype).max}"
            )
        try:
            with np.errstate(over="ignore"):  # infinite values are refused with those that came so
                return np.array(flat, dtype).reshape(shape)
        except OverflowError:
            raise BadRequest(f"input '{name}' has a value beyond {protocol_type(spec.dtype)}") from None


def decode(text: bytes | memoryview, signature: Signature) -> dict[str, Any]:
    """The object of a JSON text.

    Raises:
        BadRequest: it is none, has far more values than the model takes, or holds NaN or Infinity.
    """
    try:
        string = str(text, "utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the JSON is not UTF-8: {error.reason} at byte {error.start}") from None
    most = TOO_MANY * signature.largest_elements + SPARE_TOKENS
    for character, what in ((",", "values"), ("[", "lists"), ("{", "objects")):
        if (count := string.count(character)) > most:
            raise BadRequest(f"the JSON has {count} {what}, expected at most {most} for model '{signature.model}'")
    try:
        found = json.loads(string, parse_constant=_refuse_constant, object_pairs_hook=_object_without_repetition)
    except RecursionError:
        raise BadRequest("the JSON is nested too deeply, expected lists no deeper than the shape") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, dict):
        raise BadRequest(f"the JSON is {_kind({type(found)})}, expected an object with inputs")
    return found


def encode(content: Mapping[str, Any]) -> bytes:
    """The JSON text of an answer.

    Raises:
        ValueError: it holds NaN or infinite numbers, which JSON has not.
    """
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def value_of(content: Mapping[str, Any], key: str, kind: type, where: str, default: Any = None) -> Any:
    """An entry of an object, which must be of a type if it is there.

    Raises:
        BadRequest: it is of another.
    """
    value = content.get(key, default)
    if key in content and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise BadRequest(f"{where} has {key} {shown(value)}, expected {TEXT[kind]}")
    return value


def shape_of(name: str, sides: Sequence[Any]) -> tuple[int, ...]:
    """A shape: whole numbers.

    Raises:
        BadRequest: it has something else.
    """
    for side in sides:
        if type(side) is not int:
            raise BadRequest(f"input {shown(name)} has a shape with {shown(side)}, expected whole numbers")
    return tuple(sides)


def _flat(name: str, data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """The values in one list; nested lists must be nested as the shape is."""
    level, expected = data, math.prod(shape)
    if data and type(data[0]) is list:
        for depth, side in enumerate(shape[1:], 1):
            if len(level) != math.prod(shape[:depth]) or any(
                type(part) is not list or len(part) != side for part in level
            ):
                raise BadRequest(
                    f"input '{name}' has data that is not nested as its shape {side_list(shape)}, expected"
                    f" lists of {side} at depth {depth + 1}, or one flat list"
                )
            level = list(chain.from_iterable(level))
    if len(level) != expected:
        raise BadRequest(
            f"input '{name}' has {len(level)} values of data, expected {expected} for the shape {side_list(shape)}"
        )
    return level


def _kind(types: set[type]) -> str:
    found = next(iter(types))
    return {**TEXT, float: "a number with a fraction", type(None): "null"}.get(found, found.__name__)


def _refuse_constant(name: str) -> NoReturn:
    raise BadRequest(f"the JSON holds {name}, expected finite numbers")


def _object_without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadRequest(f"the JSON has {shown(twice)} more than once in an object, expected once")
    return found
