"""GrpcTransport: calls the jobs service and, for files, the storage service."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio

from reelhaul._core import methods
from reelhaul._core.errors import CallFailed, connection_lost
from reelhaul._core.loopback import is_loopback
from reelhaul._core.methods import Method
from reelhaul.client._errors import from_rpc_error
from reelhaul.downloads.v1.download_pb2 import File
from reelhaul.storage.v1.storage_service_pb2 import ReadArtifactRequest

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

# The longest max_deadline that a policy gives to a unary method.
_CALL_SECONDS = 65.0
_STREAM_SECONDS = 12 * 3600.0
# Storage sends as fast as the client reads: longer silence means a dead connection.
_READ_SILENCE_SECONDS = 30.0

# The artifact of a file, in the URL that the gateway serves it under.
_ARTIFACT = re.compile(r"/v1/(artifacts/[^/:?]+):download")

_CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    # A server that restarts is found again at once, not after minutes of back-off.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A list of 500 jobs exceeds grpc's default of 4 MiB.
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
]


class GrpcTransport:
    """Calls the servers at *jobs* and *storage* (host:port), in plain text without *credentials*."""

    def __init__(
        self, jobs: str, storage: str, api_key: str, credentials: grpc.ChannelCredentials | None
    ) -> None:
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._jobs = _open_channel(jobs, credentials)
        self._storage = _open_channel(storage, credentials)
        self._unary: dict[str, Callable[..., Any]] = {}

    async def call(self, method: Method[Q, R], request: Q) -> R:
        unary = self._unary.get(method.path)
        if unary is None:
            is_storage = method.service.startswith("reelhaul.storage.")
            unary = (self._storage if is_storage else self._jobs).unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            self._unary[method.path] = unary
        try:
            response: R = await unary(request, timeout=_CALL_SECONDS, metadata=self._metadata)
        except aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return response

    async def stream(
        self, method: Method[Q, R], request: Q, silence_seconds: float
    ) -> AsyncGenerator[R, None]:
        async for message in self._read_stream(self._jobs, method, request, silence_seconds):
            yield message

    async def read(self, file: File, offset: int) -> AsyncGenerator[bytes, None]:
        match = _ARTIFACT.search(file.url)
        if match is None:
            raise CallFailed("INTERNAL", f"{file.name}: the server gives no artifact")
        request = ReadArtifactRequest(name=match[1], read_offset=offset)
        async for message in self._read_stream(
            self._storage, methods.READ_ARTIFACT, request, _READ_SILENCE_SECONDS
        ):
            if message.content:
                yield message.content

    async def close(self) -> None:
        await self._jobs.close()
        await self._storage.close()

    async def _read_stream(
        self, channel: aio.Channel, method: Method[Q, R], request: Q, silence_seconds: float
    ) -> AsyncGenerator[R, None]:
        """Yield the messages of one connection. Raises CallFailed."""
        stream = channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        call: Any = stream(request, timeout=_STREAM_SECONDS, metadata=self._metadata)
        try:
            while True:
                async with asyncio.timeout(silence_seconds):
                    message = await call.read()
                if message is aio.EOF:
                    return
                yield message
        except TimeoutError:
            raise connection_lost("the stream fell silent") from None
        except aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        except asyncio.CancelledError:
            # grpc raises it also for a call that it ended itself.
            task = asyncio.current_task()
            if call.cancelled() and not (task and task.cancelling()):
                raise connection_lost("the stream was cut off") from None
            raise
        finally:
            call.cancel()


def _open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> aio.Channel:
    """Return a channel to *address*, plain text without *credentials*; it connects with the first call."""
    # A proxy of the environment leads to the internet, not to this machine.
    use_proxy = not is_loopback(address.rpartition(":")[0].strip("[]"))
    options = [*_CHANNEL_OPTIONS, ("grpc.enable_http_proxy", int(use_proxy))]
    if credentials is None:
        return aio.insecure_channel(address, options)
    return aio.secure_channel(address, credentials, options)
