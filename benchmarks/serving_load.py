"""What asks a server in `serving.py`: closed and open loops of requests, run in a process of their own.

Every thread has a connection of its own and sends the same bytes again and again, made once by tritonclient, so that
the client costs little beside the server. Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

HTTP, GRPC, BARE = "HTTP", "gRPC", "bare"
OK, NO_ANSWER = 200, 0
OPEN_THREADS = 32  # more than the requests that a server of two cores answers within a second or two
RETRY_S = 0.02
ANSWER_S = 30.0  # for which an answer is waited for
CODES = {
    "OK": 200,
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


@dataclass(frozen=True)
class Load:
    """What is asked, by how many, and for how long.

    Attributes:
        protocol: HTTP (binary), GRPC, or BARE for ONNX Runtime in the client's own process.
        address: "host:port" of a server, or the bundle's folder.
        model: its name on the server.
        shape: of the images, float32.
        seconds: in which requests begin; those begun are waited for.
        concurrency: requests under way at once, in a closed loop.
        rate: None for a closed loop; else requests a second, whose arrivals are a Poisson process.
        timeout_us: the deadline that every request carries, if any.
        threads: of ONNX Runtime where there is no server.
        seed: of images and arrivals.
    """

    protocol: str
    address: str
    model: str
    shape: tuple[int, ...]
    seconds: float
    concurrency: int = 1
    rate: float | None = None
    timeout_us: int | None = None
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Record:
    """What came of a load, a value for each request.

    Attributes:
        due_s, end_s: when it was to begin, and when it was over.
        status: of HTTP, or what is the same in gRPC; `NO_ANSWER` where the connection broke or there was none.
        retry_after: whether the answer said when to try again.
        seconds: from the first request's begin to the last one's end.
    """

    due_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    status: npt.NDArray[np.int64]
    retry_after: npt.NDArray[np.bool_]
    seconds: float

    @property
    def latencies_ms(self) -> npt.NDArray[np.float64]:
        """Of what was answered, from the time at which the request was due."""
        good = self.status == OK
        taken: npt.NDArray[np.float64] = self.end_s[good] - self.due_s[good]
        return taken * 1000

    @property
    def answered(self) -> int:
        return int((self.status == OK).sum())

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds if self.seconds > 0 else 0.0

    def counts(self) -> dict[str, int]:
        """Requests by status."""
        values, counts = np.unique(self.status, return_counts=True)
        names = ("no answer" if value == NO_ANSWER else str(value) for value in values)
        return dict(zip(names, map(int, counts), strict=True))


Ask = Callable[[], tuple[int, bool]]


def run_load(load: Load) -> Record:
    """Ask until the time is over, and wait for the last answers."""
    arrivals = None if load.rate is None else _arrivals(load.rate, load.seconds, load.seed)
    count = load.concurrency if arrivals is None else OPEN_THREADS
    rows: list[list[tuple[float, float, int, bool]]] = [[] for _ in range(count)]
    start = threading.Barrier(count + 1)
    begun: list[float] = []
    taken = itertools.count()

    def due() -> Iterator[float]:
        """The times at which a thread has to send."""
        if arrivals is None:
            while (now := time.monotonic()) < begun[0] + load.seconds:
                yield now
            return
        while (index := next(taken)) < len(arrivals):
            wanted = begun[0] + float(arrivals[index])
            if (left := wanted - time.monotonic()) > 0:
                time.sleep(left)
            yield wanted

    def work(ask: Ask, into: list[tuple[float, float, int, bool]]) -> None:
        start.wait()
        for wanted in due():
            status, retry = ask()
            into.append((wanted, time.monotonic(), status, retry))
            if status == NO_ANSWER and arrivals is None:
                time.sleep(RETRY_S)

    with ExitStack() as stack:
        asks = [stack.enter_context(ASKERS[load.protocol](load)) for _ in range(count)]
        threads = [threading.Thread(target=work, args=pair) for pair in zip(asks, rows, strict=True)]
        for thread in threads:
            thread.start()
        begun.append(time.monotonic())
        start.wait()
        for thread in threads:
            thread.join()
    table = sorted(itertools.chain.from_iterable(rows))
    columns = list(zip(*table, strict=True)) or [(), (), (), ()]
    end = np.asarray(columns[1], np.float64)
    return Record(
        np.asarray(columns[0], np.float64),
        end,
        np.asarray(columns[2], np.int64),
        np.asarray(columns[3], np.bool_),
        float(end.max() - begun[0]) if len(end) else 0.0,
    )


def _arrivals(rate: float, seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """Times of a Poisson process."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 2) + 20)
    times = np.cumsum(gaps)
    return times[times < seconds]


