"""A connection of HTTP as uvicorn handles it, with what uvicorn leaves open: how many there may be, how long a head may
take, how much of a refused body is read to its end, and errors in the protocol's own form."""

from __future__ import annotations

import asyncio
import json
import sys
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from debiexport.serve.limits import CONNECTIONS, MIB
from debiexport.serve.refusals import RETRY_AFTER_S

HEAD_S = 10.0
UNREAD_S = 10.0  # for which an answer may lie there before the connection is cut
LINGER_S = 1.0  # for which what was written may still be read after the end
AHEAD_BYTES = MIB  # of a body that come before the application takes them; every pause costs a tenth of a millisecond
LEFT_OVER_BYTES = 64 * MIB  # of a body that was refused and comes all the same


class BoundedProtocol(H11Protocol):
    """One connection."""

    head_s, unread_s = HEAD_S, UNREAD_S
    connections_at_most = CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._left_over = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _BodyFlow(self, transport)
        if len(self.connections) > self.connections_at_most:
            self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the server is full: it holds {self.connections_at_most} connections"
            )
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        self._stop_waiting_for_the_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before or self.conn.their_state is not h11.IDLE:
            self._head_came()
        elif self._head_timer is None and self.conn.trailing_data[0]:
            self._await_head()
        if self.conn.their_state is h11.SEND_BODY and self.cycle is not None and self.cycle.response_complete:
            self._left_over += len(data)
            if self._left_over > LEFT_OVER_BYTES:
                self.transport.abort()
        else:
            self._left_over = 0

    def eof_received(self) -> None:
        """What came is all: say so if it is cut off, since the client may still read."""
        head_is_cut = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        body_is_cut = self.conn.their_state is h11.SEND_BODY and not self.cycle.response_started
        if (head_is_cut or body_is_cut) and not self.transport.is_closing():
            self.conn.receive_data(b"")
            self.handle_events()

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

    def send_400_response(self, msg: str) -> None:
        """Called where what came is not HTTP, while the parser's exception is being handled."""
        error = sys.exception()
        status = HTTPStatus(getattr(error, "error_status_hint", 400))
        self._refuse(status, f"{msg.rstrip('.')}: {' '.join(str(error).split())[:200]}")

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
        if self.conn.trailing_data[0]:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the head of the request stalled for {self.head_s:g} s")
        else:
            self.transport.close()
            self._linger()

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


class _BodyFlow(FlowControl):
    """uvicorn's own, which stops reading after 64 KiB of a body: less than half an image."""

    def __init__(self, protocol: BoundedProtocol, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def pause_reading(self) -> None:
        """Called after every part of a body that goes beyond uvicorn's limit, and before pipelined requests."""
        protocol = self._protocol
        if protocol.conn.their_state is h11.SEND_BODY and len(protocol.cycle.body) <= AHEAD_BYTES:
            return
        super().pause_reading()
