"""How well `debiexport bench` can measure here: what tells a busy machine, the CPU's clock, and CUDA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from debiexport.bench.counters import take_snapshot
from debiexport.doctor.packages import ORT_BUILDS, Package
from debiexport.environment import UNKNOWN, read_governor

FIXED_CLOCK = "performance"
_CUDA_LIBRARY = "*onnxruntime_providers_cuda*"


@dataclass(frozen=True)
class Measuring:
    """What a measurement can rely on.

    Attributes:
        pressure: whether the pressure on the CPUs can be read, the best evidence of contention.
        steal: whether the time that a hypervisor gives to others can be read.
        governor: of the CPU's clock, or "unknown".
        cuda: whether the ONNX Runtime that is installed was built with the CUDA provider.
        cuda_commands: what to run, in this order, so that it is.
    """

    pressure: bool
    steal: bool
    governor: str
    cuda: bool
    cuda_commands: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "cpu_pressure_readable": self.pressure,
            "steal_readable": self.steal,
            "governor": self.governor,
            "cuda_provider": self.cuda,
            "cuda_commands": list(self.cuda_commands),
        }

    def lines(self) -> list[str]:
        """A line for each finding."""
        return [self._contention(), self._clock(), self._device()]

    def _contention(self) -> str:
        if self.pressure:
            return "contention: CPU pressure can be read"
        if self.steal:
            return (
                "contention: CPU pressure cannot be read (/proc/pressure/cpu, Linux 4.20 with PSI), so that it is"
                " judged by steal time, load and context switches"
            )
        return "contention: neither CPU pressure nor steal time can be read, so that a quiet machine is not told"

    def _clock(self) -> str:
        if self.governor == UNKNOWN:
            return "clock: its governor cannot be read, so that nothing is known of how steady it is"
        if self.governor == FIXED_CLOCK:
            return f"clock: governor {self.governor}"
        return f"clock: governor {self.governor}, which does not fix it: latencies vary more than with {FIXED_CLOCK}"

    def _device(self) -> str:
        if self.cuda:
            return "CUDA: this ONNX Runtime was built with it; whether it works here is tried by --provider cuda"
        return (
            "CUDA: not in this ONNX Runtime, so that --provider cuda is refused; on a machine with an NVIDIA GPU"
            f" run: {' && '.join(self.cuda_commands)}"
        )


def read_measuring(packages: Mapping[str, Package], root: Path = Path("/")) -> Measuring:
    """Look at this machine and at the files of ONNX Runtime, which is not imported.

    Args:
        packages: those of `packages.PACKAGES`.
        root: where proc and sys are found.
    """
    snapshot = take_snapshot(root / "proc")
    cuda = _has_cuda()
    uninstall = [f"pip uninstall --yes {name}" for name in ORT_BUILDS if packages[name].installed]
    return Measuring(
        pressure=snapshot.pressure_s is not None,
        steal=snapshot.steal_ticks is not None,
        governor=read_governor(root),
        cuda=cuda,
        cuda_commands=() if cuda else (*uninstall, "pip install onnxruntime-gpu"),
    )


def _has_cuda() -> bool:
    """Whether the library of the CUDA provider lies beside ONNX Runtime's own."""
    try:
        spec = find_spec("onnxruntime")
    except ValueError:  # imported by something that set no spec
        return False
    folders = (spec.submodule_search_locations if spec is not None else None) or []
    return any(path.is_file() for folder in folders for path in Path(folder, "capi").glob(_CUDA_LIBRARY))
