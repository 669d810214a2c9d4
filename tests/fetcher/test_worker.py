"""The worker over twins in memory: the order of its steps, and what ends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf import duration_pb2
from tests.fetcher.fakes import (
    FakeArtifacts,
    FakeDelivery,
    FakeEngine,
    FakeGuard,
    FakeLeases,
    FakeQueue,
)

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, PlaylistEntry, Progress
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul.work.v1 import lease_pb2, lease_service_pb2, work_pb2
from reelhaul_fetcher.disk.workdir import WorkDirs
from reelhaul_fetcher.model.disk_limits import DiskThresholds
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.proxy_usage import Refusal, Usage
from reelhaul_fetcher.service.attempt import AttemptContext
from reelhaul_fetcher.service.disk_space import DiskMonitor
from reelhaul_fetcher.service.download import Downloader, Limits
from reelhaul_fetcher.service.worker import Worker
from reelhaul_runtime.errors import ReelhaulError, from_status

JOB = "jobs/018f0000-0000-7000-8000-000000000001"


class House:
    """A worker and all that it touches."""

    def __init__(self, place: Path, lease_seconds: float = 30.0, slots: int = 1, recordings: int = 1) -> None:
        self.log: list[str] = []
        self.place = place
        self.queue, self.leases = FakeQueue(self.log), FakeLeases(self.log, lease_seconds)
        self.engine, self.guard, self.artifacts = FakeEngine(), FakeGuard(), FakeArtifacts()
        #: Bytes free on its disk.
        self.free = 1 << 40
        scratch = WorkDirs(place, disk_free=lambda _: self.free)
        self.room = DiskMonitor(scratch, DiskThresholds(pause=1000, reserve=100))
        fetching = Downloader(self.engine, self.guard, self.artifacts, scratch, Limits(0, 60, 60))
        self.bench = AttemptContext(
            self.leases, self.queue, fetching, self.room, "worker-1", self._slot, time.monotonic
        )
        self.worker = Worker(self.bench, slots, recordings)
        self.leases.specs[JOB] = lease_pb2.FetchSpec(url="https://example.com/", tenant="local")

    def _slot(self) -> lease_pb2.Slot:
        return self.worker.describe_slot("default", self.engine.version, 1)

    def give(self, job: str = JOB) -> None:
        """Queue *job*."""
        self.leases.specs.setdefault(job, self.leases.specs[JOB])
        self.queue.put(work_pb2.WorkItem(job=job, attempt=1))

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """The worker runs within the block."""
        task = asyncio.create_task(self.worker.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def logged(self, entry: str) -> None:
        """Return when *entry* is in the log."""
        async with asyncio.timeout(5):
            while entry not in self.log:  # noqa: ASYNC110 - a list tells nobody
                await asyncio.sleep(0.005)

    @property
    def folders(self) -> list[Path]:
        """Work folders that are left."""
        return list(self.place.iterdir())

    @property
    def outcome(self) -> lease_service_pb2.FinishRequest:
        """The one outcome told."""
        (finish,) = self.leases.finishes
        return finish


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A house with one slot."""
    return House(tmp_path)


async def test_finish_before_ack(house: House) -> None:
    """A job is claimed, fetched, stored, finished and only then acknowledged; its folder is gone."""
    async with house.working():
        house.give()
        await house.logged("ack")
    assert house.log == ["claim", "finish", "ack"]
    (artifact,) = house.outcome.succeeded.artifacts
    content, stamp = house.artifacts.stored[artifact.name]
    assert (content, stamp.job, stamp.epoch, stamp.tenant) == (b"a video", JOB, 1, "local")
    assert house.folders == []
    assert not house.guard.open_passes


async def test_progress_is_published(house: House) -> None:
    """Watchers hear of stages in order, never of 100 percent."""
    async with house.working():
        house.give()
        await house.logged("ack")
    notices = house.queue.published
    assert list(range(1, len(notices) + 1)) == [notice.sequence for notice in notices]
    assert notices[-1].progress.stage == Progress.UPLOADING
    assert 94 < notices[-1].progress.percent < 100
    assert {1} == {notice.progress.attempt for notice in notices}


