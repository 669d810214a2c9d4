"""Deliveries of artifacts: their states, retries and leases, and jobs that name a destination."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

import pytest
from google.protobuf import empty_pb2
from tests.job_stores import SqlStore, postgresql_store, sqlite_store
from tests.jobs.calls import URL, create_job, error_of, watch_to_end
from tests.jobs.conftest import TOKEN, JobsService, eventually, run_service
from tests.jobs.fake_worker import HeldJob, run_worker, succeeded
from tests.jobs.replica import START, Replica

from reelhaul.downloads.v1 import download_service_pb2_grpc
from reelhaul.downloads.v1.download_service_pb2 import CreateDownloadRequest, GetDownloadRequest
from reelhaul.jobs.v1 import schedule_service_pb2_grpc
from reelhaul.jobs.v1.job_pb2 import ArtifactDelivery, Job
from reelhaul.jobs.v1.job_service_pb2 import (
    BatchCreateJobsRequest,
    CreateJobRequest,
    GetJobRequest,
    RedeliverJobRequest,
)
from reelhaul.jobs.v1.schedule_pb2 import Schedule
from reelhaul.jobs.v1.schedule_service_pb2 import CreateScheduleRequest, RunScheduleRequest
from reelhaul.storage.v1 import (
    destination_pb2,
    destination_service_pb2,
    destination_service_pb2_grpc,
    storage_service_pb2_grpc,
)
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import deliveries, leases, queue_transitions
from reelhaul_jobs.model import job as model
from reelhaul_jobs.model.playlist_expansion import create_child
from reelhaul_jobs.model.states import DeliveryState, State
from reelhaul_jobs.service.artifact_expiry_sync import ArtifactExpirySync
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.deliveries import MAX_PER_TENANT, Deliverer
from reelhaul_jobs.service.housekeeping import ExpiredJobDeleter
from reelhaul_runtime.errors import NotFound, ReelhaulError, StateConflict, Unavailable
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.rpc.server import serving as rpc_serving

PENDING, RUNNING = DeliveryState.PENDING, DeliveryState.RUNNING
DELIVERED, FAILED = DeliveryState.DELIVERED, DeliveryState.FAILED
VIDEO = media_pb2.ArtifactInfo(name="artifacts/1", file_name="a.mp4")
SUBTITLE = media_pb2.ArtifactInfo(name="artifacts/2", file_name="a.srt")
REFUSED = ReelhaulError(ErrorReason.DESTINATION_REFUSED, "no such bucket", metadata={"cause": "NoSuchBucket"})
UNAVAILABLE = ReelhaulError(ErrorReason.DESTINATION_UNAVAILABLE, "SlowDown")


class FakeStorage:
    """A Storage that fails as the test says, and may hold deliveries until they are cancelled."""

    def __init__(self) -> None:
        self.failures: dict[str, ReelhaulError] = {}
        self.objects: list[str] = []
        self.calls: list[str] = []
        self.hold = False
        self.cancelled = asyncio.Event()
        self.kept = {}
        self.deleted: list[str] = []

    async def deliver(self, artifact: str, destination: str, tenant: str, object_name: str) -> str:
        self.calls.append(artifact)
        if self.hold:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        if failure := self.failures.get(artifact):
            raise failure
        self.objects.append(object_name)
        return f"s3://{destination}/{object_name}"

    async def set_expire_time(self, artifact, expire_time) -> None:
        self.kept[artifact] = expire_time

    async def delete_artifacts(self, artifacts) -> None:
        self.deleted += artifacts


class Harness(Replica):
    """A replica with a Deliverer."""

    def __init__(self, store: SqlStore) -> None:
        super().__init__(store)
        self.storage = FakeStorage()
        self.deliverer = self.new_deliverer()

    def new_deliverer(self) -> Deliverer:
        notifier = ChangeNotifier(self.hub, self.bus)
        return Deliverer(self.store, self.store, self.storage, notifier, self.now)

    async def succeed(self, *artifacts: media_pb2.ArtifactInfo, **fields: object) -> model.Job:
        """Add a job for the destination "media", and let it succeed with *artifacts*."""
        job = await self.add(**{"deliver_to": "media", **fields})
        await self.claim(job.id)
        result = leases.Succeeded(media=media_pb2.MediaInfo(), artifacts=artifacts or (VIDEO, SUBTITLE))
        outcome = leases.Outcome(result=result)
        return (await self.store.change(job.id, lambda j: leases.finish(j, 1, outcome, self.time))).job

    async def step(self) -> None:
        await self.deliverer.step()
        await self.deliverer.wait()

    async def states(self, job: model.Job) -> list[DeliveryState]:
        return [delivery.state for delivery in (await self.store.get(job.id)).deliveries]


@asynccontextmanager
async def running_harness(opening: AbstractAsyncContextManager[SqlStore]) -> AsyncIterator[Harness]:
    async with opening as store:
        harness = Harness(store)
        yield harness
        await harness.deliverer.close()


@pytest.fixture
async def harness(tmp_path) -> AsyncIterator[Harness]:
    async with running_harness(sqlite_store(tmp_path)) as harness:
        yield harness


@pytest.fixture(params=["sqlite", "postgresql"])
async def any_harness(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator[Harness]:
    opening = sqlite_store(tmp_path) if request.param == "sqlite" else postgresql_store()
    async with running_harness(opening) as harness:
        yield harness


async def test_artifacts_are_delivered(harness: Harness):
    """Each artifact of a succeeded job is delivered, under the job's id and its file name."""
    job = await harness.succeed()
    assert await harness.states(job) == [PENDING, PENDING]
    await harness.step()
    job = await harness.store.get(job.id)
    assert [delivery.state for delivery in job.deliveries] == [DELIVERED, DELIVERED]
    assert [delivery.uri for delivery in job.deliveries] == [
        f"s3://media/{job.id}/a.mp4",
        f"s3://media/{job.id}/a.srt",
    ]
    assert job.delivery_time is None
    await harness.step()
    assert harness.storage.calls == [VIDEO.name, SUBTITLE.name]


