"""The servers of HTTP and gRPC, set up and bound to their ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import grpc
import uvicorn
from starlette.types import ASGIApp

from debiexport.errors import UsageError
from debiexport.serve.grpc_service import SERVICE, GrpcService
from debiexport.serve.http_protocol import BoundedProtocol
from debiexport.serve.limits import HEAD_BYTES
from debiexport.serve.service import Service

KEEP_ALIVE_S = 75
FLUSH_S = 3  # for which what was answered may still be read at the end


class HttpServer(uvicorn.Server):
    """uvicorn's server without its signal handlers: it stops when `should_exit` is set."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(app: ASGIApp) -> HttpServer:
    """A server of an application, for a socket that is given to `serve`."""
    return HttpServer(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=FLUSH_S,
        )
    )


def grpc_server(service: Service) -> Any:
    """A `grpc.aio` server, still without a port."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", service.limits.message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", HEAD_BYTES),
            ("grpc.so_reuseport", 0),  # a port that is taken is an error
            ("grpc.server_handshake_timeout_ms", int(service.limits.stall_s * 1000)),
        ]
    )
    server.add_registered_method_handlers(SERVICE.full_name, GrpcService(service).handlers())
    return server


def add_grpc_port(server: Any, host: str, port: int) -> int:
    """Let a gRPC server listen; the port that it was given.

    Raises:
        UsageError: the port is taken, or not of this machine.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return int(server.add_insecure_port(address))
    except RuntimeError:
        raise UsageError(f"port {port} of {host} cannot be listened on by gRPC: choose another, or 0 for any") from None


@contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound to a port, so that it is known to be free before anything is loaded.

    Raises:
        UsageError: the port is taken, or not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except socket.gaierror as error:
        raise UsageError(
            f"--host {host} cannot be found ({error.strerror}): give an address of this machine, as 127.0.0.1"
        ) from None
    except OSError as error:
        raise _unusable(host, port, error) from None
    with found:
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError as error:
            raise _unusable(host, port, error) from None
        yield found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host.lower() == "localhost"


def _unusable(host: str, port: int, error: OSError) -> UsageError:
    reason = error.strerror or str(error)
    return UsageError(f"port {port} of {host} cannot be listened on ({reason}): choose another, or 0 for any")