async def test_never_ack_while_jobs_is_away(house: House) -> None:
    """While jobs is away the result is kept and told again; the item stays ours until the answer."""
    house.engine.go.clear()
    async with house.working():
        house.give()
        await house.engine.started.wait()
        house.leases.unavailable = True
        house.engine.go.set()
        await house.logged("finish")
        assert "ack" not in house.log
        house.leases.unavailable = False
        await house.logged("ack")
    assert house.outcome.HasField("succeeded")


async def test_a_refused_renewal_discards(tmp_path: Path) -> None:
    """A lease that is lost stops the fetch, and nothing is finished under it."""
    house = House(tmp_path, lease_seconds=0.06)
    house.engine.go.clear()
    house.leases.renew_response.refusal.reason = lease_pb2.Refusal.LOST
    async with house.working():
        house.give()
        await house.logged("ack")
    assert house.engine.stopped
    assert house.leases.finishes == []
    assert house.folders == []
    assert house.artifacts.stored == {}
    assert house.artifacts.prepared == set()


async def test_announced_while_it_is_tried(house: House) -> None:
    """Storage hears of the file while it is still tried; of one that fails, nothing is left with it."""
    house.engine.go.clear()
    house.engine.failure = ReelhaulError(ErrorReason.VERIFICATION_FAILED, "it does not play")
    async with house.working():
        house.give()
        await house.engine.started.wait()
        assert [path.name for path in house.artifacts.prepared] == ["result.mp4"]
        house.engine.go.set()
        await house.logged("ack")
    assert house.outcome.HasField("failed")
    assert house.artifacts.stored == {}
    assert house.artifacts.prepared == set()


async def test_a_refusal_with_a_delay_hands_back(house: House) -> None:
    """A job that another worker holds comes again when that lease may be over."""
    delay = duration_pb2.Duration()
    delay.FromTimedelta(timedelta(seconds=12))
    house.leases.refusal = lease_pb2.Refusal(reason=lease_pb2.Refusal.LEASED, retry_delay=delay)
    async with house.working():
        house.give()
        await house.logged("nak 12")
    assert house.log == ["claim", "nak 12"]


async def test_in_progress_follows_a_good_renewal(tmp_path: Path) -> None:
    """JetStream hears that work goes on after each good renewal, and metadata goes along once."""
    house = House(tmp_path, lease_seconds=0.06)
    house.engine.go.clear()
    async with house.working():
        house.give()
        await house.logged("in progress")
        house.engine.go.set()
        await house.logged("ack")
    assert house.log.index("renew") < house.log.index("in progress")
    assert [r.media.title for r in house.leases.renewals if r.HasField("media")] == ["A video"]


class DeafOnce:
    """What drops the first cancellation, as nats-py does that waits for a broker that hangs."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def wait(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


async def test_a_publisher_that_drops_its_cancellation(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt ends also where the broker's client swallows that nothing is to be published any more."""
    deaf = DeafOnce()
    monkeypatch.setattr(FakeQueue, "publish_progress", lambda *_: deaf.wait())
    house.engine.go.clear()
    async with house.working():
        house.give()
        await house.engine.started.wait()
        await deaf.reached.wait()
        house.engine.go.set()
        await house.logged("ack")
    assert house.outcome.HasField("succeeded")


async def test_a_renewal_that_drops_its_cancellation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt ends also where the broker's client swallows that its lease is not renewed any more."""
    house, deaf = House(tmp_path, lease_seconds=0.06), DeafOnce()
    monkeypatch.setattr(FakeDelivery, "in_progress", lambda *_: deaf.wait())
    house.engine.go.clear()
    async with house.working():
        house.give()
        await deaf.reached.wait()
        house.engine.go.set()
        await house.logged("ack")
    assert house.outcome.HasField("succeeded")