async def test_events(harness: Harness):
    """Each change of a delivery is an event of the job, from SUCCEEDED to SUCCEEDED, with its revision."""
    job = await harness.succeed(VIDEO)
    await harness.step()
    events = await harness.store.list_events(job.id, after=job.revision, limit=10)
    assert [(event.old_state, event.state) for event in events] == [(State.SUCCEEDED, State.SUCCEEDED)] * 2
    assert events[-1].revision == (await harness.store.get(job.id)).revision


async def test_jobs_without_destination(harness: Harness):
    """Nothing is delivered of a job without a destination, nor of one that failed."""
    job = await harness.succeed(deliver_to="")
    await harness.step()
    assert (await harness.store.get(job.id)).deliveries == ()
    assert harness.storage.calls == []


async def test_object_names(harness: Harness):
    """Artifacts of the same file name get different keys."""
    names = ["a.srt", "a.srt", "a (2).srt", "a", "a", ".srt", ".srt", ""]
    artifacts = [
        media_pb2.ArtifactInfo(name=f"artifacts/{index}", file_name=name) for index, name in enumerate(names)
    ]
    job = await harness.succeed(*artifacts)
    keys = [deliveries.object_name(job, artifact.name) for artifact in artifacts]
    assert [key.removeprefix(f"{job.id}/") for key in keys] == [
        "a.srt",
        "a (2).srt",
        "a (2) (2).srt",
        "a",
        "a (2)",
        ".srt",
        ".srt (2)",
        "file",
    ]


async def test_retries(any_harness: Harness):
    """A delivery that fails is tried again later, and its error is shown until then; others go on."""
    harness = any_harness
    harness.storage.failures[VIDEO.name] = UNAVAILABLE
    job = await harness.succeed()
    await harness.step()
    video, subtitle = (await harness.store.get(job.id)).deliveries
    assert (video.state, subtitle.state) == (PENDING, DELIVERED)
    assert video.error is not None
    assert video.error.message == "SlowDown"
    assert harness.time < video.due <= harness.time + timedelta(seconds=2)
    await harness.step()
    assert harness.storage.calls == [VIDEO.name, SUBTITLE.name]
    harness.storage.failures.clear()
    harness.time = video.due
    await harness.step()
    video, _ = (await harness.store.get(job.id)).deliveries
    assert (video.state, video.error, video.attempt_count) == (DELIVERED, None, 2)


