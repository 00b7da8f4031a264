"""A connection of HTTP as uvicorn handles it, with what uvicorn leaves open: how many there may be, how long a head may
take, how much of a refused body is read to its end, that one request is taken at a time, and errors in the protocol's
own form."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from debiexport.serve.http_head import Malformed
from debiexport.serve.http_reader import RequestReader, Stage
from debiexport.serve.limits import CONNECTIONS, MIB
from debiexport.serve.refusals import RETRY_AFTER_S

HEAD_S = 10.0
UNREAD_S = 10.0  # for which an answer may lie there before the connection is cut
LINGER_S = 1.0  # for which what was written may still be read after the end
AHEAD_BYTES = MIB  # of a body that come before the application takes them; a pause costs calls of the system
LEFT_OVER_BYTES = 64 * MIB  # of a body that was refused and comes all the same


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    head_s, unread_s = HEAD_S, UNREAD_S
    connections_at_most = CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reader = RequestReader(self)
        self.parser = self._reader  # type: ignore[assignment]
        self._held: tuple[bytes, int] | None = None  # what came after the request in progress, and where it begins
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._left_over = 0

    @property
    def holds_back(self) -> bool:
        """Whether the next request is there already."""
        return self._held is not None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(self, transport)
        if len(self.connections) > self.connections_at_most:
            self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the server is full: it holds {self.connections_at_most} connections"
            )
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        self._stop_waiting_for_the_reader()
        self._held = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._read(data, 0)
        if self._discards:
            self._left_over += len(data)
            if self._left_over > LEFT_OVER_BYTES:
                self.transport.abort()
        else:
            self._left_over = 0

    def eof_received(self) -> None:
        """What came is all: say so if it is cut off, since the client may still read."""
        stage = self._reader.stage
        body_is_cut = stage is Stage.BODY and not self.cycle.response_started
        if (stage is Stage.HEAD or body_is_cut) and not self.transport.is_closing():
            self._refuse_malformed(Malformed(self._reader.cut_off()))

    def on_headers_complete(self) -> None:
        if self._reader.get_http_version() == "1.0":
            self.expect_100_continue = False  # which is of HTTP/1.1
        super().on_headers_complete()
        self.cycle.keep_alive = self._reader.should_keep_alive()  # older uvicorns know one spelling of "close"

    def on_body(self, body: bytes) -> None:
        self.cycle.waiting_for_100_continue = False  # whoever sends does not wait
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._held is not None and not self.transport.is_closing():
            data, start = self._held
            self._held = None
            self.flow.resume_reading()
            self._read(data, start)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_waiting_for_the_reader()
        super().resume_writing()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._linger()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._linger()

    @property
    def _discards(self) -> bool:
        """Whether a body is being read whose request has been answered."""
        return self._reader.stage is Stage.BODY and self.cycle.response_complete

    def _read(self, data: bytes, start: int) -> None:
        """Take requests, up to the one that has to wait until the one before it is answered."""
        before = self.cycle
        try:
            while start < len(data):
                if self._is_busy():
                    self._held = data, start
                    self.flow.pause_reading()
                    break
                start = self._reader.read(data, start)
        except Malformed as error:
            self._head_came()
            self._refuse_malformed(error)
            return
        if self.cycle is not before:
            self._head_came()
        if self.cycle is not before or self._reader.stage is Stage.HEAD:  # what is left over of a body does not count
            self._unset_keepalive_if_required()
        if self._reader.stage is Stage.HEAD and self._head_timer is None:
            self._await_head()

    def _is_busy(self) -> bool:
        between = self._reader.stage is Stage.BETWEEN
        return between and self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_s, self._head_is_late)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_waiting_for_the_reader(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _linger(self) -> None:
        """A transport that was closed waits until all was read, for ever if nobody does."""
        self.loop.call_later(LINGER_S, self.transport.abort)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._reader.stage is Stage.HEAD:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the head of the request stalled for {self.head_s:g} s")
        else:
            self.transport.close()
            self._linger()

    def _refuse_malformed(self, error: Malformed) -> None:
        self._refuse(error.status, f"Invalid HTTP request received: {error}")

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Answer without the application, and hang up."""
        started = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not started:
            body = json.dumps({"error": text}).encode()
            lines = [
                f"HTTP/1.1 {status.value} {status.phrase}",
                "content-type: application/json",
                f"content-length: {len(body)}",
                "connection: close",
            ]
            if status is HTTPStatus.SERVICE_UNAVAILABLE:
                lines.append(f"retry-after: {RETRY_AFTER_S}")
            self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        if self.cycle is not None:  # whatever the application still says goes nowhere
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self._linger()


class _Flow(FlowControl):
    """uvicorn's own stops reading after 64 KiB of a body, less than half an image, and reads on when the application
    waits, even if the next request is there already."""

    def __init__(self, protocol: BoundedProtocol, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def pause_reading(self) -> None:
        """Called after every part of a body that goes beyond uvicorn's limit, and before pipelined requests."""
        if self._protocol.holds_back or len(self._protocol.cycle.body) > AHEAD_BYTES:
            super().pause_reading()

    def resume_reading(self) -> None:
        if not self._protocol.holds_back:
            super().resume_reading()
