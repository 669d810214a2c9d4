"""Transcoder: the ASGI application that answers REST requests with gRPC calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.rpc import status_pb2

from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.dispatcher import Dispatcher, Target
from reelhaul_transcoding.errors import TranscodingError
from reelhaul_transcoding.http.asgi import (
    BodyStream,
    ClientDisconnected,
    Receive,
    Scope,
    Send,
    compress,
    read_body,
    send_response,
)
from reelhaul_transcoding.http.cancellation import CancelScope, OpenStreams
from reelhaul_transcoding.http.headers import accepts_trailers, combine_headers, http_status_from_metadata
from reelhaul_transcoding.http.status import StatusWriter, reason_of
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing.router import Match
from reelhaul_transcoding.routing.rules import HttpRule
from reelhaul_transcoding.streams import Framing, StreamWriter, relay_stream, select_framing
from reelhaul_transcoding.upstream import Call, Upstream, UpstreamError
from reelhaul_transcoding.websocket import WebSocketHandler

log = logging.getLogger(__name__)

# Below it, a body takes less time than the way to a thread and back can delay other requests.
_LARGE_BODY_BYTES = 64 * 1024


class Transcoder:
    """Serves the annotated methods of services, each with the upstream that answers its RPCs.

    Raises RouteError if an annotation is invalid or two methods match the same paths. Lifespan
    events are left to the host application.
    """

    def __init__(
        self, services: Iterable[tuple[ServiceDescriptor, Upstream]], options: Options | None = None
    ) -> None:
        self._options = options or Options()
        self._dispatcher = Dispatcher(services, self._options)
        self._open_streams = OpenStreams()
        # One thread: parsing holds the GIL, so that more of them would not be faster.
        self._large_bodies = ThreadPoolExecutor(1, thread_name_prefix="large-bodies")
        #: Writes errors in this transcoder's form, also for the host's own responses.
        self.statuses = StatusWriter(
            Encoder(),
            describe=self._options.describe_error,
            challenge=self._options.challenge,
            http_status=self._options.http_status,
        )
        self._websockets = WebSocketHandler(
            self._dispatcher, self.statuses, self._open_streams, self._options.authorize
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websockets(scope, receive, send)
            return
        try:
            await self._respond(scope, receive, send)
        except ClientDisconnected:
            return
        except UpstreamError as error:
            headers = self._options.headers.to_headers(error.metadata)
            if accepts_trailers(combine_headers(scope["headers"])):
                headers += self._options.headers.to_headers(error.trailers, trailing=True)
            await self.statuses.send_status(send, error.status, headers)
        except TranscodingError as error:
            await self.statuses.send_error(send, error)

    @property
    def rules(self) -> Sequence[HttpRule]:
        """Every HTTP binding that this transcoder serves, in the order of the services."""
        return self._dispatcher.rules

    @property
    def options(self) -> Options:
        """What this transcoder accepts, rejects and writes."""
        return self._options

    @property
    def cache_lookups(self) -> tuple[int, int]:
        """How many messages the cache of encoded messages had, and how many it had not."""
        fragments = self._dispatcher.fragments
        return (fragments.hits, fragments.misses) if fragments is not None else (0, 0)

    def find_method(self, scope: Scope) -> MethodDescriptor | None:
        """Return the RPC that answers the request of *scope*; None if it is rejected without one."""
        try:
            return self._dispatcher.match(scope["method"], scope).target.binding.method
        except TranscodingError:
            return None

    async def end_streams(self, seconds: float) -> None:
        """End the open streams with UNAVAILABLE, evenly within *seconds*; new ones are accepted.

        Thus their clients do not all reconnect to the other servers at once.
        """
        await self._open_streams.end(seconds)

    def drain(self) -> None:
        """End all streams with UNAVAILABLE, so that clients reconnect to another server."""
        self._open_streams.drain()

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        if method == "OPTIONS" and await self._respond_to_options(scope, send):
            return
        match = self._dispatcher.match(method, scope)
        if self._options.authorize is not None:
            await self._options.authorize(match.target.binding.method, scope)
        headers = combine_headers(scope["headers"])
        if match.target.binding.client_streaming:
            stream = BodyStream(receive)
            call = self._dispatcher.build_stream_call(match, scope, headers, aiter(stream))
            receive = stream.receive
        else:
            body = await read_body(receive, headers, self._options.max_request_bytes)
            call = await self._build_call(match, scope, headers, body)
        if not match.target.binding.server_streaming:
            await self._respond_unary(match.target, call, headers, receive, send)
        elif method == "HEAD":
            # The length is unknown before the stream ends, so only the content type is sent.
            framing = self._select_framing(match.target, headers)
            content_type = framing.content_type or b"application/octet-stream"
            await send_response(send, 200, [], b"", content_type=content_type)
        else:
            await self._respond_stream(match.target, call, headers, receive, send)

    async def _build_call(
        self, match: Match[Target], scope: Scope, headers: Mapping[bytes, bytes], body: bytes
    ) -> Call:
        """Return the upstream call for a request; other requests go on while a large body is parsed."""
        if len(body) < _LARGE_BODY_BYTES:
            return self._dispatcher.build_call(match, scope, headers, body)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._large_bodies, self._dispatcher.build_call, match, scope, headers, body
        )

    async def _respond_unary(
        self, target: Target, call: Call, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        # Each pause lets the calls that are ready at the same moment take one step after the other: its code
        # and data are in the CPU's caches then, and what they send leaves together. At 32 connections a call
        # takes a sixth less CPU time.
        async with CancelScope(receive):
            await asyncio.sleep(0)
            response = await target.upstream.unary(call)
            await asyncio.sleep(0)
            content_type, body = target.binding.response_body(response.message)
            body, extra = compress(body, headers, self._options.compress_from_bytes)
            status = http_status_from_metadata(response.metadata)
            extra += self._options.headers.to_headers(response.metadata)
            # As headers: the whole response is known, and servers and proxies pass few trailers on.
            extra += self._options.headers.to_headers(response.trailers, trailing=True)
            await asyncio.sleep(0)
            await send_response(send, status, extra, body, content_type=content_type)

    async def _respond_stream(
        self, target: Target, call: Call, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        writer = StreamWriter(
            send,
            self._select_framing(target, headers),
            start_after=self._options.stream_start_seconds,
            ping_every=self._options.ping_seconds,
        )
        try:
            status = await relay_stream(
                target.upstream, call, receive, self._open_streams, self.statuses, writer.write
            )
        except TranscodingError as error:
            if not writer.started:
                raise
            status = self.statuses.status_of(error)
        finally:
            writer.close()
        if status is not None:
            await self._finish_stream(call, writer, status, send)

    def _select_framing(self, target: Target, headers: Mapping[bytes, bytes]) -> Framing:
        return select_framing(target.binding, headers, self.statuses, arrays=self._options.json_arrays)

    async def _finish_stream(
        self, call: Call, writer: StreamWriter, status: status_pb2.Status, send: Send
    ) -> None:
        if status.code and not writer.started:
            await self.statuses.send_status(send, status, [])
        elif not await writer.finish(status if status.code else None):
            log.warning("aborted a stream", extra={"rpc": call.path, "reason": reason_of(status)})

    async def _respond_to_options(self, scope: Scope, send: Send) -> bool:
        """Send 204 with Allow; return False if the path has no route, or one for OPTIONS."""
        allowed = self._dispatcher.allowed_methods(scope)
        if not allowed or "OPTIONS" in allowed:
            return False
        methods = {*allowed, "OPTIONS"} | ({"HEAD"} if "GET" in allowed else set())
        allow = ", ".join(sorted(methods)).encode()
        await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", allow)]})
        await send({"type": "http.response.body", "body": b""})
        return True