def image_of(shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def http_body(load: Load) -> tuple[bytes, int]:
    """A request with binary data, as tritonclient makes it, and the length of its JSON."""
    import tritonclient.http

    tensor = tritonclient.http.InferInput("images", list(load.shape), "FP32")
    tensor.set_data_from_numpy(image_of(load.shape, load.seed))
    body, size = tritonclient.http.InferenceServerClient.generate_request_body([tensor], timeout=load.timeout_us)
    return bytes(body), int(size)


@contextmanager
def _ask_http(load: Load) -> Iterator[Ask]:
    body, size = http_body(load)
    headers = {"Inference-Header-Content-Length": str(size)}
    host, _, port = load.address.rpartition(":")
    path = f"/v2/models/{load.model}/infer"
    connection = http.client.HTTPConnection(host, int(port), timeout=ANSWER_S)

    def ask() -> tuple[int, bool]:
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.getheader("Retry-After") is not None
        except (OSError, http.client.HTTPException):
            connection.close()
            return NO_ANSWER, False

    with closing(connection):
        try:  # so that no request is the one that connects
            connection.request("GET", "/v2/health/live")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()
        yield ask


@contextmanager
def _ask_grpc(load: Load) -> Iterator[Ask]:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(
        model_name=load.model, raw_input_contents=[image_of(load.shape, load.seed).tobytes()]
    )
    request.inputs.add(name="images", datatype="FP32", shape=load.shape)
    if load.timeout_us is not None:
        request.parameters["timeout"].int64_param = load.timeout_us
    # A pool of its own, or all threads would share one connection; a server that comes back is found at once.
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", 20),
        ("grpc.max_reconnect_backoff_ms", 100),
    ]
    channel = grpc.insecure_channel(load.address, options)
    stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def ask() -> tuple[int, bool]:
        try:
            stub.ModelInfer(request, timeout=ANSWER_S)
        except grpc.RpcError as error:
            if _is_of_the_connection(error):
                return NO_ANSWER, False
            trailing = dict(error.trailing_metadata() or ())
            return CODES.get(error.code().name, 500), "retry-after" in trailing
        return OK, False

    with channel:
        with suppress(grpc.RpcError):  # so that no request is the one that connects
            stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=ANSWER_S)
        yield ask


def _is_of_the_connection(error: Any) -> bool:
    """Whether no server said this, but gRPC's client of a connection that broke or could not be made."""
    if error.code().name != "UNAVAILABLE":
        return False
    said = (error.details() or "").lower()
    words = ("failed to connect", "connection reset", "socket closed", "broken pipe", "goaway", "recvmsg", "sendmsg")
    return any(word in said for word in words)


@contextmanager
def _ask_bare(load: Load) -> Iterator[Ask]:
    run, image = _runtime(load.address, load.threads), image_of(load.shape, load.seed)

    def ask() -> tuple[int, bool]:
        run({"images": image})
        return OK, False

    yield ask


@lru_cache(maxsize=4)
def _runtime(bundle: str, threads: int) -> Callable[[Any], Any]:
    """The model of a bundle in ONNX Runtime, with the options that the bundle recommends; once in a process."""
    from debiexport.bundle import open_bundle

    return open_bundle(bundle).ort(threads).run


ASKERS = {HTTP: _ask_http, GRPC: _ask_grpc, BARE: _ask_bare}
