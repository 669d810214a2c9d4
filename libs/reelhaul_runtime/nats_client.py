"""NATS client: one connection with the options that reliability requires.

With its defaults a client gives up after two minutes, notices a dead connection after four, and
buffers publishes that it reports as failed.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.aio.client import Client
from nats.errors import StaleConnectionError
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from reelhaul_runtime.certificate import WatchedFiles, load_chain
from reelhaul_runtime.logs import Outage
from reelhaul_runtime.metrics.instruments import BROKER_RECONNECTS
from reelhaul_runtime.nats_security import NO_FILES, CredentialsError, NatsSecurity, read_credentials, sign
from reelhaul_runtime.redaction import redact_urls
from reelhaul_runtime.server_addresses import split_addresses
from reelhaul_runtime.settings import InvalidSetting
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

_TLS_SCHEME = "tls://"


@asynccontextmanager
async def connect(
    url: str,
    name: str,
    *,
    closed: asyncio.Event | None = None,
    echo: bool = True,
    on_reconnect: Callable[[], None] | None = None,
    security: NatsSecurity = NO_FILES,
) -> AsyncIterator[Client]:
    """Connect to the broker at *url* as *name*, until the end of the block.

    A *url* of several servers, comma separated, is of a cluster: the client connects to one of them, and to
    another one when it is lost. It learns of further servers from the cluster.

    The client reconnects for ever. While the broker is down, a publish fails at once and is not
    buffered (``pending_size=0``): callers that need it sent again keep it in a row. *closed* is set
    if the connection ends for good before the block does: exit then. Without *echo* the client does
    not receive its own messages. *on_reconnect* is called after an interruption, in which messages may have
    been missed. The broker's absence is logged at growing intervals. With a *url* ``tls://…`` nothing is sent
    without TLS; the files of *security* are read again when they change.

    Raises InvalidSetting if *url* is empty or the files of *security* cannot be used.
    """
    if not url:
        raise InvalidSetting("REELHAUL_NATS_URL is not set: jobs and fetchers need a NATS broker")
    closing = False
    broker = {"broker": redact_urls(url)}
    outage = Outage()

    async def on_error(error: Exception) -> None:
        # It must never raise: nats-py would end its read loop. While there is no connection it is called
        # for each attempt.
        if closing:
            return
        lost = isinstance(error, OSError | StaleConnectionError)
        if client.is_connected and not lost:
            log.warning("broker error", extra=broker | {"cause": repr(error)})
        elif (level := outage.level()) is not None:
            cause = redact_urls(repr(error))
            log.log(level, "no connection to the broker; trying again", extra=broker | {"cause": cause})

    async def on_disconnect() -> None:
        if not closing and (level := outage.level()) is not None:
            log.log(level, "the connection to the broker is lost; trying again", extra=broker)

    async def log_reconnect() -> None:
        outage.end()
        BROKER_RECONNECTS.inc()
        if on_reconnect is not None:
            on_reconnect()
        log.info("reconnected to the broker", extra=broker)

    async def on_closed() -> None:
        if not closing and closed is not None:
            closed.set()

    client = _SecureClient(url, security)
    watched = WatchedFiles(security.tls.all, client.load_files)
    watching = asyncio.create_task(watched.watch())
    try:
        await client.connect(
            split_addresses(url),
            name=name,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            connect_timeout=2,
            ping_interval=10,
            max_outstanding_pings=2,
            pending_size=0,
            no_echo=not echo,
            error_cb=on_error,
            disconnected_cb=on_disconnect,
            reconnected_cb=log_reconnect,
            closed_cb=on_closed,
            **client.options_of_connect,
        )
        outage.end()
        _clients.add(client)
        yield client
    finally:
        closing = True
        _clients.discard(client)
        await cancel_and_wait(watching)
        # Not drain(): it raises while the broker is down, and nothing is buffered here.
        await client.close()


class _ConnectionMetrics:
    """Whether all clients of this process are connected; nothing in a process without a client."""

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        if _clients:
            is_connected = all(client.is_connected for client in _clients)
            yield GaugeMetricFamily(
                "reelhaul_broker_connected", "1 while the broker is connected", value=is_connected
            )


_clients: set[Client] = set()
REGISTRY.register(_ConnectionMetrics())


class _NoTls(nats.errors.Error):
    """The broker offers no TLS although its URL asks for it."""


class _SecureClient(Client):
    """A client that sends credentials only once the connection has TLS, if the URL begins with ``tls://``.

    The library itself goes on without TLS if the broker, or who pretends to be it, does not ask for it.
    """

    def __init__(self, url: str, security: NatsSecurity) -> None:
        super().__init__()
        self._needs_tls, self._has_tls = url.startswith(_TLS_SCHEME), False
        self._credentials = security.credentials
        if self._credentials is not None:
            try:
                read_credentials(self._credentials)
            except CredentialsError as error:
                raise InvalidSetting(f"REELHAUL_NATS_CREDENTIALS: {error}") from None
        # All servers of a cluster have the same credentials.
        parts = urlsplit(split_addresses(url)[0])
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self.context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH) if self._needs_tls else None
        self._files = security.tls
        self.load_files()

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The context of the connection; the library asks for it when it begins TLS."""
        self._has_tls = True
        return super().ssl_context

    def load_files(self) -> None:
        """Use the files of TLS as they are now, from the next connection on. Raises CertificateError."""
        if self.context is not None:
            if self._files.ca is not None:
                self.context.load_verify_locations(self._files.ca)
            if self._files.certificate is not None and self._files.key is not None:
                load_chain(self.context, self._files.certificate, self._files.key)

    @property
    def options_of_connect(self) -> dict[str, Any]:
        """The options of ``connect``: TLS, and credentials as functions, which are called at each attempt."""
        options: dict[str, Any] = {"tls": self.context} if self.context is not None else {}
        if self._credentials is not None:
            return options | {"signature_cb": self._sign, "user_jwt_cb": self._read_jwt}
        if self._user and self._password:
            return options | {"user": self._after_tls(self._user), "password": lambda: self._password}
        if self._user or self._needs_tls:
            return options | {"token": self._after_tls(self._user)}
        return options

    def _after_tls(self, secret: str) -> Callable[[], str]:
        def get() -> str:
            self._check_tls()
            return secret

        return get

    def _check_tls(self) -> None:
        """Raise _NoTls if this attempt to connect has not begun TLS and the URL asks for it."""
        has_tls, self._has_tls = self._has_tls, False
        if self._needs_tls and not has_tls:
            raise _NoTls("the broker offers no TLS: its configuration or REELHAUL_NATS_URL is wrong")

    def _sign(self, nonce: str) -> bytes:
        self._check_tls()
        assert self._credentials is not None
        return base64.b64encode(sign(read_credentials(self._credentials)[1], nonce.encode()))

    def _read_jwt(self) -> bytearray:
        assert self._credentials is not None
        return bytearray(read_credentials(self._credentials)[0])
