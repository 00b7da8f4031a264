"""The calls that need a Mac: refused elsewhere, and tried up to where coremltools calls its native library."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from debiexport import extras
from debiexport.errors import BundleError, MissingDependencyError, OutputError
from debiexport.runtimes import macos
from debiexport.runtimes.compute_plan import CPU, GPU, NEURAL_ENGINE, ComputePlan, PlacedOperation
from debiexport.runtimes.mac import Mac, Power

OneLine = Callable[[BaseException], str]
needs_coremltools = pytest.mark.skipif(bool(extras.missing(macos.PACKAGES)), reason="coremltools is not installed")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "model.mlpackage"
    (folder / "Data/com.apple.CoreML/weights").mkdir(parents=True)
    (folder / "Manifest.json").write_text("{}")
    (folder / "Data/com.apple.CoreML/model.mlmodel").write_bytes(b"model")
    (folder / "Data/com.apple.CoreML/weights/weight.bin").write_bytes(b"weights")
    return folder


class NativeModel:
    """The proxy of coremltools' native library, of which every method that is called exists in that of 9.0."""

    made: ClassVar[list[tuple[Any, ...]]] = []
    compiled: ClassVar[list[str]] = []
    error: ClassVar[str] = ""
    plan: ClassVar[Any] = None
    folder: ClassVar[Path]

    def __init__(self, path: str, units: str, function: str, hints: dict[str, str], asset: object) -> None:
        if self.error:
            raise RuntimeError(self.error)
        self.made.append((path, units, function, hints, asset))
        self.duration: int | None = None

    def predict(self, data: dict[str, Any], state: object) -> dict[str, Any]:
        self.duration = 1_500_000
        return {"logits": data["images"] * 2}

    def get_last_predict_duration_in_nano_seconds(self) -> int | None:
        return self.duration

    @classmethod
    def compileModel(cls, path: str) -> str:
        if cls.error:
            raise RuntimeError(cls.error)
        cls.compiled.append(path)
        made = cls.folder / f"compiled{len(cls.compiled)}.mlmodelc"
        made.mkdir(parents=True)
        (made / "model.mil").write_text("program")
        return str(made)

    @classmethod
    def get_compute_plan(cls, path: str, units: str) -> Any:
        if cls.error:
            raise RuntimeError(cls.error)
        return cls.plan


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[NativeModel]:
    """coremltools' own Python code on a Mac of which only the native library is replaced."""
    coremltools = macos.import_coremltools()
    monkeypatch.setattr(macos, "require_macos", lambda what: None)
    native = type("Native", (NativeModel,), {"made": [], "compiled": [], "folder": tmp_path / "tmp"})
    library = ModuleType("coremltools.libcoremlpython")
    library._MLModelProxy = native  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "coremltools.libcoremlpython", library)
    for module in (sys.modules[f"coremltools.models.{name}"] for name in ("_compiled_model", "compute_plan")):
        monkeypatch.setattr(module, "_MLModelProxy", native)
    for module in (sys.modules["coremltools.models._compiled_model"], coremltools.models.utils):
        monkeypatch.setattr(module, "_macos_version", lambda: (15, 0))
    return native


# ------------------------------------------------------------------------------- where it runs


def refusal(one_line: OneLine) -> str:
    with pytest.raises(MissingDependencyError) as caught:
        macos.require_macos("measuring")
    assert caught.value.exit_code == 5
    return one_line(caught.value)


