"""Pass: the definitions of the project's own operators go, their calls stay, for whoever has the operators built in."""

from __future__ import annotations

import onnx

DOMAIN = "debiexport"


def drop_functions(model: onnx.ModelProto, domain: str = DOMAIN) -> onnx.ModelProto:
    """A copy of the model without the functions of a domain.

    With a definition inside, TensorRT's parser puts it in the place of the call and never asks for the plugin of that
    name. Functions of other domains, types and shapes stay as they are.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [function for function in copy.functions if function.domain != domain]
    del copy.functions[:]
    copy.functions.extend(kept)
    return copy
