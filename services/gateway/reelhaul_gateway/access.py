"""Access: authenticates the callers of HTTP requests, and passes their credentials on to the services."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import replace
from typing import Protocol
from urllib.parse import parse_qsl

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2

from reelhaul.admin.v1 import api_key_pb2, api_key_service_pb2, tenant_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime import errors, identity, logs
from reelhaul_runtime.auth.authorization import authorize
from reelhaul_runtime.auth.calls import AuditLog, Authenticator, IncomingCall, RateLimiter
from reelhaul_runtime.auth.credentials import rejection
from reelhaul_runtime.auth.key_authentication import CALLER_KEY
from reelhaul_runtime.auth.peers import FORWARDED_KEY, SUITE_TOKEN_KEY, Metadata, Peer
from reelhaul_runtime.rpc.policy import method_policy
from reelhaul_transcoding.http.asgi import ASGIApp, Header, Receive, Scope, Send
from reelhaul_transcoding.http.status import StatusWriter
from reelhaul_transcoding.upstream import Call, UnaryResponse, Upstream, UpstreamError

#: Key of the scope: headers that are added to the response.
RESPONSE_HEADERS = "reelhaul.response_headers"
_TICKET = "reelhaul.ticket"

# Subprotocols of a WebSocket that hold a credential; they are never selected in the response, which scripts
# and logs of proxies see: the client offers another one beside it. RFC 6455 section 4.2.2.
_KEY_PROTOCOL, _TICKET_PROTOCOL = "reelhaul.key.", "reelhaul.ticket."
_CREDENTIAL_HEADERS = {b"authorization": "authorization", b"x-api-key": "x-api-key"}
_TICKET_FORM = re.compile(r"[A-Za-z0-9_-]{43}")
# What other APIs call a credential in a query.
_QUERY_NAMES = frozenset({"key", "api_key", "apikey", "api-key", "x-api-key", "token", "access_token"})

#: Metadata that the request being served adds to its calls of services; nothing unless it is authorized.
_forwarded: ContextVar[tuple[tuple[str, str | bytes], ...]] = ContextVar("forwarded", default=())


class TicketRedeemer(Protocol):
    """Redeems the tickets of WebSockets."""

    async def redeem(self, ticket: str) -> api_key_service_pb2.VerifyApiKeyResponse:
        """Consume *ticket*; return whom it stands for. Raises CREDENTIAL_INVALID or SERVICE_UNAVAILABLE."""


class RequestAuthorizer:
    """Decides about HTTP requests as the services do about calls, before anything else of them is read.

    The services check the credential, which is passed on as it came, once more. What proves to them that a
    call entered here is *suite_token*.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        tickets: TicketRedeemer,
        suite_token: str,
        rate_limiter: RateLimiter | None = None,
        audit_log: AuditLog | None = None,
    ) -> None:
        self._audit_log = audit_log
        self._authenticator, self._tickets, self._rate_limiter = authenticator, tickets, rate_limiter
        self._proof: tuple[tuple[str, str | bytes], ...] = (
            (SUITE_TOKEN_KEY, suite_token),
            (FORWARDED_KEY, "1"),
        )

    async def authorize_method(self, method: MethodDescriptor, scope: Scope) -> None:
        """Authorize the request of *scope* to call *method*. Raises UpstreamError."""
        await self.authorize(f"/{method.containing_service.full_name}/{method.name}", scope)

    async def authorize(self, path: str, scope: Scope) -> None:
        """Authorize the request of *scope* to call the RPC at *path*. Raises UpstreamError."""
        _forwarded.set(())
        call = IncomingCall(path, method_policy(path), None, Peer(logs.client.get()))
        metadata = _credentials_of(scope)
        try:
            ticket = scope.get(_TICKET)
            if ticket is not None:
                metadata = await self._redeem(ticket, metadata, call)
                # The call enters the suite here: no service has sent it, and it costs its caller.
                call.peer.forwarded = True
            await authorize(call, metadata, self._authenticator, self._rate_limiter)
        except errors.ReelhaulError as error:
            if self._audit_log is not None and call.policy.audited:
                await self._audit_log.record(call, errors.to_status(error))
            raise _to_upstream_error(error, scope) from error
        finally:
            if call.limits:
                scope.setdefault(RESPONSE_HEADERS, []).extend(_to_headers(call.limits))
        reported = metadata.get(CALLER_KEY)
        _forwarded.set(self._proof if reported is None else (*self._proof, (CALLER_KEY, reported)))

    async def record(self, path: str, request: Message, status: status_pb2.Status) -> None:
        """Record a call that the gateway answers itself, and how it ended, in the audit log."""
        if self._audit_log is not None:
            peer, policy = Peer(logs.client.get()), method_policy(path)
            call = IncomingCall(path, policy, request, peer, identity.caller())
            await self._audit_log.record(call, status)

    def guard(self, app: ASGIApp, path: str, statuses: StatusWriter) -> ASGIApp:
        """Return *app* for those who may call the RPC at *path*."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await self.authorize(path, scope)
            except UpstreamError as error:
                await statuses.send_status(send, error.status, _to_headers(error.metadata))
            else:
                await app(scope, receive, send)

        return guarded

    async def _redeem(self, ticket: str, metadata: Metadata, call: IncomingCall) -> dict[str, str | bytes]:
        try:
            if metadata:
                raise rejection("send either a ticket or a key")
            if not _TICKET_FORM.fullmatch(ticket):
                raise rejection("a ticket has 43 characters of base64url")
            return {CALLER_KEY: _shorten(await self._tickets.redeem(ticket)).SerializeToString()}
        except errors.ReelhaulError as error:
            if self._rate_limiter is not None and error.reason == ErrorReason.CREDENTIAL_INVALID:
                await self._rate_limiter.admit_failure(call, error)
            raise


class ForwardingUpstream:
    """An upstream whose calls prove that they entered the suite at the gateway."""

    def __init__(self, inner: Upstream) -> None:
        self._inner = inner

    async def unary(self, call: Call) -> UnaryResponse:
        return await self._inner.unary(_forward(call))

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._inner.stream(_forward(call))) as messages:
            async for message in messages:
                yield message


def take_websocket_credential(scope: Scope) -> bool:
    """Move the credential in the subprotocols of a WebSocket to where others stand; return if there is one.

    ``reelhaul.key.`` and the key in base64url, or ``reelhaul.ticket.`` and a ticket.
    """
    protocols: Sequence[str] = scope.get("subprotocols") or ()
    if scope["type"] != "websocket" or not any(each.startswith("reelhaul.") for each in protocols):
        return False
    keys = [each.removeprefix(_KEY_PROTOCOL) for each in protocols if each.startswith(_KEY_PROTOCOL)]
    tickets = [each.removeprefix(_TICKET_PROTOCOL) for each in protocols if each.startswith(_TICKET_PROTOCOL)]
    scope["subprotocols"] = [
        each for each in protocols if not each.startswith((_KEY_PROTOCOL, _TICKET_PROTOCOL))
    ]
    scope["headers"] = [
        *(header for header in scope["headers"] if header[0] != b"sec-websocket-protocol"),
        *((b"x-api-key", _decode_key(key)) for key in keys),
    ]
    if tickets:
        scope[_TICKET] = ",".join(tickets)
    return bool(keys or tickets)


def _decode_key(encoded: str) -> bytes:
    """Return the key in *encoded*; what is not base64url is no key, and refused as one."""
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    return key or b"malformed"


def _credentials_of(scope: Scope) -> dict[str, str | bytes]:
    """Return the headers of the request that hold credentials; a repeated one is malformed."""
    found: dict[str, str | bytes] = {}
    for name, value in scope["headers"]:
        if (key := _CREDENTIAL_HEADERS.get(name)) is not None:
            text = value.decode("latin-1")
            found[key] = f"{found[key]!s},{text}" if key in found else text
    return found


def _to_upstream_error(error: errors.ReelhaulError, scope: Scope) -> UpstreamError:
    if error.reason == ErrorReason.CREDENTIAL_MISSING and _has_key_in_query(scope):
        text = "keys are not accepted in the URL, which is logged in many places: " + error.text
        error = errors.ReelhaulError(error.reason, text)
    return UpstreamError(errors.to_status(error))


def _has_key_in_query(scope: Scope) -> bool:
    query = scope["query_string"].decode("latin-1")
    return any(name.lower() in _QUERY_NAMES for name, _ in parse_qsl(query, keep_blank_values=True))


def _to_headers(metadata: Iterable[tuple[str, str | bytes]]) -> list[Header]:
    return [(key.encode(), value.encode()) for key, value in metadata if isinstance(value, str)]


def _forward(call: Call) -> Call:
    return replace(call, metadata=(*call.metadata, *_forwarded.get()))


def _shorten(response: api_key_service_pb2.VerifyApiKeyResponse) -> api_key_service_pb2.VerifyApiKeyResponse:
    """Return *response* without what no stream needs: lists of sites are longer than metadata may be."""
    key, tenant = response.api_key, response.tenant
    shortened = api_key_pb2.ApiKey(
        name=key.name,
        permission=key.permission,
        tenant=key.tenant,
        grants=key.grants,
        quota=key.quota,
        allowed_cidrs=key.allowed_cidrs,
        expire_time=key.expire_time if key.HasField("expire_time") else None,
    )
    return api_key_service_pb2.VerifyApiKeyResponse(
        api_key=shortened, tenant=tenant_pb2.Tenant(name=tenant.name, quota=tenant.quota, state=tenant.state)
    )
