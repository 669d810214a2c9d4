"""The quota ledger sums whatever happens to jobs, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select
from tests.job_stores import LEASE, NOW, SqlStore, claim, job, postgresql_store, sqlite_store
from tests.jobs.quota_ledgers import MB, add_tenant, check_sums

from reelhaul.admin.v1.api_key_pb2 import Quota
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs import metrics
from reelhaul_jobs.model import leases, playlist_expansion, queue_transitions, user_actions
from reelhaul_jobs.model.job import Expansion, Job
from reelhaul_jobs.model.lists import Batch
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.states import Kind
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.store.quotas import QuotaLedger
from reelhaul_jobs.store.tables import jobs
from reelhaul_runtime.errors import ReelhaulError, StateConflict


class CrashError(Exception):
    """The process ends in the middle of a transaction."""


@dataclass(frozen=True)
class CrashingLedger(QuotaLedger):
    """A ledger that can fail after it wrote its rows, before those of the jobs are written."""

    crashes: list[bool] = field(default_factory=lambda: [False])

    def settle(self, connection: Connection, changes, now=None):  # type: ignore[no-untyped-def]
        settled = super().settle(connection, changes, now)
        if self.crashes[0]:
            raise CrashError
        return settled

    def admit(self, connection: Connection, new):  # type: ignore[no-untyped-def]
        admitted = super().admit(connection, new)
        if self.crashes[0]:
            raise CrashError
        return admitted


class Suite:
    """A store with one tenant, the jobs that were requested, and what workers report of them."""

    def __init__(self, store: SqlStore, ledger: CrashingLedger) -> None:
        self.store, self.ledger = store, ledger
        self.tenant, self.keys = uuid4().hex, ["", uuid4().hex, uuid4().hex]
        self.jobs: list[str] = []
        self.now = NOW
        self.number = 0
        #: Bytes that accepted outcomes reported, or the last progress before a worker was lost.
        self.received = 0

    async def start(self) -> None:
        quota = Quota(jobs_per_day=14, bytes_per_day=1200 * MB, stored_bytes=2000 * MB)
        small = Quota(jobs_per_day=6, bytes_per_day=350 * MB, stored_bytes=-1)
        await add_tenant(self.store, self.tenant, quota, **{self.keys[1]: small, self.keys[2]: Quota()})

    def new_job(self, key: int, size: int, *, expansion: bool = False) -> Job:
        self.number += 1
        fields = {"kind": Kind.EXPANSION, "expansion": Expansion()} if expansion else {}
        return job(
            0,
            id=str(uuid4()),
            tenant=self.tenant,
            api_key=self.keys[key],
            format=media_pb2.FormatSpec(max_size_bytes=size * MB),
            create_time=self.now,
            update_time=self.now,
            **fields,
        )

    async def create(self, key: int, count: int, size: int, repeats: int) -> None:
        new = [self.new_job(key, size) for _ in range(count)]
        self.jobs += [each.id for each in new]
        for _ in range(repeats):
            request = IdempotencyKey(self.tenant, "CreateJob", new[0].id, b"d", self.now)
            await self.store.add(new, request if repeats > 1 else None)

    async def create_batch(self, key: int, count: int, size: int) -> None:
        new = {index: self.new_job(key, size) for index in range(count)}
        if self.jobs:
            # Its id is taken.
            new[count] = replace(new[0], id=self.jobs[0])
        self.jobs += [each.id for each in new.values()]
        await self.store.add_batch(Batch(new))

    async def expand(self, key: int, count: int, start: int) -> None:
        parent = self.new_job(key, 0, expansion=True)
        await self.store.add([parent])
        self.jobs.append(parent.id)
        entries = [
            media_pb2.PlaylistEntry(position=start + n, url=f"https://videos.example/watch?v={n}")
            for n in range(1, count + 1)
        ]
        await self.lease(parent.id)

        def rule(current: Job, seen: object) -> Transition:
            renewed = leases.renew(current, 1, self.now, LEASE)
            if renewed.refusal:
                return renewed
            return playlist_expansion.add_children(renewed, entries, set(), self.now)

        change = await self.store.expand(parent.id, [], rule)
        self.jobs += [child.id for child in change.children]

    async def lease(self, job_id: str) -> None:
        attempt = (await self.store.get(job_id)).attempt
        change = await self._at_site(job_id, lambda current: leases.claim(current, claim(attempt), self.now))
        # The lease before may have expired.
        self._count(change, _progress(change.before))

    async def fetch(self, job_id: str, size: int) -> None:
        for name in ("make_ready", "resume", "retry"):
            with suppress(StateConflict):
                await self.act(job_id, name)
        await self.lease(job_id)
        await self.renew(job_id, 0, size)

    async def renew(self, job_id: str, behind: int, size: int) -> None:
        epoch = (await self.store.get(job_id)).epoch - behind
        progress = media_pb2.Progress(downloaded_bytes=size * MB)
        change = await self._at_site(
            job_id, lambda current: leases.renew(current, epoch, self.now, LEASE, progress=progress)
        )
        self._count(change, size * MB)

    async def finish(self, job_id: str, behind: int, result: str, size: int) -> None:
        epoch = (await self.store.get(job_id)).epoch - behind
        outcome = leases.Outcome(result=_result(result, size), received_bytes=size * MB)
        for _ in range(2):
            change = await self._at_site(
                job_id, lambda current: leases.finish(current, epoch, outcome, self.now)
            )
            self._count(change, size * MB or _progress(change.before))

    async def lose_worker(self, job_id: str) -> None:
        self.now += 2 * LEASE
        change = await self.store.change(job_id, lambda current: leases.expire(current, self.now))
        self._count(change, _progress(change.before))

    async def act(self, job_id: str, name: str) -> None:
        rule: Callable[[Job, object], Transition] = {
            "cancel": queue_transitions.cancel,
            "retry": queue_transitions.retry,
            "delete": queue_transitions.delete,
            "make_ready": queue_transitions.make_ready,
            "pause": user_actions.pause,
            "resume": user_actions.resume,
        }[name]  # type: ignore[assignment]
        change = await self.store.change(job_id, lambda current: rule(current, self.now))
        self._count(change, _progress(change.before))

    async def purge(self, job_id: str) -> None:
        change = await self.store.change(job_id, lambda current: queue_transitions.delete(current, self.now))
        if change.job.end_time:
            await self.store.purge(job_id)

    async def wait(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    def _count(self, change: Transition, received: int) -> None:
        """Count the *received* bytes of the attempt that ended with *change*, if one did."""
        if change.changed and change.attempt_outcome:
            self.received += received

    async def _at_site(self, job_id: str, rule: Callable[[Job], Transition]) -> Transition:
        return await self.store.change_lease(
            job_id, lambda current: (current.site, ""), lambda current, site: rule(current), self.now,
            counted=False,
        )  # fmt: skip


def _progress(before: Job) -> int:
    return before.progress.downloaded_bytes if before.progress else 0


def _result(name: str, size: int) -> leases.Succeeded | leases.Failed | leases.Released | leases.Cancelled:
    artifact = media_pb2.ArtifactInfo(name="artifacts/1", size_bytes=size * MB)
    return {
        "succeeded": leases.Succeeded(media=media_pb2.MediaInfo(), artifacts=(artifact,)),
        "failed": leases.Failed(error=error_status(ErrorReason.MEDIA_NOT_FOUND, "gone")),
        "fails for now": leases.Failed(error=error_status(ErrorReason.UPSTREAM_UNAVAILABLE, "later")),
        "released": leases.Released(),
        "cancelled": leases.Cancelled(),
    }[name]


def _created_less_ended() -> float:
    """Return the jobs that this process counted as created, less those that it counted as ended."""
    created, ended = (
        sum(
            sample.value
            for family in metric.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        )
        for metric in (metrics.JOBS_CREATED, metrics.JOBS_ENDED)
    )
    return created - ended


async def _count_live(store: SqlStore, tenant: str) -> int:
    live = select(func.count()).where(jobs.c.tenant == tenant, jobs.c.end_time.is_(None))
    return await store.database.read(lambda connection: connection.execute(live).scalar_one())


_KEYS, _SIZES = st.integers(0, 2), st.sampled_from([0, 1, 40, 99, 100, 101, 250, 700])
# Mostly the same few jobs, so that more happens to each.
_JOBS = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 20])
_BEHIND, _COUNTS = st.sampled_from([0, 0, 0, 1]), st.integers(1, 4)
_OPERATIONS = st.one_of(
    st.tuples(st.just("create"), _KEYS, _COUNTS, _SIZES, st.integers(1, 2)),
    st.tuples(st.just("create_batch"), _KEYS, _COUNTS, _SIZES),
    st.tuples(st.just("expand"), _KEYS, st.integers(1, 9), st.integers(0, 2)),
    st.tuples(st.just("lease"), _JOBS),
    st.tuples(st.just("fetch"), _JOBS, _SIZES),
    st.tuples(st.just("fetch"), _JOBS, _SIZES),
    st.tuples(st.just("renew"), _JOBS, _BEHIND, _SIZES),
    st.tuples(
        st.just("finish"),
        _JOBS,
        _BEHIND,
        st.sampled_from(["succeeded", "failed", "fails for now", "released", "cancelled"]),
        _SIZES,
    ),
    st.tuples(st.just("lose_worker"), _JOBS),
    st.tuples(
        st.just("act"),
        _JOBS,
        st.sampled_from(["cancel", "retry", "retry", "delete", "make_ready", "pause", "resume"]),
    ),
    st.tuples(st.just("purge"), _JOBS),
    st.tuples(st.just("wait"), st.integers(1, 20)),
)
_OF_A_JOB = {"lease", "fetch", "renew", "finish", "lose_worker", "act", "purge"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A store, its ledger and the event loop that they run in."""
    folder: Path = tmp_path_factory.mktemp("quotas")
    ledger = CrashingLedger(counts_jobs=True)
    stack = AsyncExitStack()
    opening = sqlite_store(folder, ledger) if request.param == "sqlite" else postgresql_store(ledger)
    with asyncio.Runner() as runner:
        store = runner.run(stack.enter_async_context(opening))
        yield store, ledger, runner
        runner.run(stack.aclose())


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    operations=st.lists(
        st.tuples(_OPERATIONS, st.sampled_from([False] * 9 + [True])), min_size=8, max_size=40
    )
)
def test_ledger_sums(opened, operations):
    """Reserved - settled - released is what live jobs reserve, and created - ended their number.

    After each of any operations on jobs.

    Among them are repeated calls, stale epochs, lost workers and crashes in the middle of a transaction; what
    is settled is what workers reported.
    """
    store, ledger, runner = opened

    async def run() -> None:
        suite, before = Suite(store, ledger), _created_less_ended()
        await suite.start()
        await suite.create(1, 2, 0, 1)
        for (name, *arguments), crashes in operations:
            if name in _OF_A_JOB:
                if not suite.jobs:
                    continue
                arguments[0] = suite.jobs[arguments[0] % len(suite.jobs)]
            ledger.crashes[0] = crashes
            try:
                await getattr(suite, name)(*arguments)
            except (ReelhaulError, CrashError):
                pass
            finally:
                ledger.crashes[0] = False
            # Whatever failed or was repeated: what was created and has not ended is in the rows.
            assert _created_less_ended() - before == await _count_live(store, suite.tenant)
            settled = await check_sums(store, suite.tenant)
            assert settled.get(f"tenants/{suite.tenant}", 0) == suite.received

    runner.run(run())
