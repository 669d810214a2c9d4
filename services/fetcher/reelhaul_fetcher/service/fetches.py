"""The fetches of this worker: how each stands, for whoever asks or watches, and a while after its end."""

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
# Of jobs' attempts fewer are remembered: jobs itself knows how they ended.
_MOST_ENDED, _MOST_ENDED_ATTEMPTS = 1000, 100
# Of a page: clients take no more than 4 MiB in one message.
_MOST_BYTES = 1 << 20


class TrackedFetch:
    """One fetch. Whoever watches is told the newest only, so that a slow one holds nothing."""

    def __init__(self, number: int, fetch: Fetch) -> None:
        #: In the order in which they began.
        self.sequence = number
        #: Stops it; None where jobs holds it, or it has ended.
        self.cancel: Callable[[], None] | None = None
        self._fetch = fetch
        self._turn = asyncio.Event()

    @property
    def name(self) -> str:
        """Format: fetches/{fetch}"""
        return self._fetch.name

    @property
    def attempt(self) -> str:
        """The attempt that it serves; empty where no job asked for it."""
        return self._fetch.attempt

    @property
    def ended(self) -> bool:
        """Whether it is over, its files gone from here."""
        return self._fetch.state != Fetch.RUNNING

    @property
    def size_bytes(self) -> int:
        """Bytes that a snapshot takes in an answer."""
        return self._fetch.ByteSize()

    def snapshot(self) -> Fetch:
        """All of it, as it stands."""
        taken = Fetch()
        taken.CopyFrom(self._fetch)
        return taken

    def update_progress(self, progress: Progress) -> None:
        """*progress* is the newest."""
        self._fetch.progress.CopyFrom(progress)
        self._tell()

    def end(self, outcome: Finish | None) -> None:
        """It is over: with *outcome*, or stopped where there is none that counts."""
        fetch, self.cancel = self._fetch, None
        if outcome is not None and outcome.HasField("released") and not fetch.attempt:
            outcome = outcomes.released_as_failure(outcome.released)
        fetch.state = Fetch.CANCELLED
        if outcome is not None and outcome.HasField("succeeded"):
            done = outcome.succeeded
            fetch.state, fetch.progress.percent = Fetch.SUCCEEDED, 100
            fetch.artifacts.extend(done.artifacts)
            fetch.got.CopyFrom(done.got)
            fetch.warnings.extend(done.warnings)
        elif outcome is not None and outcome.HasField("failed"):
            fetch.state = Fetch.FAILED
            fetch.error.CopyFrom(outcome.failed.status)
        self._tell()

    async def wait_ended(self) -> None:
        """Return when it has ended."""
        while not self.ended:
            await self._turn.wait()

    async def events(self) -> AsyncIterator[Fetch | Progress]:
        """A snapshot, the newest progress whenever it is asked for more, a last snapshot."""
        ended, turn = self.ended, self._turn
        yield self.snapshot()
        while not ended:
            await turn.wait()
            ended, turn = self.ended, self._turn
            yield self.snapshot() if ended else self._progress()

    def _progress(self) -> Progress:
        newest = Progress()
        newest.CopyFrom(self._fetch.progress)
        return newest

    def _tell(self) -> None:
        # Another turn for those who look again: it is theirs to miss none.
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()


class FetchRegistry:
    """Those that run, and of the ended ones some, for ten minutes."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        most_ended: int = _MOST_ENDED,
        most_ended_attempts: int = _MOST_ENDED_ATTEMPTS,
    ) -> None:
        self._clock = clock
        self._all: dict[str, TrackedFetch] = {}
        # When each ended, with its name, by whether a job asked for it.
        self._ended: dict[bool, deque[tuple[float, str]]] = {False: deque(), True: deque()}
        self._most = {False: most_ended, True: most_ended_attempts}
        self._numbers = itertools.count(1)
        # Numbers start again with each process: page tokens of another one are invalid here.
        self._page_tokens = PageTokens(secrets.token_bytes(16))

    def begin(self, spec: lease_pb2.FetchSpec, attempt: str = "") -> TrackedFetch:
        """A fetch of *spec* runs, for *attempt* where it serves one."""
        fetch = Fetch(
            name=f"fetches/{uuid.uuid4()}",
            attempt=attempt,
            url=spec.url,
            format=spec.format,
            tenant=spec.tenant,
            state=Fetch.RUNNING,
        )
        fetch.create_time.GetCurrentTime()
        begun = self._all[fetch.name] = TrackedFetch(next(self._numbers), fetch)
        return begun

    def end(self, fetch: TrackedFetch, outcome: Finish | None) -> None:
        """*fetch* is over: as ``Tracked.end``."""
        fetch.end(outcome)
        self._ended[bool(fetch.attempt)].append((self._clock(), fetch.name))
        self._forget()

    def get(self, name: str) -> TrackedFetch:
        """The one of that *name*. Raises NotFound, also where it is forgotten."""
        self._forget()
        if (found := self._all.get(name)) is None:
            raise NotFound(name)
        return found

    def page(self, size: int, token: str) -> tuple[list[TrackedFetch], str]:
        """At most *size* fetches from where *token* says, the newest first, and the next page's token.

        Raises PAGE_TOKEN_INVALID.
        """
        self._forget()
        position = self._page_tokens.read("fetches", token)
        page, weight = list[TrackedFetch](), 0
        for fetch in reversed(self._all.values()):
            if position and fetch.sequence >= position[0]:
                continue
            weight += fetch.size_bytes
            if page and (len(page) == size or weight > _MOST_BYTES):
                return page, self._page_tokens.create("fetches", page[-1].sequence)
            page.append(fetch)
        return page, ""

    def _forget(self) -> None:
        old = self._clock() - _KEPT_SECONDS
        for of_jobs, ended in self._ended.items():
            while ended and (len(ended) > self._most[of_jobs] or ended[0][0] <= old):
                _, name = ended.popleft()
                del self._all[name]
