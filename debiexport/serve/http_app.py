"""The paths of the protocol over HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from debiexport.runtimes.base import Arrays
from debiexport.serve import descriptions
from debiexport.serve.batcher import Ticket
from debiexport.serve.http_binary import JSON_LENGTH, HttpRequest, answer_body, parse_request
from debiexport.serve.http_json import encode
from debiexport.serve.http_limits import read_body
from debiexport.serve.models import LoadedModel
from debiexport.serve.refusals import RETRY_AFTER_S, ClientGone, Fault, NotFound, Refusal, Stalled, Unavailable, shown
from debiexport.serve.service import Service

WATCH_AFTER_S = 0.05
UNREAD_BYTES = 64 * 1024  # of an answer, which may lie there when its request is over
JSON_TYPE, BYTES_TYPE = "application/json", "application/octet-stream"
_MODEL = "/v2/models/{name}"
_VERSION = _MODEL + "/versions/{version}"
_LOG = logging.getLogger(__name__)


def http_app(service: Service) -> Starlette:
    """The application: every path of the protocol that is served."""
    pages = _Pages(service)
    routes = [
        Route("/v2/health/live", pages.live),
        Route("/v2/health/ready", pages.ready),
        Route("/v2", pages.server_metadata),
        Route("/v2/models/stats", pages.statistics),
        Route("/v2/repository/index", pages.index, methods=["POST"]),
    ]
    infer = InferEndpoint(service)
    for path in (_MODEL, _VERSION):
        routes += [
            Route(path, pages.model_metadata),
            Route(f"{path}/ready", pages.model_ready),
            Route(f"{path}/config", pages.config),
            Route(f"{path}/stats", pages.statistics),
            Route(f"{path}/infer", infer, methods=["POST"]),
        ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_such_page, Refusal: _refused})
    app.router.redirect_slashes = False
    return app


class _Pages:
    """Everything but inference: small answers to requests whose bodies nobody reads."""

    def __init__(self, service: Service) -> None:
        self._service, self._models = service, service.models

    async def live(self, request: Request) -> Response:
        return Response()

    async def ready(self, request: Request) -> Response:
        return self._readiness()

    async def model_ready(self, request: Request) -> Response:
        self._models.find(*_names(request.path_params))
        return self._readiness()

    async def server_metadata(self, request: Request) -> Response:
        return _json(descriptions.server_metadata())

    async def model_metadata(self, request: Request) -> Response:
        return _json(descriptions.model_metadata(self._models, *_names(request.path_params)))

    async def config(self, request: Request) -> Response:
        found = descriptions.config(self._models, self._service.options, *_names(request.path_params))
        return _json(descriptions.as_json(found))

    async def statistics(self, request: Request) -> Response:
        return _json(descriptions.statistics(self._models, *_names(request.path_params)))

    async def index(self, request: Request) -> Response:
        return _json(descriptions.index(self._models, self._service.admission.ready))

    def _readiness(self) -> Response:
        return Response(status_code=200 if self._service.admission.ready else Unavailable.status)


class InferEndpoint:
    """An inference, as an ASGI application: it reads the body itself, within the limits."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        with suppress(ClientGone):  # uvicorn knows, and expects no answer
            try:
                model = service.models.find(*_names(scope["path_params"]))
                with service.counted(model) as arrived_ns:
                    await self._infer(model, scope, receive, send, arrived_ns)
            except ClientGone:
                raise
            except Refusal as refusal:
                await _send(_error(refusal), send, service)
            except Exception as error:
                _LOG.exception("an inference over HTTP failed")
                fault = Fault(f"the server failed ({type(error).__name__}): this is a bug of debiexport")
                await _send(_error(fault), send, service)

    async def _infer(self, model: LoadedModel, scope: Scope, receive: Receive, send: Send, arrived_ns: int) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        service = self._service
        with service.admission.enter() as claim:
            body = await read_body(headers, receive, service.limits, claim)
            asked = parse_request(model.signature, body, headers.get(JSON_LENGTH), arrived_ns)
            del body
            ticket = model.batcher.submit(asked.request)
            with _watched(receive, ticket):
                results = await service.answer(model, ticket)
            await _send(_answer(model, asked, results), send, service)


@contextmanager
def _watched(receive: Receive, ticket: Ticket) -> Iterator[None]:
    """Within it a request ends when its connection does; that begins late, as most requests are answered before."""
    watch: list[asyncio.Task[None]] = []

    def begin() -> None:
        watch.append(asyncio.create_task(_give_up_with_the_client(receive, ticket)))

    timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, begin)
    try:
        yield
    finally:
        timer.cancel()
        for task in watch:
            task.cancel()


async def _give_up_with_the_client(receive: Receive, ticket: Ticket) -> None:
    """End a request whose connection ends."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not ticket.answer.done():
        ticket.answer.set_exception(ClientGone("the connection ended before the answer was there"))


async def _send(response: Response, send: Send, service: Service) -> None:
    """Send an answer, and return when it has been read but for what the system's buffers hold."""
    if not service.admission.ready:  # the next request is to go elsewhere
        response.headers["connection"] = "close"
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    if len(response.body) > UNREAD_BYTES:
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})  # waits until little is left
    else:
        await send({"type": "http.response.body", "body": response.body, "more_body": False})


def _answer(model: LoadedModel, asked: HttpRequest, results: Arrays) -> Response:
    body, json_length = answer_body(model, asked, results)
    if json_length is None:
        return Response(body, media_type=JSON_TYPE)
    return Response(body, headers={JSON_LENGTH: str(json_length)}, media_type=BYTES_TYPE)


def _error(refusal: Refusal) -> Response:
    headers = {}
    if isinstance(refusal, Unavailable):
        headers["retry-after"] = str(RETRY_AFTER_S)
    if isinstance(refusal, Stalled):
        headers["connection"] = "close"
    return _json({"error": str(refusal)}, refusal.status, headers)


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(content), status, headers, JSON_TYPE)


def _names(parameters: Mapping[str, Any]) -> list[str]:
    """A model's name, and its version if the path has one."""
    return [parameters[key] for key in ("name", "version") if key in parameters]


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _error(error)


async def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == NotFound.status:
        text = f"no such path: {shown(request.url.path)}, expected one of the Open Inference Protocol below /v2"
    else:
        text = f"{shown(request.url.path)} is not for {shown(request.method)}"
    return _json({"error": text}, error.status_code, error.headers)
