"""Stable names as identifiers of an ML Program, which have no dots."""

from __future__ import annotations

from collections.abc import Iterable


def identifier(name: str) -> str:
    """`stage1.block1.attn1.affinity` -> `stage1_block1_attn1_affinity`."""
    return name.replace(".", "_")


def function_name(batch: int) -> str:
    """The function of a package for several batches."""
    return f"batch{batch}"


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """Identifiers by name."""
    return {name: identifier(name) for name in names}
