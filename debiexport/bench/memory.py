"""Peak memory of one subject, measured in a process that loads and runs nothing else.

    python -m debiexport.bench.memory SPEC     SPEC: a `subjects.Spec` and the input's shape and dtype, as JSON

The process reports its own peak before loading (Python and the packages) and after a few runs. On Linux it
is the high-water mark of this program; `ru_maxrss` would begin with that of the process that started it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debiexport.bench.subjects import EAGER, OPENVINO, Spec, load
from debiexport.runtimes.base import Array

RUNS = 3
COVERS = "resident memory of a process that loads this subject alone and runs it 3 times; GPU memory is not counted"


@dataclass(frozen=True)
class Memory:
    """Peak resident memory, in bytes.

    Attributes:
        peak_bytes: of the whole process.
        baseline_bytes: of the same process before it loaded the subject.
    """

    peak_bytes: int
    baseline_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return {"peak_bytes": self.peak_bytes, "baseline_bytes": self.baseline_bytes, "covers": COVERS}

    def __str__(self) -> str:
        return f"{self.peak_bytes / 1e6:.0f} MB"


def peak_memory(spec: Spec, example: Array, timeout_s: float = 600.0) -> Memory | None:
    """Measure in a process of its own; None if that fails or cannot be read here."""
    given = json.dumps({"spec": spec.to_dict(), "shape": list(example.shape), "dtype": str(example.dtype)})
    command = [sys.executable, "-m", "debiexport.bench.memory", given]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True)
        data = json.loads(done.stdout.splitlines()[-1])
        return Memory(int(data["peak_bytes"]), int(data["baseline_bytes"]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, KeyError, TypeError):
        return None


def own_peak_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """The largest resident memory that this process has had."""
    try:
        for line in status.read_text().splitlines():
            fields = line.split()
            if fields[:1] == ["VmHWM:"]:
                return int(fields[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    if sys.platform != "darwin":  # elsewhere it may be that of the parent, or of another unit
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(arguments: Sequence[str]) -> int:
    """Load, run, report."""
    import numpy as np

    given = json.loads(arguments[0])
    spec = Spec(**given["spec"])
    if spec.kind == EAGER:
        import debiexport.loading
    elif spec.kind == OPENVINO:
        import debiexport.runtimes.openvino  # noqa: F401
    before = own_peak_bytes()
    images = np.random.default_rng(0).uniform(0, 2, given["shape"]).astype(given["dtype"])
    loaded = load(spec)
    for _ in range(RUNS):
        loaded.run(images)
    print(json.dumps({"baseline_bytes": before, "peak_bytes": own_peak_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