@pytest.mark.parametrize(
    ("failure", "least", "most"),
    [
        (UNAVAILABLE, 100, 250),
        (Unavailable("storage", "storage does not answer"), 100, 250),
        (REFUSED, 10, 30),
        (NotFound("destinations/media"), 1, 1),
        (ReelhaulError(ErrorReason.ARTIFACT_CORRUPT, "damaged"), 1, 1),
    ],
)
async def test_failure_for_good(harness: Harness, failure: ReelhaulError, least: int, most: int):
    """A destination that stays unusable fails the delivery within a day, and never the job."""
    harness.storage.failures[VIDEO.name] = failure
    job = await harness.succeed(VIDEO)
    while (due := (await harness.store.get(job.id)).delivery_time) is not None:
        harness.time = due
        await harness.step()
    job = await harness.store.get(job.id)
    (delivery,) = job.deliveries
    assert (job.state, delivery.state) == (State.SUCCEEDED, FAILED)
    assert delivery.error is not None
    assert delivery.error.message == failure.text
    assert least <= delivery.attempt_count <= most
    assert harness.time <= START + timedelta(days=1)


async def test_redeliver(harness: Harness):
    """Failed deliveries are started again by a user, and others are left alone."""
    harness.storage.failures[SUBTITLE.name] = NotFound("destinations/media")
    job = await harness.succeed()
    with pytest.raises(StateConflict):
        await harness.store.change(job.id, lambda job: deliveries.redeliver(job, harness.time))
    await harness.step()
    assert await harness.states(job) == [DELIVERED, FAILED]
    harness.storage.failures.clear()
    harness.time += timedelta(days=3)
    await harness.store.change(job.id, lambda job: deliveries.redeliver(job, harness.time))
    assert await harness.states(job) == [DELIVERED, PENDING]
    await harness.step()
    assert await harness.states(job) == [DELIVERED, DELIVERED]
    assert harness.storage.calls == [VIDEO.name, SUBTITLE.name, SUBTITLE.name]


async def test_lost_runner(harness: Harness):
    """A delivery whose process died is taken over when its lease ends; the late result is dropped."""
    job = await harness.succeed(VIDEO)
    claimed = await harness.store.change(job.id, lambda job: deliveries.claim(job, harness.time))
    (running,) = claimed.job.deliveries
    await harness.step()
    assert harness.storage.calls == []
    harness.time += deliveries.LEASE
    await harness.step()
    assert harness.storage.calls == [VIDEO.name]
    late = await harness.store.change(
        job.id, lambda job: deliveries.complete(job, running, "s3://late", harness.time)
    )
    assert not late.changed
    (delivery,) = (await harness.store.get(job.id)).deliveries
    assert (delivery.uri, delivery.attempt_count) == (f"s3://media/{job.id}/a.mp4", 2)


async def test_renewal(harness: Harness):
    """A delivery that is renewed is not taken over, and callers see no change."""
    job = await harness.succeed(VIDEO)
    claimed = (await harness.store.change(job.id, lambda job: deliveries.claim(job, harness.time))).job
    for _ in range(5):
        harness.time += deliveries.LEASE / 2
        await harness.store.change(
            job.id, lambda job: deliveries.renew(job, claimed.deliveries[0], harness.time)
        )
        await harness.step()
    assert harness.storage.calls == []
    renewed = await harness.store.get(job.id)
    assert (renewed.revision, renewed.etag) == (claimed.revision, claimed.etag)


async def test_two_replicas(any_harness: Harness):
    """Two replicas that both believe to lead the loop deliver each artifact once."""
    harness = any_harness
    jobs = [await harness.succeed(tenant=tenant) for tenant in ("a", "b", "c")]
    other = harness.new_deliverer()
    await asyncio.gather(harness.deliverer.step(), other.step())
    await asyncio.gather(harness.deliverer.wait(), other.wait())
    assert len(harness.storage.objects) == len(set(harness.storage.objects)) == 6
    for job in jobs:
        assert await harness.states(job) == [DELIVERED, DELIVERED]


async def test_tenants_share_the_runners(any_harness: Harness):
    """A tenant whose bucket does not answer takes few of the runners, and others do not wait for it."""
    harness = any_harness
    harness.storage.hold = True
    for _ in range(20):
        await harness.succeed(VIDEO, tenant="acme")
    for _ in range(3):
        await harness.deliverer.step()
    await eventually(lambda: len(harness.storage.calls) == MAX_PER_TENANT)
    harness.storage.hold = False
    job = await harness.succeed(VIDEO, tenant="other")
    await harness.deliverer.step()

    async def is_delivered() -> bool:
        return await harness.states(job) == [DELIVERED]

    await eventually(is_delivered)
    assert len(harness.storage.calls) == MAX_PER_TENANT + 1


