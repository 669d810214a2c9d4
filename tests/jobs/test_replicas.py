"""Replicas on one PostgreSQL: any serves, one leads, and another takes over when it is killed."""

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
from tests.servers import WITHOUT_METRICS, free_port, running_process

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
    """Run a replica as a process of its own, which can be killed."""
    environment = os.environ | {
        **WITHOUT_METRICS,
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
    """Return who leads *loop*, from the row."""
    with psycopg.connect(settings.jobs_database_url) as connection:
        row = connection.execute("SELECT holder FROM leaders WHERE loop = %s", [loop]).fetchone()
        return "" if row is None else str(row[0])


@asynccontextmanager
async def leading_process(settings: Settings) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run a replica that leads the loops, as a process of its own."""
    with replica_process(settings) as process:
        client = await nats.connect(settings.nats_url)
        try:
            await eventually(lambda: consumers_exist(client))
            await eventually(lambda: leader_of(settings, "dispatcher"))
        finally:
            await client.close()
        yield process


async def test_watch_at_the_other_replica(replicas):
    """A job created at one replica is watched at the other, and a watch resumes there."""
    one, two = replicas
    job = await create_job(one)
    first = await anext(aiter(one.jobs.WatchJob(WatchJobRequest(name=job.name))))

    async def handle(held_job):
        await held_job.progress(40)
        await held_job.succeed()

    watch = aiter(two.jobs.WatchJob(WatchJobRequest(name=job.name)))
    assert (await anext(watch)).snapshot.job.state == Job.QUEUED
    async with run_worker(one, handle):
        messages = [message async for message in watch]
    assert state_changes(messages) == [Job.RUNNING, Job.SUCCEEDED]
    resumed = await watch_to_end(two, job.name, resume_token=first.resume_token)
    assert state_changes(resumed) == [Job.RUNNING, Job.SUCCEEDED]


async def test_watch_many_at_the_other_replica(replicas):
    """Changes at one replica are sent by the other's WatchJobs, and its token is valid at the first."""
    one, two = replicas
    call = two.jobs.WatchJobs(WatchJobsRequest(filter="state = QUEUED"))
    stream = aiter(call)
    first = await anext(stream)
    job = await create_job(one)
    async with asyncio.timeout(TIMEOUT):
        message = await anext(stream)
    assert (message.job.name, message.job.state) == (job.name, Job.QUEUED)
    call.cancel()
    await one.jobs.CancelJob(CancelJobRequest(name=job.name))
    for token in (first.resume_token, message.resume_token):
        resumed = one.jobs.WatchJobs(WatchJobsRequest(filter="state = QUEUED", resume_token=token))
        async with asyncio.timeout(TIMEOUT):
            missed = await anext(aiter(resumed))
        assert (missed.job.name, missed.job.state) == (job.name, Job.CANCELLED)
        assert missed.sequence > message.sequence
        resumed.cancel()


async def test_cancel_at_the_other_replica(replicas):
    """A job claimed at one replica is cancelled at the other."""
    one, two = replicas
    claimed, stopped = asyncio.Event(), asyncio.Event()

    async def handle(held_job):
        claimed.set()
        await eventually(lambda: _cancel_requested(held_job))
        await held_job.finish(cancelled={})
        stopped.set()

    job = await create_job(one)
    async with run_worker(one, handle):
        await asyncio.wait_for(claimed.wait(), TIMEOUT)
        await two.jobs.CancelJob(CancelJobRequest(name=job.name))
        await asyncio.wait_for(stopped.wait(), TIMEOUT)
    assert (await wait_for_end(one, job.name)).state == Job.CANCELLED


async def _cancel_requested(held_job) -> bool:
    return (await held_job.renew()).renewal.cancel_requested


async def test_workers_at_both_replicas(replicas):
    """Jobs created and claimed at both replicas run once each, within the site's limit."""
    running = max_running = 0
    done: Counter[str] = Counter()

    async def handle(held_job):
        nonlocal running, max_running
        running += 1
        max_running = max(max_running, running)
        await held_job.renew()
        # Before finishing: the slot of the site is free as soon as that is committed.
        running -= 1
        await held_job.succeed()
        done[held_job.job] += 1

    one, two = replicas
    jobs = await asyncio.gather(*(create_job(replica) for replica in replicas for _ in range(20)))
    async with run_worker(one, handle, slots=4), run_worker(two, handle, slots=4):
        await eventually(lambda: len(done) == 40, seconds=60)
    assert set(done.values()) == {1}
    assert {job.name for job in jobs} == set(done)
    assert max_running <= 3


async def test_leader_is_killed(shared):
    """When the leader of the loops is killed, the other replica leads within seconds, and no job is lost."""
    async with leading_process(shared) as leader, run_service(shared) as other:
        first = leader_of(shared, "dispatcher")
        # The killed leader has published some of these or none: all of them run.
        jobs = [await create_job(other) for _ in range(5)]
        assert leader_of(shared, "dispatcher") == first
        leader.kill()
        killed = time.monotonic()
        await _all_succeed(other, jobs)
        for loop in ("dispatcher", "sweeper"):
            await eventually(lambda loop=loop: leader_of(shared, loop) != first)
        assert time.monotonic() - killed < 5 * LEADERSHIP.total_seconds()


async def test_leader_that_terminates(shared):
    """A leader that terminates hands its loops over."""
    async with leading_process(shared) as leader, run_service(shared) as other:
        first = leader_of(shared, "dispatcher")
        leader.terminate()
        assert await asyncio.to_thread(leader.wait, 20) == 0
        await _all_succeed(other, [await create_job(other)])
        assert leader_of(shared, "dispatcher") != first


async def _all_succeed(service: JobsService, jobs: list[Job]) -> None:
    async def handle(held_job):
        await held_job.succeed()

    async with run_worker(service, handle):
        for job in jobs:
            assert (await wait_for_end(service, job.name)).state == Job.SUCCEEDED
