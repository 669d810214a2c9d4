"""Sites over real gRPC and NATS: how many at once, at what pace, and what happens when one blocks us."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from google.protobuf import duration_pb2
from grpc import StatusCode, aio
from tests.jobs.calls import wait_for_end
from tests.jobs.conftest import TIMEOUT, eventually, with_settings
from tests.jobs.fake_worker import claim_request, run_worker, succeeded

from reelhaul.jobs.v1.job_pb2 import Attempt, Job, RetryPolicy, Wait
from reelhaul.jobs.v1.job_service_pb2 import (
    CreateJobRequest,
    GetAttemptRequest,
    GetJobRequest,
    ListAttemptsRequest,
)
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_pb2, work_pb2
from reelhaul.work.v1.lease_service_pb2 import ClaimRequest, FinishRequest
from reelhaul_jobs.model.retries import error_status


async def create(service, host: str, **fields) -> Job:
    return await service.jobs.CreateJob(CreateJobRequest(job=Job(url=f"https://{host}/watch", **fields)))


async def get(service, job: Job) -> Job:
    return await service.jobs.GetJob(GetJobRequest(name=job.name))


def blocked(reason=ErrorReason.UPSTREAM_BLOCKED, **hint) -> FinishRequest.Failed:
    failed = FinishRequest.Failed(status=error_status(reason, "are you a robot?", {"host": "a.example"}))
    for name, value in hint.items():
        if isinstance(value, duration_pb2.Duration):
            getattr(failed.retry_hint, name).CopyFrom(value)
        else:
            setattr(failed.retry_hint, name, value)
    return failed


def claim_by(job: Job, attempt: int = 1, egress: str = "", others: tuple[str, ...] = ()) -> ClaimRequest:
    asked = claim_request(work_pb2.WorkItem(job=job.name, attempt=attempt), f"worker-{egress}", 4)
    asked.slot.egress = egress
    asked.slot.other_egresses.extend(others)
    return asked


async def _waits(service, job: Job, reason: str) -> bool:
    return await wait_reason(service, job) == reason


async def wait_reason(service, job: Job) -> str:
    return Wait.Reason.Name((await get(service, job)).wait.reason)


@with_settings(jobs_site_limits={"a.example": 2})
async def test_full_site_blocks_no_other(service):
    """Of a site never more than its limit run, the rest says SITE_BUSY, and other sites' jobs pass them."""
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    go = asyncio.Event()

    async def work(held):
        host = held.lease.spec.url.split("/")[2]
        running[host] += 1
        most[host] = max(most[host], running[host])
        await go.wait()
        running[host] -= 1
        await held.succeed()

    full = [await create(service, "a.example") for _ in range(6)]
    other = [await create(service, "www.b.example") for _ in range(3)]
    async with run_worker(service, work, slots=8):
        await eventually(lambda: running == {"a.example": 2, "www.b.example": 3})
        assert await wait_reason(service, full[-1]) == "SITE_BUSY"
        assert (await get(service, full[-1])).wait.position == 4
        go.set()
        for job in full + other:
            assert (await wait_for_end(service, job.name)).state == Job.SUCCEEDED
    assert most["a.example"] == 2


@with_settings(jobs_park_seconds=1.0)
async def test_blocked_site_is_parked_and_probed(service):
    """A bot check parks the site without charging anyone; one job probes it, and then all go on."""
    starts: list[tuple[str, float]] = []
    block = True
    probing, open_up = asyncio.Event(), asyncio.Event()

    async def work(held):
        starts.append((held.job, time.monotonic()))
        if "b.example" in held.lease.spec.url:
            await held.succeed()
        elif block:
            await held.finish(failed=blocked())
        else:
            probing.set()
            await open_up.wait()
            await held.succeed()

    policy = RetryPolicy(max_attempts=1)
    first = await create(service, "a.example", retry_policy=policy)
    async with run_worker(service, work, slots=4):
        await eventually(lambda: _waits(service, first, "SITE_PARKED"))
        block = False
        more = [await create(service, "a.example", retry_policy=policy) for _ in range(3)]
        parked = await get(service, more[0])
        assert parked.wait.reason == Wait.SITE_PARKED
        assert "UPSTREAM_BLOCKED" in parked.wait.message
        assert parked.wait.until.ToSeconds() >= parked.create_time.ToSeconds()
        elsewhere = await create(service, "b.example")
        assert (await wait_for_end(service, elsewhere.name)).state == Job.SUCCEEDED
        await asyncio.wait_for(probing.wait(), TIMEOUT)
        assert [await wait_reason(service, job) for job in (first, *more)].count("SITE_PARKED") == 3
        open_up.set()
        for job in (first, *more):
            last = await wait_for_end(service, job.name)
            assert (last.state, last.attempt_count) == (Job.SUCCEEDED, 1)
    probes = [moment for job, moment in starts if job != elsewhere.name]
    assert probes[1] - probes[0] >= 1.0
    attempts = (await service.jobs.ListAttempts(ListAttemptsRequest(parent=first.name))).attempts
    assert attempts[-1].state == Attempt.RELEASED
    assert attempts[-1].error.message == "are you a robot?"


