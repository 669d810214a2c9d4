"""Site limits over real gRPC and NATS: concurrency, pace, and the circuit breaker."""

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
    request = claim_request(work_pb2.WorkItem(job=job.name, attempt=attempt), f"worker-{egress}", 4)
    request.slot.egress = egress
    request.slot.other_egresses.extend(others)
    return request


async def _waits(service, job: Job, reason: str) -> bool:
    return await wait_reason(service, job) == reason


async def wait_reason(service, job: Job) -> str:
    return Wait.Reason.Name((await get(service, job)).wait.reason)


@with_settings(jobs_site_limits={"a.example": 2})
async def test_full_site_blocks_no_other(service):
    """A site never exceeds its limit; its other jobs say SITE_BUSY, and jobs of other sites overtake them."""
    running: Counter[str] = Counter()
    peak: Counter[str] = Counter()
    release = asyncio.Event()

    async def work(held):
        host = held.lease.spec.url.split("/")[2]
        running[host] += 1
        peak[host] = max(peak[host], running[host])
        await release.wait()
        running[host] -= 1
        await held.succeed()

    full = [await create(service, "a.example") for _ in range(6)]
    other = [await create(service, "www.b.example") for _ in range(3)]
    async with run_worker(service, work, slots=8):
        await eventually(lambda: running == {"a.example": 2, "www.b.example": 3})
        assert await wait_reason(service, full[-1]) == "SITE_BUSY"
        assert (await get(service, full[-1])).wait.position == 4
        release.set()
        for job in full + other:
            assert (await wait_for_end(service, job.name)).state == Job.SUCCEEDED
    assert peak["a.example"] == 2


@with_settings(jobs_park_seconds=1.0)
async def test_blocked_site_is_parked_and_probed(service):
    """A bot check parks the site without charging attempts; one job probes it, then all run."""
    starts: list[tuple[str, float]] = []
    block = True
    probing, unblock = asyncio.Event(), asyncio.Event()

    async def work(held):
        starts.append((held.job, time.monotonic()))
        if "b.example" in held.lease.spec.url:
            await held.succeed()
        elif block:
            await held.finish(failed=blocked())
        else:
            probing.set()
            await unblock.wait()
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
        unblock.set()
        for job in (first, *more):
            last = await wait_for_end(service, job.name)
            assert (last.state, last.attempt_count) == (Job.SUCCEEDED, 1)
    probes = [started for job, started in starts if job != elsewhere.name]
    assert probes[1] - probes[0] >= 1.0
    attempts = (await service.jobs.ListAttempts(ListAttemptsRequest(parent=first.name))).attempts
    assert attempts[-1].state == Attempt.RELEASED
    assert attempts[-1].error.message == "are you a robot?"


async def test_parked_between_publication_and_claim(service):
    """A work item of a site that was parked after it was published is dropped, its job requeued uncharged."""
    one, two = [await create(service, "a.example") for _ in range(2)]
    await eventually(lambda: _published(service, 2))
    lease = (await service.leases.Claim(claim_by(one))).lease
    retry_delay = duration_pb2.Duration(seconds=3600)
    failed = blocked(ErrorReason.UPSTREAM_THROTTLED, retry_delay=retry_delay)
    await service.leases.Finish(FinishRequest(job=one.name, epoch=lease.epoch, failed=failed))
    refusal = (await service.leases.Claim(claim_by(two))).refusal
    assert refusal.reason == lease_pb2.Refusal.NOT_DUE
    assert not refusal.HasField("retry_delay")
    for job in (one, two):
        queued = await get(service, job)
        assert (queued.state, queued.attempt_count, queued.wait.reason) == (Job.QUEUED, 0, Wait.SITE_PARKED)
        # Not before the site's own Retry-After.
        assert queued.wait.until.ToSeconds() >= job.create_time.ToSeconds() + 3600
    assert (await service.leases.Claim(claim_by(two))).refusal.reason == lease_pb2.Refusal.SUPERSEDED


async def _published(service, number: int) -> bool:
    return (await service.nats.jetstream().stream_info("WORK")).state.messages >= number


async def test_another_egress_is_not_blocked(service):
    """A site that blocks one egress serves another one; the blocked worker leaves the item to it."""
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


async def test_a_worker_with_several_egresses_uses_another(service):
    """A job that was blocked on one egress runs on the worker's next one, at once and uncharged."""
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


async def test_invalid_egresses(service):
    """A claim has at most 32 other egresses, none with an empty name."""
    one = await create(service, "a.example")
    for others in (tuple(f"e{n}" for n in range(33)), ("",)):
        with pytest.raises(aio.AioRpcError) as failure:
            await service.leases.Claim(claim_by(one, egress="lon", others=others))
        assert failure.value.code() == StatusCode.INVALID_ARGUMENT


@with_settings(jobs_site_delay_seconds=0.4)
async def test_delay_between_starts(service):
    """Starts at one site keep the configured delay; those at another site do not wait."""

    async def work(held):
        await held.succeed()

    hosts = ("a.example", "a.example", "a.example", "b.example")
    jobs = [await create(service, host) for host in hosts]
    async with run_worker(service, work, slots=4):
        for job in jobs:
            assert (await wait_for_end(service, job.name)).state == Job.SUCCEEDED
    starts = [await _started(service, job) for job in jobs]
    of_site = sorted(starts[:3])
    assert min(later - earlier for earlier, later in pairwise(of_site)) >= timedelta(seconds=0.4)
    assert starts[3] < of_site[2]


async def _started(service, job: Job) -> datetime:
    request = GetAttemptRequest(name=f"{job.name}/attempts/1")
    return (await service.jobs.GetAttempt(request)).start_time.ToDatetime(UTC)


async def test_http_429_slows_down(service):
    """After a download that succeeded but received HTTP 429, the next one waits, and says so."""
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
