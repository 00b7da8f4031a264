"""One TOML table while it is read: every key is taken once, leftovers are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from debiexport.cards.limits import MAX_NUMBER
from debiexport.errors import CardError

_TYPE_NAMES = {int: "an integer", float: "a number", str: "a string", list: "a list", dict: "a table"}


class Table:
    """A TOML table; `where` names it in messages."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise CardError(f"{where} is {data!r}: it must be a table")
        self._data: dict[str, Any] = dict(data)
        self._keys: list[str] = []
        self.where = where

    def take(self, key: str, kind: type, *, optional: bool = False) -> Any:
        self._keys.append(key)
        if key not in self._data:
            if optional:
                return None
            raise CardError(f"{self.where}: key {key!r} is missing; it must be {_TYPE_NAMES[kind]}")
        value = self._data.pop(key)
        accepted: Any = (int, float) if kind is float else kind
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise CardError(f"{self.where}: {key} is {value!r}; it must be {_TYPE_NAMES[kind]}")
        return self._finite(key, value) if kind is float else value

    def integer(self, key: str, low: int, high: int, *, optional: bool = False) -> Any:
        value = self.take(key, int, optional=optional)
        if value is not None and not low <= value <= high:
            raise CardError(f"{self.where}: {key} is {value}; allowed are {low} to {high}")
        return value

    def choice(self, key: str, allowed: Sequence[str], *, default: str | None = None) -> str:
        given: str | None = self.take(key, str, optional=default is not None)
        value = default if given is None else given
        if value not in allowed:
            raise CardError(f"{self.where}: {key} is {value!r}; allowed are {', '.join(allowed)}")
        return str(value)

    def triple(self, key: str) -> tuple[float, float, float]:
        value: list[Any] = self.take(key, list)
        if len(value) != 3 or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in value):
            raise CardError(f"{self.where}: {key} is {value!r}; it must be three numbers, for R, G and B")
        r, g, b = (self._finite(key, v) for v in value)
        return (r, g, b)

    def _finite(self, key: str, value: float) -> float:
        """A number as a float: TOML writes a whole one without a point, and has nan and inf."""
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise CardError(f"{self.where}: {key} has {value}; allowed are numbers up to {MAX_NUMBER:.0f}")
        return float(value)

    def done(self) -> None:
        for key, value in self._data.items():
            raise CardError(
                f"{self.where}: unknown key {key!r} with value {value!r}; allowed are {', '.join(self._keys)}"
            )