async def test_deleted_job(harness: Harness):
    """Deleting a job ends its deliveries, and those that have not begun never begin."""
    job = await harness.succeed()
    await harness.store.change(job.id, lambda job: queue_transitions.delete(job, harness.time))
    await harness.step()
    assert harness.storage.calls == []


async def test_shutdown(harness: Harness):
    """A replica that stops cancels its deliveries; another one delivers later."""
    harness.storage.hold = True
    job = await harness.succeed(VIDEO)
    await harness.deliverer.step()
    await eventually(lambda: harness.storage.calls)
    await harness.deliverer.close()
    assert harness.storage.cancelled.is_set()
    harness.storage.hold = False
    harness.time += deliveries.LEASE
    await harness.step()
    assert await harness.states(job) == [DELIVERED]


async def test_expiry_waits_for_deliveries(any_harness: Harness):
    """Artifacts and job are kept until their deliveries have ended, a day at most, then as long as asked."""
    harness = any_harness
    sync = ArtifactExpirySync(harness.store, harness.storage, harness.now)
    deleter = ExpiredJobDeleter(harness.store, harness.store, harness.now)
    harness.storage.failures[VIDEO.name] = UNAVAILABLE
    job = await harness.succeed(VIDEO, ttl=timedelta(hours=1))
    await sync.step()
    assert harness.storage.kept == {VIDEO.name: START + deliveries.WINDOW}
    harness.time += timedelta(hours=2)
    await harness.step()
    await deleter.step()
    assert await harness.states(job) == [PENDING]
    harness.storage.failures.clear()
    harness.time += timedelta(hours=1)
    await harness.step()
    await sync.step()
    assert harness.storage.kept == {VIDEO.name: START + timedelta(hours=1)}
    await deleter.step()
    await sync.step()
    assert harness.storage.deleted == [VIDEO.name]


# Over gRPC.


class FakeDestinations(destination_service_pb2_grpc.DestinationServiceServicer):
    """A DestinationService that knows "media" of the local tenant, and refuses until the test says."""

    def __init__(self) -> None:
        self.works = asyncio.Event()

    async def GetDestination(self, request, context):
        if (request.name, request.tenant) != ("media", "local"):
            raise NotFound(request.name)
        return destination_pb2.Destination(name="destinations/media")

    async def DeliverArtifact(self, request, context):
        if not self.works.is_set():
            raise NotFound("destinations/media")
        uri = f"s3://bucket/{request.object_name}"
        return destination_service_pb2.DeliverArtifactResponse(uri=uri)


class AcceptingStorage(storage_service_pb2_grpc.StorageServiceServicer):
    async def UpdateArtifact(self, request, context):
        return request.artifact

    async def DeleteArtifact(self, request, context):
        return empty_pb2.Empty()


@asynccontextmanager
async def fake_storage(address: str) -> AsyncIterator[FakeDestinations]:
    destinations = FakeDestinations()
    servicers = [
        (
            destination_service_pb2_grpc.add_DestinationServiceServicer_to_server,
            destinations,
            "reelhaul.storage.v1.DestinationService",
        ),
        (
            storage_service_pb2_grpc.add_StorageServiceServicer_to_server,
            AcceptingStorage(),
            "reelhaul.storage.v1.StorageService",
        ),
    ]
    async with rpc_serving(address, servicers, authenticator=NoAuthentication(TOKEN), drain_seconds=0.1):
        yield destinations


async def test_validation(settings):
    """A destination must exist when a job, batch or schedule names it; if storage is away, nobody knows."""
    async with run_service(settings) as service:
        error = await error_of(create_job(service, deliver_to="media"))
        assert error.reason == ErrorReason.SERVICE_UNAVAILABLE
        async with fake_storage(settings.storage_address):
            await eventually(lambda: create_job(service, deliver_to="media"))
            created = await create_job(service, deliver_to="destinations/media")
            assert created.deliver_to == "destinations/media"
            for wrong in ("unknown", "Media", "destinations/", "a/b/c", "jobs/media"):
                error = await error_of(create_job(service, deliver_to=wrong))
                assert (error.reason, error.metadata["field"]) == (
                    ErrorReason.FIELD_INVALID,
                    "job.deliver_to",
                ), wrong
            await check_batch(service)
            await check_schedule(service)
            await check_download(service)


