"""HTTP to the endpoints of webhooks: signed requests to addresses that the rules allow.

Tenants choose the endpoints. Names are resolved here, every address is checked, and the connection goes to
an address that was checked, so that no changing DNS answer leads to a private address.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import httpcore
import httpx
from standardwebhooks import Webhook as Signer

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model.webhook import Webhook
from reelhaul_jobs.model.webhook_delivery import TRY_SECONDS, TryResult
from reelhaul_runtime import logs
from reelhaul_runtime.addresses import Address, Network, Refused, Rules, parse_host
from reelhaul_runtime.errors import ReelhaulError, Violation, to_status
from reelhaul_runtime.tracing import xray
from reelhaul_runtime.validation.urls import redact

#: Returns the addresses of a host name. Raises OSError.
Resolve = Callable[[str], Awaitable[Sequence[Address]]]

_RESOLVE_SECONDS = 5.0
# A resolver that does not answer holds a thread: more than one tenant may have requests under way.
_RESOLVER_THREADS = 64
_MAX_ADDRESSES = 256
# Addresses that are tried, and seconds for each but the last.
_MAX_TRIED, _CONNECT_SECONDS = 4, 3.0
# What is read of the body of a response, and for how long; the connection is closed after it.
_MAX_BODY, _BODY_SECONDS = 64 << 10, 1.0
_FAILURES = (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)
_MAX_RETRY_AFTER = timedelta(days=1)


class Resolver:
    """Resolves names by this machine's name service, in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="webhook-resolver")
        # Requests for the same name share a thread.
        self._lookups: dict[str, asyncio.Future[Sequence[Address]]] = {}

    async def resolve(self, host: str) -> Sequence[Address]:
        """Return the addresses of *host*. Raises OSError, also after some seconds."""
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = asyncio.get_running_loop().run_in_executor(self._threads, _lookup, host)
            self._lookups[host] = lookup
            lookup.add_done_callback(lambda future: self._forget(host, future))
        try:
            async with asyncio.timeout(_RESOLVE_SECONDS):
                return await asyncio.shield(lookup)
        except TimeoutError:
            raise OSError(f"{host} is not resolved in time") from None

    def close(self) -> None:
        """Start no more lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _forget(self, host: str, future: asyncio.Future[Sequence[Address]]) -> None:
        del self._lookups[host]
        if not future.cancelled():
            future.exception()


def _lookup(host: str) -> Sequence[Address]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ip_address(text) for text in dict.fromkeys(str(each[4][0]) for each in found)]


class HttpWebhookEndpoints:
    """Implements WebhookEndpoints: https to public addresses; *networks* may be reached too, also by http."""

    def __init__(
        self,
        networks: Iterable[Network],
        resolve: Resolve,
        ca_file: Path | None = None,
        try_seconds: float = TRY_SECONDS,
        *,
        send_xray: bool = False,
    ) -> None:
        """*ca_file* has certificate authorities in PEM, besides those of this machine.

        Requests carry the trace context of the delivery, with *send_xray* also as AWS X-Ray's header.
        """
        self._networks = tuple(networks)
        self._resolve = resolve
        self._try_seconds = try_seconds
        self._send_xray = send_xray
        self._tls = ssl.create_default_context()
        if ca_file is not None:
            self._tls.load_verify_locations(ca_file)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, networks: Iterable[Network], ca_file: Path | None, *, send_xray: bool = False
    ) -> AsyncIterator[HttpWebhookEndpoints]:
        """Yield the endpoints with this machine's resolver."""
        resolver = Resolver()
        try:
            yield cls(networks, resolver.resolve, ca_file, send_xray=send_xray)
        finally:
            resolver.close()

    async def check_url(self, url: str) -> None:
        try:
            target = httpx.URL(url)
        except httpx.InvalidURL:
            raise _invalid(url, "must have a valid host name") from None
        try:
            await self.allowed_addresses(target.raw_host.decode(), _port(target), target.scheme == "https")
        except Refused as error:
            if error.reason == "http":
                raise _invalid(url, "must start with https://") from None
            raise _forbidden(target.host) from None
        except OSError:
            raise _invalid(url, "has a host name that cannot be resolved") from None

    async def send(
        self, webhook: Webhook, secrets: Sequence[str], event_id: str, time: datetime, body: str
    ) -> TryResult:
        target = httpx.URL(webhook.url)
        headers = [*_headers(target, secrets, event_id, time, body), *self._trace_headers()]
        try:
            async with asyncio.timeout(self._try_seconds):
                response = await self._post(target, headers, body.encode())
        except Refused as error:
            text = "must start with https://" if error.reason == "http" else ""
            return TryResult(
                error=to_status(_invalid(webhook.url, text) if text else _forbidden(target.host))
            )
        except TimeoutError:
            return _unavailable(webhook, f"no response within {self._try_seconds:g} s")
        except _FAILURES as error:
            return _unavailable(webhook, f"no response: {_describe(error)}")
        return _result(webhook, response)

    def _trace_headers(self) -> list[tuple[str, str]]:
        traceparent = logs.traceparent.get()
        if not traceparent:
            return []
        xray_headers = [(xray.HEADER, xray.to_header(traceparent))] if self._send_xray else []
        return [("traceparent", traceparent), *xray_headers]

    async def allowed_addresses(self, host: str, port: int, secure: bool) -> Sequence[Address]:
        """Return the addresses of *host* if all of them may be reached. Raises ``Refused``, OSError."""
        literal = parse_host(f"[{host}]" if ":" in host else host)
        addresses = [literal] if literal else await self._resolve(host)
        if not 0 < len(addresses) <= _MAX_ADDRESSES:
            raise OSError("no address, or too many")
        if not secure and not all(any(each in network for network in self._networks) for each in addresses):
            raise Refused("http")
        Rules(self._networks).check(addresses, port)
        return addresses

    async def _post(
        self, target: httpx.URL, headers: Sequence[tuple[str, str]], body: bytes
    ) -> httpcore.Response:
        """Return the response, without redirects; its body is dropped."""
        url = httpcore.URL(
            scheme=target.raw_scheme, host=target.raw_host, port=_port(target), target=target.raw_path
        )
        backend = _GuardedBackend(self, target.scheme == "https")
        # A connection of its own: none is left open, and none is shared with another tenant.
        async with httpcore.AsyncConnectionPool(
            ssl_context=self._tls, max_connections=1, max_keepalive_connections=0, network_backend=backend
        ) as pool:
            encoded = [(name.encode(), value.encode()) for name, value in headers]
            async with pool.stream("POST", url, headers=encoded, content=body) as response:
                # The status decides. Most servers want their response to be read.
                with suppress(TimeoutError, *_FAILURES):
                    async with asyncio.timeout(_BODY_SECONDS):
                        await _drop_body(response)
                return response


