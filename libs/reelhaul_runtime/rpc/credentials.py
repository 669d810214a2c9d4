"""Credentials: TLS of gRPC servers and channels, whose certificates are replaced while they run.

https://grpc.github.io/grpc/python/grpc.html#create-server-credentials
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
from grpc import aio

from reelhaul_runtime.certificate import TlsContent, TlsFiles, WatchedFiles
from reelhaul_runtime.tasks import cancel_and_wait


@asynccontextmanager
async def serving_certificate(files: TlsFiles) -> AsyncIterator[grpc.ServerCredentials]:
    """Yield the credentials of a server with *files*, which are read again when they change.

    Raises CertificateError if they cannot be used at first.
    """
    certificate = _ServerCertificate(files)
    async with _watching(files, certificate.load):
        yield certificate.credentials()


@asynccontextmanager
async def connecting(
    target: str, options: Sequence[tuple[str, Any]], files: TlsFiles | None
) -> AsyncIterator[aio.Channel]:
    """Open a channel to *target*, with TLS if *files* are given, which are read again when they change.

    Raises CertificateError if they cannot be used at first.
    """
    if files is None:
        async with aio.insecure_channel(target, options) as plain:
            yield plain
        return
    secure_options = [*options, *name_options(files)]
    channel = _RenewedChannel()

    def load(content: TlsContent) -> None:
        channel.renew(aio.secure_channel(target, channel_credentials(content), secure_options))

    try:
        async with _watching(files, load):
            yield cast("aio.Channel", channel)
    finally:
        await channel.close()


def channel_credentials(content: TlsContent) -> grpc.ChannelCredentials:
    """Return the credentials of a channel with *content*."""
    return grpc.ssl_channel_credentials(content.ca, content.key, content.certificate)


def name_options(files: TlsFiles) -> list[tuple[str, Any]]:
    """Return the options of a channel that check the name of all services instead of the address."""
    return [("grpc.ssl_target_name_override", files.service_name)] if files.service_name else []


@asynccontextmanager
async def _watching(files: TlsFiles, load: Callable[[TlsContent], None]) -> AsyncIterator[None]:
    """Call *load* with the content of *files*, and again when they change, until the end of the block."""
    watched = WatchedFiles(files.all, lambda: load(files.read()))
    load(files.read())
    watching = asyncio.create_task(watched.watch())
    try:
        yield
    finally:
        await cancel_and_wait(watching)


class _ServerCertificate:
    """The certificate of a gRPC server, which handshakes take as it is at their time."""

    def __init__(self, files: TlsFiles) -> None:
        self._requires_clients = bool(files.service_name)
        self._current: Any = None
        self._latest_served: Any = None

    def load(self, content: TlsContent) -> None:
        """Use *content* from the next handshake on."""
        if content.key is None or content.certificate is None:
            raise ValueError("a server needs a certificate and a key")
        self._current = grpc.ssl_server_certificate_configuration(
            [(content.key, content.certificate)], content.ca
        )

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of a server. gRPC asks for the certificate at each handshake."""
        self._latest_served = self._current
        return grpc.dynamic_ssl_server_credentials(self._current, self._take_new, self._requires_clients)

    def _take_new(self) -> Any:
        """Return the certificate if it is new, for a thread of gRPC; None: the earlier one stays."""
        if self._current is self._latest_served:
            return None
        self._latest_served = self._current
        return self._latest_served


class _Generation:
    """A channel and the number of its calls that run."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel, self.calls = channel, 0


class _RenewedChannel:
    """A channel whose credentials are replaced: later calls use a new one, and those that run go on."""

    def __init__(self) -> None:
        #: Set by the first ``renew``.
        self._current: Any = None
        self._open: set[_Generation] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def renew(self, channel: aio.Channel) -> None:
        """Send all later calls through *channel*."""
        previous, self._current = self._current, _Generation(channel)
        self._open.add(self._current)
        if previous is not None:
            self._close_if_unused(previous)

    async def close(self) -> None:
        """Close all channels, and cancel their calls."""
        for generation in [*self._open]:
            await generation.channel.close()
        await asyncio.gather(*self._closing)

    def unary_unary(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._method("unary_unary", path, args, kwargs)

    def unary_stream(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._method("unary_stream", path, args, kwargs)

    def stream_unary(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._method("stream_unary", path, args, kwargs)

    def stream_stream(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._method("stream_stream", path, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._current.channel, name)

    def _method(self, kind: str, path: str, args: Any, kwargs: Any) -> Callable[..., Any]:
        generation: _Generation | None = None
        method: Any = None

        def call(*request: Any, **options: Any) -> Any:
            nonlocal generation, method
            if generation is not self._current:
                generation = self._current
                method = getattr(generation.channel, kind)(path, *args, **kwargs)
            used = generation
            rpc = method(*request, **options)
            used.calls += 1

            def end(_: object) -> None:
                used.calls -= 1
                self._close_if_unused(used)

            rpc.add_done_callback(end)
            return rpc

        return call

    def _close_if_unused(self, generation: _Generation) -> None:
        if generation is self._current or generation.calls or generation not in self._open:
            return
        self._open.discard(generation)
        closing = asyncio.ensure_future(generation.channel.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
