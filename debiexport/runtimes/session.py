"""How an ONNX Runtime session is set up: the few choices that a bundle may make for whoever runs it.

A manifest can carry them, so they are an allow-list: nothing in it can name a file to write, a library to load
or a check to leave out. The number of threads is the business of whoever runs the bundle and no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from debiexport.errors import BundleError

# Name in a manifest -> name in onnxruntime.
LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
MODES = {"sequential": "ORT_SEQUENTIAL", "parallel": "ORT_PARALLEL"}
_SWITCH = ("0", "1")
# Configuration entry -> every value that it may have.
ENTRIES: Mapping[str, tuple[str, ...]] = {
    # Whether threads that wait keep a core busy: faster alone, much slower beside other work.
    "session.intra_op.allow_spinning": _SWITCH,
    "session.inter_op.allow_spinning": _SWITCH,
    # Threads that wait stop spinning when the last run ends.
    "session.force_spinning_stop": _SWITCH,
    # Work of one operator is cut into blocks that shrink towards its end; 0 is off.
    "session.dynamic_block_base": tuple(map(str, range(65))),
    # Numbers too small for float32's full precision count as zero; otherwise they are slow on many CPUs.
    "session.set_denormal_as_zero": _SWITCH,
    # Weights are not rearranged for the kernels when the model is loaded.
    "session.disable_prepacking": _SWITCH,
}


@dataclass(frozen=True)
class SessionOptions:
    """Options of a session; without arguments they are ONNX Runtime's own defaults.

    Attributes:
        graph_optimization_level: one of `LEVELS`.
        execution_mode: one of `MODES`: whether operators without need of each other may run at once.
        memory_pattern: whether one allocation is planned for a whole run.
        memory_arena: whether freed memory is kept for the next run.
        memory_reuse: whether the buffer of a result that is done with becomes that of the next one.
        entries: configuration entries of `ENTRIES`; the others are ONNX Runtime's defaults.

    Raises:
        BundleError: a value that is not allowed.
    """

    graph_optimization_level: str = "all"
    execution_mode: str = "sequential"
    memory_pattern: bool = True
    memory_arena: bool = True
    memory_reuse: bool = True
    entries: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("graph_optimization_level", self.graph_optimization_level, LEVELS)
        _one_of("execution_mode", self.execution_mode, MODES)
        for name in ("memory_pattern", "memory_arena", "memory_reuse"):
            if not isinstance(getattr(self, name), bool):
                raise BundleError(f"the session option {name} is {_shown(getattr(self, name))}: give true or false")
        if not isinstance(self.entries, Mapping):
            raise BundleError(f"the session's entries are {_shown(self.entries)}: give a table of names and values")
        for name, value in self.entries.items():
            _one_of("entries", name, ENTRIES)
            _one_of(name, value, ENTRIES[name])

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SessionOptions:
        """The options that `to_dict` wrote; what is left out is ONNX Runtime's default.

        Raises:
            BundleError: an option or a value that is not allowed.
        """
        if not isinstance(data, Mapping):
            raise BundleError(f"the session options are {_shown(data)}: give a table")
        for name in data:
            _one_of("session_options", name, cls.__dataclass_fields__)
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "entries": dict(sorted(self.entries.items()))}

    def apply(self, options: Any) -> None:
        """Set them on an `onnxruntime.SessionOptions`."""
        import onnxruntime as ort

        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[self.graph_optimization_level])
        options.execution_mode = getattr(ort.ExecutionMode, MODES[self.execution_mode])
        options.enable_mem_pattern = self.memory_pattern
        options.enable_cpu_mem_arena = self.memory_arena
        options.enable_mem_reuse = self.memory_reuse
        for name, value in self.entries.items():
            options.add_session_config_entry(name, value)


def _one_of(name: str, value: object, allowed: Any) -> None:
    if not isinstance(value, str) or value not in allowed:
        choices = list(allowed)
        shown = f"{choices[0]} to {choices[-1]}" if len(choices) > 9 else ", ".join(choices)
        raise BundleError(f"the session option {name} has {_shown(value)}: allowed are {shown}")


def _shown(value: object) -> str:
    """A value from a file, fit for a message of one line."""
    text = repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}…"


RECOMMENDED = SessionOptions(memory_reuse=False)
"""What an export writes into its manifest, and is proven with. Measured by `benchmarks/ablation.py`: with buffers of
their own, results take less time and, since the planner of shared buffers is wasteful here, less memory.
"""
