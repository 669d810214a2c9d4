"""The clients of storage and fetcher over real gRPC, against fake servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf import empty_pb2
from tests.jobs.calls import URL, create_job, wait_for_end
from tests.jobs.conftest import TOKEN, eventually, run_service
from tests.jobs.fake_worker import run_worker

from reelhaul.fetcher.v1 import fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import (
    CreateJobRequest,
    DeleteJobRequest,
    GetJobRequest,
    ListJobsRequest,
)
from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2_grpc
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.channels import error_from_rpc
from reelhaul_runtime.rpc.server import serving as rpc_serving


class FakeStorage(storage_service_pb2_grpc.StorageServiceServicer):
    """Storage that records its calls."""

    def __init__(self) -> None:
        self.kept: dict[str, artifact_pb2.Artifact] = {}
        self.deleted: list[str] = []

    async def UpdateArtifact(self, request, context):
        self.kept[request.artifact.name] = request.artifact
        return request.artifact

    async def DeleteArtifact(self, request, context):
        self.deleted.append(request.name)
        return empty_pb2.Empty()


LIVE, SOON = URL + "&live", URL + "&soon"


class FakeFetcher(fetcher_service_pb2_grpc.FetcherServiceServicer):
    """A fetcher that knows a video, a live stream, and an upcoming one."""

    async def ProbeMedia(self, request, context):
        live_status = {LIVE: media_pb2.MediaInfo.LIVE, SOON: media_pb2.MediaInfo.UPCOMING}
        if request.url in live_status:
            media = media_pb2.MediaInfo(live_status=live_status[request.url])
            return fetcher_service_pb2.ProbeMediaResponse(media=media)
        if request.url != URL:
            raise ReelhaulError(ErrorReason.MEDIA_NOT_FOUND, "no such video", metadata={"url": request.url})
        return fetcher_service_pb2.ProbeMediaResponse(
            media=media_pb2.MediaInfo(title="A video"), estimate=media_pb2.Estimate(size_bytes=5, job_count=1)
        )


@asynccontextmanager
async def run_other_services(settings, storage: FakeStorage) -> AsyncIterator[None]:
    servicers = [
        (
            storage_service_pb2_grpc.add_StorageServiceServicer_to_server,
            storage,
            "reelhaul.storage.v1.StorageService",
        ),
        (
            fetcher_service_pb2_grpc.add_FetcherServiceServicer_to_server,
            FakeFetcher(),
            "reelhaul.fetcher.v1.FetcherService",
        ),
    ]
    async with rpc_serving(
        "127.0.0.1:0", servicers, authenticator=NoAuthentication(TOKEN), drain_seconds=0.1
    ) as port:
        address = f"127.0.0.1:{port}"
        connected = settings.model_copy(update={"storage_address": address, "fetcher_address": address})
        async with run_service(connected) as service:
            yield service


async def succeed(service, job: Job) -> Job:
    async def work(held):
        await held.succeed()

    async with run_worker(service, work):
        return await wait_for_end(service, job.name)


async def test_storage_gets_the_expiry_of_artifacts(settings):
    """Storage gets the job's expiry for each artifact soon after Finish, and the deletion with the job."""
    storage = FakeStorage()
    async with run_other_services(settings, storage) as service:
        job = await succeed(service, await create_job(service))
        name = job.artifacts[0].name
        await eventually(lambda: name in storage.kept)
        assert storage.kept[name].expire_time == job.expire_time
        await service.jobs.DeleteJob(DeleteJobRequest(name=job.name))
        await eventually(lambda: storage.deleted == [name])


async def test_validate_only(settings):
    """validate_only returns the job with media and estimate, and stores nothing."""
    async with run_other_services(settings, FakeStorage()) as service:
        answer = await service.jobs.CreateJob(CreateJobRequest(job=Job(url=URL), validate_only=True))
        assert (answer.media.title, answer.estimate.size_bytes) == ("A video", 5)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await service.jobs.GetJob(GetJobRequest(name=answer.name))
        assert failure.value.code() == grpc.StatusCode.NOT_FOUND
        assert (await service.jobs.ListJobs(ListJobsRequest())).total_size == 0


async def test_validate_only_of_a_missing_video(settings):
    """The site's answer becomes the error of the call."""
    async with run_other_services(settings, FakeStorage()) as service:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await service.jobs.CreateJob(CreateJobRequest(job=Job(url=URL + "2"), validate_only=True))
    assert error_from_rpc(failure.value, "jobs").reason == ErrorReason.MEDIA_NOT_FOUND


@pytest.mark.parametrize(
    ("url", "asked", "reason"),
    [
        (LIVE, FormatSpec(), "MEDIA_IS_LIVE"),
        (SOON, FormatSpec(), "MEDIA_NOT_LIVE_YET"),
        (SOON, FormatSpec(live=FormatSpec.Live(mode=FormatSpec.Live.RECORD)), "MEDIA_NOT_LIVE_YET"),
        (URL, FormatSpec(max_size_bytes=4), "MEDIA_TOO_LARGE"),
        (LIVE, FormatSpec(live=FormatSpec.Live(mode=FormatSpec.Live.RECORD)), ""),
        (SOON, FormatSpec(live=FormatSpec.Live(mode=FormatSpec.Live.WAIT)), ""),
        (URL, FormatSpec(max_size_bytes=5), ""),
    ],
)
async def test_validate_only_of_a_job_that_would_fail(settings, url, asked, reason):
    """validate_only fails with what the job would fail with: live, upcoming, too large."""
    async with run_other_services(settings, FakeStorage()) as service:
        call = service.jobs.CreateJob(CreateJobRequest(job=Job(url=url, format=asked), validate_only=True))
        if not reason:
            assert (await call).url == url
            return
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call
        assert ErrorReason.Name(error_from_rpc(failure.value, "jobs").reason) == reason
