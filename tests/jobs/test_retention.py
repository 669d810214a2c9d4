"""Expiry of jobs and their artifacts: step by step, and through the service's own loops."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.jobs.calls import create_job, wait_for_end
from tests.jobs.conftest import eventually, run_service
from tests.jobs.fake_worker import run_worker
from tests.jobs.test_loops import FakeStorage, succeed
from tests.jobs.test_service_clients import FakeStorage as FakeStorageService
from tests.jobs.test_service_clients import run_other_services

from reelhaul.jobs.v1.job_service_pb2 import ListJobsRequest
from reelhaul_jobs.model import queue_transitions
from reelhaul_jobs.model.job import Expansion
from reelhaul_jobs.model.states import Kind
from reelhaul_jobs.service.artifact_expiry_sync import ArtifactExpirySync
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.housekeeping import CascadeCanceller, ExpiredJobDeleter
from reelhaul_runtime.errors import NotFound

DAY = timedelta(days=1)


async def test_expired_job(replica):
    """After its expire_time a job is deleted for callers, then its artifacts and its row; not before."""
    storage = FakeStorage()
    deleter, expiry_sync = (
        ExpiredJobDeleter(replica.store, replica.store, replica.now),
        ArtifactExpirySync(replica.store, storage, replica.now),
    )
    job = await succeed(replica, await replica.add(ttl=2 * DAY))
    await expiry_sync.step()
    replica.time += 1.9 * DAY
    await deleter.step()
    assert (await replica.store.get(job.id)).id == job.id
    replica.time += 0.2 * DAY
    await deleter.step()
    with pytest.raises(NotFound):
        await replica.store.get(job.id)
    assert storage.deleted == []
    await expiry_sync.step()
    assert storage.deleted == ["artifacts/1"]
    with pytest.raises(NotFound):
        await replica.store.change(job.id, lambda found: queue_transitions.delete(found, replica.time))


async def test_active_job_never_expires(replica):
    """A job that has not ended is kept, whatever expire_time it has."""
    job = await replica.add(expire_time=replica.time + DAY)
    replica.time += 9 * DAY
    await ExpiredJobDeleter(replica.store, replica.store, replica.now).step()
    assert (await replica.store.get(job.id)).id == job.id


async def test_expired_jobs_in_steps(replica):
    """Jobs that expire together are deleted a hundred at a time."""
    for _ in range(150):
        job = await replica.add()
        await replica.store.change(job.id, lambda found: queue_transitions.cancel(found, replica.time))
    replica.time += 8 * DAY
    deleter = ExpiredJobDeleter(replica.store, replica.store, replica.now)
    assert await deleter.step()
    assert not await deleter.step()
    assert await replica.store.list_expired(replica.time, 10) == []


async def test_deleted_expansion_is_kept_until_its_jobs_are_cancelled(replica):
    """The row of an expansion is not purged before its jobs are cancelled."""
    notifier = ChangeNotifier(replica.hub, replica.bus)
    expiry_sync = ArtifactExpirySync(replica.store, FakeStorage(), replica.now)
    parent = await replica.add(kind=Kind.EXPANSION, expansion=Expansion())
    child = await replica.add(parent=parent.id, position=1)
    await replica.store.change(parent.id, lambda found: queue_transitions.delete(found, replica.time))
    await expiry_sync.step()
    canceller = CascadeCanceller(replica.store, replica.store, notifier, replica.now)
    while await canceller.step():
        pass
    assert (await replica.store.get(child.id)).state.is_terminal
    replica.time += timedelta(minutes=1)
    await expiry_sync.step()
    with pytest.raises(NotFound):
        await replica.store.change(parent.id, lambda found: queue_transitions.delete(found, replica.time))


async def test_configured_retention(settings):
    """Without a ttl a job is kept as long as the setting says; then the loops delete it."""
    storage = FakeStorageService()
    short_retention = settings.model_copy(update={"jobs_retention_days": 3 / 86400})
    async with run_other_services(short_retention, storage), run_service(short_retention) as service:
        job = await create_job(service)

        async def work(held):
            await held.succeed()

        async with run_worker(service, work):
            done = await wait_for_end(service, job.name)
        kept = done.expire_time.ToMicroseconds() - done.end_time.ToMicroseconds()
        assert kept == 3_000_000

        async def deleted():
            return not (await service.jobs.ListJobs(ListJobsRequest())).jobs and storage.deleted

        await eventually(deleted)
        assert storage.deleted == [artifact.name for artifact in done.artifacts]