async def test_cancel_by_hint(house: House) -> None:
    """A stop hint makes the worker renew at once; asked to cancel, it stops and says so."""
    house.engine.go.clear()
    house.leases.renew_response.renewal.cancel_requested = True
    async with house.working():
        house.give()
        await house.engine.started.wait()
        house.queue.put_hint(work_pb2.StopHint(job=JOB, epoch=7))
        house.queue.put_hint(work_pb2.StopHint(job=JOB, epoch=1))
        await house.logged("ack")
    assert house.engine.stopped
    assert house.outcome.HasField("cancelled")
    assert house.log == ["claim", "renew", "finish", "ack"]


async def test_drain_hands_back(house: House) -> None:
    """Work that does not end within the grace goes back to the queue as unfinished."""
    house.engine.go.clear()
    async with house.working():
        house.give()
        await house.engine.started.wait()
    await house.worker.drain(grace=0.01)
    assert house.outcome.released.reason == lease_service_pb2.FinishRequest.Released.DRAIN
    assert house.log[-1] == "ack"
    assert house.folders == []


async def test_drain_lets_end(house: House) -> None:
    """Work that ends within the grace succeeds."""
    house.engine.go.clear()
    async with house.working():
        house.give()
        await house.engine.started.wait()
    asyncio.get_running_loop().call_later(0.05, house.engine.go.set)
    await house.worker.drain(grace=5)
    assert house.outcome.HasField("succeeded")


async def test_no_more_than_slots(house: House) -> None:
    """A second job is not taken while the only slot is in use."""
    house.engine.go.clear()
    other = "jobs/018f0000-0000-7000-8000-000000000002"
    async with house.working():
        house.give()
        house.give(other)
        await house.engine.started.wait()
        assert house.log == ["claim"]
        house.engine.go.set()
        await house.logged("ack")
        async with asyncio.timeout(5):
            while house.log.count("ack") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    assert [JOB, other] == [finish.job for finish in house.leases.finishes]


async def test_a_recording_needs_no_slot(house: House) -> None:
    """While something is recorded its slot is another's; drained, the recording ends as a file."""
    house.engine.live = True
    async with house.working():
        house.give()
        await house.engine.started.wait()
        assert house.worker.busy == 0
        house.engine.live = False
        house.give("jobs/018f0000-0000-7000-8000-000000000002")
        await house.logged("ack")
    assert len(house.leases.finishes) == 1
    await house.worker.drain(5)
    assert [finish.WhichOneof("outcome") for finish in house.leases.finishes] == ["succeeded"] * 2
    assert house.folders == []


async def test_a_recording_is_told_at_once(house: House) -> None:
    """That something is recorded jobs hears at once, not at the next turn: a user may end it."""
    house.engine.live = True
    async with house.working():
        house.give()
        await house.logged("renew")
        assert [renewal.progress.stage for renewal in house.leases.renewals] == [Progress.RECORDING]
    await house.worker.drain(5)
    assert [warning.reason for warning in house.outcome.succeeded.warnings] == [Warned.RECORDING_CUT]


async def test_a_recording_that_its_user_ends(house: House) -> None:
    """Told at a hinted renewal that it is enough, a recording becomes a file that says who wanted it."""
    house.engine.live = True
    async with house.working():
        house.give()
        await house.logged("renew")
        house.leases.renew_response.renewal.stop_recording = True
        house.queue.put_hint(work_pb2.StopHint(job=JOB, epoch=1))
        await house.logged("ack")
    assert [warning.reason for warning in house.outcome.succeeded.warnings] == [Warned.RECORDING_STOPPED]
    assert len(house.outcome.succeeded.artifacts) == 1


