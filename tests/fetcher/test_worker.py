"""The worker on fakes: the order of its steps, and what ends an attempt."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf import duration_pb2
from tests.fetcher.fakes import FakeDelivery, FakeQueue
from tests.fetcher.worker_harness import JOB, OTHER_JOB, WorkerHarness

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, PlaylistEntry, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul.work.v1 import lease_pb2, lease_service_pb2, work_pb2
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.proxy_usage import Refusal, Usage
from reelhaul_runtime.errors import ReelhaulError, from_status


@pytest.fixture
def harness(tmp_path: Path) -> WorkerHarness:
    """A harness with one slot."""
    return WorkerHarness(tmp_path)


async def test_finish_before_ack(harness: WorkerHarness) -> None:
    """A job is claimed, downloaded, stored, finished and only then acknowledged; no files are left."""
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    assert harness.log == ["claim", "finish", "ack"]
    (artifact,) = harness.outcome.succeeded.artifacts
    content, metadata = harness.artifacts.stored[artifact.name]
    assert (content, metadata.job, metadata.epoch, metadata.tenant) == (b"a video", JOB, 1, "local")
    assert harness.work_dirs == []
    assert not harness.guard.open_sessions


async def test_progress_is_published(harness: WorkerHarness) -> None:
    """Progress is published in order and never reaches 100 percent."""
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    notices = harness.queue.published
    assert list(range(1, len(notices) + 1)) == [notice.sequence for notice in notices]
    assert notices[-1].progress.stage == Progress.UPLOADING
    assert 94 < notices[-1].progress.percent < 100
    assert {1} == {notice.progress.attempt for notice in notices}


async def test_progress_says_that_storage_is_away(harness: WorkerHarness) -> None:
    """While storage is away, the progress says so; then the upload goes on."""
    harness.artifacts.available.clear()
    async with harness.running():
        harness.enqueue()
        await harness.wait_published(lambda progress: progress.detail == "waiting: storage does not answer")
        harness.artifacts.available.set()
        await harness.wait_logged("ack")
    assert harness.outcome.HasField("succeeded")
    assert harness.queue.published[-1].progress.detail == ""


async def test_no_ack_while_jobs_is_away(harness: WorkerHarness) -> None:
    """While jobs is away Finish is retried, and the item is not acknowledged."""
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
        harness.leases.unavailable = True
        harness.engine.go.set()
        await harness.wait_logged("finish")
        assert "ack" not in harness.log
        harness.leases.unavailable = False
        await harness.wait_logged("ack")
    assert harness.outcome.HasField("succeeded")


async def test_refused_renewal_discards_result(tmp_path: Path) -> None:
    """A lost lease stops the fetch; nothing is finished or stored under it."""
    harness = WorkerHarness(tmp_path, lease_seconds=0.06)
    harness.engine.go.clear()
    harness.leases.renew_response.refusal.reason = lease_pb2.Refusal.LOST
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    assert harness.engine.stopped
    assert harness.leases.finishes == []
    assert harness.work_dirs == []
    assert harness.artifacts.stored == {}
    assert harness.artifacts.prepared == set()


async def test_prepares_artifact_during_verification(harness: WorkerHarness) -> None:
    """Storage prepares the file while it is verified; if that fails, nothing is left of it."""
    harness.engine.go.clear()
    harness.engine.failure = ReelhaulError(ErrorReason.VERIFICATION_FAILED, "it does not play")
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
        assert [path.name for path in harness.artifacts.prepared] == ["result.mp4"]
        harness.engine.go.set()
        await harness.wait_logged("ack")
    assert harness.outcome.HasField("failed")
    assert harness.artifacts.stored == {}
    assert harness.artifacts.prepared == set()


async def test_refused_claim_with_delay(harness: WorkerHarness) -> None:
    """A job that another worker holds is redelivered when that lease may have expired."""
    delay = duration_pb2.Duration()
    delay.FromTimedelta(timedelta(seconds=12))
    harness.leases.refusal = lease_pb2.Refusal(reason=lease_pb2.Refusal.LEASED, retry_delay=delay)
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("nak 12")
    assert harness.log == ["claim", "nak 12"]


async def test_in_progress_after_renewal(tmp_path: Path) -> None:
    """The item is extended after each successful renewal; metadata is sent with the first one only."""
    harness = WorkerHarness(tmp_path, lease_seconds=0.06)
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("in progress")
        harness.engine.go.set()
        await harness.wait_logged("ack")
    assert harness.log.index("renew") < harness.log.index("in progress")
    assert [r.media.title for r in harness.leases.renewals if r.HasField("media")] == ["A video"]


class IgnoresFirstCancellation:
    """A coroutine that drops its first cancellation, as nats-py does while it waits for a hung broker."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def wait(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


