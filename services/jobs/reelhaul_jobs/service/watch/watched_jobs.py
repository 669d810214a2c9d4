"""The topics: which jobs are watched here, and the slow look that makes up for lost notices."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from reelhaul_jobs.ports.bus import JobBus
from reelhaul_jobs.ports.jobs import JobStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.tokens import Tokens
from reelhaul_jobs.service.watch import messages
from reelhaul_jobs.service.watch.job_snapshot_cache import Topic
from reelhaul_runtime.errors import NotFound, ReelhaulError

log = logging.getLogger(__name__)

# Rows looked at by one query.
_AT_ONCE = 500


@dataclass(slots=True)
class _Shared:
    topic: Topic
    begun: asyncio.Task[None]
    watchers: int = 0


class WatchedJobs:
    """Opens a topic for the first who watches a job, and closes it with the last."""

    def __init__(self, store: JobStore, bus: JobBus, hub: EventHub, tokens: Tokens, now: Clock) -> None:
        self._store, self._bus, self._hub = store, bus, hub
        self._tokens, self._now = tokens, now
        self._shared: dict[str, _Shared] = {}
        self._looking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def topic(self, job_id: str) -> AsyncIterator[Topic]:
        """The job's topic, as of now or later. ``NotFound`` if there is no such job."""
        shared = self._joined(job_id)
        try:
            begun = shared.begun.done()
            await asyncio.shield(shared.begun)
            if begun:
                await shared.topic.reread()
            if shared.topic.gone:
                raise NotFound(f"jobs/{job_id}")
            yield shared.topic
        finally:
            self._left(job_id, shared)

    def _joined(self, job_id: str) -> _Shared:
        shared = self._shared.get(job_id)
        if shared is None:
            topic = Topic(job_id, self._store, self._bus, self._hub, self._tokens, self._now)
            shared = _Shared(topic, asyncio.create_task(topic.begin()))
            # Whoever waits is told of a failure; where nobody does any more, nobody cares.
            shared.begun.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._shared[job_id] = shared
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        shared.watchers += 1
        return shared

    def _left(self, job_id: str, shared: _Shared) -> None:
        shared.watchers -= 1
        failed = shared.begun.done() and not _is_good(shared.begun)
        if (failed or not shared.watchers) and self._shared.get(job_id) is shared:
            del self._shared[job_id]
        if not shared.watchers:
            shared.begun.cancel()
            self._hub.leave(job_id, shared.topic)
        if not self._shared and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self) -> None:
        """Every few seconds, find the rows that changed unheard of."""
        while True:
            await asyncio.sleep(messages.REREAD_SECONDS)
            watched = list(self._shared)
            try:
                for start in range(0, len(watched), _AT_ONCE):
                    await self._compare(watched[start : start + _AT_ONCE])
            except ReelhaulError as error:
                log.warning("watched jobs could not be looked at", extra={"cause": repr(error)})

    async def _compare(self, watched: list[str]) -> None:
        revisions = await self._store.get_revisions(watched)
        for job_id in watched:
            shared = self._shared.get(job_id)
            if shared is None or not _is_good(shared.begun):
                continue
            if revisions.get(job_id) != shared.topic.job.revision:
                shared.topic.reread_soon()


def _is_good(begun: asyncio.Task[None]) -> bool:
    return begun.done() and not begun.cancelled() and begun.exception() is None
