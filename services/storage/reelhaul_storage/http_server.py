"""HTTP port of storage: serves artifacts to whoever presents a signed link, by GET and HEAD.

The bytes are read and verified as for ReadArtifact; sendfile was no faster when measured, and could not
verify them.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass

from aiohttp import web
from google.protobuf import json_format

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime import errors, listeners, logs
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.file_responses import FileResponse, Header, build_response, file_headers
from reelhaul_storage import metrics
from reelhaul_storage.errors import EtagMismatch, RangeInvalid
from reelhaul_storage.local_links import parse_path
from reelhaul_storage.model import Artifact
from reelhaul_storage.service.links import LinkedArtifacts

log = logging.getLogger(__name__)
access_log = logs.AccessLog("reelhaul_storage")

_ROUTE = r"/artifacts/{artifact}/{file_name:[^/]+}"
_MAX_HEADERS = 64
# What downloads may take at the end, after the RPCs had their time: the process is killed soon afterwards.
_MAX_DRAIN_SECONDS = 4.0
# Each connection needs a descriptor, and one of a file.
_DESCRIPTORS_PER_CONNECTION = 4
_STATUSES = {
    ErrorReason.FIELD_INVALID: 400,
    ErrorReason.CREDENTIAL_INVALID: 403,
    ErrorReason.ADDRESS_FORBIDDEN: 403,
    ErrorReason.RESOURCE_NOT_FOUND: 404,
    ErrorReason.ARTIFACT_EXPIRED: 410,
    ErrorReason.ETAG_MISMATCH: 412,
    ErrorReason.RANGE_INVALID: 416,
    ErrorReason.OVERLOADED: 503,
    ErrorReason.STORAGE_UNAVAILABLE: 503,
    ErrorReason.SERVICE_UNAVAILABLE: 503,
}
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # The address of what is shown is the link itself.
    "Referrer-Policy": "no-referrer",
}
_TOO_MANY_CONNECTIONS = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 20\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\ntoo many connections"
)


@dataclass(frozen=True, slots=True)
class LinkServerLimits:
    """Limits of connections, and of the time that clients may take."""

    #: Further connections are answered 503. The limit of open files bounds them as well.
    connections: int = 1024
    #: Downloads of one address at a time: one client with slow connections leaves room for others.
    downloads_per_client: int = 256
    #: A connection is closed after so many seconds without a request, or with an unfinished head.
    idle_seconds: float = 20.0
    #: A download may take these seconds, and those that its bytes take at this rate.
    min_seconds: float = 60.0
    min_bytes_per_second: int = 8 << 10

    def seconds_for(self, size: int) -> float:
        """Return how long a download of *size* bytes may take."""
        return self.min_seconds + size / self.min_bytes_per_second


@asynccontextmanager
async def serving_links(
    linked: LinkedArtifacts,
    address: str,
    *,
    drain_seconds: float,
    reuse_port: bool = False,
    limits: LinkServerLimits | None = None,
) -> AsyncIterator[str]:
    """Serve links at *address* (host:port; port 0: any free port) until the block exits; yields the address.

    At the end, downloads in progress get *drain_seconds* to finish, 4 seconds at most. With *reuse_port*
    a process of the same user may hold the port. Raises AddressUnavailable.
    """
    limits = limits or LinkServerLimits()
    listener = listeners.listen(address, reuse_port=reuse_port)
    app = web.Application()
    app.on_response_prepare.append(_set_security_headers)
    app.router.add_get(_ROUTE, _Handler(linked, limits).handle)
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=limits.idle_seconds,
        lingering_time=1,
        max_headers=_MAX_HEADERS,
        # aiohttp waits twice, and without a limit for 0.
        shutdown_timeout=max(0.1, min(drain_seconds, _MAX_DRAIN_SECONDS) / 2),
    )
    await runner.setup()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_limit_connections(runner, limits), sock=listener)
    bound = f"{address.rpartition(':')[0]}:{listener.getsockname()[1]}"
    log.info("serving links", extra={"address": bound})
    try:
        yield bound
    finally:
        server.close()
        await runner.cleanup()


class _Handler:
    """Answers the requests for links."""

    def __init__(self, linked: LinkedArtifacts, limits: LinkServerLimits) -> None:
        self._linked, self._limits = linked, limits
        self._downloads: Counter[str] = Counter()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        start = asyncio.get_running_loop().time()
        logs.begin_request(request.headers.get("x-request-id", ""), "", request.remote or "")
        # Neither the query, which has the signature, nor the file name.
        fields: dict[str, object] = {
            "method": request.method,
            "artifact": f"artifacts/{request.match_info['artifact'][:36]}",
        }
        try:
            response = await self._respond(request)
        except ReelhaulError as error:
            response = _build_error_response(error)
            fields["reason"] = ErrorReason.Name(error.reason)
        metrics.LINK_REQUESTS.labels(response.status).inc()
        fields["status"], fields["bytes"] = response.status, response.body_length
        fields["milliseconds"] = round((asyncio.get_running_loop().time() - start) * 1000, 1)
        access_log.log(logging.INFO, "request", fields)
        return response

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        parts = request.match_info
        link, signature = parse_path(parts["artifact"], parts["file_name"], request.rel_url.raw_query_string)
        artifact = await self._linked.get(link, signature, request.remote or "")
        size, etag = artifact.content.size, f'"{artifact.content.sha256}"'
        inline = link.disposition == "inline"
        headers = file_headers(link.file_name, artifact.media_type, etag.encode(), inline=inline)
        request_headers = {name.lower(): value for name, value in request.raw_headers}
        response = build_response(request.method, request_headers, headers, size, etag.encode())
        if response.status == 412:
            return _build_error_response(EtagMismatch(artifact.name, etag))
        if response.status == 416:
            return _build_error_response(RangeInvalid(size), response.headers)
        if response.content is None or not response.content.length:
            return await _send_empty(request, response)
        pieces = self._linked.read(artifact, response.content.start, response.content.length)
        seconds = self._limits.seconds_for(response.content.length)
        with self._counting(request.remote or ""):
            return await _send_content(request, artifact, response, pieces, seconds)

    @contextmanager
    def _counting(self, client: str) -> Iterator[None]:
        """Count a download of *client* until the block exits. Raises OVERLOADED if it has too many."""
        if self._downloads[client] >= self._limits.downloads_per_client:
            raise ReelhaulError(
                ErrorReason.OVERLOADED,
                f"this address has {self._downloads[client]} downloads: wait until one ends",
            )
        self._downloads[client] += 1
        try:
            yield
        finally:
            self._downloads[client] -= 1
            if not self._downloads[client]:
                del self._downloads[client]


async def _send_empty(request: web.Request, response: FileResponse) -> web.StreamResponse:
    empty = web.StreamResponse(status=response.status, headers=_to_text(response.headers))
    await empty.prepare(request)
    await empty.write_eof()
    return empty


async def _send_content(
    request: web.Request,
    artifact: Artifact,
    response: FileResponse,
    pieces: AsyncGenerator[bytes, None],
    seconds: float,
) -> web.StreamResponse:
    """Send *pieces* within *seconds*; only an aborted connection shows a failure after the first byte."""
    stream = web.StreamResponse(status=response.status, headers=_to_text(response.headers))
    async with aclosing(pieces):
        # Starts with the first bytes: an earlier failure still sets the status.
        piece = await anext(pieces)
        try:
            async with asyncio.timeout(seconds):
                await stream.prepare(request)
                await stream.write(piece)
                async for piece in pieces:
                    await stream.write(piece)
                await stream.write_eof()
        except ConnectionError:
            pass  # the client has left
        except (ReelhaulError, TimeoutError) as error:
            log.warning(
                "download aborted",
                extra={"artifact": artifact.name, "cause": repr(error)},
            )
            if request.transport is not None:
                request.transport.abort()
    return stream


def _build_error_response(error: ReelhaulError, headers: list[Header] | None = None) -> web.Response:
    """Return *error* as google.rpc.Status in JSON, as the gateway does."""
    body = json_format.MessageToJson(errors.to_status(error), indent=None)
    response = web.Response(
        status=_STATUSES.get(error.reason, 500),
        text=body,
        content_type="application/json",
        headers=_to_text(headers or []) | {"Cache-Control": "no-store"},
    )
    response.force_close()
    return response


async def _set_security_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_SECURITY_HEADERS)
    # The versions of our software.
    response.headers.popall("Server", None)


def _to_text(headers: list[Header]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


def _limit_connections(runner: web.AppRunner, limits: LinkServerLimits) -> Callable[[], asyncio.BaseProtocol]:
    """Return a factory of protocols that refuses connections beyond *limits*."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    maximum = min(limits.connections, descriptors // _DESCRIPTORS_PER_CONNECTION)

    def build_protocol() -> asyncio.BaseProtocol:
        server = runner.server
        assert server is not None
        return server() if len(server.connections) < maximum else _Refusal()

    return build_protocol


class _Refusal(asyncio.Protocol):
    """Answers a connection with 503 and closes it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_TOO_MANY_CONNECTIONS)
        transport.close()