async def test_parked_between_publication_and_claim(service):
    """An item on its way to a site that is parked meanwhile is dropped, its job queued uncharged."""
    one, two = [await create(service, "a.example") for _ in range(2)]
    await eventually(lambda: _published(service, 2))
    lease = (await service.leases.Claim(claim_by(one))).lease
    asked = duration_pb2.Duration(seconds=3600)
    failed = blocked(ErrorReason.UPSTREAM_THROTTLED, retry_delay=asked)
    await service.leases.Finish(FinishRequest(job=one.name, epoch=lease.epoch, failed=failed))
    answer = (await service.leases.Claim(claim_by(two))).refusal
    assert answer.reason == lease_pb2.Refusal.NOT_DUE
    assert not answer.HasField("retry_delay")
    for job in (one, two):
        now = await get(service, job)
        assert (now.state, now.attempt_count, now.wait.reason) == (Job.QUEUED, 0, Wait.SITE_PARKED)
        # The site's own wish is never undercut.
        assert now.wait.until.ToSeconds() >= job.create_time.ToSeconds() + 3600
    assert (await service.leases.Claim(claim_by(two))).refusal.reason == lease_pb2.Refusal.SUPERSEDED


async def _published(service, number: int) -> bool:
    return (await service.nats.jetstream().stream_info("WORK")).state.messages >= number


async def test_another_egress_goes_on(service):
    """A site that blocks one egress is still served by another; the blocked worker leaves it the item."""
    one, two = [await create(service, "a.example") for _ in range(2)]
    await eventually(lambda: _published(service, 2))
    lease = (await service.leases.Claim(claim_by(one, egress="lon"))).lease
    await service.leases.Finish(FinishRequest(job=one.name, epoch=lease.epoch, failed=blocked()))
    elsewhere = await create(service, "b.example")
    await eventually(lambda: _published(service, 3))
    assert (await service.leases.Claim(claim_by(elsewhere, egress="par"))).HasField("lease")
    unfit = (await service.leases.Claim(claim_by(two, egress="lon"))).refusal
    assert unfit.reason == lease_pb2.Refusal.SLOT_UNFIT
    assert unfit.HasField("retry_delay")
    assert (await service.leases.Claim(claim_by(two, egress="par"))).HasField("lease")


async def test_a_worker_with_more_than_one_egress_takes_another(service):
    """What a site blocked by one egress is queued at once, and runs by the worker's other one, uncharged."""
    one = await create(service, "a.example")
    await eventually(lambda: _published(service, 1))
    lease = (await service.leases.Claim(claim_by(one, egress="lon", others=("par",)))).lease
    assert lease.egress == "lon"
    await service.leases.Finish(FinishRequest(job=one.name, epoch=lease.epoch, failed=blocked()))
    await eventually(lambda: _published(service, 2))
    lease = (await service.leases.Claim(claim_by(one, 2, egress="lon", others=("par", "ams")))).lease
    assert lease.egress == "par"
    assert (await get(service, one)).attempt_count == 1
    await service.leases.Finish(FinishRequest(job=one.name, epoch=lease.epoch, failed=blocked()))
    assert await wait_reason(service, one) != "SITE_PARKED"
    await eventually(lambda: _published(service, 3))
    lease = (await service.leases.Claim(claim_by(one, 3, egress="lon", others=("par", "ams")))).lease
    assert lease.egress == "ams"


async def test_too_many_egresses_are_refused(service):
    """A claim names at most 32 other egresses, and each by a name."""
    one = await create(service, "a.example")
    for others in (tuple(f"e{n}" for n in range(33)), ("",)):
        with pytest.raises(aio.AioRpcError) as failure:
            await service.leases.Claim(claim_by(one, egress="lon", others=others))
        assert failure.value.code() == StatusCode.INVALID_ARGUMENT


@with_settings(jobs_site_delay_seconds=0.4)
async def test_politeness(service):
    """Starts at one site keep their distance; those at another do not wait for them."""

    async def work(held):
        await held.succeed()

    hosts = ("a.example", "a.example", "a.example", "b.example")
    jobs = [await create(service, host) for host in hosts]
    async with run_worker(service, work, slots=4):
        for job in jobs:
            assert (await wait_for_end(service, job.name)).state == Job.SUCCEEDED
    starts = [await _started(service, job) for job in jobs]
    there = sorted(starts[:3])
    assert min(later - earlier for earlier, later in pairwise(there)) >= timedelta(seconds=0.4)
    assert starts[3] < there[2]


async def _started(service, job: Job) -> datetime:
    request = GetAttemptRequest(name=f"{job.name}/attempts/1")
    return (await service.jobs.GetAttempt(request)).start_time.ToDatetime(UTC)


async def test_too_many_requests_slow_the_next(service):
    """A download that went well but met HTTP 429 on its way makes the next ones wait, visibly."""
    one = await create(service, "a.example")
    await eventually(lambda: _published(service, 1))
    lease = (await service.leases.Claim(claim_by(one))).lease
    artifact = media_pb2.ArtifactInfo(name="artifacts/1", kind=media_pb2.ArtifactInfo.VIDEO)
    finish = FinishRequest(job=one.name, epoch=lease.epoch, succeeded=succeeded(artifact))
    finish.http_statuses[429] = 2
    await service.leases.Finish(finish)
    two = await create(service, "a.example")
    waiting = await get(service, two)
    assert waiting.wait.reason == Wait.SITE_BUSY
    assert waiting.wait.HasField("until")
    await eventually(lambda: _published(service, 2))
    assert (await service.leases.Claim(claim_by(two))).HasField("lease")