async def test_publisher_ignores_cancellation(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt ends even if the broker's client drops the cancellation of a publish."""
    stuck = IgnoresFirstCancellation()
    monkeypatch.setattr(FakeQueue, "publish_progress", lambda *_: stuck.wait())
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
        await stuck.reached.wait()
        harness.engine.go.set()
        await harness.wait_logged("ack")
    assert harness.outcome.HasField("succeeded")


async def test_renewal_ignores_cancellation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt ends even if the broker's client drops the cancellation of the lease keeper."""
    harness, stuck = WorkerHarness(tmp_path, lease_seconds=0.06), IgnoresFirstCancellation()
    monkeypatch.setattr(FakeDelivery, "in_progress", lambda *_: stuck.wait())
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await stuck.reached.wait()
        harness.engine.go.set()
        await harness.wait_logged("ack")
    assert harness.outcome.HasField("succeeded")


async def test_cancel_by_hint(harness: WorkerHarness) -> None:
    """A stop hint causes a renewal at once; its answer cancels the fetch."""
    harness.engine.go.clear()
    harness.leases.renew_response.renewal.cancel_requested = True
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
        harness.queue.put_hint(work_pb2.StopHint(job=JOB, epoch=7))
        harness.queue.put_hint(work_pb2.StopHint(job=JOB, epoch=1))
        await harness.wait_logged("ack")
    assert harness.engine.stopped
    assert harness.outcome.HasField("cancelled")
    assert harness.log == ["claim", "renew", "finish", "ack"]


async def test_drain_requeues(harness: WorkerHarness) -> None:
    """Work that does not end within the grace period is released to the queue."""
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
    await harness.worker.drain(grace=0.01)
    assert harness.outcome.released.reason == lease_service_pb2.FinishRequest.Released.DRAIN
    assert harness.log[-1] == "ack"
    assert harness.work_dirs == []


async def test_drain_waits(harness: WorkerHarness) -> None:
    """Work that ends within the grace period succeeds."""
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
    asyncio.get_running_loop().call_later(0.05, harness.engine.go.set)
    await harness.worker.drain(grace=5)
    assert harness.outcome.HasField("succeeded")


async def test_no_more_than_slots(harness: WorkerHarness) -> None:
    """A second job is not taken while the only slot is in use."""
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        harness.enqueue(OTHER_JOB)
        await harness.engine.started.wait()
        assert harness.log == ["claim"]
        harness.engine.go.set()
        await harness.wait_logged("ack", count=2)
    assert [finish.job for finish in harness.leases.finishes] == [JOB, OTHER_JOB]


async def test_recording_uses_no_slot(harness: WorkerHarness) -> None:
    """A recording frees its slot for another job; a drain ends it as a file, which is stored at any cost."""
    harness.engine.live = True
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
        assert harness.worker.busy == 0
        harness.engine.live = False
        harness.enqueue(OTHER_JOB)
        await harness.wait_logged("ack")
    assert len(harness.leases.finishes) == 1
    await harness.worker.drain(5)
    assert [finish.WhichOneof("outcome") for finish in harness.leases.finishes] == ["succeeded"] * 2
    # Only the recording cannot be received again, however long storage is away.
    assert len(harness.artifacts.irreplaceable) == 1
    assert len(harness.artifacts.stored) == 2
    assert harness.work_dirs == []


async def test_recording_is_reported_at_once(harness: WorkerHarness) -> None:
    """Jobs learns of a recording at once, not at the next renewal: a user may end it."""
    harness.engine.live = True
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("renew")
        assert [renewal.progress.stage for renewal in harness.leases.renewals] == [Progress.RECORDING]
    await harness.worker.drain(5)
    assert [w.reason for w in harness.outcome.succeeded.warnings] == [MediaWarning.RECORDING_CUT]


async def test_user_ends_recording(harness: WorkerHarness) -> None:
    """A recording that its user ends becomes a file with the warning RECORDING_STOPPED."""
    harness.engine.live = True
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("renew")
        harness.leases.renew_response.renewal.stop_recording = True
        harness.queue.put_hint(work_pb2.StopHint(job=JOB, epoch=1))
        await harness.wait_logged("ack")
    assert [w.reason for w in harness.outcome.succeeded.warnings] == [MediaWarning.RECORDING_STOPPED]
    assert len(harness.outcome.succeeded.artifacts) == 1


async def test_stop_recording_ignored_by_download(harness: WorkerHarness) -> None:
    """A download that records nothing ignores stop_recording."""
    harness.engine.go.clear()
    harness.leases.renew_response.renewal.stop_recording = True
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
        harness.queue.put_hint(work_pb2.StopHint(job=JOB, epoch=1))
        await harness.wait_logged("in progress")
        harness.engine.go.set()
        await harness.wait_logged("ack")
    assert harness.outcome.HasField("succeeded")


async def test_recording_ended_under_earlier_lease(tmp_path: Path) -> None:
    """It records a moment of the live stream in its slot and needs no recording capacity."""
    harness = WorkerHarness(tmp_path, recordings=0)
    harness.engine.live = True
    harness.leases.specs[JOB].recording_stopped = True
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    (order,) = harness.engine.requests
    assert isinstance(order, FetchRequest)
    assert order.recording_stopped
    assert [w.reason for w in harness.outcome.succeeded.warnings] == [MediaWarning.RECORDING_STOPPED]


async def test_no_more_recordings_than_allowed(tmp_path: Path) -> None:
    """A recording beyond the limit is released for ten seconds and frees its slot."""
    harness = WorkerHarness(tmp_path, recordings=0)
    harness.engine.live = True
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    assert harness.outcome.released.reason == lease_service_pb2.FinishRequest.Released.RECORDERS_BUSY
    assert harness.outcome.released.retry_delay.seconds == 10
    assert (harness.worker.busy, harness.engine.stopped) == (0, True)


async def test_failure_reason_and_delay(harness: WorkerHarness) -> None:
    """A failed fetch is finished with its reason and with the site's Retry-After."""
    harness.engine.failure = ReelhaulError(
        ErrorReason.UPSTREAM_THROTTLED, "slow down", retry_delay=timedelta(seconds=90)
    )
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    failed = harness.outcome.failed
    assert from_status(failed.status).reason == ErrorReason.UPSTREAM_THROTTLED
    assert failed.retry_hint.retry_delay.seconds == 90


@pytest.mark.parametrize("reason", [ErrorReason.EXTRACTOR_FAILED, ErrorReason.FORMAT_UNAVAILABLE])
async def test_guard_refusal_explains_failure(harness: WorkerHarness, reason: ErrorReason.ValueType) -> None:
    """If the guard refused a host, the failure is URL_FORBIDDEN, whatever the engine reports."""
    harness.engine.failure = ReelhaulError(reason, "no formats")
    harness.guard.reported_usage = Usage(10, refusals=(Refusal("10.0.0.1", "private"),))
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    error = from_status(harness.outcome.failed.status)
    assert (error.reason, error.metadata["host"]) == (ErrorReason.URL_FORBIDDEN, "10.0.0.1")


async def test_unexpected_error_is_internal(harness: WorkerHarness) -> None:
    """An unexpected exception fails the attempt with INTERNAL_ERROR; the worker goes on."""
    harness.engine.failure = RuntimeError("oops")
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
        harness.engine.failure = None
        harness.log.clear()
        harness.enqueue()
        await harness.wait_logged("ack")
    assert [f.WhichOneof("outcome") for f in harness.leases.finishes] == ["failed", "succeeded"]
    assert from_status(harness.leases.finishes[0].failed.status).reason == ErrorReason.INTERNAL_ERROR


async def test_attempt_deadline(harness: WorkerHarness) -> None:
    """An attempt past its deadline is stopped with ATTEMPT_TIMED_OUT."""
    harness.leases.specs[JOB].attempt_deadline.FromTimedelta(timedelta(seconds=0.05))
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    assert harness.engine.stopped
    assert from_status(harness.outcome.failed.status).reason == ErrorReason.ATTEMPT_TIMED_OUT


@pytest.mark.parametrize(("delay_seconds", "expected"), [(None, 60), (1, 5), (90, 90), (86_400, 6 * 3600)])
async def test_wait_for_live_event(harness: WorkerHarness, delay_seconds: int | None, expected: int) -> None:
    """A job that waits for a live event is released until it begins."""
    delay = None if delay_seconds is None else timedelta(seconds=delay_seconds)
    harness.engine.failure = ReelhaulError(ErrorReason.MEDIA_NOT_LIVE_YET, "not yet", retry_delay=delay)
    harness.leases.specs[JOB].format.live.mode = FormatSpec.Live.WAIT
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    released = harness.outcome.released
    assert released.reason == lease_service_pb2.FinishRequest.Released.LIVE_NOT_BEGUN
    assert released.retry_delay.ToTimedelta() == timedelta(seconds=expected)


async def test_no_wait_for_live_event(harness: WorkerHarness) -> None:
    """With mode RECORD an event that has not begun is a failure."""
    harness.engine.failure = ReelhaulError(ErrorReason.MEDIA_NOT_LIVE_YET, "not yet")
    harness.leases.specs[JOB].format.live.mode = FormatSpec.Live.RECORD
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    assert from_status(harness.outcome.failed.status).reason == ErrorReason.MEDIA_NOT_LIVE_YET


async def test_no_wait_after_recording_ended(harness: WorkerHarness) -> None:
    """A recording that its user ended and that was lost does not wait for the next event."""
    harness.engine.failure = ReelhaulError(ErrorReason.MEDIA_NOT_LIVE_YET, "not yet")
    spec = harness.leases.specs[JOB]
    spec.format.live.mode, spec.recording_stopped = FormatSpec.Live.WAIT, True
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    error = from_status(harness.outcome.failed.status)
    assert (error.reason, "not yet" in error.text) == (ErrorReason.RECORDING_LOST, True)


async def test_entries_are_sent_before_finish(harness: WorkerHarness) -> None:
    """A list's entries are sent in renewals of at most 500, in order; then it is finished without files."""
    harness.engine.entries = [PlaylistEntry(url=f"https://v.example/{n}", position=n) for n in range(1, 1202)]
    harness.leases.specs[JOB].expansion.max_entries = 1200
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    calls = [call for call in harness.log if call != "in progress"]
    assert calls == ["claim", "renew", "renew", "renew", "finish", "ack"]
    assert [len(renewal.entries) for renewal in harness.leases.renewals] == [500, 500, 200]
    assert harness.leases.renewals[0].media.title == "A video"
    assert not harness.outcome.succeeded.artifacts
    (warning,) = harness.outcome.succeeded.warnings
    assert warning.reason == media_pb2.Warning.ENTRIES_TRUNCATED
    assert not harness.guard.open_sessions


async def test_entries_survive_jobs_outage(harness: WorkerHarness) -> None:
    """While jobs is away no entries are lost; they are sent when it is back."""
    harness.engine.entries = [PlaylistEntry(url="https://v.example/1", position=1)]
    harness.leases.specs[JOB].expansion.max_entries = 5
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("claim")
        harness.leases.unavailable = True
        await harness.wait_logged("renew")
        harness.engine.go.set()
        harness.leases.unavailable = False
        await harness.wait_logged("ack")
    assert [len(renewal.entries) for renewal in harness.leases.renewals] == [1]


async def test_guard_session_budgets(harness: WorkerHarness) -> None:
    """The guard session has the job's byte limit plus an allowance for pages.

    It lives a little longer than the job's deadline, so that the attempt's own error says what happened.
    """
    spec = harness.leases.specs[JOB]
    spec.format.max_size_bytes = 7_000_000
    spec.attempt_deadline.FromTimedelta(timedelta(minutes=5))
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    assert harness.guard.budgets == [(7_000_000 + 64 * 1024 * 1024, 300 + 5)]
