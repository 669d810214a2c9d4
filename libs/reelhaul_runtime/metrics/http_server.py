"""HTTP server of ``GET /metrics``: one response per connection, in the text format or as OpenMetrics.

https://prometheus.io/docs/instrumenting/exposition_formats/. It runs in the event loop of the service: the
server of prometheus_client has a thread that wakes up twice a second.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from prometheus_client import REGISTRY, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from reelhaul_runtime import listeners
from reelhaul_runtime.metrics import collectors
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

#: Returns what to expose, once its values are those of now.
Source = Callable[[], Awaitable[Collector]]

_MAX_CONNECTIONS = 16
_MAX_HEAD_BYTES = 8 << 10
# Until a head is complete, and from then on until the response was taken.
_TIMEOUT_SECONDS = 10.0
_OPEN_METRICS, _TEXT = "application/openmetrics-text", "text/plain"


async def _own_metrics() -> Collector:
    await collectors.refresh()
    return REGISTRY


@asynccontextmanager
async def serving_metrics(
    address: str, token: str = "", *, reuse_port: bool = False, source: Source = _own_metrics
) -> AsyncIterator[int]:
    """Serve the metrics of *source*, by default of this process, at *address* until the end of the block.

    Yields the port; port 0 takes a free one. With *token* scrapes must present it as bearer token
    (RFC 6750); without, they must name this machine by an address or as localhost. With *reuse_port* a
    process of the same user may hold the port. Raises AddressUnavailable.
    """
    # Each counter and histogram would have a second series, with the time of its creation.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    listener = listeners.listen(address, reuse_port=reuse_port)
    handler = _Handler(token, source)
    server = await asyncio.start_server(handler.handle, sock=listener, limit=_MAX_HEAD_BYTES)
    port: int = listener.getsockname()[1]
    log.info("serving metrics", extra={"address": f"{address.rpartition(':')[0]}:{port}"})
    try:
        yield port
    finally:
        server.close()
        await handler.close()


class _Handler:
    """Answers connections: *_MAX_CONNECTIONS* scrapes at a time, and as many whose request is not there yet.

    A scrape sends its request at once. Of too many connections without one, the oldest is closed, so that
    whoever opens connections and sends nothing keeps no scrape out.
    """

    def __init__(self, token: str, source: Source) -> None:
        self._authorization = f"Bearer {token}".encode() if token else b""
        self._source = source
        # The connections without an accepted request, the oldest first, and those of scrapes.
        self._waiting: dict[asyncio.Task[None], None] = {}
        self._scraping: set[asyncio.Task[None]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the request of a connection, and close it."""
        task = asyncio.current_task()
        assert task is not None
        if len(self._waiting) >= _MAX_CONNECTIONS:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.cancel()
        self._waiting[task] = None
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                writer.write(await self._respond(reader, task))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # only we cancel; before Python 3.12 asyncio logs tasks of streams that were cancelled
        finally:
            writer.transport.abort()
            self._waiting.pop(task, None)
            self._scraping.discard(task)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(cancel_and_wait(task) for task in [*self._waiting, *self._scraping]))

    async def _respond(self, reader: asyncio.StreamReader, task: asyncio.Task[None]) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        request_line, *lines = head[:-4].split(b"\r\n")
        method, target, version = (*request_line.split(b" "), b"", b"")[:3]
        if not version.startswith(b"HTTP/1."):
            return _refuse(HTTPStatus.BAD_REQUEST)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if target.partition(b"?")[0] != b"/metrics":
            return _refuse(HTTPStatus.NOT_FOUND)
        if method != b"GET":
            return _refuse(HTTPStatus.METHOD_NOT_ALLOWED, b"Allow: GET\r\n")
        if not self._authorization and not _is_local(headers.get(b"host", b"localhost")):
            return _refuse(HTTPStatus.MISDIRECTED_REQUEST)
        if self._authorization and not hmac.compare_digest(
            self._authorization, headers.get(b"authorization", b"")
        ):
            return _refuse(HTTPStatus.UNAUTHORIZED, b"WWW-Authenticate: Bearer\r\n")
        if len(self._scraping) >= _MAX_CONNECTIONS:
            return _refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        self._waiting.pop(task, None)
        self._scraping.add(task)
        accepts_open_metrics = _OPEN_METRICS.encode() in headers.get(b"accept", b"")
        encode, content_type = choose_encoder(_OPEN_METRICS if accepts_open_metrics else _TEXT)
        try:
            body = encode(await self._source())
        except Exception:
            log.exception("metrics cannot be written")
            return _refuse(HTTPStatus.INTERNAL_SERVER_ERROR)
        return _response(HTTPStatus.OK, content_type, body)


def _is_local(host: bytes) -> bool:
    """Return whether the header Host is an IP address or localhost.

    A page whose name is made to resolve to this machine (DNS rebinding) sends that name.
    """
    text = host.decode("latin-1").lower()
    name = text[1 : text.find("]")] if text.startswith("[") else text.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return True


def _refuse(status: HTTPStatus, headers: bytes = b"") -> bytes:
    return _response(status, "text/plain", f"{status.phrase}\n".encode(), headers)


def _response(status: HTTPStatus, content_type: str, body: bytes, headers: bytes = b"") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    )
    return head.encode() + headers + b"\r\n" + body
