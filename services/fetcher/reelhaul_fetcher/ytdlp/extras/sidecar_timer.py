"""Limits the time that sidecars take, so that a site that sends them slowly does not fail the media."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# A sidecar that does not grow for this share of the idle limit is given up.
_FILE_SHARE = 0.5
# All sidecars together may take this many times the idle limit.
_TOTAL_SHARE = 4.0
# Checks per time limit of a sidecar.
_CHECKS = 20


class SidecarTooSlow(Exception):
    """The site takes too long to send a sidecar."""


class SidecarTimer:
    """Ends requests for sidecars that take too long. For use in the main thread, because it handles SIGALRM.

    *idle_seconds* is the time for which a site may send nothing.
    """

    def __init__(self, idle_seconds: float) -> None:
        self._file_seconds = idle_seconds * _FILE_SHARE
        #: Seconds left for all sidecars.
        self._seconds = idle_seconds * _TOTAL_SHARE

    @contextmanager
    def limit(self, size: Callable[[], int] = lambda: 0) -> Iterator[None]:
        """Raise SidecarTooSlow in the block if it takes too long, or all sidecars together do.

        *size* returns the bytes received: the time limit of one sidecar restarts whenever they grow.
        """
        started = since = time.monotonic()
        latest = 0
        if self._seconds <= 0:
            raise SidecarTooSlow

        def check(*_: Any) -> None:
            nonlocal latest, since
            now, arrived = time.monotonic(), size()
            if arrived > latest:
                latest, since = arrived, now
            if now - since > self._file_seconds or now - started > self._seconds:
                raise SidecarTooSlow

        previous = signal.signal(signal.SIGALRM, check)
        interval = self._file_seconds / _CHECKS
        signal.setitimer(signal.ITIMER_REAL, interval, interval)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            self._seconds -= time.monotonic() - started
