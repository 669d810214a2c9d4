"""One replica of the jobs service without servers: SQLite, a fake bus, loops run step by step."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tests.job_stores import SqlStore
from tests.jobs.fake_bus import FakeBus

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import leases, queue_transitions
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.dispatcher import Dispatcher
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.job_views import JobViews
from reelhaul_jobs.service.reaper import Reaper

START = datetime(2030, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=30)


def views_of(replica: Replica) -> JobViews:
    """Return the views of the jobs of *replica*."""
    return JobViews(replica.store, replica.store, replica.hub, replica.now, LEASE)


class Replica:
    """The dispatcher and the reaper of one replica, and a clock that the test sets."""

    def __init__(self, store: SqlStore) -> None:
        self.time = START
        self.store, self.bus, self.hub = store, FakeBus(), EventHub()
        self.dispatcher = Dispatcher(self.store, self.bus, self.now, LEASE)
        notifier = ChangeNotifier(self.hub, self.bus)
        self.reaper = Reaper(self.store, self.store, self.bus, notifier, self.now, LEASE)
        self._added = 0

    def now(self) -> datetime:
        return self.time

    async def add(self, tenant: str = "acme", **fields: object) -> Job:
        self._added += 1
        job = Job(
            id=f"{tenant}-{self._added:04}",
            tenant=tenant,
            url="https://videos.example/1",
            format=media_pb2.FormatSpec(),
            create_time=self.time,
            update_time=self.time,
        )
        job = queue_transitions.enqueue(replace(job, **fields))  # type: ignore[arg-type]
        await self.store.add([job])
        return job

    async def claim(self, job_id: str) -> Job:
        attempt = (await self.store.get(job_id)).attempt
        claim = leases.Claim(attempt=attempt, worker="w", request_id="r", engine_version="", lease=LEASE)
        return (await self.store.change(job_id, lambda job: leases.claim(job, claim, self.time))).job

    async def advance(self, span: timedelta) -> None:
        """Advance the clock, running the reaper every five seconds."""
        end = self.time + span
        while self.time < end:
            self.time = min(end, self.time + timedelta(seconds=5))
            await self.reaper.step()