async def check_batch(service: JobsService) -> None:
    jobs = [Job(url=URL, deliver_to=name) for name in ("media", "unknown", "")]
    request = BatchCreateJobsRequest(requests=[CreateJobRequest(job=job) for job in jobs])
    error = await error_of(service.jobs.BatchCreateJobs(request))
    assert error.metadata["field"] == "requests[1].job.deliver_to"
    request.return_partial_success = True
    response = await service.jobs.BatchCreateJobs(request)
    assert [job.deliver_to for job in response.jobs] == ["destinations/media", ""]
    assert list(response.failed_requests) == [1]


async def check_schedule(service: JobsService) -> None:
    async with open_channel(f"127.0.0.1:{service.port}", []) as channel:
        schedules = schedule_service_pb2_grpc.ScheduleServiceStub(channel)
        template = Job(url=URL, deliver_to="unknown")
        request = CreateScheduleRequest(schedule=Schedule(cron="0 0 1 1 *", job_template=template))
        error = await error_of(schedules.CreateSchedule(request))
        assert error.metadata["field"] == "schedule.job_template.deliver_to"
        request.schedule.job_template.deliver_to = "media"
        schedule = await schedules.CreateSchedule(request)
        assert schedule.job_template.deliver_to == "destinations/media"
        job = await schedules.RunSchedule(RunScheduleRequest(name=schedule.name))
        assert job.deliver_to == "destinations/media"


async def check_download(service: JobsService) -> None:
    async with open_channel(f"127.0.0.1:{service.port}", []) as channel:
        downloads = download_service_pb2_grpc.DownloadServiceStub(channel)
        request = CreateDownloadRequest(url=URL, deliver_to="unknown")
        error = await error_of(downloads.CreateDownload(request))
        assert error.metadata["field"] == "deliver_to"
        request.deliver_to = "media"
        assert (await downloads.CreateDownload(request)).deliver_to == "media"


async def test_job_shows_its_deliveries(settings):
    """A watch of a job lasts until its deliveries have ended, and both APIs show them."""

    async def succeed(held: HeldJob) -> None:
        await held.finish(succeeded=succeeded(VIDEO))

    async with (
        fake_storage(settings.storage_address) as destinations,
        run_service(settings) as service,
        run_worker(service, succeed),
        open_channel(f"127.0.0.1:{service.port}", []) as channel,
    ):
        created = await create_job(service, deliver_to="media")
        failed = (await watch_to_end(service, created.name))[-1].snapshot.job
        (delivery,) = failed.deliveries
        assert (failed.state, delivery.state) == (Job.SUCCEEDED, ArtifactDelivery.FAILED)
        assert delivery.error.message == "destinations/media does not exist"
        destinations.works.set()
        pending = await service.jobs.RedeliverJob(RedeliverJobRequest(name=created.name))
        assert pending.deliveries[0].state == ArtifactDelivery.PENDING
        assert pending.revision > failed.revision
        messages = await watch_to_end(service, created.name)
        shown = {each.snapshot.job.deliveries[0].state for each in messages if each.HasField("snapshot")}
        assert ArtifactDelivery.DELIVERED in shown
        assert messages[-1].snapshot.terminal
        job = await service.jobs.GetJob(GetJobRequest(name=created.name))
        (delivery,) = job.deliveries
        uri = f"s3://bucket/{created.name.removeprefix('jobs/')}/a.mp4"
        assert (delivery.destination, delivery.uri) == ("destinations/media", uri)
        assert not delivery.HasField("error")
        error = await error_of(service.jobs.RedeliverJob(RedeliverJobRequest(name=created.name)))
        assert error.reason == ErrorReason.STATE_CONFLICT
        downloads = download_service_pb2_grpc.DownloadServiceStub(channel)
        request = GetDownloadRequest(job_id=created.name.removeprefix("jobs/"))
        (file,) = (await downloads.GetDownload(request)).files
        assert (file.delivery.status, file.delivery.uri) == ("DELIVERED", uri)


async def test_playlist_children(replica):
    """The jobs of a playlist are delivered to the destination of the playlist."""
    parent = await replica.add(deliver_to="media")
    entry = media_pb2.PlaylistEntry(url=URL, position=1)
    assert create_child(parent, entry, replica.time, 1).deliver_to == "media"
