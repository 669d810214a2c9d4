"""The jobs service over real gRPC, NATS and SQLite, with a fetcher that downloads nothing."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf import duration_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.jobs.calls import URL, create_job, reason_of, state_changes, wait_for_end, watch_to_end
from tests.jobs.conftest import SERVICES, TIMEOUT, eventually, run_service, with_settings
from tests.jobs.fake_worker import claim_request, run_worker
from tests.postgresql import fresh_database
from tests.servers import running_nats_server

from reelhaul.jobs.v1 import job_service_pb2_grpc
from reelhaul.jobs.v1.job_pb2 import Attempt, Job, RetryPolicy, Wait
from reelhaul.jobs.v1.job_service_pb2 import (
    BatchCreateJobsRequest,
    CancelJobRequest,
    CreateJobRequest,
    DeleteJobRequest,
    GetAttemptRequest,
    GetJobRequest,
    ListAttemptsRequest,
    ListJobsRequest,
    RetryJobRequest,
    WatchJobRequest,
)
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_pb2, lease_service_pb2_grpc, work_pb2
from reelhaul.work.v1.lease_service_pb2 import FinishRequest
from reelhaul_jobs.app import running
from reelhaul_jobs.model.retries import error_status
from reelhaul_runtime.rpc.channels import open_channel

SECOND = duration_pb2.Duration(seconds=1)


async def test_progress_is_sent_at_the_pace_of_the_watcher(service):
    """Progress updates that are one pace apart each reach the watcher while the job runs."""
    job = await create_job(service)
    percents, done = asyncio.Queue(), asyncio.Event()

    async def watch():
        pace = duration_pb2.Duration(nanos=100_000_000)
        async for message in service.jobs.WatchJob(WatchJobRequest(name=job.name, min_interval=pace)):
            if message.HasField("progress"):
                percents.put_nowait(message.progress.percent)

    async def handle(held_job):
        for percent in (10, 20, 30, 40):
            await held_job.progress(percent)
            async with asyncio.timeout(TIMEOUT):
                assert await percents.get() == percent
        await held_job.succeed()
        done.set()

    watching = asyncio.create_task(watch())
    async with run_worker(service, handle), asyncio.timeout(TIMEOUT):
        await done.wait()
        await watching


async def test_slow_watcher(service):
    """A watcher that does not read slows no other, and later receives every state and the latest progress."""
    job = await create_job(service)
    pace = duration_pb2.Duration(nanos=50_000_000)
    request = WatchJobRequest(name=job.name, min_interval=pace)
    options = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
    slow_channel = grpc.aio.insecure_channel(f"127.0.0.1:{service.port}", options)
    slow = aiter(job_service_pb2_grpc.JobServiceStub(slow_channel).WatchJob(request))
    await anext(slow)
    published, percents = asyncio.Event(), asyncio.Queue()

    async def watch():
        async for message in service.jobs.WatchJob(request):
            if message.HasField("progress"):
                percents.put_nowait(message.progress.percent)

    async def handle(held_job):
        # More than the connection of the slow watcher buffers.
        for percent in range(40):
            began = time.monotonic()
            await held_job.progress(percent, detail="x" * 100_000)
            async with asyncio.timeout(TIMEOUT):
                while await percents.get() < percent:
                    pass
            await asyncio.sleep(max(0.0, began + 0.055 - time.monotonic()))
        published.set()
        await asyncio.sleep(0.2)
        await held_job.succeed()

    quick = asyncio.create_task(watch())
    async with run_worker(service, handle), asyncio.timeout(TIMEOUT):
        await published.wait()
        rest = [message async for message in slow]
        await quick
    assert state_changes(rest) == [Job.RUNNING, Job.SUCCEEDED]
    late_percents = [m.progress.percent for m in rest if m.HasField("progress")]
    assert late_percents[-1] == 39
    assert len(late_percents) < 40
    assert rest[-1].snapshot.terminal
    await slow_channel.close()


async def test_from_create_to_success(service):
    """A job is claimed, renewed and finished; its watcher receives every state and the progress."""
    job = await create_job(service)
    watch = asyncio.create_task(watch_to_end(service, job.name, min_interval=duration_pb2.Duration(nanos=1)))
    claimed = asyncio.Event()

    async def handle(held_job):
        claimed.set()
        for percent in (10, 50):
            await held_job.progress(percent)
            await asyncio.sleep(0.1)
        renewal = await held_job.renew(media={"title": "A video"})
        assert not renewal.renewal.cancel_requested
        await held_job.succeed()

    async with run_worker(service, handle):
        messages = await watch
    assert messages[0].HasField("snapshot")
    assert state_changes(messages) == [Job.RUNNING, Job.SUCCEEDED]
    assert [m.progress.percent for m in messages if m.HasField("progress")] == [10, 50]
    last = messages[-1].snapshot
    assert (last.terminal, last.job.state, last.job.progress.percent) == (True, Job.SUCCEEDED, 100)
    assert last.job.media.title == "A video"
    assert len(last.job.artifacts) == 1
    sequences = [message.sequence for message in messages]
    assert sorted(set(sequences)) == sequences


async def test_resume_sends_what_was_missed(service):
    """A watcher that resumes with its token receives each missed state once."""
    job = await create_job(service)
    first = await anext(aiter(service.jobs.WatchJob(WatchJobRequest(name=job.name))))

    async def handle(held_job):
        await held_job.succeed()

    async with run_worker(service, handle):
        await wait_for_end(service, job.name)
    missed = await watch_to_end(service, job.name, resume_token=first.resume_token)
    assert state_changes(missed) == [Job.RUNNING, Job.SUCCEEDED]
    assert missed[0].sequence > first.sequence
    after = await watch_to_end(service, job.name, resume_token=missed[0].resume_token)
    assert state_changes(after) == [Job.SUCCEEDED]


async def test_resume_with_an_invalid_token(service):
    """A damaged token, or one of another job, is RESUME_TOKEN_INVALID."""
    one, two = await create_job(service), await create_job(service)
    first = await anext(aiter(service.jobs.WatchJob(WatchJobRequest(name=one.name))))
    for token in ("damaged", first.resume_token[:-4] + "AAAA", first.resume_token):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await watch_to_end(service, two.name, resume_token=token)
        assert reason_of(failure) == "RESUME_TOKEN_INVALID"


async def test_heartbeat(service):
    """A silent watch sends heartbeats at the position of its last message."""
    job = await create_job(service)
    stream = aiter(
        service.jobs.WatchJob(
            WatchJobRequest(name=job.name, heartbeat_interval=duration_pb2.Duration(seconds=1))
        )
    )
    first = await anext(stream)
    async with asyncio.timeout(TIMEOUT):
        second = await anext(stream)
    assert second.HasField("heartbeat")
    assert first.sequence == second.sequence


async def test_drain_ends_watches(settings):
    """A draining server ends its watches with UNAVAILABLE, to be resumed."""
    async with AsyncExitStack() as server:
        port = await server.enter_async_context(running(settings))
        async with open_channel(f"127.0.0.1:{port}", SERVICES) as opened:
            stub = job_service_pb2_grpc.JobServiceStub(opened)
            job = await stub.CreateJob(CreateJobRequest(job=Job(url=URL)))
            stream = aiter(stub.WatchJob(WatchJobRequest(name=job.name)))
            await anext(stream)
            await server.aclose()
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await anext(stream)
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    assert reason_of(failure) == "OVERLOADED"


async def test_cancel_queued(service):
    """A queued job is CANCELLED at once, and a worker that pulls its item drops it."""
    job = await create_job(service)
    cancelled = await service.jobs.CancelJob(CancelJobRequest(name=job.name, reason="changed my mind"))
    assert (cancelled.state, cancelled.error.message) == (Job.CANCELLED, "changed my mind")
    again = await service.jobs.CancelJob(CancelJobRequest(name=job.name))
    assert cancelled.revision == again.revision

    async def handle(held_job):
        raise AssertionError("a cancelled job was claimed")

    async with run_worker(service, handle) as worker:
        await eventually(lambda: worker.refusals or _has_no_items(service))


async def _has_items(service) -> bool:
    return (await service.nats.jetstream().stream_info("WORK")).state.messages > 0


async def _has_no_items(service) -> bool:
    return (await service.nats.jetstream().stream_info("WORK")).state.messages == 0


async def test_cancel_running(service):
    """A running job is CANCELLING at once; its worker is notified, and told at its renewal."""
    hints = await service.nats.subscribe("control.*")
    claimed, finished = asyncio.Event(), asyncio.Event()

    async def handle(held_job):
        claimed.set()
        hint = work_pb2.StopHint.FromString((await hints.next_msg(TIMEOUT)).data)
        assert (held_job.job, held_job.lease.epoch) == (hint.job, hint.epoch)
        assert (await held_job.renew()).renewal.cancel_requested
        assert (await held_job.finish(cancelled={})).receipt.cancelled
        finished.set()

    job = await create_job(service)
    async with run_worker(service, handle):
        await asyncio.wait_for(claimed.wait(), TIMEOUT)
        assert (await service.jobs.CancelJob(CancelJobRequest(name=job.name))).state == Job.CANCELLING
        await asyncio.wait_for(finished.wait(), TIMEOUT)
    assert (await wait_for_end(service, job.name)).state == Job.CANCELLED


async def test_success_of_a_cancelled_job(service):
    """A cancelled job ends CANCELLED even if its worker succeeded: the output is discarded."""
    done = asyncio.Event()

    async def handle(held_job):
        await service.jobs.CancelJob(CancelJobRequest(name=held_job.job))
        assert (await held_job.succeed()).receipt.cancelled
        done.set()

    job = await create_job(service)
    async with run_worker(service, handle):
        await asyncio.wait_for(done.wait(), TIMEOUT)
    last = await wait_for_end(service, job.name)
    assert (last.state, len(last.artifacts)) == (Job.CANCELLED, 0)


async def test_failure_is_retried_then_reported(service):
    """A temporary failure is retried as often as the policy says; then the job reports it."""
    policy = RetryPolicy(max_attempts=2, min_backoff=duration_pb2.Duration(seconds=1))
    job = await create_job(service, retry_policy=policy)

    async def handle(held_job):
        await held_job.finish(
            failed=FinishRequest.Failed(status=error_status(ErrorReason.UPSTREAM_UNAVAILABLE, "no answer"))
        )

    async with run_worker(service, handle):
        messages = await watch_to_end(service, job.name)
    assert state_changes(messages) == [Job.RUNNING, Job.RETRYING, Job.QUEUED, Job.RUNNING, Job.FAILED]
    retrying = next(m.state_change for m in messages if m.state_change.state == Job.RETRYING)
    assert retrying.HasField("next_attempt_time")
    assert messages[-1].snapshot.job.error.message == "no answer"
    attempts = await service.jobs.ListAttempts(ListAttemptsRequest(parent=job.name))
    assert [attempt.state for attempt in attempts.attempts] == [Attempt.FAILED, Attempt.FAILED]
    first = await service.jobs.GetAttempt(GetAttemptRequest(name=f"{job.name}/attempts/1"))
    assert first == attempts.attempts[1]


async def test_outage_of_storage_costs_no_attempt(service):
    """A job whose only attempt found storage away is RETRYING, says why, and succeeds later."""
    policy = RetryPolicy(max_attempts=1, min_backoff=duration_pb2.Duration(seconds=1))
    job = await create_job(service, retry_policy=policy)
    failures = iter([error_status(ErrorReason.STORAGE_UNAVAILABLE, "S3 does not answer")])

    async def handle(held_job):
        if error := next(failures, None):
            await held_job.finish(failed=FinishRequest.Failed(status=error))
        else:
            await held_job.succeed()

    async with run_worker(service, handle):
        messages = await watch_to_end(service, job.name)
    retrying = next(m.state_change for m in messages if m.state_change.state == Job.RETRYING)
    assert retrying.error.message == "S3 does not answer"
    assert state_changes(messages)[-1] == Job.SUCCEEDED


async def test_retry_of_a_failed_job(service):
    """RetryJob runs a FAILED job again, once per request_id."""
    outcomes = [{"failed": {"status": error_status(ErrorReason.MEDIA_NOT_FOUND, "gone")}}, None]

    async def handle(held_job):
        outcome = outcomes.pop(0)
        await (held_job.finish(**outcome) if outcome else held_job.succeed())

    job = await create_job(service)
    async with run_worker(service, handle):
        assert (await wait_for_end(service, job.name)).state == Job.FAILED
        request = RetryJobRequest(name=job.name, request_id=str(uuid.uuid4()))
        await service.jobs.RetryJob(request)
        assert (await wait_for_end(service, job.name)).state == Job.SUCCEEDED
        assert (await service.jobs.RetryJob(request)).state == Job.SUCCEEDED


@with_settings(jobs_lease_seconds=2)
async def test_worker_that_vanishes(service):
    """The job of a worker that went silent is done by another; the first one can change nothing more."""
    claimed, stale = asyncio.Event(), []

    async def vanish(held_job):
        stale.append(held_job)
        claimed.set()
        await asyncio.Event().wait()

    async def handle(held_job):
        await held_job.succeed()

    job = await create_job(service)
    async with run_worker(service, vanish):
        await asyncio.wait_for(claimed.wait(), TIMEOUT)
    async with run_worker(service, handle):
        last = await wait_for_end(service, job.name)
    assert (last.state, last.attempt_count) == (Job.SUCCEEDED, 2)
    response = await stale[0].succeed()
    assert response.refusal.reason == lease_pb2.Refusal.LOST
    assert (await stale[0].renew()).refusal.reason == lease_pb2.Refusal.LOST
    assert last == await service.jobs.GetJob(GetJobRequest(name=job.name))
    lost_attempt = await service.jobs.GetAttempt(GetAttemptRequest(name=f"{job.name}/attempts/1"))
    assert lost_attempt.state == Attempt.LOST


async def test_claim_and_finish_may_be_repeated(service):
    """A repeated Claim returns the same lease, a repeated Finish the same receipt."""
    job = await create_job(service)
    request = claim_request(work_pb2.WorkItem(job=job.name, attempt=1), "w1")
    one, two = [await service.leases.Claim(request) for _ in range(2)]
    assert one.lease.epoch == two.lease.epoch == 1
    other = await service.leases.Claim(claim_request(work_pb2.WorkItem(job=job.name, attempt=1), "w2"))
    assert other.refusal.reason == lease_pb2.Refusal.LEASED
    assert other.refusal.HasField("retry_delay")
    finish = FinishRequest(
        job=job.name, epoch=1, failed={"status": error_status(ErrorReason.MEDIA_NOT_FOUND, "")}
    )
    first, second = [(await service.leases.Finish(finish)).receipt for _ in range(2)]
    assert (first.repeated_call, second.repeated_call) == (False, True)
    assert (first.commit_time, first.revision) == (second.commit_time, second.revision)


async def test_claim_of_an_unknown_job(service):
    """A claim of an unknown job is refused, not an error: the worker drops the item."""
    answer = await service.leases.Claim(
        claim_request(work_pb2.WorkItem(job=f"jobs/{uuid.uuid4()}", attempt=1), "w")
    )
    assert answer.refusal.reason == lease_pb2.Refusal.UNKNOWN
    assert not answer.refusal.HasField("retry_delay")


async def test_release_is_not_charged(service):
    """A job that a draining worker releases runs again, and no attempt is charged for it."""
    released = []

    async def handle(held_job):
        if not released:
            released.append(held_job)
            await held_job.finish(released={"reason": FinishRequest.Released.DRAIN})
        else:
            await held_job.succeed()

    job = await create_job(service, retry_policy=RetryPolicy(max_attempts=1))
    async with run_worker(service, handle):
        last = await wait_for_end(service, job.name)
    assert (last.state, last.attempt_count) == (Job.SUCCEEDED, 1)


async def test_worker_that_asks_to_be_avoided(service):
    """The next attempt of the job is refused to a worker that asked to be avoided."""
    job = await create_job(service, retry_policy=RetryPolicy(max_attempts=2, min_backoff=SECOND))
    lease = (
        await service.leases.Claim(claim_request(work_pb2.WorkItem(job=job.name, attempt=1), "full"))
    ).lease
    status = error_status(ErrorReason.WORKER_DISK_FULL, "the disk is full", {"worker": "full"})
    failed = FinishRequest.Failed(status=status, retry_hint=lease_pb2.RetryHint(avoid_worker=True))
    await service.leases.Finish(FinishRequest(job=job.name, epoch=lease.epoch, failed=failed))

    async def queued():
        return (await service.jobs.GetJob(GetJobRequest(name=job.name))).state == Job.QUEUED

    await eventually(queued)
    second = work_pb2.WorkItem(job=job.name, attempt=2)
    refusal = (await service.leases.Claim(claim_request(second, "full"))).refusal
    assert refusal.reason == lease_pb2.Refusal.SLOT_UNFIT
    assert refusal.HasField("retry_delay")
    assert (await service.leases.Claim(claim_request(second, "another"))).HasField("lease")


async def test_deleted_work_stream_loses_nothing(service):
    """When the WORK stream is deleted with 1,000 jobs queued, all of them finish, each once."""
    finished: list[str] = []

    async def handle(held_job):
        if (await held_job.succeed()).HasField("receipt"):
            finished.append(held_job.job)

    request = BatchCreateJobsRequest(requests=[CreateJobRequest(job=Job(url=URL))] * 500)
    batches = [await service.jobs.BatchCreateJobs(request) for _ in range(2)]
    created = {job.name for batch in batches for job in batch.jobs}
    assert len(created) == 1000
    await eventually(lambda: _has_items(service))
    await service.nats.jetstream().delete_stream("WORK")
    async with run_worker(service, handle, slots=16):
        await eventually(lambda: len(finished) >= 1000, seconds=90)
    assert created == set(finished)
    assert len(finished) == 1000


async def test_request_id(service):
    """The same request twice is one job; another payload with its request_id is rejected."""
    request = CreateJobRequest(job=Job(url=URL), request_id=str(uuid.uuid4()))
    one, two = [await service.jobs.CreateJob(request) for _ in range(2)]
    assert one.name == two.name
    request.job.url += "2"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.jobs.CreateJob(request)
    assert reason_of(failure) == "REQUEST_ID_REUSED"
    assert (await service.jobs.ListJobs(ListJobsRequest())).total_size == 1


async def test_request_id_outlives_the_schedule(service):
    """A call repeated after its schedule_time returns the same job; a new call is rejected."""
    request = CreateJobRequest(job=Job(url=URL), request_id=str(uuid.uuid4()))
    soon = datetime.now(UTC) + timedelta(seconds=2)
    request.job.schedule_time.FromDatetime(soon)
    first = await service.jobs.CreateJob(request)
    await asyncio.sleep((soon - datetime.now(UTC)).total_seconds() + 0.01)
    assert (await service.jobs.CreateJob(request)).name == first.name
    request.request_id = str(uuid.uuid4())
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.jobs.CreateJob(request)
    assert reason_of(failure) == "FIELD_INVALID"


async def test_own_job_id(service):
    """A caller may choose the job's id; a taken one is RESOURCE_EXISTS, a malformed one FIELD_INVALID."""
    job_id = str(uuid.uuid4())
    request = CreateJobRequest(job=Job(url=URL), job_id=job_id)
    assert f"jobs/{job_id}" == (await service.jobs.CreateJob(request)).name
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.jobs.CreateJob(request)
    assert reason_of(failure) == "RESOURCE_EXISTS"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.jobs.CreateJob(CreateJobRequest(job=Job(url=URL), job_id="mine"))
    assert reason_of(failure) == "FIELD_INVALID"


