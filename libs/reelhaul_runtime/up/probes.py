"""How a part is asked whether it lives and whether it is ready; the address tells the language."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

# As in rpc.channels: each question is asked anew, past backoff and proxies.
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
]


async def is_alive(address: str, seconds: float = 4.0) -> bool:
    """Whether the part at *address* answers for itself within *seconds*, whatever else is down."""
    return await _answers(address, "", "/healthz", seconds)


async def is_ready(address: str, health: str, seconds: float = 4.0) -> bool:
    """Whether the part at *address* can do its work; *health* is the proto service to ask for."""
    return await _answers(address, health, "/readyz", seconds)


async def _answers(address: str, health: str, path: str, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            if address.startswith("http://"):
                return await _http(address, path)
            if address.startswith(("nats://", "tls://")):
                return await _nats(address)
            return await _grpc(address, health)
    except (OSError, TimeoutError):
        return False


async def _grpc(address: str, health: str) -> bool:
    # Knocking is cheap; grpc is imported when somebody opens.
    (await _connected(f"grpc://{address}"))[1].close()
    from grpc import aio
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with aio.insecure_channel(address, _OPTIONS) as channel:
        asked = health_pb2.HealthCheckRequest(service=health)
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(asked)
        except aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _http(address: str, path: str) -> bool:
    reader, writer = await _connected(address)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {urlsplit(address).netloc}\r\n".encode())
        writer.write(b"Connection: close\r\n\r\n")
        status = (await reader.readline()).split()
        return len(status) > 1 and status[1] == b"200"
    finally:
        writer.close()


async def _nats(address: str) -> bool:
    reader, writer = await _connected(address)
    try:
        return (await reader.read(4)) == b"INFO"
    finally:
        writer.close()


async def _connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urlsplit(address)
    return await asyncio.open_connection(place.hostname, place.port or 4222)
