"""Every call that works on macOS only: Core ML through coremltools, and what the system tells of itself.

It is small on purpose: nothing here can be tried elsewhere. All that has logic is beside it.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from debiexport.environment import UNKNOWN
from debiexport.errors import BundleError, MissingDependencyError, OutputError
from debiexport.extras import require
from debiexport.runtimes.compute_plan import CPU, GPU, NEURAL_ENGINE, ComputePlan, PlacedOperation
from debiexport.runtimes.coreml import check_numpy
from debiexport.runtimes.mac import Mac, Power
from debiexport.targets.coreml.quiet import quiet_coremltools

ALL_UNITS = ("ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")
"""Names of coremltools.ComputeUnit: which devices Core ML may use; it chooses among them by itself."""

PACKAGES = ("coremltools",)
COMMAND_TIMEOUT_S = 20
_DEVICES = {"MLNeuralEngineComputeDevice": NEURAL_ENGINE, "MLGPUComputeDevice": GPU, "MLCPUComputeDevice": CPU}


def require_macos(what: str) -> None:
    """Refuse to go on where Core ML cannot run.

    Args:
        what: is wanted, as the beginning of a sentence.

    Raises:
        MissingDependencyError: this is not macOS, or coremltools or its native library is not installed, or
            coremltools does not go with numpy.
    """
    if not is_mac():
        raise MissingDependencyError(
            f"{what} needs macOS, this is {platform.system() or _system()}: Core ML runs on macOS only; what works"
            " here is `debiexport check`, which evaluates the package"
        )
    require(PACKAGES, what, "coreml")
    check_numpy()
    if not _has_native_library():
        raise MissingDependencyError(
            f"{what} needs the native library of coremltools, which is not installed for this Python"
            f" {platform.python_version()}: pip install --force-reinstall --only-binary coremltools coremltools"
        )


def is_mac() -> bool:
    """Whether this is macOS."""
    return _system() == "darwin"


def import_coremltools() -> Any:
    """coremltools, which takes seconds; its remarks on versions of other packages are kept quiet."""
    with quiet_coremltools():
        import coremltools
        import coremltools.models.compute_plan
    return coremltools


def default_cache() -> Path:
    """Where compiled models are kept."""
    return Path.home() / "Library" / "Caches" / "debiexport" / "coreml"


def compiled_path(package: Path, cache: Path) -> Path:
    """Where a package is kept compiled: named by what its model and weights hold, and by the build of macOS.

    The package's Manifest.json does not count: its identifiers are random.

    Raises:
        BundleError: the package holds no data.
    """
    data = package / "Data"
    files = sorted(path for path in data.rglob("*") if path.is_file())
    if not files:
        raise BundleError(f"{package} holds no Core ML model: copy the whole folder, or export again")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(data).as_posix()}\0{content}\n".encode())
    return cache / f"{digest.hexdigest()[:40]}-{_output('sw_vers', '-buildVersion') or UNKNOWN}.mlmodelc"


def compile_package(package: Path, cache: Path) -> Path:
    """Compile a package once; loaded uncompiled, it would be compiled at every load.

    Args:
        package: a folder that ends in .mlpackage.
        cache: folder of compiled models, made if it is not there.

    Returns:
        See `compiled_path`; the folder appears whole or not at all.

    Raises:
        MissingDependencyError: see `require_macos`.
        BundleError: Core ML refuses the package.
        OutputError: the cache cannot be written.
    """
    require_macos("compiling a Core ML package")
    compiled = compiled_path(package, cache)
    if compiled.is_dir():
        return compiled
    coremltools = import_coremltools()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".compiling-", dir=cache) as folder:
            with _refusals(f"{package.name} is not compiled by Core ML", "copy it again, or export again"):
                made = coremltools.models.utils.compile_model(
                    str(package), destination_path=str(Path(folder) / "model.mlmodelc")
                )
            try:
                Path(made).rename(compiled)
            except OSError:
                if not compiled.is_dir():  # it is there where another process was faster
                    raise
    except OSError as error:
        raise OutputError(
            f"compiled models cannot be kept in {cache} ({error.strerror}): choose another folder"
        ) from error
    return compiled


class CompiledModel:
    """A loaded model.

    Attributes:
        load_ms: milliseconds that Core ML took to load it.
    """

    def __init__(self, model: Any, load_ms: float) -> None:
        self._model, self.load_ms = model, load_ms

    def predict(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name: arrays; of a classifier the label, and probabilities by label.

        Args:
            feed: float32 or int32 arrays and PIL images by name.
        """
        # A dict of its own: coremltools replaces values in the one that it is given.
        outputs: dict[str, Any] = self._model.predict(dict(feed))
        return outputs

    @property
    def native_ns(self) -> int | None:
        """Nanoseconds of the last prediction inside of Core ML; None if coremltools does not tell.

        coremltools 9.0 shows them as a property of MLModel only. A CompiledMLModel holds the same native object.
        """
        shown = getattr(self._model, "last_predict_duration_in_nano_seconds", None)
        if shown is not None:
            return int(shown)
        read = getattr(getattr(self._model, "_proxy", None), "get_last_predict_duration_in_nano_seconds", None)
        told = None if read is None else read()
        return None if told is None else int(told)


