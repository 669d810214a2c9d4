"""Kept messages: readers who poll see what readers who keep nothing see, whatever happens to the jobs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from google.protobuf.message import Message
from tests.job_stores import job as new_job
from tests.job_stores import open_store
from tests.jobs.replica import Replica, views_of

from reelhaul.downloads.v1 import download_pb2, download_service_pb2
from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.api.downloads import responses
from reelhaul_jobs.api.jobs.messages import job_to_proto
from reelhaul_jobs.api.kept_messages import KeptMessages
from reelhaul_jobs.model import deliveries, leases, queue_transitions, user_actions
from reelhaul_jobs.model.job import Expansion, Job
from reelhaul_jobs.model.results import JobView
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.states import Kind, State
from reelhaul_jobs.ports.jobs import ChangeRule, JobVersion, KeptJob, Query
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.jobs import Jobs
from reelhaul_runtime.errors import NotFound

GONE = error_status(ErrorReason.MEDIA_NOT_FOUND, "gone")
VIDEO = leases.Succeeded(
    media=media_pb2.MediaInfo(title="A video"),
    artifacts=(media_pb2.ArtifactInfo(name="artifacts/1", file_name="a.mp4"),),
)
CONVERSIONS = {"flat": responses.download, "full": job_to_proto}


class Reader:
    """Reads jobs of one replica as the servicers do, and keeps what ended jobs show."""

    def __init__(self, replica: Replica, conversion: str = "flat") -> None:
        notifier = ChangeNotifier(replica.hub, replica.bus)
        self.jobs = Jobs(replica.store, views_of(replica), notifier, None, replica.now)  # type: ignore[arg-type]
        self.kept = KeptMessages(CONVERSIONS[conversion])
        self.nothing_kept = KeptMessages(CONVERSIONS[conversion], max_bytes=0)

    async def get(self, job_id: str, owner: str | None = "acme") -> bytes:
        return await self._get(job_id, owner, self.kept)

    async def sees_the_same(self, job_id: str) -> bool:
        """Whether the job and the list show what they show to a reader who keeps nothing."""
        for _ in range(2):  # the second time, it is kept
            if await self.get(job_id) != await self._get(job_id, "acme", self.nothing_kept):
                return False
            if await self.list() != await self._list("acme", self.nothing_kept):
                return False
        return True

    async def list(self, owner: str | None = "acme") -> bytes:
        return await self._list(owner, self.kept)

    async def list_kept(self) -> set[str]:
        """Return the ids of the listed jobs that are kept."""
        page = await self.jobs.page(Query(tenant="acme", limit=100), self.kept.find)
        return {job.id for job in page.jobs if isinstance(job, KeptJob)}

    async def _get(self, job_id: str, owner: str | None, kept: KeptMessages) -> bytes:
        return kept.serialize(await self.jobs.get_or_kept(job_id, owner, kept.find))

    async def _list(self, owner: str | None, kept: KeptMessages) -> bytes:
        page = await self.jobs.page(Query(tenant=owner, limit=100), kept.find)
        return kept.serialize_list(page.jobs, 10**6)[0]


@pytest.fixture
def reader(replica: Replica) -> Reader:
    return Reader(replica)


async def end(replica: Replica, job: Job, result: leases.Result = VIDEO) -> Job:
    """Let a worker end *job*."""
    claimed = await replica.claim(job.id)
    outcome = leases.Outcome(result=result)
    rule: ChangeRule = lambda job: leases.finish(job, claimed.epoch, outcome, replica.time)  # noqa: E731
    return (await replica.store.change(job.id, rule)).job


def listed_ids(content: bytes) -> set[str]:
    return {job.job_id for job in download_service_pb2.ListDownloadsResponse.FromString(content).jobs}


@pytest.mark.parametrize("conversion", sorted(CONVERSIONS))
async def test_ended_jobs_only_are_kept(replica, conversion):
    """Jobs that have ended are kept; playlists, and jobs that wait or run, are not, as they change unseen."""
    reader = Reader(replica, conversion)
    succeeded = await end(replica, await replica.add())
    failed = await end(replica, await replica.add(), leases.Failed(error=GONE))
    cancelled = await replica.add()
    await replica.store.change(cancelled.id, lambda job: queue_transitions.cancel(job, replica.time))
    running = await replica.claim((await replica.add()).id)
    playlist = await end(replica, await replica.add(kind=Kind.EXPANSION, expansion=Expansion()))
    for job in (succeeded, failed, cancelled, running, playlist, await replica.add()):
        assert await reader.sees_the_same(job.id), job.state
    assert await reader.list_kept() == {succeeded.id, failed.id, cancelled.id}


@pytest.mark.parametrize("conversion", sorted(CONVERSIONS))
async def test_every_change_of_an_ended_job_shows(replica, conversion):
    """Deliveries, edits and a retry of a job that is kept show at once."""
    reader = Reader(replica, conversion)
    job = await end(replica, await replica.add(deliver_to="bucket"))
    expiry = user_actions.Update(paths=frozenset({"ttl"}), ttl=timedelta(days=99))
    running = deliveries.claim(job, replica.time).job.deliveries[0]
    second_try = replace(running, attempt_count=2)
    error = error_status(ErrorReason.RESOURCE_NOT_FOUND, "no bucket")
    changes: list[ChangeRule] = [
        lambda job: deliveries.claim(job, replica.time),
        lambda job: deliveries.renew(job, running, replica.time + timedelta(seconds=9)),
        lambda job: deliveries.fail(job, running, error, replica.time),
        lambda job: deliveries.redeliver(job, replica.time),
        lambda job: deliveries.claim(job, replica.time),
        lambda job: deliveries.complete(job, second_try, "s3://bucket/a.mp4", replica.time),
        lambda job: user_actions.update(job, expiry, replica.time),
    ]
    for rule in changes:
        assert await reader.sees_the_same(job.id)
        assert (await replica.store.change(job.id, rule)).changed
    assert await reader.sees_the_same(job.id)
    failed = await end(replica, await replica.add(), leases.Failed(error=GONE))
    assert await reader.sees_the_same(failed.id)
    await replica.store.change(failed.id, lambda job: queue_transitions.retry(job, replica.time))
    assert await reader.sees_the_same(failed.id)


async def test_expiry_confirmation_keeps_the_message(replica, reader):
    """What only services see of a change leaves the bytes as they are."""
    job = await end(replica, await replica.add())
    before = await reader.get(job.id)
    await replica.store.mark_expiry_confirmed(job.id, None)
    assert await reader.get(job.id) == before
    assert await reader.sees_the_same(job.id)


async def test_kept_job_of_another_tenant(replica, reader):
    """A job that is kept for its tenant stays unknown to others, by id and in lists."""
    job = await end(replica, await replica.add())
    await reader.get(job.id)
    assert await reader.list_kept() == {job.id}
    with pytest.raises(NotFound):
        await reader.get(job.id, "other")
    assert await reader.list("other") == b""
    assert listed_ids(await reader.list(None)) == {job.id}


async def test_id_of_a_purged_job(replica, reader):
    """A job with the id of one that was kept and is purged shows what it is itself."""
    first = await end(replica, await replica.add())
    await reader.get(first.id)
    await replica.store.purge(first.id)
    replica.time += timedelta(seconds=1)
    second = await end(replica, await replica.add("other", id=first.id, url="https://videos.example/2"))
    assert (second.id, second.revision) == (first.id, first.revision)
    with pytest.raises(NotFound):
        await reader.get(first.id)
    shown = download_pb2.Download.FromString(await reader.get(first.id, "other"))
    assert shown.url == second.url


async def test_deleted_job_vanishes(replica, reader):
    """A kept job that its user deletes is gone from status and list at once."""
    job = await end(replica, await replica.add())
    await reader.list()
    await replica.store.change(job.id, lambda job: queue_transitions.delete(job, replica.time))
    with pytest.raises(NotFound):
        await reader.get(job.id)
    assert await reader.list() == b""


async def test_change_by_another_process(replica, reader, tmp_path):
    """A process sees at once what another one of the same database changes in a job that it keeps."""
    job = await end(replica, await replica.add(), leases.Failed(error=GONE))
    await reader.list()
    async with open_store(f"sqlite:///{tmp_path}/jobs.db") as other:
        await other.change(job.id, lambda job: queue_transitions.retry(job, replica.time))
    assert download_pb2.Download.FromString(await reader.get(job.id)).status == download_pb2.Download.QUEUED
    assert await reader.sees_the_same(job.id)


def test_kept_bytes_are_bounded():
    """However many jobs are read, the bytes that are kept stay below the limit, and the latest are kept."""
    kept = KeptMessages(lambda view: download_pb2.Download(job_id=view.job.id, title="x" * 500), 20_000)
    versions = list[JobVersion]()
    for number in range(200):
        view = ended_view(number)
        kept.serialize(view)
        versions.append(JobVersion.of(view.job))
    found = [content for version in versions if (content := kept.find(version))]
    assert 5 < len(found) < 20
    assert sum(map(len, found)) < 20_000
    assert kept.find(versions[-1])
    large = KeptMessages(lambda view: download_pb2.Download(title="x" * 50_000), 20_000)
    large.serialize(ended_view(1))
    assert large.find(versions[1]) is None


@pytest.mark.parametrize("bytes_per_job", [1, 127, 128, 20_000])
def test_lists_are_joined_from_messages(bytes_per_job):
    """A list that is joined from kept messages of any size is the list that protobuf serializes."""
    messages = [job_pb2.Job(url="x" * bytes_per_job), job_pb2.Job(), job_pb2.Job(name="b")]
    kept = [KeptJob(str(n), n, message.SerializeToString()) for n, message in enumerate(messages)]
    joined, number = KeptMessages(job_to_proto).serialize_list(kept, 10**6)
    assert number == len(messages)
    assert [job.SerializeToString() for job in parse_jobs(joined)] == [each.content for each in kept]


def test_lists_that_are_too_large_are_cut():
    """A list ends before the job that would exceed the limit, and has one job at least."""
    kept = [KeptJob(str(n), n, bytes(100)) for n in range(5)]
    messages = KeptMessages(job_to_proto)
    assert [messages.serialize_list(kept, limit)[1] for limit in (0, 99, 100, 299, 300, 500)] == [
        1,
        1,
        1,
        2,
        3,
        5,
    ]
    assert messages.serialize_list([], 0) == (b"", 0)


def parse_jobs(content: bytes) -> list[Message]:
    return list(job_service_pb2.ListJobsResponse.FromString(content).jobs)


def ended_view(number: int) -> JobView:
    return JobView(new_job(number, state=State.SUCCEEDED))
