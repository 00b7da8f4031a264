"""The names in a model, which a damaged file may have made anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from debiexport.errors import BundleError

_FREE = ("doc_string", "metadata_props", "external_data")  # text that names nothing


def check_names(model: onnx.ModelProto) -> None:
    """Refuse names that are not text of one line; protobuf hands what is not UTF-8 over as bytes.

    Raises:
        BundleError: there is one.
    """
    for name in _names(model):
        if not isinstance(name, str) or not name.isprintable():
            raise BundleError(f"the model has a name {name!r}, which is not text: the file is damaged, export it again")


def _names(message: Any) -> Iterator[str | bytes]:
    for field, value in message.ListFields():
        if field.name in _FREE:
            continue
        if field.type == field.TYPE_STRING:
            yield from [value] if isinstance(value, str | bytes) else value
        elif field.type == field.TYPE_MESSAGE:
            for each in [value] if hasattr(value, "ListFields") else value:
                yield from _names(each)
