"""torch's exporter takes seconds for a network, so what it made of one is kept while the tests run.

Only where a test is about something else: a test of the conversion converts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import onnx
import pytest

from debiexport.static.network import StaticNetwork
from debiexport.targets import onnx as target

_made: dict[str, bytes] = {}
_VARIES = ("precision",)  # properties that are written into a model and change nothing else of it


def keep(patch: pytest.MonkeyPatch) -> None:
    """From now on convert every network once; another one is another size, lowering, batch or weight."""
    convert = target.to_onnx

    def kept(network: StaticNetwork, *, properties: Mapping[str, str], **options: Any) -> onnx.ModelProto:
        key = _key(network, properties, options)
        if key not in _made:
            _made[key] = convert(network, properties=properties, **options).SerializeToString()
        model = onnx.load_model_from_string(_made[key])
        named = {f"debiexport.{name}": value for name, value in sorted(properties.items())}
        onnx.helper.set_model_props(model, named)  # in the place of those of the first conversion
        return model

    patch.setattr(target, "to_onnx", kept)


def _key(network: StaticNetwork, properties: Mapping[str, str], options: Mapping[str, Any]) -> str:
    same = {name: value for name, value in properties.items() if name not in _VARIES}
    digest = hashlib.sha256(repr((sorted(same.items()), sorted(options.items()))).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
