"""coremltools' passes but those that change numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INEXACT = ("common::fuse_elementwise_to_batchnorm",)
"""It makes a batch norm of every product with a sum, with a variance of 1 and the default epsilon of 1e-5, so that the
result is 5e-6 too small: 20 dB of a float32 package."""


@contextmanager
def exact_passes() -> Iterator[None]:
    """Let inexact passes do nothing while the block runs.

    Compression runs all passes of coremltools once more and takes no pipeline of its own, so the registry is where they
    can be left out.
    """
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    class Nothing(AbstractGraphPass):  # type: ignore[misc]  # coremltools has no types
        def apply(self, prog: Any) -> None:
            """Change nothing."""

    kept = {name: PASS_REGISTRY.passes[name] for name in INEXACT}
    try:
        PASS_REGISTRY.passes.update(dict.fromkeys(INEXACT, Nothing))
        yield
    finally:
        PASS_REGISTRY.passes.update(kept)
