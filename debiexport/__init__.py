"""debiexport: DeBiFormer and BiFormer checkpoints become verified deployment bundles.

The functions behind every command of the CLI, importable without torch:

    load_model      a card (and a checkpoint) as the reference network        (needs debiexport[export])
    export_onnx     a checkpoint as a verified ONNX bundle                    (needs debiexport[export])
    export_coreml   a checkpoint as a verified Core ML bundle                 (needs debiexport[coreml])
    export_tensorrt a checkpoint as verified typed models, and engines        (needs debiexport[tensorrt] or [rtx])
    check           prove a bundle again, and measure its accuracy
    bisect          the first place and operation at which a bundle is off (needs debiexport[export])
    predict         classify images with a bundle
    predict_remote  classify images with a server that has one                (needs debiexport[serve])
    measure_latency bundles and what they are compared with, timed and proven
    measure_engines the engines of a TensorRT bundle, proven and timed on the GPU
    measure_coreml  a Core ML bundle on a Mac, timed and proven on each choice of compute units
    write_repository a Triton model repository of bundles                     (needs debiexport[serve])
    lint_repository what Triton would catch late or never in a repository     (needs debiexport[serve])
    list_models     the cards with counted parameters and multiply-adds
    diagnose        what is installed here and what can be done with it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from debiexport._version import __version__

if TYPE_CHECKING:
    from debiexport.bench.coreml import measure_coreml
    from debiexport.bench.coreml_report import CoreMLLatencyResult
    from debiexport.bench.engines import EnginesResult, measure_engines
    from debiexport.bench.measuring import measure_latency
    from debiexport.bench.report import LatencyResult
    from debiexport.bisecting import BisectResult, bisect
    from debiexport.cards import Card, load_card
    from debiexport.checking import CheckResult, check
    from debiexport.doctor import Diagnosis, diagnose
    from debiexport.errors import DebiexportError
    from debiexport.export import ExportResult, export_coreml, export_onnx, export_tensorrt
    from debiexport.loading import load_model
    from debiexport.models_table import ModelRow, list_models
    from debiexport.prediction import PredictResult, predict
    from debiexport.remote import predict_remote
    from debiexport.targets.tensorrt.profile import Profile
    from debiexport.triton.lint import LintReport, lint_repository
    from debiexport.triton.presets import ServingOptions
    from debiexport.triton.repository import RepositoryResult, write_repository

_HOMES = {
    "BisectResult": "bisecting",
    "Card": "cards",
    "CheckResult": "checking",
    "CoreMLLatencyResult": "bench.coreml_report",
    "DebiexportError": "errors",
    "Diagnosis": "doctor",
    "EnginesResult": "bench.engines",
    "ExportResult": "export",
    "LatencyResult": "bench.report",
    "LintReport": "triton.lint",
    "ModelRow": "models_table",
    "PredictResult": "prediction",
    "Profile": "targets.tensorrt.profile",
    "RepositoryResult": "triton.repository",
    "ServingOptions": "triton.presets",
    "bisect": "bisecting",
    "check": "checking",
    "diagnose": "doctor",
    "export_coreml": "export",
    "export_onnx": "export",
    "export_tensorrt": "export",
    "lint_repository": "triton.lint",
    "list_models": "models_table",
    "load_card": "cards",
    "load_model": "loading",
    "measure_coreml": "bench.coreml",
    "measure_engines": "bench.engines",
    "measure_latency": "bench.measuring",
    "predict": "prediction",
    "predict_remote": "remote",
    "write_repository": "triton.repository",
}

__all__ = [
    "BisectResult",
    "Card",
    "CheckResult",
    "CoreMLLatencyResult",
    "DebiexportError",
    "Diagnosis",
    "EnginesResult",
    "ExportResult",
    "LatencyResult",
    "LintReport",
    "ModelRow",
    "PredictResult",
    "Profile",
    "RepositoryResult",
    "ServingOptions",
    "__version__",
    "bisect",
    "check",
    "diagnose",
    "export_coreml",
    "export_onnx",
    "export_tensorrt",
    "lint_repository",
    "list_models",
    "load_card",
    "load_model",
    "measure_coreml",
    "measure_engines",
    "measure_latency",
    "predict",
    "predict_remote",
    "write_repository",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import debiexport` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'debiexport' has no attribute {name!r}")
    if name == "load_model":  # its module imports torch
        from debiexport.extras import EXPORT, require

        require(EXPORT, "debiexport.load_model", "export")

    value = getattr(import_module(f"debiexport.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
