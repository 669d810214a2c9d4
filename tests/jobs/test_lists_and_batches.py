"""Lists, batches, bulk retries and statistics over real gRPC, NATS and SQLite."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

from google.protobuf import duration_pb2, timestamp_pb2
from tests.jobs.calls import error_of
from tests.jobs.conftest import TIMEOUT, with_settings
from tests.jobs.fake_worker import run_worker

from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import (
    JOB_VIEW_FULL,
    BatchCancelJobsRequest,
    BatchCreateJobsRequest,
    BatchGetJobsRequest,
    BatchRetryJobsRequest,
    CancelJobRequest,
    CreateJobRequest,
    DeleteJobRequest,
    ListJobsRequest,
    SummarizeJobsRequest,
    WatchJobRequest,
)
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1.lease_service_pb2 import FinishRequest
from reelhaul_jobs.model.retries import error_reason, error_status

URL = "https://videos.example/watch?v={}"
VALID, INVALID = Job(url=URL.format(0)), Job(url="file:///etc/passwd")


def batch(*jobs: Job, **fields) -> BatchCreateJobsRequest:
    return BatchCreateJobsRequest(requests=[CreateJobRequest(job=job) for job in jobs], **fields)


def numbered(count: int) -> list[Job]:
    return [Job(url=URL.format(number)) for number in range(count)]


async def stored(service, text: str = "") -> int:
    return (await service.jobs.ListJobs(ListJobsRequest(filter=text))).total_size


async def fail_all(service, names, reason=ErrorReason.MEDIA_NOT_FOUND) -> None:
    """Let a worker fail the jobs of *names* permanently."""

    async def handle(held_job):
        await held_job.finish(failed=FinishRequest.Failed(status=error_status(reason, "permanent")))

    async def wait_for_end(name):
        async for _ in service.jobs.WatchJob(WatchJobRequest(name=name)):
            pass

    async with run_worker(service, handle, slots=4), asyncio.timeout(TIMEOUT):
        await asyncio.gather(*(wait_for_end(name) for name in names))


async def test_batch_of_500(service):
    """500 jobs are created together, and listed by their batch_id in the order of the request."""
    created = await service.jobs.BatchCreateJobs(batch(*numbered(500)))
    assert [job.url for job in created.jobs] == [job.url for job in numbered(500)]
    assert {job.batch_id for job in created.jobs} == {created.batch_id}
    text = f'batch_id = "{created.batch_id}"'
    listed = await service.jobs.ListJobs(ListJobsRequest(filter=text, order_by="create_time", page_size=1000))
    assert [job.name for job in listed.jobs] == [job.name for job in created.jobs]
    other = await service.jobs.BatchCreateJobs(batch(VALID))
    assert await stored(service, f'batch_id = "{other.batch_id}"') == 1


async def test_one_invalid_request_fails_the_batch(service):
    """The first invalid request is named by its index, and nothing of the batch is stored."""
    error = await error_of(service.jobs.BatchCreateJobs(batch(VALID, VALID, INVALID, Job())))
    assert error.reason == ErrorReason.URL_INVALID
    assert error.violations[0].field == "requests[2].job.url"
    assert "requests[2].job.url: " in error.text
    late = Job(url=URL.format(1), schedule_time=timestamp_pb2.Timestamp(seconds=1))
    error = await error_of(service.jobs.BatchCreateJobs(batch(VALID, late)))
    assert error.metadata["field"] == "requests[1].job.schedule_time"
    labelled = Job(url=URL.format(1), labels={str(n): "" for n in range(65)})
    error = await error_of(service.jobs.BatchCreateJobs(batch(labelled)))
    assert error.metadata["field"] == "requests[0].job.labels"
    assert await stored(service) == 0


async def test_batches_have_bounds(service):
    """Empty, too long and too large batches are rejected, and fields that only a single call may set."""
    for request in (batch(), batch(*numbered(501))):
        assert (await error_of(service.jobs.BatchCreateJobs(request))).metadata["field"] == "requests"
    large = Job(url=URL.format(0), labels={f"k{n}": "x" * 256 for n in range(64)})
    assert "bytes" in (await error_of(service.jobs.BatchCreateJobs(batch(*[large] * 200)))).text
    job_id = str(uuid.uuid4())
    for field, item in (
        ("request_id", CreateJobRequest(job=VALID, request_id=job_id)),
        ("validate_only", CreateJobRequest(job=VALID, validate_only=True)),
    ):
        request = BatchCreateJobsRequest(requests=[CreateJobRequest(job=VALID), item])
        assert (await error_of(service.jobs.BatchCreateJobs(request))).metadata[
            "field"
        ] == f"requests[1].{field}"
    twice = BatchCreateJobsRequest(requests=[CreateJobRequest(job=VALID, job_id=job_id)] * 2)
    error = await error_of(service.jobs.BatchCreateJobs(twice))
    assert error.metadata["field"] == "requests[1].job_id"
    for names in ([], ["jobs/" + job_id] * 1001):
        for call in (
            service.jobs.BatchGetJobs(BatchGetJobsRequest(names=names)),
            service.jobs.BatchCancelJobs(BatchCancelJobsRequest(names=names)),
        ):
            assert (await error_of(call)).metadata["field"] == "names"
    assert await stored(service) == 0


async def test_taken_id_in_a_batch(service):
    """An id that another job has fails the batch, named by its index."""
    job_id = str(uuid.uuid4())
    await service.jobs.CreateJob(CreateJobRequest(job=VALID, job_id=job_id))
    request = batch(VALID, VALID, VALID)
    request.requests[1].job_id = job_id
    error = await error_of(service.jobs.BatchCreateJobs(request))
    assert error.reason == ErrorReason.RESOURCE_EXISTS
    assert (error.metadata["resource"], error.violations[0].field) == (f"jobs/{job_id}", "requests[1].job_id")
    assert await stored(service) == 1


async def test_partial_batch(service):
    """With return_partial_success the valid ones are created, and each other has its job_id error."""
    job_id = str(uuid.uuid4())
    await service.jobs.CreateJob(CreateJobRequest(job=VALID, job_id=job_id))
    request = batch(INVALID, *numbered(2), VALID, return_partial_success=True, request_id=str(uuid.uuid4()))
    request.requests[3].job_id = job_id
    created = await service.jobs.BatchCreateJobs(request)
    assert [job.url for job in created.jobs] == [job.url for job in numbered(2)]
    assert {place: error_reason(why) for place, why in created.failed_requests.items()} == {
        0: ErrorReason.URL_INVALID,
        3: ErrorReason.RESOURCE_EXISTS,
    }
    again = await service.jobs.BatchCreateJobs(request)
    assert (again.batch_id, again.failed_requests) == (created.batch_id, created.failed_requests)
    assert [job.name for job in again.jobs] == [job.name for job in created.jobs]
    assert await stored(service) == 3


async def test_batch_without_a_valid_request(service):
    """A batch of which all fail is BATCH_FAILED, and its request_id may be used again."""
    once = str(uuid.uuid4())
    request = batch(INVALID, INVALID, return_partial_success=True, request_id=once)
    error = await error_of(service.jobs.BatchCreateJobs(request))
    assert error.reason == ErrorReason.BATCH_FAILED
    assert error.metadata["failedCount"] == "2"
    assert len((await service.jobs.BatchCreateJobs(batch(VALID, request_id=once))).jobs) == 1


async def test_repeated_batch(service):
    """A repeated batch returns its jobs as they are now; another payload is rejected."""
    request = batch(*numbered(3), request_id=str(uuid.uuid4()))
    first, second = [await service.jobs.BatchCreateJobs(request) for _ in range(2)]
    assert [job.name for job in first.jobs] == [job.name for job in second.jobs]
    assert first.batch_id == second.batch_id
    await service.jobs.DeleteJob(DeleteJobRequest(name=first.jobs[0].name))
    third = await service.jobs.BatchCreateJobs(request)
    assert [job.name for job in third.jobs] == [job.name for job in first.jobs[1:]]
    request.requests[0].job.url += "x"
    error = await error_of(service.jobs.BatchCreateJobs(request))
    assert error.reason == ErrorReason.REQUEST_ID_REUSED
    assert await stored(service) == 2


async def test_batch_runs(service):
    """Jobs of a batch run as any others."""
    created = await service.jobs.BatchCreateJobs(batch(*numbered(20)))
    await fail_all(service, [job.name for job in created.jobs])
    assert await stored(service, f'batch_id = "{created.batch_id}" AND state = FAILED') == 20


async def test_get_many(service):
    """Jobs come in the order of the names; the first missing one fails the call."""
    created = (await service.jobs.BatchCreateJobs(batch(*numbered(3)))).jobs
    names = [created[2].name, created[0].name, created[2].name]
    response = await service.jobs.BatchGetJobs(BatchGetJobsRequest(names=names))
    assert [job.name for job in response.jobs] == names
    missing = [f"jobs/{uuid.uuid4()}" for _ in range(2)]
    error = await error_of(service.jobs.BatchGetJobs(BatchGetJobsRequest(names=[names[0], *missing])))
    assert (error.reason, error.metadata["resource"]) == (ErrorReason.RESOURCE_NOT_FOUND, missing[0])
    error = await error_of(service.jobs.BatchGetJobs(BatchGetJobsRequest(names=[names[0], "jobs/x"])))
    assert error.metadata["field"] == "names[1]"


async def test_cancel_many(service):
    """One call cancels many jobs; ended ones stay as they are, and a missing one fails all."""
    created = (await service.jobs.BatchCreateJobs(batch(*numbered(3)))).jobs
    names = [job.name for job in created]
    await service.jobs.CancelJob(CancelJobRequest(name=names[1], reason="mine"))
    request = BatchCancelJobsRequest(names=[*names, f"jobs/{uuid.uuid4()}"])
    assert (await error_of(service.jobs.BatchCancelJobs(request))).reason == ErrorReason.RESOURCE_NOT_FOUND
    assert await stored(service, "state = QUEUED") == 2
    done = await service.jobs.BatchCancelJobs(BatchCancelJobsRequest(names=names))
    assert [(job.name, job.state) for job in done.jobs] == [(name, Job.CANCELLED) for name in names]
    assert done.jobs[1].error.message == "mine"


# An item may go to the pull of a worker that has gone: it is redelivered after a lease.
@with_settings(jobs_lease_seconds=2)
async def test_retry_by_filter(service):
    """FAILED jobs of one reason are retried by filter, once per request_id."""
    gone = (await service.jobs.BatchCreateJobs(batch(*numbered(3)))).jobs
    await fail_all(service, [job.name for job in gone])
    other = await service.jobs.CreateJob(CreateJobRequest(job=VALID))
    await fail_all(service, [other.name], ErrorReason.MEDIA_DRM_PROTECTED)
    text = "state = FAILED AND error.reason = MEDIA_NOT_FOUND"
    dry_run = await service.jobs.BatchRetryJobs(BatchRetryJobsRequest(filter=text, validate_only=True))
    assert [job.name for job in dry_run.jobs] == [job.name for job in gone]
    assert await stored(service, "state = FAILED") == 4
    request = BatchRetryJobsRequest(filter=text, request_id=str(uuid.uuid4()))
    done = await service.jobs.BatchRetryJobs(request)
    assert [(job.name, job.state) for job in done.jobs] == [(job.name, Job.QUEUED) for job in gone]
    assert not done.more
    await fail_all(service, [job.name for job in gone])
    again = await service.jobs.BatchRetryJobs(request)
    assert [job.state for job in again.jobs] == [Job.FAILED] * 3


async def test_retry_by_name(service):
    """Of the named jobs only the failed and cancelled ones are retried."""
    created = (await service.jobs.BatchCreateJobs(batch(*numbered(2)))).jobs
    await service.jobs.BatchCancelJobs(BatchCancelJobsRequest(names=[created[0].name]))
    names = [job.name for job in created]
    done = await service.jobs.BatchRetryJobs(BatchRetryJobsRequest(names=names))
    assert [(job.name, job.state) for job in done.jobs] == [(names[0], Job.QUEUED)]
    both = BatchRetryJobsRequest(names=names, filter="state = FAILED")
    for request in (both, BatchRetryJobsRequest(), BatchRetryJobsRequest(filter=" ")):
        assert (await error_of(service.jobs.BatchRetryJobs(request))).metadata["field"] == "filter"
    error = await error_of(service.jobs.BatchRetryJobs(BatchRetryJobsRequest(filter="state =")))
    assert (error.reason, error.metadata["position"]) == (ErrorReason.FILTER_INVALID, "7")


async def test_orders(service):
    """Lists are ordered by each of the three times; any other order is rejected with the choices."""
    created = [job.name for job in (await service.jobs.BatchCreateJobs(batch(*numbered(3)))).jobs]
    await service.jobs.CancelJob(CancelJobRequest(name=created[0]))

    async def listed(order: str) -> list[str]:
        first = await service.jobs.ListJobs(ListJobsRequest(order_by=order, page_size=2))
        again = ListJobsRequest(order_by=order, page_size=2, page_token=first.next_page_token)
        return [job.name for page in (first, await service.jobs.ListJobs(again)) for job in page.jobs]

    assert await listed("create_time") == sorted(created)
    assert await listed("create_time  asc") == sorted(created)
    assert await listed("update_time desc") == [created[0], *sorted(created[1:], reverse=True)]
    assert await listed("end_time") == [created[0], *sorted(created[1:])]
    for order in ("url", "create_time up", "create_time, update_time", "desc"):
        error = await error_of(service.jobs.ListJobs(ListJobsRequest(order_by=order)))
        assert (error.reason, error.metadata["field"]) == (ErrorReason.ORDER_BY_INVALID, order)
        assert "update_time" in error.text


async def test_token_of_another_list(service):
    """A page token is valid only for the list that it belongs to."""
    await service.jobs.BatchCreateJobs(batch(*numbered(3)))
    token = (
        await service.jobs.ListJobs(ListJobsRequest(page_size=1, filter="kind = SINGLE"))
    ).next_page_token
    again = await service.jobs.ListJobs(
        ListJobsRequest(page_size=2, filter="kind = SINGLE", page_token=token)
    )
    assert (len(again.jobs), again.total_size, again.next_page_token) == (2, 3, "")
    for wrong in (
        ListJobsRequest(page_token=token),
        ListJobsRequest(page_token=token, filter="kind = SINGLE", order_by="update_time"),
        ListJobsRequest(page_token=token, filter='kind = SINGLE AND tenant = "x"'),
        ListJobsRequest(page_token=token[:-2] + "AA", filter="kind = SINGLE"),
    ):
        assert (await error_of(service.jobs.ListJobs(wrong))).reason == ErrorReason.PAGE_TOKEN_INVALID


async def test_tenant_in_a_filter(service):
    """An admin lists the jobs of the tenant that the filter names, or of all, ordered by create_time."""
    await service.jobs.BatchCreateJobs(batch(*numbered(2)))
    assert await stored(service, "tenant = local") == 2
    assert await stored(service, "tenant = other") == 0
    assert await stored(service, "tenant != other") == 2
    error = await error_of(service.jobs.ListJobs(ListJobsRequest(filter="tenant != x", order_by="end_time")))
    assert error.reason == ErrorReason.ORDER_BY_INVALID


async def test_large_jobs_make_short_pages(service):
    """A page that is too large for one response is cut, and its token leads on; BASIC pages are small."""
    created = (await service.jobs.BatchCreateJobs(batch(*numbered(12)))).jobs
    # As large as jobs accepts: descriptions are cut, so in formats.
    formats = [media_pb2.Format(format_id=f"{n:04}" + "x" * 60) for n in range(6000)]
    large = media_pb2.MediaInfo(title="A video", formats=formats)

    async def handle(held_job):
        await held_job.renew(media=large)
        await held_job.finish(
            failed=FinishRequest.Failed(status=error_status(ErrorReason.MEDIA_NOT_FOUND, ""))
        )

    async with run_worker(service, handle, slots=4), asyncio.timeout(TIMEOUT):
        for job in created:
            async for _ in service.jobs.WatchJob(WatchJobRequest(name=job.name)):
                pass
    names, token, pages = [], "", 0
    while token or not pages:
        request = ListJobsRequest(page_size=12, view=JOB_VIEW_FULL, page_token=token)
        page = await service.jobs.ListJobs(request)
        names += [job.name for job in page.jobs]
        token, pages = page.next_page_token, pages + 1
    assert names == sorted((job.name for job in created), reverse=True)
    assert pages == 2
    basic = await service.jobs.ListJobs(ListJobsRequest(page_size=12))
    assert (len(basic.jobs), basic.jobs[0].media.title, basic.jobs[0].media.description) == (
        12,
        "A video",
        "",
    )
    error = await error_of(service.jobs.BatchGetJobs(BatchGetJobsRequest(names=names)))
    assert error.metadata["field"] == "names"
    assert len((await service.jobs.BatchGetJobs(BatchGetJobsRequest(names=names[:8]))).jobs) == 8


async def test_summary(service):
    """Jobs are counted by state and reason, with bytes and latencies, in total and by step."""
    await service.jobs.BatchCreateJobs(batch(*numbered(2)))

    async def handle(held_job):
        await held_job.progress(50)
        progress = media_pb2.Progress(downloaded_bytes=1000)
        if held_job.job == first:
            await held_job.finish(
                failed=FinishRequest.Failed(status=error_status(ErrorReason.MEDIA_NOT_FOUND, "")),
                progress=progress,
            )
        else:
            artifact = media_pb2.ArtifactInfo(name="artifacts/1")
            await held_job.finish(succeeded=FinishRequest.Succeeded(artifacts=[artifact]), progress=progress)

    names = [job.name for job in (await service.jobs.ListJobs(ListJobsRequest())).jobs]
    first = names[0]
    async with run_worker(service, handle), asyncio.timeout(TIMEOUT):
        for name in names:
            async for _ in service.jobs.WatchJob(WatchJobRequest(name=name)):
                pass
    await service.jobs.CreateJob(CreateJobRequest(job=VALID))
    total = (await service.jobs.SummarizeJobs(SummarizeJobsRequest())).total
    assert dict(total.state_counts) == {"QUEUED": 1, "SUCCEEDED": 1, "FAILED": 1}
    assert dict(total.error_counts) == {"MEDIA_NOT_FOUND": 1}
    assert total.downloaded_bytes == 2000
    assert total.latency_p50 == total.latency_p95
    assert total.latency_p50.ToTimedelta() > timedelta(0)
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=9)
    request = SummarizeJobsRequest(filter="state = FAILED", step=duration_pb2.Duration(seconds=300))
    request.start_time.FromDatetime(begin)
    request.end_time.FromDatetime(begin + timedelta(minutes=12))
    series = (await service.jobs.SummarizeJobs(request)).series
    assert [dict(bucket.state_counts) for bucket in series] == [{}, {"FAILED": 1}, {}]
    assert series[2].start_time.ToDatetime(UTC) == begin + timedelta(minutes=10)


async def test_invalid_summaries(service):
    """Empty time ranges, and steps too short or too many, are rejected by field."""
    late, early = timestamp_pb2.Timestamp(seconds=10**9), timestamp_pb2.Timestamp(seconds=1)
    for field, request in (
        ("start_time", SummarizeJobsRequest(start_time=late, end_time=early)),
        ("end_time", SummarizeJobsRequest(end_time=timestamp_pb2.Timestamp(seconds=2**62))),
        ("step", SummarizeJobsRequest(step=duration_pb2.Duration(seconds=1))),
        ("step", SummarizeJobsRequest(step=duration_pb2.Duration(seconds=2**62))),
        ("step", SummarizeJobsRequest(start_time=early, step=duration_pb2.Duration(seconds=60))),
    ):
        assert (await error_of(service.jobs.SummarizeJobs(request))).metadata["field"] == field
    error = await error_of(service.jobs.SummarizeJobs(SummarizeJobsRequest(filter="size > 1")))
    assert error.reason == ErrorReason.FILTER_INVALID
