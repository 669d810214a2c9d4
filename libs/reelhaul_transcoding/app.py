"""App: the ASGI application that answers REST calls by gRPC calls."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import code_pb2, status_pb2

from reelhaul_transcoding.binding.binding import Binding
from reelhaul_transcoding.codec import well_known
from reelhaul_transcoding.codec.decoder import Decoder
from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.errors import Draining, Fault, FieldFault, MethodNotAllowed
from reelhaul_transcoding.http import headers as headers_
from reelhaul_transcoding.http import status as status_
from reelhaul_transcoding.http.asgi import (
    ClientGone,
    Header,
    Receive,
    Scope,
    Send,
    body_of,
    compressed,
    respond,
)
from reelhaul_transcoding.http.cancellation import CancelScope
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing.router import Match, Router
from reelhaul_transcoding.routing.rules import parsed, rules
from reelhaul_transcoding.streams import StreamWriter, framing_for
from reelhaul_transcoding.upstream import Call, Upstream, UpstreamError
from reelhaul_transcoding.websocket import serve_socket

log = logging.getLogger(__name__)


class Transcoder:
    """Serves the annotated methods of some services, each by an upstream.

    Raises RouteError where annotations are wrong or two methods claim the same paths.
    Lifespan events are the host's.
    """

    def __init__(
        self, services: Iterable[tuple[ServiceDescriptor, Upstream]], options: Options | None = None
    ) -> None:
        self.options = options or Options()
        encoders = {emits: Encoder(emit_defaults=emits) for emits in (False, True)}
        decoder = Decoder(unknown_fields=self.options.ignore_unknown_fields)
        self.statuses = status_.StatusWriter(encoders[False])
        self._router: Router[Target] = Router(self.options.unescape)
        self._streams: set[CancelScope] = set()
        self._draining = False
        for service, upstream in services:
            for rule in rules([service]):
                template = parsed(rule)
                encoder = encoders[self.options.emits_defaults(rule.method)]
                binding = Binding(rule, template, self.options, decoder, encoder)
                self._router.add(rule.verb, template, Target(binding, upstream), rule.name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await serve_socket(self, scope, receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        except ClientGone:
            return
        except UpstreamError as error:
            await self.refuse(send, error.status, self.options.headers.headers(error.headers))
        except Fault as fault:
            await self.refuse_fault(send, fault)

    def drain(self) -> None:
        """End all streams, with UNAVAILABLE: their clients come back to another server."""
        self._draining = True
        for ending in list(self._streams):
            ending.end("draining")

    def matched(self, method: str, scope: Scope) -> Match[Target]:
        """Where a request leads; HEAD leads where GET does. Raises Fault."""
        raw_path = scope.get("raw_path") or scope["path"].encode()
        try:
            return self._router.match(method, raw_path)
        except MethodNotAllowed as fault:
            if method == "HEAD" and "GET" in fault.allowed:
                return self._router.match("GET", raw_path)
            raise

    def call(self, match: Match[Target], scope: Scope, headers: Mapping[bytes, bytes], body: bytes) -> Call:
        """The call that a request stands for. Raises Fault."""
        binding = match.target.binding
        return Call(
            binding.path,
            binding.messages(match.variables, scope["query_string"], headers, body),
            binding.client_streaming,
            self.options.headers.metadata(scope["headers"]),
            _timeout(headers, binding.timeout),
        )

    def begin(self, ending: CancelScope) -> None:
        """Count a stream among those that ``drain`` ends. Raises Draining."""
        if self._draining:
            raise Draining
        self._streams.add(ending)

    def finish(self, ending: CancelScope) -> None:
        """Forget a stream that ended."""
        self._streams.discard(ending)

    def fault_status(self, fault: Fault) -> status_pb2.Status:
        """*fault* as a Status, with what the host tells of it."""
        return status_.status_of(fault, self.options.describe)

    async def refuse_fault(self, send: Send, fault: Fault) -> None:
        """Answer with *fault*."""
        await self.refuse(send, self.fault_status(fault), list(fault.headers), http_status=fault.http_status)

    async def refuse(
        self,
        send: Send,
        status: status_pb2.Status,
        headers: list[Header],
        *,
        http_status: int | None = None,
    ) -> None:
        """Answer with *status* as JSON, under the HTTP status of its code."""
        extra = list(headers)
        if (seconds := status_.retry_after(status)) is not None:
            extra.append((b"retry-after", str(seconds).encode()))
        if status.code == code_pb2.UNAUTHENTICATED and self.options.challenge:
            extra.append((b"www-authenticate", self.options.challenge.encode()))
        http_status = http_status or status_.http_status_of(status.code)
        await respond(send, http_status, extra, self.statuses.json(status))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        if method == "OPTIONS" and await self._options(scope, send):
            return
        match = self.matched(method, scope)
        headers = dict(scope["headers"])
        body = await body_of(receive, headers, self.options.max_request_bytes)
        call = self.call(match, scope, headers, body)
        if match.target.binding.server_streaming:
            if method == "HEAD":
                # What a stream would say is not known before it ends.
                content_type = framing_for(match.target.binding, headers, self.statuses).content_type
                await respond(send, 200, [], b"", content_type=content_type or b"application/octet-stream")
                return
            await self._stream(match.target, call, headers, receive, send)
        else:
            await self._unary(match.target, call, headers, receive, send)

    async def _unary(
        self, target: Target, call: Call, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        async with CancelScope(receive):
            answer = await target.upstream.unary(call)
            content_type, body = target.binding.body(answer.message)
            body, extra = compressed(body, headers, self.options.compress_from_bytes)
            status = headers_.http_code(answer.headers)
            extra += self.options.headers.headers(answer.headers)
            await respond(send, status, extra, body, content_type=content_type)

    async def _stream(
        self, target: Target, call: Call, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        failure: status_pb2.Status | None = None
        framing = framing_for(target.binding, headers, self.statuses)
        body = StreamWriter(send, framing, self.options.begin_after_seconds, self.options.ping_seconds)
        ending = CancelScope(receive)
        try:
            self.begin(ending)
            async with ending, aclosing(target.upstream.stream(call)) as messages:  # type: ignore[type-var]
                async for message in messages:
                    await body.message(message)
        except UpstreamError as error:
            failure = error.status
        finally:
            body.close()
            self.finish(ending)
        if ending.reason == "draining":
            failure = self.fault_status(Draining())
        if ending.reason != "gone":
            await self._ended(call, body, failure, send)

    async def _ended(
        self, call: Call, body: StreamWriter, failure: status_pb2.Status | None, send: Send
    ) -> None:
        if failure is not None and not body.begun:
            await self.refuse(send, failure, [])
        elif not await body.finish(failure):
            log.warning("broke off a stream", extra={"rpc": call.path, "code": failure and failure.code})

    async def _options(self, scope: Scope, send: Send) -> bool:
        allowed = self._router.allowed(scope.get("raw_path") or scope["path"].encode())
        if not allowed or "OPTIONS" in allowed:
            return False
        every = {*allowed, "OPTIONS"} | ({"HEAD"} if "GET" in allowed else set())
        listed = ", ".join(sorted(every)).encode()
        await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", listed)]})
        await send({"type": "http.response.body", "body": b""})
        return True


@dataclass(frozen=True, slots=True)
class Target:
    """What answers a route."""

    binding: Binding
    upstream: Upstream


def _timeout(headers: Mapping[bytes, bytes], most: float) -> float:
    """Seconds that the call may take: what the client asks for, but not above *most*."""
    asked = most
    if (given := headers.get(b"grpc-timeout")) is not None:
        asked = headers_.timeout_of(given.decode("latin-1"))
    elif (given := headers.get(b"x-server-timeout")) is not None:
        try:
            asked = well_known.finite(well_known.double_of(given.decode("latin-1")))
        except ValueError as error:
            raise FieldFault("x-server-timeout", f"{error}, in seconds") from error
        if not asked > 0:
            raise FieldFault("x-server-timeout", "must be above 0 seconds")
    return min(asked, most)
