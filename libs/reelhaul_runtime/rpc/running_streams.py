"""Running streams: each ends when the credential that opened it changes, expires or is revoked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import MethodPolicy
from reelhaul_runtime import errors, identity
from reelhaul_runtime.auth.calls import Authenticator, IncomingCall
from reelhaul_runtime.auth.peers import Metadata, Peer

#: A stream may run for hours. What it is checked for again at this interval has no notice: the expiry of its
#: credential, and changes while the broker was away.
CHECK_SECONDS = 30.0
_REVOKED = (
    ErrorReason.CREDENTIAL_MISSING,
    ErrorReason.CREDENTIAL_INVALID,
    ErrorReason.ADDRESS_FORBIDDEN,
    ErrorReason.PERMISSION_INSUFFICIENT,
)


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream of a caller, and what its credential is checked by again."""

    caller: identity.Caller
    policy: MethodPolicy
    peer: Peer
    metadata: Metadata


class RunningStreams:
    """The streams of callers that a server has open."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        # Each by the timeout that ends it.
        self._streams: dict[asyncio.Timeout, _Stream] = {}
        self._checking: asyncio.Task[None] | None = None
        authenticator.subscribe(self._end_streams)

    @asynccontextmanager
    async def tracking(
        self, timeout: asyncio.Timeout, call: IncomingCall, metadata: Metadata
    ) -> AsyncIterator[None]:
        """End the stream in the block with SERVICE_UNAVAILABLE once the credential of its caller changes.

        The caller connects again and is authenticated again. *timeout* is the one that ends the block.
        """
        if call.caller is None or not call.caller.principal or call.caller.suite:
            yield
            return
        stream = self._streams[timeout] = _Stream(call.caller, call.policy, call.peer, metadata)
        if self._checking is None:
            self._checking = asyncio.create_task(self._check_streams(), context=Context())
        try:
            # It may have changed since it was verified, before it was known here whose stream this is.
            if not await self._is_allowed(stream):
                raise errors.Unavailable("auth", "the credential has changed: connect again")
            yield
        except asyncio.CancelledError:
            if timeout not in self._streams:
                raise errors.Unavailable("auth", "the credential has changed: connect again") from None
            raise
        finally:
            self._streams.pop(timeout, None)
            if not self._streams and self._checking is not None:
                self._checking.cancel()
                self._checking = None

    async def _check_streams(self) -> None:
        """End streams whose credential expired, or was revoked without a notice: the broker was away."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for timeout, stream in list(self._streams.items()):
                if not await self._is_allowed(stream):
                    self._end_stream(timeout)

    async def _is_allowed(self, stream: _Stream) -> bool:
        """Return whether the credential of *stream* still works, or cannot be verified now."""
        try:
            caller = await self._authenticator.identify(stream.metadata, stream.peer)
            caller.check(stream.policy)
        except errors.ReelhaulError as error:
            return error.reason not in _REVOKED
        return True

    def _end_streams(self, name: str) -> None:
        """End the streams of the key or tenant *name*, which has changed."""
        for timeout, stream in list(self._streams.items()):
            if stream.caller.is_or_belongs_to(name):
                self._end_stream(timeout)

    def _end_stream(self, timeout: asyncio.Timeout) -> None:
        if self._streams.pop(timeout, None) is not None:
            timeout.reschedule(0)
