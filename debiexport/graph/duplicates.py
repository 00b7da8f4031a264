"""Passes: what is stored or computed twice is there once."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
import onnx_ir.passes.common as passes

MAX_CONSTANT = 2**16  # numbers; larger ones are weights, and comparing them all takes longer than it saves


def share_constants(model: ir.Model, keep: Collection[str]) -> None:
    """Make equal constants one, in place."""
    passes.DeduplicateInitializersPass(size_limit=MAX_CONSTANT)(model)


def merge_duplicates(model: ir.Model, keep: Collection[str]) -> None:
    """Make nodes that do the same to the same one, in place; tensors named in `keep` have to be graph outputs."""
    share_constants(model, keep)
    passes.CommonSubexpressionEliminationPass()(model)
