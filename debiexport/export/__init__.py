"""A checkpoint becomes a verified bundle: one module per target, and what they share."""

from __future__ import annotations

from debiexport.export.coreml import export_coreml
from debiexport.export.naming import default_output
from debiexport.export.onnx import export_onnx
from debiexport.export.result import ExportResult, UnverifiedExport
from debiexport.export.tensorrt import export_tensorrt

__all__ = [
    "ExportResult",
    "UnverifiedExport",
    "default_output",
    "export_coreml",
    "export_onnx",
    "export_tensorrt",
]
