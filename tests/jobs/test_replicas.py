"""Several jobs services on one PostgreSQL: any answers, one leads, and when it is killed another does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import nats
import psycopg
import pytest
from tests.jobs.calls import create_job, state_changes, wait_for_end, watch_to_end
from tests.jobs.conftest import TIMEOUT, TOKEN, JobsService, consumers_exist, eventually, run_service
from tests.jobs.fake_worker import run_worker
from tests.postgresql import fresh_database
from tests.servers import free_port, running_process

from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import CancelJobRequest, WatchJobRequest, WatchJobsRequest
from reelhaul_jobs.service.loop_runner import LEADERSHIP
from reelhaul_jobs.settings import Settings


@pytest.fixture
def shared(settings: Settings) -> Iterator[Settings]:
    """Settings of replicas that share a database and a broker."""
    with fresh_database() as url:
        yield settings.model_copy(update={"jobs_database_url": url, "jobs_site_limit": 3})


@pytest.fixture
async def replicas(shared: Settings) -> AsyncIterator[tuple[JobsService, JobsService]]:
    async with run_service(shared) as one, run_service(shared) as two:
        yield one, two


@contextmanager
def replica_process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A replica as a process of its own, which can be killed."""
    environment = os.environ | {
        "REELHAUL_DATA_DIR": str(settings.data_dir),
        "REELHAUL_JOBS_ADDRESS": f"127.0.0.1:{free_port()}",
        "REELHAUL_JOBS_DATABASE_URL": settings.jobs_database_url,
        "REELHAUL_NATS_URL": settings.nats_url,
        "REELHAUL_SUITE_TOKEN": TOKEN,
    }
    command = [sys.executable, "-m", "reelhaul_runtime", "serve", "jobs"]
    with running_process(command, env=environment, stderr=subprocess.DEVNULL) as process:
        yield process


def leader_of(settings: Settings, loop: str) -> str:
    """Who leads *loop*, by the rows."""
    with psycopg.connect(settings.jobs_database_url) as connection:
        row = connection.execute("SELECT holder FROM leaders WHERE loop = %s", [loop]).fetchone()
        return "" if row is None else str(row[0])


@asynccontextmanager
async def leading_process(settings: Settings) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A replica as a process, which leads the loops."""
    with replica_process(settings) as process:
        client = await nats.connect(settings.nats_url)
        try:
            await eventually(lambda: consumers_exist(client))
            await eventually(lambda: leader_of(settings, "dispatcher"))
        finally:
            await client.close()
        yield process


async def test_watch_at_the_other_replica(replicas):
    """A job created at one replica is watched at the other, and a watch goes on where it is resumed."""
    one, two = replicas
    job = await create_job(one)
    first = await anext(aiter(one.jobs.WatchJob(WatchJobRequest(name=job.name))))

    async def work(held):
        await held.progress(40)
        await held.succeed()

    watch = aiter(two.jobs.WatchJob(WatchJobRequest(name=job.name)))
    assert (await anext(watch)).snapshot.job.state == Job.QUEUED
    async with run_worker(one, work):
        seen = [message async for message in watch]
    assert state_changes(seen) == [Job.RUNNING, Job.SUCCEEDED]
    resumed = await watch_to_end(two, job.name, resume_token=first.resume_token)
    assert state_changes(resumed) == [Job.RUNNING, Job.SUCCEEDED]


async def test_following_at_the_other_replica(replicas):
    """What changes at one replica is told by the other's WatchJobs, and the first goes on from its token."""
    one, two = replicas
    following = two.jobs.WatchJobs(WatchJobsRequest(filter="state = QUEUED"))
    stream = aiter(following)
    first = await anext(stream)
    job = await create_job(one)
    async with asyncio.timeout(TIMEOUT):
        told = await anext(stream)
    assert (told.job.name, told.job.state) == (job.name, Job.QUEUED)
    following.cancel()
    await one.jobs.CancelJob(CancelJobRequest(name=job.name))
    for token in (first.resume_token, told.resume_token):
        resumed = one.jobs.WatchJobs(WatchJobsRequest(filter="state = QUEUED", resume_token=token))
        async with asyncio.timeout(TIMEOUT):
            missed = await anext(aiter(resumed))
        assert (missed.job.name, missed.job.state) == (job.name, Job.CANCELLED)
        assert missed.sequence > told.sequence
        resumed.cancel()


async def test_cancel_at_the_other_replica(replicas):
    """A job claimed at one replica and cancelled at the other stops."""
    one, two = replicas
    holding, stopped = asyncio.Event(), asyncio.Event()

    async def work(held):
        holding.set()
        await eventually(lambda: _told_to_stop(held))
        await held.finish(cancelled={})
        stopped.set()

    job = await create_job(one)
    async with run_worker(one, work):
        await asyncio.wait_for(holding.wait(), TIMEOUT)
        await two.jobs.CancelJob(CancelJobRequest(name=job.name))
        await asyncio.wait_for(stopped.wait(), TIMEOUT)
    assert (await wait_for_end(one, job.name)).state == Job.CANCELLED


async def _told_to_stop(held) -> bool:
    return (await held.renew()).renewal.cancel_requested


async def test_workers_at_both_replicas(replicas):
    """Jobs created and claimed at both are done once each, and never more of a site than its limit."""
    running = most = 0
    done: Counter[str] = Counter()

    async def work(held):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await held.renew()
        # Before the outcome: the slot of the site is free as soon as that is committed.
        running -= 1
        await held.succeed()
        done[held.job] += 1

    one, two = replicas
    jobs = await asyncio.gather(*(create_job(replica) for replica in replicas for _ in range(20)))
    async with run_worker(one, work, slots=4), run_worker(two, work, slots=4):
        await eventually(lambda: len(done) == 40, seconds=60)
    assert set(done.values()) == {1}
    assert {job.name for job in jobs} == set(done)
    assert most <= 3


async def test_leader_is_killed(shared):
    """When the replica that leads the loops is killed, the other leads within seconds, and loses nothing."""
    async with leading_process(shared) as leader, run_service(shared) as other:
        first = leader_of(shared, "dispatcher")
        # Marked and published by the one that is killed, or not yet: all are done.
        jobs = [await create_job(other) for _ in range(5)]
        assert leader_of(shared, "dispatcher") == first
        leader.kill()
        killed = time.monotonic()
        await _all_succeed(other, jobs)
        for loop in ("dispatcher", "sweeper"):
            await eventually(lambda loop=loop: leader_of(shared, loop) != first)
        assert time.monotonic() - killed < 5 * LEADERSHIP.total_seconds()


async def test_leader_that_leaves(shared):
    """A leader that is told to leave hands its loops over, and jobs go on."""
    async with leading_process(shared) as leader, run_service(shared) as other:
        first = leader_of(shared, "dispatcher")
        leader.terminate()
        assert await asyncio.to_thread(leader.wait, 20) == 0
        await _all_succeed(other, [await create_job(other)])
        assert leader_of(shared, "dispatcher") != first


async def _all_succeed(service: JobsService, jobs: list[Job]) -> None:
    async def work(held):
        await held.succeed()

    async with run_worker(service, work):
        for job in jobs:
            assert (await wait_for_end(service, job.name)).state == Job.SUCCEEDED
