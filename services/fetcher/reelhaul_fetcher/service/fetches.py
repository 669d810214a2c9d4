"""Fetches: the state of each fetch of this worker, for callers and watchers, kept a while after its end."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable

from reelhaul.fetcher.v1.fetch_pb2 import Fetch
from reelhaul.type.v1.media_pb2 import Progress
from reelhaul.work.v1 import lease_pb2
from reelhaul_fetcher.service import outcomes
from reelhaul_fetcher.service.outcomes import Finish
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.page_tokens import PageTokens

_KEPT_SECONDS = 600.0
# Fewer of jobs' attempts are kept, because jobs itself knows how they ended.
_MAX_ENDED, _MAX_ENDED_ATTEMPTS = 1000, 100
# Of a page: clients accept no message of more than 4 MiB.
_MAX_PAGE_BYTES = 1 << 20


class TrackedFetch:
    """One fetch and its watchers. A watcher gets the newest state only, so a slow one costs no memory."""

    def __init__(self, sequence: int, fetch: Fetch) -> None:
        #: Fetches are numbered in the order in which they begin.
        self.sequence = sequence
        #: Cancels it; None if it belongs to a job or has ended.
        self.cancel: Callable[[], None] | None = None
        self._fetch = fetch
        self._changed = asyncio.Event()

    @property
    def name(self) -> str:
        """Format: fetches/{fetch}"""
        return self._fetch.name

    @property
    def attempt(self) -> str:
        """The job's attempt that it serves; empty for a direct fetch."""
        return self._fetch.attempt

    @property
    def ended(self) -> bool:
        """Whether it has ended; its work directory is gone by then."""
        return self._fetch.state != Fetch.RUNNING

    @property
    def size_bytes(self) -> int:
        """Size of a snapshot in a response."""
        return self._fetch.ByteSize()

    def snapshot(self) -> Fetch:
        """Return a copy of its present state."""
        copy = Fetch()
        copy.CopyFrom(self._fetch)
        return copy

    def update_progress(self, progress: Progress) -> None:
        """Set the newest progress."""
        self._fetch.progress.CopyFrom(progress)
        self._notify()

    def end(self, outcome: Finish | None) -> None:
        """End it with *outcome*; None means that it was cancelled or lost its lease."""
        fetch, self.cancel = self._fetch, None
        if outcome is not None and outcome.HasField("released") and not fetch.attempt:
            outcome = outcomes.released_as_failure(outcome.released)
        fetch.state = Fetch.CANCELLED
        if outcome is not None and outcome.HasField("succeeded"):
            result = outcome.succeeded
            fetch.state, fetch.progress.percent = Fetch.SUCCEEDED, 100
            fetch.artifacts.extend(result.artifacts)
            fetch.got.CopyFrom(result.got)
            fetch.warnings.extend(result.warnings)
        elif outcome is not None and outcome.HasField("failed"):
            fetch.state = Fetch.FAILED
            fetch.error.CopyFrom(outcome.failed.status)
        self._notify()

    async def wait_ended(self) -> None:
        """Return when it has ended."""
        while not self.ended:
            await self._changed.wait()

    async def events(self) -> AsyncIterator[Fetch | Progress]:
        """Yield a snapshot, then the newest progress at each change, and a last snapshot at the end."""
        ended, changed = self.ended, self._changed
        yield self.snapshot()
        while not ended:
            await changed.wait()
            ended, changed = self.ended, self._changed
            yield self.snapshot() if ended else self._progress()

    def _progress(self) -> Progress:
        copy = Progress()
        copy.CopyFrom(self._fetch.progress)
        return copy

    def _notify(self) -> None:
        # A new event for later waiters, so that they do not miss the next change.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class FetchRegistry:
    """The running fetches, and the latest ended ones for ten minutes."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        max_ended: int = _MAX_ENDED,
        max_ended_attempts: int = _MAX_ENDED_ATTEMPTS,
    ) -> None:
        self._clock = clock
        self._fetches: dict[str, TrackedFetch] = {}
        # End time and name of each ended fetch, by whether it served a job.
        self._ended: dict[bool, deque[tuple[float, str]]] = {False: deque(), True: deque()}
        self._max_ended = {False: max_ended, True: max_ended_attempts}
        self._sequence = itertools.count(1)
        # Numbers start again with each process: page tokens of another one are invalid here.
        self._page_tokens = PageTokens(secrets.token_bytes(16))

    def begin(self, spec: lease_pb2.FetchSpec, attempt: str = "") -> TrackedFetch:
        """Add a running fetch of *spec*, which serves the job's *attempt* unless that is empty."""
        fetch = Fetch(
            name=f"fetches/{uuid.uuid4()}",
            attempt=attempt,
            url=spec.url,
            format=spec.format,
            tenant=spec.tenant,
            state=Fetch.RUNNING,
        )
        fetch.create_time.GetCurrentTime()
        tracked = self._fetches[fetch.name] = TrackedFetch(next(self._sequence), fetch)
        return tracked

    def end(self, fetch: TrackedFetch, outcome: Finish | None) -> None:
        """End *fetch* as ``TrackedFetch.end`` does."""
        fetch.end(outcome)
        self._ended[bool(fetch.attempt)].append((self._clock(), fetch.name))
        self._delete_old()

    def get(self, name: str) -> TrackedFetch:
        """Return the fetch *name*. Raises NotFound, also if it was deleted after its end."""
        self._delete_old()
        if (fetch := self._fetches.get(name)) is None:
            raise NotFound(name)
        return fetch

    def list_page(self, page_size: int, page_token: str) -> tuple[list[TrackedFetch], str]:
        """Return a page of fetches, newest first, and the token of the next one.

        Raises PAGE_TOKEN_INVALID.
        """
        self._delete_old()
        position = self._page_tokens.read("fetches", page_token)
        page: list[TrackedFetch] = []
        page_bytes = 0
        for fetch in reversed(self._fetches.values()):
            if position and fetch.sequence >= position[0]:
                continue
            page_bytes += fetch.size_bytes
            if page and (len(page) == page_size or page_bytes > _MAX_PAGE_BYTES):
                return page, self._page_tokens.create("fetches", page[-1].sequence)
            page.append(fetch)
        return page, ""

    def _delete_old(self) -> None:
        oldest = self._clock() - _KEPT_SECONDS
        for serves_job, ended in self._ended.items():
            while ended and (len(ended) > self._max_ended[serves_job] or ended[0][0] <= oldest):
                _, name = ended.popleft()
                del self._fetches[name]