async def _drop_body(response: httpcore.Response) -> None:
    size = 0
    async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_stream())) as pieces:
        async for piece in pieces:
            size += len(piece)
            if size > _MAX_BODY:
                return


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked."""

    def __init__(self, endpoints: HttpWebhookEndpoints, secure: bool) -> None:
        self._endpoints, self._secure = endpoints, secure
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._endpoints.allowed_addresses(host, port, self._secure)
        *others, last = addresses[:_MAX_TRIED]
        for address in others:
            try:
                return await self._inner.connect_tcp(str(address), port, _CONNECT_SECONDS)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(str(last), port, timeout)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _headers(
    target: httpx.URL, secrets: Sequence[str], event_id: str, time: datetime, body: str
) -> list[tuple[str, str]]:
    """Return the headers of a request, with those of Standard Webhooks."""
    signatures = [Signer(secret).sign(msg_id=event_id, timestamp=time, data=body) for secret in secrets]
    return [
        ("Host", target.netloc.decode()),
        ("User-Agent", "Reelhaul-Webhooks/1"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body.encode()))),
        ("Connection", "close"),
        ("webhook-id", event_id),
        ("webhook-timestamp", str(int(time.timestamp()))),
        ("webhook-signature", " ".join(signatures)),
    ]


def _result(webhook: Webhook, response: httpcore.Response) -> TryResult:
    status = response.status
    if 200 <= status < 300:
        return TryResult(http_status=status)
    if status in (408, 429) or status >= 500:
        error = _unavailable(webhook, f"the endpoint responded {status}").error
    else:
        error = to_status(
            ReelhaulError(
                ErrorReason.DESTINATION_REFUSED,
                f"the endpoint responded {status}" + (": redirects are not followed" if status < 400 else ""),
                metadata={"destination": webhook.name, "cause": str(status)},
            )
        )
    retry_after = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
    return TryResult(
        http_status=status, error=error, retry_after=_parse_retry_after(retry_after.decode("latin-1"))
    )


def _parse_retry_after(text: str) -> timedelta | None:
    """Return the delay of a Retry-After header, in seconds or as a date (RFC 9110 section 10.2.3)."""
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), _MAX_RETRY_AFTER)
    try:
        time = parsedate_to_datetime(text[:64])
    except (ValueError, OverflowError):
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return max(timedelta(0), min(time - datetime.now(UTC), _MAX_RETRY_AFTER))


def _unavailable(webhook: Webhook, text: str) -> TryResult:
    metadata = {"destination": webhook.name}
    return TryResult(
        error=to_status(ReelhaulError(ErrorReason.DESTINATION_UNAVAILABLE, text, metadata=metadata))
    )


def _invalid(url: str, problem: str) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.URL_INVALID,
        f"webhook.url: {problem}",
        metadata={"url": redact(url)},
        violations=[Violation("webhook.url", problem)],
    )


def _forbidden(host: str) -> ReelhaulError:
    text = f"events are not sent to {host}: it has a private or otherwise forbidden address, or another port"
    return ReelhaulError(
        ErrorReason.URL_FORBIDDEN,
        f"webhook.url: {text}",
        metadata={"host": host},
        violations=[Violation("webhook.url", text)],
    )


def _describe(error: Exception) -> str:
    """Return what failed, without what the endpoint sent."""
    if isinstance(error, httpcore.ProtocolError):
        return "it is not HTTP"
    return str(error)[:200] or type(error).__name__
