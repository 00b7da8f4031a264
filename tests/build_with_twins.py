"""A process in which TensorRT for RTX parses and builds models with the plugins' nodes, for test_plugins_v3.py.

    python build_with_twins.py FOLDER

Every model of the folder is parsed; those that parse are built, twice. What was found is printed as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_rtx as trt

from debiexport.errors import DebiexportError
from debiexport.plugins.interface import Interface
from debiexport.plugins.region_attention.interface import INTERFACE
from debiexport.plugins.twin import twin_creator
from debiexport.plugins.twins import register_twins


def build(model: Path, refusals: list[str]) -> dict[str, Any]:
    """What TensorRT makes of a model, and the refusals that were added meanwhile."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    before = len(refusals)
    parsed = parser.parse_from_file(str(model))
    found: dict[str, Any] = {"parsed": parsed, "refusals": refusals[before:], "layers": {}, "plans": []}
    if parsed:
        for layer in (network.get_layer(index) for index in range(network.num_layers)):
            output = layer.get_output(0)
            found["layers"][layer.name] = [layer.type.name, list(output.shape), output.dtype.name]
        for _ in range(2):
            config = builder.create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(trt.ComputeCapability.SM89, 0)
            found["plans"].append(hashlib.sha256(builder.build_serialized_network(network, config)).hexdigest())
    return found


def lifecycle(interface: Interface) -> dict[str, Any]:
    """A twin is written to an engine, made again from what was written, and asked to run."""
    creator = twin_creator(trt, interface, print)
    number = np.array([7], np.int32)
    given = [trt.PluginField(name, number, trt.PluginFieldType.INT32) for name in interface.attributes]
    twin = creator.create_plugin("block/attention", trt.PluginFieldCollection(given), None)
    fields = twin.get_fields_to_serialize()
    again = creator.create_plugin("again", fields, None)
    try:
        again.enqueue([], [], [], [], 0, 0)
        words = ""
    except DebiexportError as error:
        words = str(error)
    return {
        "written": [[field.name, field.type.name, field.data.tolist()] for field in fields],
        "attributes": again.attributes,
        "cloned": again.clone().attributes,
        "enqueue": words,
    }


if __name__ == "__main__":
    refusals = register_twins(trt)
    assert register_twins(trt) is refusals
    results = {model.stem: build(model, refusals) for model in sorted(Path(sys.argv[1]).glob("*.onnx"))}
    print(json.dumps({"models": results, "lifecycle": lifecycle(INTERFACE)}))
