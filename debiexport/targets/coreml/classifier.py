"""A program that gives probabilities becomes a classifier: the best class by its label, and all by theirs.

coremltools makes a classifier only of a program with no other named outputs, so the operation is added here, in the
form in which coremltools writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from debiexport.targets.coreml.traced import PROBABILITIES

CLASS_LABEL, CLASS_PROBABILITIES = "classLabel", "classLabel_probs"
_CLASSIFY = "classify"


def add_classifier(spec: Any, labels: Sequence[str]) -> None:
    """Append the classification to the program's only function, in place.

    Args:
        spec: Model_pb2.Model whose program has `probabilities` (1, classes).
        labels: one per class.
    """
    from coremltools.proto import MIL_pb2

    (function,) = spec.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    probabilities = _value(block, PROBABILITIES)
    wide = PROBABILITIES
    if probabilities.type.tensorType.dataType != MIL_pb2.FLOAT32:  # classification takes no other type
        wide = f"{PROBABILITIES}_fp32"
        cast = block.operations.add(type="cast")
        cast.inputs["x"].arguments.add(name=PROBABILITIES)
        _set_string(cast.inputs["dtype"].arguments.add().value, "fp32")
        result = cast.outputs.add(name=wide)
        result.type.CopyFrom(probabilities.type)
        result.type.tensorType.dataType = MIL_pb2.FLOAT32
        _set_string(cast.attributes["name"], wide)
    classify = block.operations.add(type=_CLASSIFY)
    classify.inputs["probabilities"].arguments.add(name=wide)
    classes = classify.inputs["classes"].arguments.add().value
    classes.type.listType.type.tensorType.dataType = MIL_pb2.STRING
    classes.type.listType.length.constant.size = len(labels)
    for label in labels:
        _set_string(classes.immediateValue.list.values.add(), label)
    classify.outputs.add(name=CLASS_LABEL).type.tensorType.dataType = MIL_pb2.STRING
    shares = classify.outputs.add(name=CLASS_PROBABILITIES).type.dictionaryType
    shares.keyType.tensorType.dataType = MIL_pb2.STRING
    shares.valueType.tensorType.dataType = MIL_pb2.FLOAT64
    _set_string(classify.attributes["name"], _CLASSIFY)

    block.outputs.extend([CLASS_LABEL, CLASS_PROBABILITIES])
    spec.description.output.add(name=CLASS_LABEL).type.stringType.SetInParent()
    spec.description.output.add(name=CLASS_PROBABILITIES).type.dictionaryType.stringKeyType.SetInParent()
    spec.description.predictedFeatureName = CLASS_LABEL
    spec.description.predictedProbabilitiesName = CLASS_PROBABILITIES


def _value(block: Any, name: str) -> Any:
    return next(value for operation in block.operations for value in operation.outputs if value.name == name)


def _set_string(value: Any, text: str) -> None:
    """Make a MIL value the scalar string."""
    from coremltools.proto import MIL_pb2

    value.type.tensorType.dataType = MIL_pb2.STRING
    value.immediateValue.tensor.strings.values.append(text)
