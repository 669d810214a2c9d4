"""What is kept, and for how long: on SQLite and a fake bus, and through the service's own loops."""

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
from reelhaul_jobs.service.housekeeping import CascadeCanceller, ExpiredJobDeleter
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_runtime.errors import NotFound

DAY = timedelta(days=1)


async def test_an_expired_job_goes_with_its_artifacts(replica):
    """When its time has passed, a job is gone for callers, then its artifacts and its row; not before."""
    shelf = FakeStorage()
    retirer, confirmer = (
        ExpiredJobDeleter(replica.store, replica.store, replica.now),
        ArtifactExpirySync(replica.store, shelf, replica.now),
    )
    job = await succeed(replica, await replica.add(ttl=2 * DAY))
    await confirmer.step()
    replica.time += 1.9 * DAY
    await retirer.step()
    assert (await replica.store.get(job.id)).id == job.id
    replica.time += 0.2 * DAY
    await retirer.step()
    with pytest.raises(NotFound):
        await replica.store.get(job.id)
    assert shelf.deleted == []
    await confirmer.step()
    assert shelf.deleted == ["artifacts/1"]
    with pytest.raises(NotFound):
        await replica.store.change(job.id, lambda found: queue_transitions.delete(found, replica.time))


async def test_a_live_job_never_expires(replica):
    """A job that has not ended is kept, whatever its caller said."""
    job = await replica.add(expire_time=replica.time + DAY)
    replica.time += 9 * DAY
    await ExpiredJobDeleter(replica.store, replica.store, replica.now).step()
    assert (await replica.store.get(job.id)).id == job.id


async def test_in_small_steps(replica):
    """Many that expire together go a hundred at a time."""
    for _ in range(150):
        job = await replica.add()
        await replica.store.change(job.id, lambda found: queue_transitions.cancel(found, replica.time))
    replica.time += 8 * DAY
    retirer = ExpiredJobDeleter(replica.store, replica.store, replica.now)
    assert await retirer.step()
    assert not await retirer.step()
    assert await replica.store.list_expired(replica.time, 10) == []


async def test_a_deleted_list_is_kept_until_its_jobs_are_cancelled(replica):
    """The row that says that its jobs are to be cancelled is not purged before they are."""
    news = ChangeNotifier(replica.hub, replica.bus)
    confirmer = ArtifactExpirySync(replica.store, FakeStorage(), replica.now)
    parent = await replica.add(kind=Kind.EXPANSION, expansion=Expansion())
    child = await replica.add(parent=parent.id, position=1)
    await replica.store.change(parent.id, lambda found: queue_transitions.delete(found, replica.time))
    await confirmer.step()
    cascader = CascadeCanceller(replica.store, replica.store, news, replica.now)
    while await cascader.step():
        pass
    assert (await replica.store.get(child.id)).state.is_terminal
    replica.time += timedelta(minutes=1)
    await confirmer.step()
    with pytest.raises(NotFound):
        await replica.store.change(parent.id, lambda found: queue_transitions.delete(found, replica.time))


async def test_the_operator_says_how_long(settings):
    """Without a ttl a job is kept as long as the setting says; the loops then take it away."""
    shelf = FakeStorageService()
    brief = settings.model_copy(update={"jobs_retention_days": 3 / 86400})
    async with run_other_services(brief, shelf), run_service(brief) as service:
        job = await create_job(service)

        async def work(held):
            await held.succeed()

        async with run_worker(service, work):
            done = await wait_for_end(service, job.name)
        kept = done.expire_time.ToMicroseconds() - done.end_time.ToMicroseconds()
        assert kept == 3_000_000

        async def gone():
            return not (await service.jobs.ListJobs(ListJobsRequest())).jobs and shelf.deleted

        await eventually(gone)
        assert shelf.deleted == [artifact.name for artifact in done.artifacts]
