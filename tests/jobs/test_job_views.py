"""Views of jobs, alike in reads, lists and streams: why a job waits, a lost worker, a playlist's progress."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.jobs.conftest import TIMEOUT
from tests.jobs.replica import LEASE, START, Replica

from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressResponse
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.api.downloads import responses
from reelhaul_jobs.api.downloads.streams import serialize_message
from reelhaul_jobs.model import leases, playlist_expansion, queue_transitions, user_actions, wait_reason
from reelhaul_jobs.model.job import Expansion, Job
from reelhaul_jobs.model.rate_limit import SiteLimits
from reelhaul_jobs.model.results import JobView
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.states import Kind, State
from reelhaul_jobs.model.wait_reason import Shortage, WorkerStatus
from reelhaul_jobs.model.watch import Pace, Snapshot
from reelhaul_jobs.ports.bus import ProgressNotice
from reelhaul_jobs.ports.jobs import Query, find_nothing
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.job_views import JobViews
from reelhaul_jobs.service.jobs import Jobs
from reelhaul_jobs.service.watch import limits
from reelhaul_jobs.service.watch.job_stream import JobStreams
from reelhaul_jobs.service.watch.resume_tokens import ResumeTokens
from reelhaul_jobs.service.watch.watched_jobs import WatchedJobs

FAST = Pace(progress=0.001, heartbeat=60)
UNTIL = datetime(2030, 1, 2, tzinfo=UTC)


class Readers:
    """All that show jobs, over the stores of one replica."""

    def __init__(self, replica: Replica, site_limits: SiteLimits | None = None) -> None:
        tokens = ResumeTokens(b"k" * 32)
        self.views = JobViews(replica.store, replica.store, replica.hub, replica.now, LEASE, site_limits)
        notifier = ChangeNotifier(replica.hub, replica.bus)
        self.jobs = Jobs(replica.store, self.views, notifier, None, replica.now)  # type: ignore[arg-type]
        watched = WatchedJobs(replica.store, self.views, replica.bus, replica.hub, tokens, replica.now)
        self.streams = JobStreams(watched, replica.hub, tokens, replica.now)

    async def reasons(self, job_id: str) -> dict[str, str]:
        """Return why the job waits, as status, list and stream say."""
        status = await self.status(job_id)
        listed = await self.listed(job_id)
        stream = self.streams.watch(job_id, None, "", FAST)
        first = decode(await anext(stream), job_id).snapshot
        await stream.aclose()
        return {
            "status": status.wait_reason,
            "list": responses.download(listed).wait_reason,
            "stream": first.wait_reason,
        }

    async def status(self, job_id: str) -> Download:
        """Return the job as its status shows it."""
        view = await self.jobs.get_or_kept(job_id, None, find_nothing)
        assert isinstance(view, JobView)
        return responses.download(view)

    async def listed(self, job_id: str) -> JobView:
        """Return the job as lists show it."""
        page = await self.jobs.page(Query(tenant=None, limit=10), find_nothing)
        (listed,) = [view for view in page.jobs if isinstance(view, JobView) and view.job.id == job_id]
        return listed


def decode(message, job_id: str) -> WatchProgressResponse:
    return WatchProgressResponse.FromString(serialize_message(job_id, message))


@pytest.fixture
def readers(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> Readers:
    monkeypatch.setattr(limits, "VIEW_REFRESH_SECONDS", 0.02)
    return Readers(replica)


def released(reason: ErrorReason.ValueType) -> leases.Outcome:
    error = error_status(reason, "for a reason")
    return leases.Outcome(result=leases.Released(delay=timedelta(minutes=5), error=error))


async def _in_queue(replica: Replica) -> Job:
    replica.hub.record_worker(WorkerStatus("w", 2))
    return await replica.add()


async def _no_worker(replica: Replica) -> Job:
    return await replica.add()


async def _disk_full(replica: Replica) -> Job:
    replica.hub.record_worker(WorkerStatus("w", 2, Shortage.DISK))
    return await replica.add()


async def _egress_spent(replica: Replica) -> Job:
    replica.hub.record_worker(WorkerStatus("w", 2, Shortage.EGRESS, UNTIL))
    return await replica.add()


async def _scheduled(replica: Replica) -> Job:
    return await replica.add(schedule_time=START + timedelta(hours=1))


async def _paused(replica: Replica) -> Job:
    job = await replica.add()
    return (await replica.store.change(job.id, lambda j: user_actions.pause(j, replica.time))).job


async def _disk_of_its_worker(replica: Replica) -> Job:
    job = await replica.add()
    await replica.claim(job.id)
    outcome = released(ErrorReason.WORKER_DISK_FULL)
    return (await replica.store.change(job.id, lambda j: leases.finish(j, 1, outcome, replica.time))).job


async def _event_not_begun(replica: Replica) -> Job:
    job = await replica.add()
    await replica.claim(job.id)
    outcome = released(ErrorReason.MEDIA_NOT_LIVE_YET)
    return (await replica.store.change(job.id, lambda j: leases.finish(j, 1, outcome, replica.time))).job


async def _backoff(replica: Replica) -> Job:
    job = await replica.add()
    await replica.claim(job.id)
    outcome = leases.Outcome(
        result=leases.Failed(error=error_status(ErrorReason.UPSTREAM_UNAVAILABLE, "down"))
    )
    return (await replica.store.change(job.id, lambda j: leases.finish(j, 1, outcome, replica.time))).job


async def _worker_lost(replica: Replica) -> Job:
    job = await replica.add()
    await replica.claim(job.id)
    replica.time += LEASE / 2
    return job


async def _running(replica: Replica) -> Job:
    job = await replica.add()
    await replica.claim(job.id)
    return job


@pytest.mark.parametrize(
    ("arrange", "reason"),
    [
        (_in_queue, "IN_QUEUE"),
        (_no_worker, "NO_WORKER"),
        (_disk_full, "DISK_FULL"),
        (_egress_spent, "EGRESS_SPENT"),
        (_scheduled, "SCHEDULED"),
        (_paused, "PAUSED"),
        (_disk_of_its_worker, "DISK_FULL"),
        (_event_not_begun, "LIVE_NOT_BEGUN"),
        (_backoff, "BACKOFF"),
        (_worker_lost, "WORKER_LOST"),
        (_running, ""),
    ],
)
async def test_one_reason_everywhere(replica, readers, arrange, reason):
    """Status, lists and streams give the same reason why a job waits."""
    job = await arrange(replica)
    assert await readers.reasons(job.id) == {"status": reason, "list": reason, "stream": reason}


async def test_site_limit_everywhere(replica):
    """A site at its limit is the reason in status, lists and streams."""
    replica.hub.record_worker(WorkerStatus("w", 2))
    readers = Readers(replica, SiteLimits(max_running=1))
    running = await replica.add()
    await replica.claim(running.id)
    job = await replica.add()
    assert set((await readers.reasons(job.id)).values()) == {"SITE_BUSY"}


async def test_change_of_the_reason_is_streamed(replica, readers):
    """A change of the wait reason without a change of the state is streamed, each reason once."""
    job = await replica.add()
    stream = readers.streams.watch(job.id, None, "", FAST)
    assert decode(await anext(stream), job.id).snapshot.wait_reason == "NO_WORKER"
    token, sequence = "", 0
    async with asyncio.timeout(TIMEOUT):
        for shortage, reason in ((Shortage.DISK, "DISK_FULL"), (Shortage.NONE, "IN_QUEUE")):
            replica.hub.record_worker(WorkerStatus("w", 2, shortage))
            readers.views.clear_caches()
            replica.time += timedelta(seconds=1)
            message = await anext(stream)
            state = decode(message, job.id).state
            assert (state.old_status, state.status, state.wait_reason) == (1, 1, reason)
            assert message.sequence > sequence
            sequence, token = message.sequence, message.resume_token
        await stream.aclose()
        resumed = readers.streams.watch(job.id, None, token, replace(FAST, heartbeat=0.05))
        assert decode(await anext(resumed), job.id).HasField("heartbeat")
        await resumed.aclose()


SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("since_renewal", "progress_age", "is_lost"),
    [
        (0, None, False),
        (10, None, False),
        (10.9, None, False),
        (11.1, None, True),
        (11.1, 0.2, False),
        (11.1, 5, True),
        (25, 0.2, False),
        (29, 20, True),
        (45, None, True),
    ],
)
def test_lost_worker(since_renewal, progress_age, is_lost):
    """A worker that neither renewed in time nor sent progress is lost, within one renewal."""
    job = Job(
        id="1",
        tenant="a",
        url="https://v.example/1",
        format=media_pb2.FormatSpec(),
        create_time=START,
        update_time=START,
    )
    job = job.replace_fields(state=State.RUNNING, due=START + timedelta(seconds=30), worker="w")
    now = START + timedelta(seconds=since_renewal)
    wait = wait_reason.explain_lost_worker(
        job, None if progress_age is None else timedelta(seconds=progress_age), timedelta(seconds=30), now
    )
    assert (wait is not None) is is_lost
    if wait:
        assert (wait.reason.name, wait.until) == ("WORKER_LOST", job.due)
        progress = wait_reason.progress_of_lost_worker(
            media_pb2.Progress(percent=40, bytes_per_second=9), wait
        )
        assert (progress.percent, progress.bytes_per_second, progress.stage) == (
            40,
            0,
            media_pb2.Progress.WAITING,
        )
        assert "WORKER_LOST" in progress.detail


async def test_lost_worker_is_streamed(replica, readers):
    """Watchers of a job whose worker is lost get progress without a rate; its return is shown too."""
    job = await replica.add()
    await replica.claim(job.id)
    rate = media_pb2.Progress(percent=30, bytes_per_second=1000)
    stream = readers.streams.watch(job.id, None, "", FAST)
    await anext(stream)
    replica.hub.publish_progress(ProgressNotice(job.id, 1, 7, rate))
    async with asyncio.timeout(TIMEOUT):
        assert decode(await anext(stream), job.id).progress.speed == 1000
        replica.hub.progress_age = lambda job_id: LEASE  # type: ignore[method-assign]
        replica.time += LEASE / 2
        message = await anext(stream)
        progress = decode(message, job.id).progress
        assert (progress.wait_reason, progress.HasField("speed")) == ("WORKER_LOST", False)
        assert progress.progress_percent == 30
        replica.hub.publish_progress(ProgressNotice(job.id, 1, 9, rate))
        assert decode(await anext(stream), job.id).progress.speed == 1000
    await stream.aclose()


async def test_renewal_is_noticed(replica, readers):
    """A worker that renews without progress is not shown as lost, though the row that was read is old."""
    job = await replica.add()
    await replica.claim(job.id)
    stream = readers.streams.watch(job.id, None, "", replace(FAST, heartbeat=0.1))
    await anext(stream)
    replica.time += LEASE / 2
    await replica.store.change(job.id, lambda j: leases.renew(j, 1, replica.time, LEASE))
    async with asyncio.timeout(TIMEOUT):
        for _ in range(3):
            message = decode(await anext(stream), job.id)
            assert message.progress.wait_reason in ("", "WORKER_LOST")
    assert (await readers.reasons(job.id))["status"] == ""
    await stream.aclose()


PARENT = Job(
    id="p",
    tenant="a",
    url="https://v.example/list",
    format=media_pb2.FormatSpec(),
    create_time=START,
    update_time=START,
    kind=Kind.EXPANSION,
    expansion=Expansion(entry_count=10, max_entries=100, job_count=4, skipped_count=2),
)
HALF = media_pb2.Progress(percent=50, downloaded_bytes=10, bytes_per_second=5)


@pytest.mark.parametrize(
    ("state", "counts", "running", "percent", "detail"),
    [
        (State.RUNNING, {}, [], 0, "0 of 8 jobs have ended"),
        (State.RUNNING, {State.QUEUED: 3, State.RUNNING: 1}, [HALF], 6.25, "0 of 8 jobs have ended"),
        (State.RUNNING, {State.SUCCEEDED: 4}, [], 50, "4 of 8 jobs have ended"),
        (State.SUCCEEDED, {State.QUEUED: 4}, [], 0, "0 of 4 jobs have ended"),
        (
            State.SUCCEEDED,
            {State.SUCCEEDED: 1, State.FAILED: 1, State.RUNNING: 2},
            [HALF, HALF],
            75,
            "2 of 4 jobs have ended, 1 failed",
        ),
        (State.SUCCEEDED, {State.SUCCEEDED: 399, State.RUNNING: 1}, [HALF], 99, "399 of 400 jobs have ended"),
        (State.SUCCEEDED, {State.SUCCEEDED: 3, State.CANCELLED: 1}, [], 100, "4 of 4 jobs have ended"),
        (State.FAILED, {State.SUCCEEDED: 2}, [], 100, "2 of 2 jobs have ended"),
    ],
)
def test_progress_of_a_playlist(state, counts, running, percent, detail):
    """The progress of a playlist is that of its jobs, and 100 % only when all of them have ended."""
    job = PARENT.replace_fields(state=state)
    progress = playlist_expansion.summarize_progress(job, counts, running, 100)
    assert (progress.percent, progress.detail) == (percent, detail)
    assert progress.downloaded_bytes == 100 + 10 * len(running)
    assert progress.bytes_per_second == 5 * len(running)
    assert dict(progress.job_counts) == {state.name: number for state, number in counts.items()}


async def test_stream_of_a_playlist(replica, readers):
    """The stream of a playlist has its children's progress, and ends when they have ended."""
    parent = await replica.add(kind=Kind.EXPANSION, expansion=Expansion(), batch_id="b")
    await replica.claim(parent.id)
    entries = [media_pb2.PlaylistEntry(url=f"https://v.example/{n}", position=n) for n in (1, 2)]

    def expand(job, seen):
        change = leases.renew(job, 1, replica.time, LEASE)
        return playlist_expansion.add_children(change, entries, seen, replica.time)

    children = (await replica.store.expand(parent.id, ["1", "2"], expand)).children
    succeeded = leases.Outcome(result=leases.Succeeded(media=media_pb2.MediaInfo(title="A list")))
    await replica.store.change(parent.id, lambda j: leases.finish(j, 1, succeeded, replica.time))
    status = await readers.status(parent.id)
    assert (status.progress_percent, dict(status.job_counts)) == (0, {"QUEUED": 2})
    listed = responses.download(await readers.listed(parent.id))
    assert (listed.progress_percent, dict(listed.job_counts)) == (0, {"QUEUED": 2})
    stream = readers.streams.watch(parent.id, None, "", FAST)
    first = decode(await anext(stream), parent.id)
    assert dict(first.snapshot.job_counts) == {"QUEUED": 2}
    received = []
    artifact = media_pb2.ArtifactInfo(name="artifacts/1")
    done = leases.Outcome(
        result=leases.Succeeded(media=media_pb2.MediaInfo(title="A video"), artifacts=(artifact,))
    )
    async with asyncio.timeout(TIMEOUT):
        for child in children:
            await replica.claim(child.id)
            replica.hub.publish_progress(ProgressNotice(child.id, 1, 1, HALF))
            progress = decode(await anext(stream), parent.id).progress
            while not progress.speed:
                progress = decode(await anext(stream), parent.id).progress
            received.append(progress.progress_percent)
            await replica.store.change(child.id, lambda j: leases.finish(j, 1, done, replica.time))
        rest = [message async for message in stream]
    assert received == [25, 75]
    assert isinstance(rest[-1].body, Snapshot)
    assert decode(rest[-1], parent.id).completed.progress_percent == 100
    assert [m.sequence for m in rest] == sorted({m.sequence for m in rest})
    assert not [m async for m in readers.streams.watch(parent.id, None, rest[-1].resume_token, FAST)]


async def test_cancelled_playlist_ends_its_stream(replica, readers):
    """The stream of a playlist without jobs ends with it."""
    parent = await replica.add(kind=Kind.EXPANSION, expansion=Expansion(), batch_id="b")
    await replica.store.change(parent.id, lambda j: queue_transitions.cancel(j, replica.time))
    async with asyncio.timeout(TIMEOUT):
        (only,) = [message async for message in readers.streams.watch(parent.id, None, "", FAST)]
    assert only.body.terminal