def load_compiled(path: Path, compute_unit: str, function: str | None = None) -> CompiledModel:
    """Load a compiled model.

    Args:
        path: a folder that ends in .mlmodelc.
        compute_unit: one of `ALL_UNITS`.
        function: of a package of several functions, which needs macOS 15; None for the default one.

    Raises:
        MissingDependencyError: see `require_macos`.
        BundleError: Core ML refuses it.
    """
    require_macos("running a Core ML model")
    coremltools = import_coremltools()
    with _refusals(f"{path.name} is not loaded by Core ML on {compute_unit}", "choose another compute unit"):
        unit, load = coremltools.ComputeUnit[compute_unit], coremltools.models.CompiledMLModel
        begun = time.perf_counter_ns()
        model = load(str(path), compute_units=unit, function_name=function)
        return CompiledModel(model, (time.perf_counter_ns() - begun) / 1e6)


def compute_plan(path: Path, compute_unit: str, function: str | None = None) -> ComputePlan:
    """Where Core ML means to run each operation; needs macOS 14.4.

    Args:
        path, compute_unit, function: see `load_compiled`.

    Raises:
        MissingDependencyError: see `require_macos`.
        BundleError: Core ML makes no plan, or the model is no ML Program, or has no such function.
    """
    require_macos("the compute plan of a Core ML model")
    coremltools = import_coremltools()
    with _refusals(f"{path.name} gets no compute plan of Core ML on {compute_unit}", "choose another compute unit"):
        plan = coremltools.models.compute_plan.MLComputePlan.load_from_path(
            str(path), compute_units=coremltools.ComputeUnit[compute_unit]
        )
        program = plan.model_structure.program
        if program is None:
            raise BundleError(f"{path.name} is no ML Program: export again")
        name = function or "main"
        if name not in program.functions:
            names = ", ".join(sorted(program.functions)) or "none"
            raise BundleError(f"{path.name} has no function {name!r}, only {names}: export again")
        operations = _operations(program.functions[name].block)
        return ComputePlan(compute_unit, name, tuple(_place(plan, o) for o in operations if not _is_constant(o)))


def _operations(block: Any) -> Iterator[Any]:
    """The operations of a block and of those inside of it."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _operations(inner)


def _type(operation: Any) -> str:
    """ "conv" of "ios17.conv"."""
    return str(operation.operator_name).rpartition(".")[2]


def _is_constant(operation: Any) -> bool:
    return _type(operation).startswith("const")  # const itself, and constexpr_...: done when a model is loaded


def _place(plan: Any, operation: Any) -> PlacedOperation:
    usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
    cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
    supported = [] if usage is None else map(_device, usage.supported_compute_devices)
    return PlacedOperation(
        type=_type(operation),
        output=operation.outputs[0].name if operation.outputs else "",
        device=None if usage is None else _device(usage.preferred_compute_device),
        supported=tuple(device for device in supported if device is not None),
        cost=None if cost is None else float(cost.weight),
    )


def _device(device: Any) -> str | None:
    return _DEVICES.get(type(device).__name__)


def describe_mac() -> Mac:
    """Read the chip and the system."""
    return Mac(
        chip=_output("sysctl", "-n", "machdep.cpu.brand_string") or UNKNOWN,
        macos=_output("sw_vers", "-productVersion") or UNKNOWN,
        build=_output("sw_vers", "-buildVersion") or UNKNOWN,
    )


def describe_power() -> Power:
    """Read the power source, the low power mode and the thermal state."""
    return Power.of_texts(
        battery=_output("pmset", "-g", "batt"), settings=_output("pmset", "-g"), thermal=_output("pmset", "-g", "therm")
    )


def _output(*command: str) -> str:
    """What a command prints; nothing if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.strip()


def _system() -> str:
    """`sys.platform`; in a function, or a type checker takes the rest for unreachable elsewhere."""
    return sys.platform


def _has_native_library() -> bool:
    """Whether libcoremlpython lies in coremltools, whose import would take seconds."""
    spec = find_spec("coremltools")
    folders = (spec and spec.submodule_search_locations) or []
    return any(True for folder in folders for _ in Path(folder).glob("libcoremlpython*"))


@contextmanager
def _refusals(what: str, advice: str) -> Iterator[None]:
    """Whatever Core ML and coremltools raise, as one line."""
    try:
        yield
    except BundleError:
        raise
    except Exception as error:  # RuntimeError, Exception itself, TypeError
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise BundleError(f"{what}: {told}; {advice}") from error
