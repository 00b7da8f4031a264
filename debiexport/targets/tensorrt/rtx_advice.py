"""TensorRT's reasons for refusing a graph, and what to do about each.

A rule is a pattern in TensorRT's words, the operator that they must be about ("" for any), and the advice, in which the
pattern's groups and the operator stand in braces. A group `node` names the node where the parser does not.
"""

from __future__ import annotations

import re

_TYPE_NAMES = {
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Int8": "int8",
    "Int32": "int32",
    "Int64": "int64",
    "UInt8": "uint8",
    "Bool": "bool",
    "FLOAT": "float32",
    "HALF": "float16",
    "FLOAT16": "float16",
}
_A = rf"(?P<a>{'|'.join(_TYPE_NAMES)})\b"
_B = _A.replace("<a>", "<b>")


# The first that matches speaks, so what is particular comes before what is general.
_RULES = tuple(
    (re.compile(pattern), operator, words)
    for pattern, operator, words in (
        (
            rf"IGridSampleLayer `input` and `grid` must be of same type\. `input` type is {_A}.* type is {_B}",
            "",
            "GridSample's input is {a} and its grid {b}: cast the input to the type of its grid, which holds positions",
        ),
        (
            rf"INormalizationLayer `input` and `(?P<what>\w+)` must have identical types\. .*? is {_A}.* is {_B}",
            "",
            "its input is {a} and its {what} {b}: cast the input, or store the {what} in the type of the input",
        ),
        (
            rf"Inputs must be either all FLOAT or all FLOAT16\. Input type = {_A}, scale type = {_B}",
            "",
            "its input is {a} and its scale {b}: store scale and bias in the type of the input",
        ),
        (
            r"ITopKLayer (?P<node>[^:]+): .*K exceeds the maximum value allowed \((?P<limit>\d+)\)",
            "",
            "TopK's K is over {limit}, the most that TensorRT takes: choose a smaller top-k",
        ),
        (
            r"isInFlight",
            "TopK",
            "TopK's K is computed from data and must be constant: export with a number for it",
        ),
        (
            r"Dims::MAX_DIMS|Failed to convert ONNX dimensions",
            "",
            "a tensor has more than 8 dimensions, the most that TensorRT takes: reshape it before",
        ),
        (
            r"Plugin not found|\w+ plugin creator version",
            "",
            "no plugin {operator} is registered: build with the plugins, or export without this operation",
        ),
        (
            r"Unsupported ONNX data type|Failed to convert ONNX dat[ae] type|Unsupported data type for",
            "",
            "it has a type that TensorRT does not know: cast to float32, float16, int32 or int64",
        ),
        (
            r"^false$",
            "",
            "TensorRT has no operation {operator}: choose a lowering without it",
        ),
        (
            r"Cannot compile operation '(?P<node>[^']+)' for Turing \(SM75\): FP32",
            "",
            "Turing (sm75) multiplies no float32 matrices: export in fp16, or leave sm75 out of --gpu",
        ),
        (
            r"no optimization profile has been defined|is missing values for shape input tensor",
            "",
            "an input's size is not fixed, or an input gives a shape: export with a fixed --batch, or build for a range"
            " of batches",
        ),
        (
            r"values for profile \d+ violate shape constraints: (?P<node>[^:]+): (?P<why>[^.]+)",
            "",
            "not every batch of the range is possible ({why}): export with a fixed --batch",
        ),
        (
            r"profile has min=\S+ opt=\S+ max=\S+ but tensor has|static dimensions that don't match",
            "",
            "the range of batches is not what the input takes: export with any batch, or build without a range",
        ),
        (
            r"Failed to parse the ONNX model|must have at least one output",
            "",
            "the file is no ONNX model with outputs: export again",
        ),
        (
            r"Failed to import initializer: (?P<node>\S+)$",
            "",
            "a constant cannot be read: put the model's file of weights beside it, or export again",
        ),
        (
            r"Node input was not registered",
            "",
            "an input of it comes from nowhere, so the file is damaged: export again",
        ),
        (
            rf"has type {_A} but must have type (?P<possible>[\w, ]+)\.",
            "",
            "it takes no {a}: cast its input to another type before",
        ),
        (
            r"(?i)out of memory|OutOfMemory|bad_alloc",
            "",
            "there is not enough memory to build it: free some, or build for fewer GPUs",
        ),
        (
            rf"same (?:input )?types?\b.*?\b{_A}.*?\b{_B}",
            "",
            "its operands are {a} and {b}, and must have one type: cast one of them",
        ),
    )
)


def advice(text: str, operator: str) -> tuple[str | None, str]:
    """What is wrong and what to do about it, or None if the text is not known; and the node that it names, or ""."""
    for pattern, about, words in _RULES:
        match = pattern.search(text)
        if match and about in ("", operator):
            groups = {name: value or "" for name, value in match.groupdict().items()}
            values = {name: _TYPE_NAMES.get(value, value) for name, value in groups.items()}
            return " ".join(words.format(operator=operator, **values).split()), groups.get("node", "")
    return None, ""
