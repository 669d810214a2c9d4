"""What is kept, and for how long: over twins in memory, and through the service's own loops."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.jobs.conftest import eventually, serving
from tests.jobs.test_end_to_end import create, ended
from tests.jobs.test_loops import House, Shelf, succeed
from tests.jobs.test_neighbours import Shelf as RpcShelf
from tests.jobs.test_neighbours import neighbours
from tests.jobs.worker import working

from reelhaul.jobs.v1.job_service_pb2 import ListJobsRequest
from reelhaul_jobs.model import queue_transitions
from reelhaul_jobs.model.job import Expansion
from reelhaul_jobs.model.states import Kind
from reelhaul_jobs.service.artifact_expiry_sync import ArtifactExpirySync
from reelhaul_jobs.service.cascade_canceller import CascadeCanceller
from reelhaul_jobs.service.expired_job_deleter import ExpiredJobDeleter
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_runtime.errors import NotFound

DAY = timedelta(days=1)


@pytest.fixture
def house() -> House:
    return House()


async def test_an_expired_job_goes_with_its_artifacts(house):
    """When its time has passed, a job is gone for callers, then its artifacts and its row; not before."""
    shelf = Shelf()
    retirer, confirmer = (
        ExpiredJobDeleter(house.store, house.store, house.now),
        ArtifactExpirySync(house.store, shelf, house.now),
    )
    job = await succeed(house, await house.add(ttl=2 * DAY))
    await confirmer.step()
    house.time += 1.9 * DAY
    await retirer.step()
    assert (await house.store.get(job.id)).id == job.id
    house.time += 0.2 * DAY
    await retirer.step()
    with pytest.raises(NotFound):
        await house.store.get(job.id)
    assert shelf.deleted == []
    await confirmer.step()
    assert shelf.deleted == ["artifacts/1"]
    with pytest.raises(NotFound):
        await house.store.change(job.id, lambda found: queue_transitions.deleted(found, house.time))


async def test_a_live_job_never_expires(house):
    """A job that has not ended is kept, whatever its caller said."""
    job = await house.add(expire_time=house.time + DAY)
    house.time += 9 * DAY
    await ExpiredJobDeleter(house.store, house.store, house.now).step()
    assert (await house.store.get(job.id)).id == job.id


async def test_in_small_steps(house):
    """Many that expire together go a hundred at a time."""
    for _ in range(150):
        job = await house.add()
        await house.store.change(job.id, lambda found: queue_transitions.cancelling(found, house.time))
    house.time += 8 * DAY
    retirer = ExpiredJobDeleter(house.store, house.store, house.now)
    assert await retirer.step()
    assert not await retirer.step()
    assert await house.store.expired(house.time, 10) == []


async def test_a_deleted_list_is_kept_until_its_jobs_are_cancelled(house):
    """The row that says that its jobs are to be cancelled is not purged before they are."""
    news = ChangeNotifier(house.hub, house.bus)
    confirmer = ArtifactExpirySync(house.store, Shelf(), house.now)
    parent = await house.add(kind=Kind.EXPANSION, expansion=Expansion())
    child = await house.add(parent=parent.id, position=1)
    await house.store.change(parent.id, lambda found: queue_transitions.deleted(found, house.time))
    await confirmer.step()
    cascader = CascadeCanceller(house.store, house.store, news, house.now)
    while await cascader.step():
        pass
    assert (await house.store.get(child.id)).state.terminal
    house.time += timedelta(minutes=1)
    await confirmer.step()
    with pytest.raises(NotFound):
        await house.store.change(parent.id, lambda found: queue_transitions.deleted(found, house.time))


async def test_the_operator_says_how_long(settings):
    """Without a ttl a job is kept as long as the setting says; the loops then take it away."""
    shelf = RpcShelf()
    brief = settings.model_copy(update={"jobs_retention_days": 3 / 86400})
    async with neighbours(brief, shelf), serving(brief) as service:
        job = await create(service)

        async def work(held):
            await held.succeed()

        async with working(service, work):
            done = await ended(service, job.name)
        kept = done.expire_time.ToMicroseconds() - done.end_time.ToMicroseconds()
        assert kept == 3_000_000

        async def gone():
            return not (await service.jobs.ListJobs(ListJobsRequest())).jobs and shelf.deleted

        await eventually(gone)
        assert shelf.deleted == [artifact.name for artifact in done.artifacts]
