"""Credential cache: the results of verifying credentials, by their SHA-256, for a minute at most."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.auth.credentials import VerifiedCredential, rejection
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.metrics.instruments import CREDENTIAL_CACHE

#: Verifies a key or token. Raises CREDENTIAL_INVALID, or SERVICE_UNAVAILABLE if that is impossible now.
Verify = Callable[[str], Awaitable[VerifiedCredential]]

# However long the response of a verification may be kept.
_MAX_AGE_SECONDS = 60.0
# A key that was mistyped or has just been enabled is checked again after so many seconds.
_REJECTION_SECONDS = 5.0
# Rejections have a bound of their own: unknown keys never displace known ones.
_MAX_CREDENTIALS, _MAX_REJECTIONS = 4096, 1024
#: End of an entry that must be verified again.
_PAST = float("-inf")


# PERMISSION_INSUFFICIENT: of a token without a level.
_KEPT_REASONS = (ErrorReason.CREDENTIAL_INVALID, ErrorReason.PERMISSION_INSUFFICIENT)


_HITS, _MISSES = CREDENTIAL_CACHE.labels("hit"), CREDENTIAL_CACHE.labels("miss")


@dataclass(frozen=True, slots=True)
class _Entry:
    verified: VerifiedCredential
    #: Monotonic time of its end.
    end: float


class CredentialCache:
    """Remembers which credentials work, so that a call costs no verification.

    Secrets are not kept, only their SHA-256. *clock* is monotonic, *now* are seconds since the epoch.
    """

    def __init__(
        self,
        verify: Verify,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        max_credentials: int = _MAX_CREDENTIALS,
        max_rejections: int = _MAX_REJECTIONS,
    ) -> None:
        self._verify, self._clock, self._now = verify, clock, now
        self._max_credentials, self._max_rejections = max_credentials, max_rejections
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._rejections: OrderedDict[bytes, tuple[ReelhaulError, float]] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[VerifiedCredential]] = {}
        self._listeners: list[Callable[[str], None]] = []
        # Counts drops: what was verified before the last one is not kept.
        self._generation = 0

    async def resolve(self, credential: str) -> VerifiedCredential:
        """Return what *credential* stands for. Raises CREDENTIAL_INVALID or SERVICE_UNAVAILABLE."""
        digest = _digest(credential)
        entry = self._entries.get(digest)
        if entry is not None and self._clock() < entry.end and self._now() < entry.verified.expiry:
            _HITS.inc()
            return entry.verified
        rejection = self._rejections.get(digest)
        if rejection is not None and self._clock() < rejection[1]:
            _HITS.inc()
            raise _copy(rejection[0])
        _MISSES.inc()
        task = self._running.get(digest)
        if task is None:
            task = self._running[digest] = asyncio.create_task(self._verify_and_keep(digest, credential))
            task.add_done_callback(partial(self._end_verification, digest))
        # Shared: a caller that gives up does not end it for the others.
        try:
            return await asyncio.shield(task)
        except ReelhaulError as error:
            raise _copy(error) from None

    def check_expiry(self, verified: VerifiedCredential) -> None:
        """Raise CREDENTIAL_INVALID if *verified*, which is not kept here, has expired."""
        if self._now() >= verified.expiry:
            raise rejection("the credential has expired")

    def knows(self, credential: str) -> bool:
        """Return whether *credential* worked when it was verified last, however long ago that is."""
        return _digest(credential) in self._entries

    def drop(self, name: str) -> None:
        """Verify the key *name*, or those of the tenant *name*, at their next call; forget all rejections."""
        self._forget_results()
        for digest, entry in list(self._entries.items()):
            if entry.verified.caller.is_or_belongs_to(name):
                del self._entries[digest]
        for listener in self._listeners:
            listener(name)

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Call *listener* with each name that is dropped from now on."""
        self._listeners.append(listener)

    def clear(self) -> None:
        """Verify everything at its next call: changes may have been missed."""
        self._forget_results()
        for digest, entry in self._entries.items():
            self._entries[digest] = replace(entry, end=_PAST)

    def _forget_results(self) -> None:
        """Keep no result of a verification that began before now, and give none to a call that follows."""
        self._generation += 1
        self._rejections.clear()
        self._running.clear()

    def _end_verification(self, digest: bytes, task: asyncio.Task[VerifiedCredential]) -> None:
        if self._running.get(digest) is task:
            del self._running[digest]
        if not task.cancelled():
            task.exception()  # all its callers may have given up; asyncio would log it then

    async def _verify_and_keep(self, digest: bytes, credential: str) -> VerifiedCredential:
        generation, start = self._generation, self._clock()
        try:
            verified = await self._verify(credential)
        except ReelhaulError as error:
            if error.reason in _KEPT_REASONS:
                if error.reason == ErrorReason.CREDENTIAL_INVALID:
                    self._entries.pop(digest, None)
                if generation == self._generation:
                    self._rejections[digest] = error, start + _REJECTION_SECONDS
                    _shrink(self._rejections, self._max_rejections)
            raise
        if generation == self._generation:
            # From the start of the verification, whose result may be as old as that.
            age = min(verified.max_age, _MAX_AGE_SECONDS)
            self._entries.pop(digest, None)
            self._entries[digest] = _Entry(verified, start + age)
            _shrink(self._entries, self._max_credentials)
        return verified


def _digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode(errors="replace")).digest()


def _shrink(entries: OrderedDict[bytes, Any], limit: int) -> None:
    while len(entries) > limit:
        entries.popitem(last=False)


def _copy(error: ReelhaulError) -> ReelhaulError:
    """Return an error that can be raised once more: a raised one grows by the traceback of each caller."""
    return ReelhaulError(error.reason, error.text, metadata=error.metadata, retry_delay=error.retry_delay)