async def test_only_a_recording_is_ended(house: House) -> None:
    """A download takes no notice of it."""
    house.engine.go.clear()
    house.leases.renew_response.renewal.stop_recording = True
    async with house.working():
        house.give()
        await house.engine.started.wait()
        house.queue.put_hint(work_pb2.StopHint(job=JOB, epoch=1))
        await house.logged("in progress")
        house.engine.go.set()
        await house.logged("ack")
    assert house.outcome.HasField("succeeded")


async def test_a_recording_that_was_ended_under_an_earlier_lease(tmp_path: Path) -> None:
    """It takes a moment of what is on air, in its slot: for that no room beside the slots is waited for."""
    house = House(tmp_path, recordings=0)
    house.engine.live = True
    house.leases.specs[JOB].recording_stopped = True
    async with house.working():
        house.give()
        await house.logged("ack")
    (order,) = house.engine.requests
    assert isinstance(order, FetchRequest)
    assert order.recording_stopped
    assert [warning.reason for warning in house.outcome.succeeded.warnings] == [Warned.RECORDING_STOPPED]


async def test_no_more_recordings_than_allowed(tmp_path: Path) -> None:
    """A recording for which there is no room goes back to the queue for a while, and frees its slot."""
    house = House(tmp_path, recordings=0)
    house.engine.live = True
    async with house.working():
        house.give()
        await house.logged("ack")
    assert house.outcome.released.reason == lease_service_pb2.FinishRequest.Released.RECORDERS_BUSY
    assert house.outcome.released.retry_delay.seconds == 10
    assert (house.worker.busy, house.engine.stopped) == (0, True)


async def test_a_failure_has_its_reason_and_its_wait(house: House) -> None:
    """A failed fetch is told with its reason, and with the site's Retry-After."""
    house.engine.failure = ReelhaulError(
        ErrorReason.UPSTREAM_THROTTLED, "slow down", retry_delay=timedelta(seconds=90)
    )
    async with house.working():
        house.give()
        await house.logged("ack")
    failed = house.outcome.failed
    assert from_status(failed.status).reason == ErrorReason.UPSTREAM_THROTTLED
    assert failed.retry_hint.retry_delay.seconds == 90


async def test_a_refusal_of_the_guard_stands_behind(house: House) -> None:
    """Where the guard refused a host, that is why the fetch failed, whatever the engine made of it."""
    house.engine.failure = ReelhaulError(ErrorReason.EXTRACTOR_FAILED, "no formats")
    house.guard.reported_usage = Usage(10, refusals=(Refusal("10.0.0.1", "private"),))
    async with house.working():
        house.give()
        await house.logged("ack")
    error = from_status(house.outcome.failed.status)
    assert (error.reason, error.metadata["host"]) == (ErrorReason.URL_FORBIDDEN, "10.0.0.1")


async def test_a_bug_is_told_as_one(house: House) -> None:
    """What nobody foresaw ends the attempt as INTERNAL_ERROR; the worker goes on."""
    house.engine.failure = RuntimeError("oops")
    async with house.working():
        house.give()
        await house.logged("ack")
        house.engine.failure = None
        house.log.clear()
        house.give()
        await house.logged("ack")
    assert [f.WhichOneof("outcome") for f in house.leases.finishes] == ["failed", "succeeded"]
    assert from_status(house.leases.finishes[0].failed.status).reason == ErrorReason.INTERNAL_ERROR


async def test_an_attempt_has_a_deadline(house: House) -> None:
    """Past its deadline an attempt is stopped, as ATTEMPT_TIMED_OUT."""
    house.leases.specs[JOB].attempt_deadline.FromTimedelta(timedelta(seconds=0.05))
    house.engine.go.clear()
    async with house.working():
        house.give()
        await house.logged("ack")
    assert house.engine.stopped
    assert from_status(house.outcome.failed.status).reason == ErrorReason.ATTEMPT_TIMED_OUT