def test_elsewhere_it_is_refused(monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    monkeypatch.setattr(macos, "_system", lambda: "linux")
    text = refusal(one_line)
    assert text.startswith("measuring needs macOS, this is ")
    assert "Core ML runs on macOS only" in text and "`debiexport check`" in text


def test_on_a_mac_without_coremltools(monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    monkeypatch.setattr(macos, "_system", lambda: "darwin")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert "pip install 'debiexport[coreml]'" in refusal(one_line)


def test_on_a_mac_whose_coremltools_lacks_its_native_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_line: OneLine
) -> None:
    monkeypatch.setattr(macos, "_system", lambda: "darwin")
    monkeypatch.setattr(extras, "find_spec", lambda name: object())
    monkeypatch.setattr(macos, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    assert "native library of coremltools" in refusal(one_line)
    (tmp_path / "libcoremlpython.so").write_bytes(b"")
    macos.require_macos("measuring")


@pytest.mark.skipif(sys.platform == "darwin", reason="it works there")
@pytest.mark.parametrize("call", ["compile_package", "load_compiled", "compute_plan"])
def test_every_call_is_refused(package: Path, tmp_path: Path, call: str) -> None:
    second: Any = tmp_path if call == "compile_package" else "ALL"
    with pytest.raises(MissingDependencyError):
        getattr(macos, call)(package, second)


# ------------------------------------------------------------------------------- coremltools has what is called


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@needs_coremltools
def test_what_is_called_exists_under_these_names() -> None:
    coremltools = macos.import_coremltools()
    models = coremltools.models
    plan = models.compute_plan.MLComputePlan
    assert {unit.name for unit in coremltools.ComputeUnit} == set(macos.ALL_UNITS)
    assert parameters(models.CompiledMLModel.__init__)[:4] == ["self", "path", "compute_units", "function_name"]
    assert parameters(models.CompiledMLModel.predict)[:2] == ["self", "data"]
    assert parameters(models.utils.compile_model)[:2] == ["model", "destination_path"]
    assert parameters(plan.load_from_path) == ["path", "compute_units"]
    assert isinstance(plan.model_structure, property)
    for name in ("device_usage", "estimated_cost"):
        found = {"device_usage": "get_compute_device_usage_for", "estimated_cost": "get_estimated_cost_for"}[name]
        assert parameters(getattr(plan, f"{found}_mlprogram_operation")) == ["self", "operation"]


@needs_coremltools
def test_the_plan_is_made_of_what_is_read() -> None:
    module = macos.import_coremltools().models.compute_plan
    fields = {
        "MLModelStructure": {"program"},
        "MLModelStructureProgram": {"functions"},
        "MLModelStructureProgramFunction": {"block"},
        "MLModelStructureProgramBlock": {"operations"},
        "MLModelStructureProgramOperation": {"operator_name", "outputs", "blocks"},
        "MLModelStructureProgramNamedValueType": {"name"},
        "MLComputePlanDeviceUsage": {"preferred_compute_device", "supported_compute_devices"},
        "MLComputePlanCost": {"weight"},
    }
    for name, wanted in fields.items():
        assert wanted <= {field.name for field in dataclasses.fields(getattr(module, name))}, name
    devices = macos.import_coremltools().models.compute_device
    assert all(hasattr(devices, name) for name in macos._DEVICES)


@needs_coremltools
def test_the_native_duration_is_read_as_coremltools_reads_it() -> None:
    models = macos.import_coremltools().models
    shown = models.MLModel.last_predict_duration_in_nano_seconds
    assert ".get_last_predict_duration_in_nano_seconds()" in inspect.getsource(shown.fget)
    assert "self._proxy = _MLModelProxy(" in inspect.getsource(models.CompiledMLModel.__init__)
    assert not hasattr(models.CompiledMLModel, "last_predict_duration_in_nano_seconds")


@needs_coremltools
def test_importing_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogger("coremltools").level
    macos.import_coremltools()
    assert not caplog.records and logging.getLogger("coremltools").level == before


# ------------------------------------------------------------------------------- up to the native library


@needs_coremltools
@pytest.mark.parametrize(("function", "name"), [(None, ""), ("batch2", "batch2")])
def test_load_and_predict(mac: type[NativeModel], tmp_path: Path, function: str | None, name: str) -> None:
    model = macos.load_compiled(tmp_path / "model.mlmodelc", "CPU_AND_NE", function)
    assert mac.made == [(str(tmp_path / "model.mlmodelc"), "CPU_AND_NE", name, {}, None)]
    assert model.load_ms >= 0 and model.native_ns is None
    feed = {"images": np.ones(3, np.float16)}
    assert model.predict(feed)["logits"].tolist() == [2, 2, 2]
    assert feed["images"].dtype == np.float16  # coremltools would have replaced it
    assert model.native_ns == 1_500_000


def test_a_later_coremltools_may_show_the_native_duration() -> None:
    assert macos.CompiledModel(SimpleNamespace(last_predict_duration_in_nano_seconds=7), 1.0).native_ns == 7
    assert macos.CompiledModel(SimpleNamespace(), 1.0).native_ns is None


@needs_coremltools
def test_what_core_ml_refuses_is_one_line(mac: type[NativeModel], package: Path, one_line: OneLine) -> None:
    mac.error = "Error Domain=com.apple.CoreML\n  Code=0 {}"
    for call, words in (
        (lambda: macos.load_compiled(package, "ALL"), "is not loaded by Core ML on ALL: Error Domain"),
        (lambda: macos.compute_plan(package, "ALL"), "gets no compute plan of Core ML on ALL"),
        (lambda: macos.compile_package(package, package.parent / "cache"), "is not compiled by Core ML"),
    ):
        with pytest.raises(BundleError) as caught:
            call()
        assert words in one_line(caught.value)
    assert not list((package.parent / "cache").iterdir())


# ------------------------------------------------------------------------------- compiled models


@needs_coremltools
def test_a_package_is_compiled_once(mac: type[NativeModel], package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "a" / "cache"
    compiled = macos.compile_package(package, cache)
    assert compiled == macos.compiled_path(package, cache) and compiled.suffix == ".mlmodelc"
    assert (compiled / "model.mil").is_file()
    assert macos.compile_package(package, cache) == compiled
    assert mac.compiled == [str(package)]
    assert list(cache.iterdir()) == [compiled]


def test_the_key_is_of_what_the_package_holds(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = macos.compiled_path(package, tmp_path)
    (package / "Manifest.json").write_text('{"itemInfoEntries": "other random names"}')
    assert macos.compiled_path(package, tmp_path) == key
    elsewhere = Path(shutil.copytree(package, tmp_path / "elsewhere.mlpackage"))
    assert macos.compiled_path(elsewhere, tmp_path) == key
    (package / "Data/com.apple.CoreML/weights/weight.bin").write_bytes(b"weightz")
    assert macos.compiled_path(package, tmp_path) != key
    monkeypatch.setattr(macos, "_output", lambda *command: "25A354")
    assert macos.compiled_path(elsewhere, tmp_path) == key.with_name(key.name.replace("unknown", "25A354"))


def test_a_package_that_holds_nothing(tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(BundleError) as caught:
        macos.compiled_path(tmp_path / "model.mlpackage", tmp_path)
    assert "holds no Core ML model" in one_line(caught.value)


@needs_coremltools
def test_another_process_may_be_faster(
    mac: type[NativeModel], package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        (target / "theirs").mkdir(parents=True)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    compiled = macos.compile_package(package, tmp_path / "cache")
    assert [path.name for path in compiled.iterdir()] == ["theirs"]


@needs_coremltools
@pytest.mark.usefixtures("mac")
def test_a_cache_that_cannot_be_written(package: Path, tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError) as caught:
        macos.compile_package(package, tmp_path / "cache")
    assert "compiled models cannot be kept in" in one_line(caught.value)


# ------------------------------------------------------------------------------- compute plans


def device(name: str) -> Any:
    """One of coremltools' devices, which only its native library can make."""
    return object.__new__(getattr(macos.import_coremltools().models.compute_device, name))


@pytest.fixture
def structure() -> Callable[[dict[str, list[Any]] | None], Any]:
    module = macos.import_coremltools().models.compute_plan

    def build(functions: dict[str, list[Any]] | None) -> Any:
        if functions is None:
            return module.MLModelStructure(neuralnetwork=object(), program=None, pipeline=None)
        blocks = {name: module.MLModelStructureProgramBlock([], ops, []) for name, ops in functions.items()}
        made = {name: module.MLModelStructureProgramFunction([], block) for name, block in blocks.items()}
        return module.MLModelStructure(None, module.MLModelStructureProgram(made), None)

    return build


def operation(type: str, *outputs: str, placed: tuple[Any, float | None] | None = None, inside: Any = ()) -> Any:
    module = macos.import_coremltools().models.compute_plan
    values = [
        module.MLModelStructureProgramNamedValueType(name, module.MLModelStructureProgramValueType())
        for name in outputs
    ]
    blocks = [module.MLModelStructureProgramBlock([], list(inside), [])] if inside else []
    return module.MLModelStructureProgramOperation({}, type, values, blocks, placed)


def plan_of(structure: Any) -> Any:
    """A plan whose native side knows an operation's device and cost by its `__proxy__`."""
    module = macos.import_coremltools().models.compute_plan

    def usage(operation: Any) -> Any:
        placed = operation.__proxy__
        return placed and module.MLComputePlanDeviceUsage(placed[0], [placed[0], device("MLCPUComputeDevice")])

    def cost(operation: Any) -> Any:
        placed = operation.__proxy__
        return None if placed is None or placed[1] is None else module.MLComputePlanCost(placed[1])

    plan = object.__new__(module.MLComputePlan)
    plan.__proxy__ = SimpleNamespace(
        model_structure=structure,
        get_compute_device_usage_for_mlprogram_operation=usage,
        get_estimated_cost_for_mlprogram_operation=cost,
    )
    return plan


@needs_coremltools
def test_compute_plan(mac: type[NativeModel], structure: Callable[..., Any], tmp_path: Path) -> None:
    engine, gpu, cpu = (device(f"ML{name}ComputeDevice") for name in ("NeuralEngine", "GPU", "CPU"))
    operations = [
        operation("const", "weight"),
        operation("ios16.constexpr_lut_to_dense", "dense"),
        operation("ios17.conv", "x", placed=(engine, 0.6)),
        operation("ios17.cond", "y", placed=(cpu, 0.0), inside=[operation("ios17.topk", "v", "i", placed=(cpu, 0.2))]),
        operation("ios16.softmax", "z", placed=(gpu, None)),
        operation("ios16.relu", "w"),
        operation("ios16.print"),
    ]
    mac.plan = plan_of(structure({"main": operations, "batch2": [operation("ios17.conv", "x2", placed=(cpu, 1.0))]}))
    plan = macos.compute_plan(tmp_path / "model.mlmodelc", "ALL")
    assert (plan.unit, plan.function) == ("ALL", "main")
    assert [o.type for o in plan.operations] == ["conv", "cond", "topk", "softmax", "relu", "print"]
    assert plan.operations[0] == PlacedOperation("conv", "x", NEURAL_ENGINE, (NEURAL_ENGINE, CPU), 0.6)
    assert plan.operations[-1] == PlacedOperation("print", "", None, (), None)
    assert plan.counts == {NEURAL_ENGINE: 1, GPU: 1, CPU: 2} and plan.unknown == 2
    assert plan.cost_shares == pytest.approx({NEURAL_ENGINE: 0.75, GPU: 0, CPU: 0.25})
    assert [o.output for o in plan.off_neural_engine] == ["y", "v", "z"]
    assert macos.compute_plan(tmp_path / "model.mlmodelc", "ALL", "batch2").counts[CPU] == 1


@needs_coremltools
@pytest.mark.parametrize(("functions", "words"), [(None, "no ML Program"), ({"b1": []}, "no function 'main', only b1")])
def test_no_compute_plan(
    mac: type[NativeModel],
    structure: Callable[..., Any],
    tmp_path: Path,
    one_line: OneLine,
    functions: dict[str, list[Any]] | None,
    words: str,
) -> None:
    mac.plan = plan_of(structure(functions))
    with pytest.raises(BundleError) as caught:
        macos.compute_plan(tmp_path / "model.mlmodelc", "ALL")
    assert words in one_line(caught.value)


def test_a_plan_crosses_as_rows_and_reads_as_a_line() -> None:
    placed = (
        PlacedOperation("conv", "x", NEURAL_ENGINE, (NEURAL_ENGINE, CPU), 0.5),
        PlacedOperation("topk", "y", CPU, (NEURAL_ENGINE, CPU), 0.5),
        PlacedOperation("relu", "z", None, (), None),
    )
    plan = ComputePlan("ALL", "main", placed)
    assert ComputePlan.of_rows("ALL", "main", plan.rows()) == plan
    assert str(plan) == (
        "operations: NeuralEngine 1 (50% of the cost), GPU 0 (0% of the cost), CPU 1 (50% of the cost), unknown 1"
    )
    assert str(plan.operations[1]) == "topk -> y on CPU although the Neural Engine could"
    assert plan.to_dict()["off_neural_engine"] == [placed[1].to_dict()]
    silent = ComputePlan("ALL", "main", placed[2:])
    assert silent.cost_shares is None and "tells no device for any of 1 operations" in str(silent)


# ------------------------------------------------------------------------------- the machine

BATTERY = "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t80%; discharging; 5:12 remaining\n"
COOL = "Note: No thermal warning level has been recorded\nNote: No performance warning level has been recorded\n"
LIMITS = "Note: No thermal warning level has been recorded\n CPU_Speed_Limit \t= {}\n CPU_Available_CPUs \t= 8\n"
SETTINGS = "System-wide power settings:\nCurrently in use:\n standby              1\n {} {}\n sleep  1\n"


@pytest.mark.parametrize(
    ("texts", "power", "reasons"),
    [
        (("", "", ""), ("unknown", "unknown", "unknown"), 0),
        (
            ("Now drawing from 'AC Power'\n", SETTINGS.format("lowpowermode", 0), COOL),
            ("AC Power", "off", "nominal"),
            0,
        ),
        (
            (BATTERY, SETTINGS.format("lowpowermode", 1), LIMITS.format(80)),
            ("Battery Power", "on", "CPU_Speed_Limit 80"),
            3,
        ),
        (
            ("?", SETTINGS.format("powermode", 2), LIMITS.format(100)),
            ("unknown", "off", "nominal"),
            0,
        ),
        (
            ("?", SETTINGS.format("sleepy", 2), "Thermal Warning Level = 2"),
            ("unknown", "unknown", "Thermal Warning Level 2"),
            1,
        ),
    ],
)
def test_power(texts: tuple[str, str, str], power: tuple[str, str, str], reasons: int) -> None:
    found = Power.of_texts(*texts)
    assert tuple(found.to_dict().values()) == power
    assert len(found.reasons) == reasons
    assert all(word in str(found) for word in power)


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        ("sysctl", "-n", "machdep.cpu.brand_string"): "Apple M1",
        ("sw_vers", "-productVersion"): "15.1",
        ("sw_vers", "-buildVersion"): "24B83",
        ("pmset", "-g", "batt"): BATTERY,
    }
    monkeypatch.setattr(macos, "_output", lambda *command: told.get(command, ""))
    assert macos.describe_mac() == Mac("Apple M1", "15.1", "24B83")
    assert str(macos.describe_mac()) == "Apple M1, macOS 15.1 (24B83)"
    assert macos.describe_power() == Power("Battery Power", "unknown", "unknown")


def test_commands_that_fail_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    python = sys.executable
    assert macos._output(python, "-c", "print(' 1 ')") == "1"
    assert macos._output("no-such-command") == macos._output(python, "-c", "raise SystemExit(1)") == ""
    monkeypatch.setattr(macos, "COMMAND_TIMEOUT_S", 0.05)
    assert macos._output(python, "-c", "import time; time.sleep(9)") == ""
    monkeypatch.setattr(macos, "_output", lambda *command: "")
    assert macos.describe_mac() == Mac("unknown", "unknown", "unknown")


def test_the_cache_is_the_users() -> None:
    assert macos.default_cache().is_relative_to(Path.home())
