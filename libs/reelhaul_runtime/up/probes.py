"""Probes: liveness and readiness of a process of the suite, over HTTP, NATS or gRPC by its address."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any
from urllib.parse import urlsplit

from reelhaul_runtime.certificate import CertificateError, TlsFiles
from reelhaul_runtime.health_check import HealthCall, NotReady

_MAX_BYTES = 16_384
# Each probe dials anew, past back-off and proxies.
_GRPC_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
]


async def is_alive(address: str, timeout: float = 4.0, tls: TlsFiles | None = None) -> bool:
    """Return whether the process at *address* answers in *timeout* seconds, whatever it answers.

    A process that is overloaded or drains refuses requests, or closes the connection; one that hangs does
    neither. *tls* are the files of gRPC servers; None: they have no TLS.
    """
    return await _probe(address, "", "/healthz", timeout, tls) is not None


async def is_ready(address: str, health: str, timeout: float = 4.0, tls: TlsFiles | None = None) -> bool:
    """Return whether the process at *address* can do its work; *health* is the proto service to check.

    *tls* is that of ``is_alive``.
    """
    return await _probe(address, health, "/readyz", timeout, tls) is True


async def _probe(address: str, health: str, path: str, timeout: float, tls: TlsFiles | None) -> bool | None:
    """Return whether the process at *address* says that it is ready; None if it does not answer."""
    try:
        async with asyncio.timeout(timeout):
            if address.startswith(("http://", "https://")):
                return await _probe_http(address, path)
            if address.startswith(("nats://", "tls://")):
                return await _probe_nats(address)
            return await (_probe_grpc_tls(address, health, tls) if tls else _probe_grpc(address, health))
    except (OSError, TimeoutError, CertificateError):
        return None


async def _probe_grpc(address: str, health: str) -> bool | None:
    # Without gRPC, which takes 12 MB and threads that wake up: the supervisor needs it for nothing else.
    call = HealthCall(health)
    reader, writer = await _connect(f"grpc://{address}")
    try:
        writer.write(call.request)
        while call.is_serving is None:
            writer.write(call.receive(await reader.read(_MAX_BYTES)))
    except NotReady:
        return None
    finally:
        writer.close()
    return call.is_serving


async def _probe_grpc_tls(address: str, health: str, tls: TlsFiles) -> bool | None:
    # A TCP connection is cheap; grpc is imported only if something listens.
    (await _connect(f"grpc://{address}"))[1].close()
    from grpc import StatusCode, aio
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from reelhaul_runtime.rpc.credentials import connecting

    async with connecting(address, _GRPC_OPTIONS, tls) as channel:
        request = health_pb2.HealthCheckRequest(service=health)
        try:
            response = await health_pb2_grpc.HealthStub(channel).Check(request)
        except aio.AioRpcError as error:
            # UNAVAILABLE is set by the channel; all other codes are answers.
            return None if error.code() == StatusCode.UNAVAILABLE else False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


async def _probe_http(address: str, path: str) -> bool:
    reader, writer = await _connect(address)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {urlsplit(address).netloc}\r\n".encode())
        writer.write(b"Connection: close\r\n\r\n")
        status_line = (await reader.readline()).split()
        return len(status_line) > 1 and status_line[1] == b"200"
    except ConnectionError:
        # It accepted the connection and closed it.
        return False
    finally:
        writer.close()


async def _probe_nats(address: str) -> bool:
    reader, writer = await _connect(address)
    try:
        return (await reader.read(4)) == b"INFO"
    finally:
        writer.close()


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = urlsplit(address)
    return await asyncio.open_connection(
        url.hostname, url.port or 4222, ssl=_tls_context() if url.scheme == "https" else None
    )


def _tls_context() -> ssl.SSLContext:
    """Return a context that accepts any certificate: its name is that of clients, not of this address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
