"""What TensorRT says when it refuses a graph, and what to change then.

The parsers and builders of TensorRT and of TensorRT for RTX share their words. A text that is not known here is shown
as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from debiexport.targets.tensorrt.rtx_advice import advice

SHOWN = 3  # refusals in a message
VERBATIM = 300  # characters of a text that is not known

# The parser adds this to each of its errors where there is no driver; it is no reason to refuse anything.
_NO_DRIVER = re.compile(r"catchCudaError|CUDA driver version is insufficient")
_INVALID_NODE = re.compile(r"Invalid Node - ")
_ERROR_CODE = re.compile(r"^[\w:]+: Error Code \d+: [\w ]+ \((?P<inner>.*)\)$")
_SOURCE = re.compile(r"\s*In [\w()]+ at \S+:\d+")


@dataclass(frozen=True)
class Refusal:
    """One thing that TensorRT refuses.

    Attributes:
        text: its words, possibly in several lines.
        node, operator: of the ONNX graph; "" where the words are not about a node.
        code: name of the parser's error code; "" from the builder.
    """

    text: str
    node: str = ""
    operator: str = ""
    code: str = ""

    def __str__(self) -> str:
        told, node = advice(self.text, self.operator)
        node = self.node or node
        place = f"{node} ({self.operator})" if node and self.operator else node or self.operator
        return f"{place}: {told or self.verbatim}" if place else told or self.verbatim

    @property
    def verbatim(self) -> str:
        """The first line of the text that says something, without the place in TensorRT's own sources."""
        lines = [" ".join(line.split()) for line in self.text.splitlines()]
        told = [line for line in lines if line and not _NO_DRIVER.search(line) and not _INVALID_NODE.match(line)]
        first = told[0] if told else "it gives no reason"
        match = _ERROR_CODE.match(first)
        return _SOURCE.sub("", match["inner"] if match else first)[:VERBATIM].strip()


def parser_refusals(parser: Any) -> tuple[Refusal, ...]:
    """All errors of an `OnnxParser`, be it of TensorRT or of TensorRT for RTX."""
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return tuple(
        Refusal(text=error.desc(), node=error.node_name(), operator=error.node_operator(), code=error.code().name)
        for error in errors
    )


def builder_refusals(lines: Iterable[str]) -> tuple[Refusal, ...]:
    """What a builder logged as errors."""
    return tuple(Refusal(text=line) for line in lines if not _NO_DRIVER.search(line))


def explain(refusals: Sequence[Refusal]) -> str:
    """One line that says what is refused, and what to change."""
    told = list(dict.fromkeys(map(str, refusals))) or ["it gives no reason"]
    more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return f"TensorRT refuses the graph: {'; '.join(told[:SHOWN])}{more}"
