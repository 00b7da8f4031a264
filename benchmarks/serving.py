"""The embedded server under load and faults, beside the real Triton with the same models.

    python benchmarks/serving.py                 measure, write benchmarks/results/serving.json, print the tables
    python benchmarks/serving.py --bundles DIR   the same; bundles are left in DIR, a folder for each model, and taken
                                                 from there
    python benchmarks/serving.py --output FILE   write to another file
    python benchmarks/serving.py --quick         half a minute with debi_nano, to see that everything runs; without
                                                 --output the figures are not kept
    python benchmarks/serving.py --table         print the tables of that file, as they stand in README.md

It needs `pip install '.[export,serve,test]'` and, for the side of Triton, `python tools/install_triton.py`. Triton's
arithmetic is then that of ONNX Runtime in its Python backend, which costs copies that its own backend does not make;
without it Triton's columns stay empty and the JSON says why.

Everything is on loopback. The client is in processes of its own; both servers have the same models, threads and
largest batch, and blocks of requests go to them in turn. Faults are for the embedded server; Triton gets the malformed
requests too, but for those that would make it take gigabytes. The file is written after every part, so that a run cut
short leaves what it has. Under 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import serving_faults as faults
from serving_latency import EMBEDDED, QUICK, TRITON, Asked, Timing, measure
from serving_load import GRPC, HTTP, Load, run_load
from serving_report import table
from serving_servers import Server, embedded, floor, triton, why_no_triton
from serving_stops import kill_and_restart, terminate_under_load

from debiexport.bench.contention import compare
from debiexport.bench.counters import take_snapshot
from debiexport.bench.statistics import plain
from debiexport.bundle import open_bundle
from debiexport.environment import describe_environment, usable_cpus
from debiexport.extras import require

RESULTS = Path(__file__).parent / "results" / "serving.json"
PACKAGES = ("starlette", "uvicorn", "httptools", "grpc", "tritonclient")
MODELS = ("debi_nano", "debi_t")
THREADS = 2
MAX_BATCH = 8
SHORT_QUEUE = 4
CLIENTS = 2  # processes: at SIGTERM one for each protocol


@dataclass(frozen=True)
class Scale:
    """How much is done.

    Attributes:
        models: the first one gets the faults.
        timing: of latencies.
        fault_s: seconds of load for each fault.
        watch_s: seconds before and after all of it in which others are watched.
        stalls: whether to wait for stalled connections to be cut, which takes 10 s.
        triton_malformed: whether Triton gets the malformed requests too.
    """

    models: tuple[str, ...] = MODELS
    timing: Timing = field(default_factory=Timing)
    fault_s: float = 3.0
    watch_s: float = 5.0
    stalls: bool = True
    triton_malformed: bool = True


FULL = Scale()
SMOKE = Scale(MODELS[:1], QUICK, 0.6, 0.5, stalls=False, triton_malformed=False)

Say = Callable[[str], None]


def prepare(names: Sequence[str], folder: Path, say: Say) -> list[Asked]:
    """The dynamic-batch bundles of models, exported where they are not there yet."""
    found = []
    for name in names:
        path = folder / name
        if not path.exists():
            import debiexport

            say(f"exporting {name}")
            debiexport.export_onnx(name, output=path, batch=None)
        (spec,) = open_bundle(path).models[0].inputs
        found.append(Asked(name, str(path), (1, *(side or 1 for side in spec.shape[1:]))))
    return found


class Run:
    """One run: what it has found so far, and where that is kept.

    Args:
        scale: how much is done.
        output: the file, or None.
        say: told what is going on.
    """

    def __init__(self, scale: Scale, output: Path | None, say: Say) -> None:
        self._scale, self._output, self._say = scale, output, say
        self._begun = take_snapshot()
        self.data: dict[str, Any] = {
            "command": "python benchmarks/serving.py",
            "complete": False,
            "environment": describe_environment().to_dict(),
            "threads": THREADS,
            "max_batch": MAX_BATCH,
            "rounds": scale.timing.rounds,
            "block_s": scale.timing.block_s,
            "others_before": others(scale.watch_s),
            "no_triton": why_no_triton(),
            "triton": "its Python backend with ONNX Runtime stands in for its ONNX Runtime backend; no queue policy",
            "latency": {},
        }

    def keep(self) -> None:
        """Write what there is."""
        self.data["steal"] = compare(self._begun, take_snapshot(), usable_cpus()).steal
        if self._output is not None:
            self._output.write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")

    def everything(self, models: Sequence[Asked], folder: Path) -> None:
        """Latencies, then faults."""
        with ProcessPoolExecutor(CLIENTS, mp_context=get_context("spawn")) as client:
            self._compare(models, folder, client)
            self._break(models[0], folder, client)
        self.data["others_after"] = others(self._scale.watch_s)
        self.data["complete"] = True
        self.keep()

    def _compare(self, models: Sequence[Asked], folder: Path, client: ProcessPoolExecutor) -> None:
        bundles = [f"{model.name}={model.bundle}" for model in models]
        timing, malformed = self._scale.timing, self.data.setdefault("malformed", {})
        with ExitStack() as stack:
            options = ("--max-batch", str(MAX_BATCH))
            servers: dict[str, Server] = {
                EMBEDDED: stack.enter_context(embedded(bundles, THREADS, folder / "embedded.log", options))
            }
            if self.data["no_triton"] is None:
                servers[TRITON] = stack.enter_context(triton(bundles, THREADS, folder))
            self.data["ready_s"] = {name: round(server.ready_s, 2) for name, server in servers.items()}
            for model in models:
                self._say(f"latency of {model.name}: {', '.join(servers)}")
                with floor(model.bundle, THREADS, folder / "floor.log") as least:
                    self.data["latency"][model.name] = measure(model, servers, least, client, timing, THREADS)
                self.keep()
            for name, server in servers.items():
                if name == EMBEDDED or self._scale.triton_malformed:
                    self._say(f"malformed requests to {name}")
                    ours = name == EMBEDDED
                    load = models[0].load(HTTP, server, timing, THREADS)
                    malformed[name] = faults.malformed(server, load, MAX_BATCH, huge=ours, timeout_s=20 if ours else 5)
                    self.keep()

    def _break(self, model: Asked, folder: Path, client: ProcessPoolExecutor) -> None:
        bundle, seconds = [f"{model.name}={model.bundle}"], self._scale.fault_s
        log = folder / "faults.log"
        options = ("--max-batch", str(MAX_BATCH))

        def start(ports: tuple[int, int] = (0, 0)) -> Any:
            return embedded(bundle, THREADS, log, options, ports)

        with start() as server:
            load = model.load(HTTP, server, self._scale.timing, THREADS)
            for future in [client.submit(run_load, _on(load, p, server)) for p in (HTTP, GRPC)]:
                future.result(timeout=60)
            if self._scale.stalls:
                self._part("stalled", lambda: faults.stalled(server, load, client))
            self._part(
                "deadlines",
                lambda: faults.deadlines(server, load, client, lambda: executed(server, model.name), seconds),
            )
            self._part("terminate", lambda: terminate_under_load(server, load, client, 2 * seconds))
        with embedded(bundle, THREADS, log, (*options, "--max-queue", str(SHORT_QUEUE))) as server:
            self._part("overflow", lambda: faults.overflow(server, load, client, seconds))
        self._part("kill", lambda: kill_and_restart(start, load, client, seconds))

    def _part(self, name: str, measured: Callable[[], dict[str, Any]]) -> None:
        self._say(f"fault: {name}")
        self.data[name] = measured()
        self.keep()


def _on(load: Load, protocol: str, server: Server) -> Load:
    return replace(load, protocol=protocol, address=server.address(protocol), seconds=0.3)


def others(seconds: float) -> dict[str, float | None]:
    """What other processes want of the CPUs while this run does nothing: shares of the time; None if not told.

    While it measures, client and servers want more CPUs than there are, so the pressure then says nothing of others.
    """
    before = take_snapshot()
    time.sleep(seconds)
    found = compare(before, take_snapshot(), usable_cpus())
    return {"pressure": plain(found.pressure), "steal": plain(found.steal), "load": plain(found.load_before)}


def executed(server: Server, model: str) -> int:
    """Images that the embedded server has run so far."""
    with urllib.request.urlopen(f"http://{server.http}/v2/models/{model}/stats", timeout=10) as answer:
        return int(json.load(answer)["model_stats"][0]["inference_count"])


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, or print what was measured; the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundles", type=Path, metavar="DIR", help="where bundles are kept")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/serving.json")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--table", action="store_true", help="print the tables of the file")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        data: dict[str, Any] = json.loads((chosen.output or RESULTS).read_text(encoding="utf-8"))
        print(table(data))
        return data
    require(PACKAGES, "python benchmarks/serving.py", "serve")
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begun:4.0f} s] {line}", flush=True)

    scale, output = (SMOKE, chosen.output) if chosen.quick else (FULL, chosen.output or RESULTS)
    with tempfile.TemporaryDirectory(prefix="debiexport-") as temporary:
        folder = Path(temporary)
        bundles = chosen.bundles or folder / "bundles"
        bundles.mkdir(parents=True, exist_ok=True)
        models = prepare(scale.models, bundles, say)
        run = Run(scale, output, say)
        run.everything(models, folder)
    print(table(run.data))
    return run.data


if __name__ == "__main__":
    main(sys.argv[1:])