async def test_list_pages(service):
    """Pages follow each other by token; a token of another list is rejected."""
    created = [(await create_job(service)).name for _ in range(5)]
    first = await service.jobs.ListJobs(ListJobsRequest(page_size=3))
    second = await service.jobs.ListJobs(ListJobsRequest(page_size=3, page_token=first.next_page_token))
    assert list(reversed(created)) == [job.name for job in [*first.jobs, *second.jobs]]
    assert (second.next_page_token, second.total_size) == ("", 5)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.jobs.ListJobs(ListJobsRequest(page_token=first.next_page_token, order_by="create_time"))
    assert reason_of(failure) == "PAGE_TOKEN_INVALID"


async def test_unknown_job(service):
    """Reading, cancelling, retrying and watching an unknown job is RESOURCE_NOT_FOUND."""
    name = f"jobs/{uuid.uuid4()}"
    for call in (
        service.jobs.GetJob(GetJobRequest(name=name)),
        service.jobs.CancelJob(CancelJobRequest(name=name)),
        service.jobs.RetryJob(RetryJobRequest(name=name)),
        service.jobs.DeleteJob(DeleteJobRequest(name=name)),
        service.jobs.ListAttempts(ListAttemptsRequest(parent=name)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call
        assert reason_of(failure) == "RESOURCE_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await watch_to_end(service, name)
    assert reason_of(failure) == "RESOURCE_NOT_FOUND"


async def test_invalid_url_stores_nothing(service):
    """A URL that cannot be fetched is rejected, and nothing is stored."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.jobs.CreateJob(CreateJobRequest(job=Job(url="file:///etc/passwd")))
    assert reason_of(failure) == "URL_INVALID"
    assert (await service.jobs.ListJobs(ListJobsRequest())).total_size == 0


async def test_delete_running(service):
    """A deleted job is not found any more, and its worker is told to stop."""
    finished = asyncio.Event()

    async def handle(held_job):
        await service.jobs.DeleteJob(DeleteJobRequest(name=held_job.job))
        assert (await held_job.renew()).renewal.cancel_requested
        await held_job.finish(cancelled={})
        finished.set()

    job = await create_job(service)
    async with run_worker(service, handle):
        await asyncio.wait_for(finished.wait(), TIMEOUT)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.jobs.GetJob(GetJobRequest(name=job.name))
    assert reason_of(failure) == "RESOURCE_NOT_FOUND"


async def test_restart_loses_nothing(settings):
    """Jobs accepted before a restart are done after it."""
    async with run_service(settings) as service:
        job = await create_job(service)

    async def handle(held_job):
        await held_job.succeed()

    async with run_service(settings) as service, run_worker(service, handle):
        assert (await wait_for_end(service, job.name)).state == Job.SUCCEEDED


async def test_why_it_waits(service):
    """A waiting job says why: no worker, or its schedule_time."""
    job = await create_job(service)
    assert _wait(await service.jobs.GetJob(GetJobRequest(name=job.name))) == "NO_WORKER"
    later = Job(url=URL)
    later.schedule_time.FromSeconds(int(time.time()) + 3600)
    scheduled = await service.jobs.CreateJob(CreateJobRequest(job=later))
    assert _wait(scheduled) == "SCHEDULED"


def _wait(job: Job) -> str:
    return Wait.Reason.Name(job.wait.reason)


async def test_leases_need_the_suite_credential(service):
    """A caller without the suite's credential cannot claim."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as outside:
        leases = lease_service_pb2_grpc.LeaseServiceStub(outside)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await leases.Claim(claim_request(work_pb2.WorkItem(job=f"jobs/{uuid.uuid4()}", attempt=1), "w"))
    assert failure.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_broker_loses_its_data_while_jobs_runs(settings, nats_server, tmp_path):
    """While the broker is dead, jobs are accepted and cancelled; they are done when it is back, empty."""

    async def handle(held_job):
        await held_job.succeed()

    async with run_service(settings) as service:
        before = await create_job(service)
        await eventually(lambda: _item_count_is(service, 1))
        nats_server.kill()
        during, unwanted = await create_job(service), await create_job(service)
        await service.jobs.CancelJob(CancelJobRequest(name=unwanted.name))
        async with running_nats_server(tmp_path / "other", nats_server.port), run_worker(service, handle):
            for job in (before, during):
                assert (await wait_for_end(service, job.name)).state == Job.SUCCEEDED
        assert (await wait_for_end(service, unwanted.name)).state == Job.CANCELLED


async def _item_count_is(service, items: int) -> bool:
    return (await service.nats.jetstream().stream_info("WORK")).state.messages == items


async def test_two_replicas(settings):
    """A job created at one replica is watched at the other; the loops run at one of them."""
    with fresh_database() as url:
        shared = settings.model_copy(update={"jobs_database_url": url})
        async with run_service(shared) as one, run_service(shared) as two:
            job = await create_job(one)
            watching, states = asyncio.Event(), []

            async def watch():
                async for message in two.jobs.WatchJob(WatchJobRequest(name=job.name)):
                    # The first message is a snapshot.
                    watching.set()
                    states.extend(state_changes([message]))

            async def handle(held_job):
                await watching.wait()
                await held_job.succeed()

            async with run_worker(two, handle), asyncio.timeout(TIMEOUT):
                await watch()
            assert states[-1] == Job.SUCCEEDED
            assert (await one.jobs.GetJob(GetJobRequest(name=job.name))).state == Job.SUCCEEDED


async def test_broker_away(service, nats_server):
    """While the broker is away jobs are created, read and watched; only its own health fails."""
    nats_server.kill()
    async with aio.insecure_channel(f"127.0.0.1:{service.port}") as channel, asyncio.timeout(TIMEOUT):
        health = health_pb2_grpc.HealthStub(channel)
        of_broker = health.Watch(health_pb2.HealthCheckRequest(service="jobs.nats"))
        while (await of_broker.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
            pass
        of_service = await health.Check(health_pb2.HealthCheckRequest(service=SERVICES[0].full_name))
        assert of_service.status == health_pb2.HealthCheckResponse.SERVING
    job = await create_job(service)
    watched = asyncio.create_task(wait_for_end(service, job.name))
    assert (await service.jobs.GetJob(GetJobRequest(name=job.name))).state == Job.QUEUED
    await service.jobs.CancelJob(CancelJobRequest(name=job.name))
    assert (await watched).state == Job.CANCELLED
