"""The protocol's service over gRPC.

An inference is registered as a call whose messages the server reads itself, though a client sends just one and calls
it as ever. So a request is refused before its message is read while the server is full, what stalls is cut off, and
the bytes that are being received are bounded as they are over HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from debiexport.serve import descriptions
from debiexport.serve.grpc_messages import Message, answer_message, parse_message
from debiexport.serve.refusals import BadRequest, Fault, NotFound, Refusal, Stalled, Unavailable
from debiexport.serve.service import Service

SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
Context = Any  # grpc.aio.ServicerContext

_READERS_AT_LEAST = 4
_LOG = logging.getLogger(__name__)


class GrpcService:
    """The methods of the service.

    Args:
        service: what they do.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._models = service, service.models
        limits = service.limits
        self._reading = asyncio.Semaphore(max(_READERS_AT_LEAST, limits.held_bytes // 2 // limits.message_bytes))

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler]:
        """A handler for each method that is served, by its name; gRPC refuses the others as unimplemented."""
        small = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
        }
        found = {
            name: grpc.unary_unary_rpc_method_handler(_answering(name, method), None, _bytes)
            for name, method in small.items()
        }
        found["ModelInfer"] = grpc.stream_unary_rpc_method_handler(self._model_infer, None, _bytes)
        return found

    def _server_live(self, request: Message) -> Message:
        return service_pb2.ServerLiveResponse(live=True)

    def _server_ready(self, request: Message) -> Message:
        return service_pb2.ServerReadyResponse(ready=self._service.admission.ready)

    def _model_ready(self, request: Message) -> Message:
        try:
            self._models.find(request.name, request.version)
        except NotFound:  # which Triton takes for not ready here
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=self._service.admission.ready)

    def _server_metadata(self, request: Message) -> Message:
        return service_pb2.ServerMetadataResponse(**descriptions.server_metadata())

    def _model_metadata(self, request: Message) -> Message:
        found = descriptions.model_metadata(self._models, request.name, request.version)
        return service_pb2.ModelMetadataResponse(**found)

    def _model_config(self, request: Message) -> Message:
        config = descriptions.config(self._models, self._service.options, request.name, request.version)
        return service_pb2.ModelConfigResponse(config=config)

    def _model_statistics(self, request: Message) -> Message:
        found = descriptions.statistics(self._models, request.name, request.version)
        return ParseDict(found, service_pb2.ModelStatisticsResponse())

    def _repository_index(self, request: Message) -> Message:
        found = descriptions.index(self._models, self._service.admission.ready, request.ready)
        return service_pb2.RepositoryIndexResponse(models=found)

    async def _model_infer(self, _requests: Any, context: Context) -> Message:
        try:
            return await self._infer(context)
        except Refusal as refusal:
            _refuse(context, refusal)
        except Exception as error:
            _LOG.exception("an inference over gRPC failed")
            _refuse(context, _fault(error))
        return None

    async def _infer(self, context: Context) -> Message:
        service = self._service
        with service.admission.enter() as claim:
            data = await self._read(context)
            claim.resize(len(data))
            message = _parsed("ModelInfer", data)
            del data
            model = self._models.find(message.model_name, message.model_version)
            with service.counted(model) as arrived_ns:
                request = parse_message(model.signature, message, arrived_ns, context.time_remaining())
                del message
                results = await service.answer(model, model.batcher.submit(request))
                return answer_message(model, request, results)

    async def _read(self, context: Context) -> bytes:
        """The only message of the call. gRPC tells its size only once it is here, so few are read at a time."""
        stall_s = self._service.limits.stall_s
        try:
            async with asyncio.timeout(stall_s):
                await self._reading.acquire()
        except TimeoutError:
            raise Unavailable(
                f"the server is full: for {stall_s:g} s it read other messages; try again later"
            ) from None
        try:
            async with asyncio.timeout(stall_s):
                data = await context.read()
        except TimeoutError:
            raise Stalled(f"the message stalled: it did not come within {stall_s:g} s; send it again") from None
        finally:
            self._reading.release()
        if data is grpc.aio.EOF:
            raise BadRequest("the call has no message, expected a ModelInferRequest")
        return bytes(data)


def _answering(name: str, method: Callable[[Message], Message]) -> Callable[[bytes, Context], Awaitable[Message]]:
    """A method whose refusals become gRPC's status codes."""

    async def answer(data: bytes, context: Context) -> Message:
        try:
            return method(_parsed(name, data))
        except Refusal as refusal:
            _refuse(context, refusal)
        except Exception as error:
            _LOG.exception("a call over gRPC failed")
            _refuse(context, _fault(error))
        return None

    return answer


def _bytes(message: Message) -> bytes:
    return bytes(message.SerializeToString())


def _refuse(context: Context, refusal: Refusal) -> None:
    """End a call with a status; no message goes with it.

    `context.abort` would raise an exception that gRPC keeps in a cycle with everything that the call has held.
    """
    context.set_code(getattr(grpc.StatusCode, refusal.grpc_status))
    context.set_details(str(refusal))


def _fault(error: Exception) -> Fault:
    return Fault(f"the server failed ({type(error).__name__}): this is a bug of debiexport")


def _parsed(name: str, data: bytes) -> Message:
    """The request of a method. gRPC would call bytes that are none an error of the server."""
    kind = SERVICE.methods_by_name[name].input_type.name
    try:
        return getattr(service_pb2, kind).FromString(data)
    except DecodeError:
        raise BadRequest(f"the message of {len(data)} bytes cannot be read, expected a {kind}") from None