@pytest.mark.parametrize(("told", "waited"), [(None, 60), (1, 5), (90, 90), (86_400, 6 * 3600)])
async def test_an_event_that_is_waited_for(house: House, told: int | None, waited: int) -> None:
    """A job that waits for an event goes back to the queue until it begins; no worker is held by it."""
    delay = None if told is None else timedelta(seconds=told)
    house.engine.failure = ReelhaulError(ErrorReason.MEDIA_NOT_LIVE_YET, "not yet", retry_delay=delay)
    house.leases.specs[JOB].format.live.mode = FormatSpec.Live.WAIT
    async with house.working():
        house.give()
        await house.logged("ack")
    released = house.outcome.released
    assert released.reason == lease_service_pb2.FinishRequest.Released.LIVE_NOT_BEGUN
    assert released.retry_delay.ToTimedelta() == timedelta(seconds=waited)


async def test_an_event_that_is_not_waited_for(house: House) -> None:
    """Who asked to record now is told that there is nothing yet."""
    house.engine.failure = ReelhaulError(ErrorReason.MEDIA_NOT_LIVE_YET, "not yet")
    house.leases.specs[JOB].format.live.mode = FormatSpec.Live.RECORD
    async with house.working():
        house.give()
        await house.logged("ack")
    assert from_status(house.outcome.failed.status).reason == ErrorReason.MEDIA_NOT_LIVE_YET


async def test_no_event_is_waited_for_once_the_recording_was_ended(house: House) -> None:
    """A recording that its user ended, and that was lost, does not wait for the next event."""
    house.engine.failure = ReelhaulError(ErrorReason.MEDIA_NOT_LIVE_YET, "not yet")
    spec = house.leases.specs[JOB]
    spec.format.live.mode, spec.recording_stopped = FormatSpec.Live.WAIT, True
    async with house.working():
        house.give()
        await house.logged("ack")
    told = from_status(house.outcome.failed.status)
    assert (told.reason, "not yet" in told.text) == (ErrorReason.RECORDING_LOST, True)


async def test_entries_are_with_jobs_before_the_list_is_finished(house: House) -> None:
    """A list's entries go out in renewals of at most 500, in order; then it is finished, with no files."""
    house.engine.entries = [PlaylistEntry(url=f"https://v.example/{n}", position=n) for n in range(1, 1202)]
    house.leases.specs[JOB].expansion.max_entries = 1200
    async with house.working():
        house.give()
        await house.logged("ack")
    calls = [call for call in house.log if call != "in progress"]
    assert calls == ["claim", "renew", "renew", "renew", "finish", "ack"]
    assert [len(renewal.entries) for renewal in house.leases.renewals] == [500, 500, 200]
    assert house.leases.renewals[0].media.title == "A video"
    assert not house.outcome.succeeded.artifacts
    (warning,) = house.outcome.succeeded.warnings
    assert warning.reason == media_pb2.Warning.ENTRIES_TRUNCATED
    assert not house.guard.open_passes


async def test_entries_wait_for_jobs(house: House) -> None:
    """While jobs is away nothing of a list is lost; it is told when jobs is back."""
    house.engine.entries = [PlaylistEntry(url="https://v.example/1", position=1)]
    house.leases.specs[JOB].expansion.max_entries = 5
    house.engine.go.clear()
    async with house.working():
        house.give()
        await house.logged("claim")
        house.leases.unavailable = True
        await house.logged("renew")
        house.engine.go.set()
        house.leases.unavailable = False
        await house.logged("ack")
    assert [len(renewal.entries) for renewal in house.leases.renewals] == [1]


async def test_budgets_of_a_pass(house: House) -> None:
    """The way out closes by itself: after the job's bytes, and room for what is around them, or its time."""
    spec = house.leases.specs[JOB]
    spec.quota_bytes = 5_000_000
    spec.format.max_size_bytes = 7_000_000
    spec.attempt_deadline.FromTimedelta(timedelta(minutes=5))
    async with house.working():
        house.give()
        await house.logged("ack")
    assert house.guard.budgets == [(5_000_000 + 64 * 1024 * 1024, 300)]
