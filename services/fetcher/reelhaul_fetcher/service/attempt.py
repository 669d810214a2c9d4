"""Attempt: one run of a download on a worker; of a work item, from its claim to its acknowledgement."""

from __future__ import annotations

import asyncio
import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_fetcher.model.disk_limits import DiskUsage
from reelhaul_fetcher.ports import ArtifactMetadata, Delivery, Leases, WorkQueue
from reelhaul_fetcher.service import lease_keeper, outcomes
from reelhaul_fetcher.service.disk_space import DiskMonitor
from reelhaul_fetcher.service.download import Downloader, artifact_metadata
from reelhaul_fetcher.service.fetches import FetchRegistry, TrackedFetch
from reelhaul_fetcher.service.lease_keeper import LeaseKeeper, StopReason
from reelhaul_fetcher.service.outcomes import Finish
from reelhaul_fetcher.service.progress_reporter import ProgressReporter
from reelhaul_fetcher.service.slots import Slot
from reelhaul_runtime import failpoints, logs
from reelhaul_runtime.errors import ReelhaulError, from_status
from reelhaul_runtime.sites import site_of
from reelhaul_runtime.tasks import cancel_and_wait
from reelhaul_runtime.tracing import spans
from reelhaul_runtime.tracing.spans import Attribute, Kind

log = logging.getLogger(__name__)

# Failures after which the media received is deleted: it may be the cause, or the disk is short.
_DISCARDING_REASONS = frozenset(
    {
        ErrorReason.INTERNAL_ERROR,
        ErrorReason.MEDIA_TOO_LARGE,
        ErrorReason.POSTPROCESSING_FAILED,
        ErrorReason.VERIFICATION_FAILED,
        ErrorReason.WORKER_DISK_FULL,
    }
)
# Until an item is redelivered whose job could not be claimed, or whose outcome jobs never accepted.
_UNCLAIMED_DELAY = timedelta(seconds=2)
_UNFINISHED_DELAY = timedelta(seconds=30)


@dataclass(slots=True)
class AttemptContext:
    """What all attempts of a worker share."""

    leases: Leases
    queue: WorkQueue
    downloader: Downloader
    disk: DiskMonitor
    worker: str
    describe_slot: Callable[[], lease_pb2.Slot]
    clock: Callable[[], float]
    fetches: FetchRegistry = field(default_factory=FetchRegistry)
    #: The latest attempt of each job that downloads.
    downloading: dict[str, LeasedAttempt] = field(default_factory=dict)


class Attempt(ABC):
    """``run`` takes it to its end; the other public methods control it meanwhile."""

    def __init__(self, context: AttemptContext, slot: Slot, job: str) -> None:
        self._context = context
        self.slot = slot
        self.job = job
        #: 0 until the job is claimed.
        self.epoch = 0
        #: How callers of this worker see it; None until the job is claimed.
        self.fetch: TrackedFetch | None = None
        #: The outcome, once it is final.
        self.committed: Finish | None = None
        self._renew_now = asyncio.Event()
        self._reporter: ProgressReporter | None = None
        self._work: asyncio.Task[Finish.Succeeded] | None = None
        self._stop_reason: StopReason | None = None

    @abstractmethod
    async def run(self) -> None:
        """Run the attempt to its end."""

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop."""
        return self._stop_reason is not None

    def renew_now(self) -> None:
        """Renew the lease at once, after a hint from jobs."""
        self._renew_now.set()

    def hand_back(self) -> None:
        """Stop, and requeue the job."""
        self._stop(outcomes.released_for_drain())

    def evict(self, *, own_fault: bool) -> None:
        """Stop, because the disk is full; *own_fault* if the job alone is too large for this worker."""
        log.warning("evicted for want of disk space", extra={"job": self.job, "own_fault": own_fault})
        if own_fault:
            self._stop(outcomes.failed_too_large(self.job, self._context.worker))
        else:
            self._stop(outcomes.released_for_disk())

    def disk_usage(self) -> DiskUsage:
        """Return its disk usage. Blocks on the disk."""
        written = self._context.downloader.scratch.used_bytes(self.job, self.epoch)
        latest = self._reporter.latest if self._reporter else Progress()
        # Later stages make one file out of another, of unknown size.
        total = latest.total_bytes if latest.stage == Progress.DOWNLOADING else 0
        return DiskUsage(written, max(0, total - written))

    def end_recording(self, reason: MediaWarning.Reason.ValueType = MediaWarning.RECORDING_CUT) -> None:
        """If it records a live stream, end the recording with what it has."""
        if self._reporter is not None and self.slot.recording:
            self._reporter.end_recording(reason)

    def _create_reporter(
        self,
        lease: lease_pb2.Lease,
        number: int,
        fetch: TrackedFetch,
        metadata: ArtifactMetadata,
        queue: WorkQueue | None,
    ) -> ProgressReporter:
        artifacts = self._context.downloader.artifacts
        self.fetch = fetch
        self._reporter = ProgressReporter(
            self.job,
            lease.epoch,
            number,
            queue,
            recording_started=lambda: self._on_recording_started(lease.spec),
            media_file_ready=lambda product: artifacts.prepare(product, metadata),
            published=fetch.update_progress,
            renew_now=self.renew_now,
            site=site_of(lease.spec.url),
            clock=self._context.clock,
        )
        return self._reporter

    async def _execute(
        self,
        lease: lease_pb2.Lease,
        metadata: ArtifactMetadata,
        reporter: ProgressReporter,
        keep_lease: Coroutine[Any, Any, None] | None = None,
    ) -> StopReason:
        """Download under *lease*, with *keep_lease* beside it; return the outcome or why it was stopped."""
        self._work = asyncio.create_task(self._download(lease, metadata, reporter))
        if self.stopping:
            self._work.cancel()
        keeping = asyncio.create_task(keep_lease) if keep_lease else None
        try:
            async with reporter.publishing():
                await asyncio.wait({self._work})
                reporter.record_end(self._work)
        finally:
            # The keeper is stopped first, so that it does not cancel the download's clean-up as well.
            self._work.cancel()
            if keeping:
                await cancel_and_wait(keeping)
            await asyncio.wait({self._work})
        outcome = await self._outcome(self._work, lease)
        if isinstance(outcome, Finish) and _discards_received(outcome):
            await self._discard()
        return outcome

    async def _outcome(self, work: asyncio.Task[Finish.Succeeded], lease: lease_pb2.Lease) -> StopReason:
        if work.cancelled() and self._stop_reason is not None:
            return self._stop_reason
        error = work.exception()
        if error is None:
            return Finish(succeeded=work.result())
        return await self._failure_outcome(error, lease)

    async def _discard(self) -> None:
        """Delete the media received: no other attempt of the job continues it."""
        await self._context.downloader.scratch.discard(self.job)

    async def _download(
        self, lease: lease_pb2.Lease, metadata: ArtifactMetadata, reporter: ProgressReporter
    ) -> Finish.Succeeded:
        seconds = lease.spec.attempt_deadline.ToTimedelta().total_seconds()
        try:
            async with asyncio.timeout(seconds or None) as deadline:
                result, _ = await self._context.downloader.download(self.job, lease, metadata, reporter)
                return result
        except TimeoutError:
            if not deadline.expired():
                raise
            raise ReelhaulError(
                ErrorReason.ATTEMPT_TIMED_OUT,
                f"the attempt took longer than {seconds:.0f} s",
                metadata={"deadline": f"{seconds:.0f}s"},
            ) from None

    async def _failure_outcome(self, error: BaseException, lease: lease_pb2.Lease) -> Finish:
        error = outcomes.explain_lost_recording(error, lease)
        if released := outcomes.released_until_live(error, lease):
            return released
        disk_full = isinstance(error, ReelhaulError) and error.reason == ErrorReason.WORKER_DISK_FULL
        if disk_full:
            await self._discard()
            # The job's own bytes are deleted by now: if the disk is still full, others fill it.
            if await self._context.disk.measure():
                return outcomes.released_for_disk()
        return outcomes.failed(error, self.job, self._context.worker)

    def _on_recording_started(self, spec: lease_pb2.FetchSpec) -> None:
        assert self._reporter is not None
        if spec.recording_stopped:
            # Its user ended it under an earlier lease: a moment is recorded, which needs no other place.
            self._reporter.end_recording(MediaWarning.RECORDING_STOPPED)
        elif not self.slot.start_recording():
            self._stop(outcomes.released_for_recorders())

    def _stop(self, reason: StopReason) -> None:
        # The first reason counts, except that a lost lease overrides every other.
        if self._stop_reason is None or isinstance(reason, lease_pb2.Refusal):
            self._stop_reason = reason
        if self._work is not None:
            self._work.cancel()


def _discards_received(outcome: Finish) -> bool:
    """Return whether no other attempt may continue the media received after *outcome*."""
    if outcome.HasField("failed"):
        return from_status(outcome.failed.status).reason in _DISCARDING_REASONS
    return outcome.HasField("released") and outcome.released.reason == Finish.Released.DISK


class LeasedAttempt(Attempt):
    """The attempt of a work item. The item is acknowledged only after jobs has answered Finish."""

    def __init__(self, context: AttemptContext, delivery: Delivery, slot: Slot) -> None:
        super().__init__(context, slot, delivery.item.job)
        self._delivery = delivery
        self._downloaded = asyncio.Event()

    async def run(self) -> None:
        """Claim, download, finish, acknowledge."""
        logs.begin_request("", self._delivery.item.traceparent)
        logs.job.set(self.job)
        logs.attempt.set(self._delivery.item.attempt)
        with spans.start("process WORK", Kind.CONSUMER) as span:
            if span.recorded:
                span.set(self._span_attributes())
            await self._process()

    def _span_attributes(self) -> dict[str, Attribute]:
        """Return the attributes of the span of the item.

        https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
        """
        return {
            "messaging.system": "nats",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "WORK",
            "messaging.message.id": f"{self.job.removeprefix('jobs/')}/{self._delivery.item.attempt}",
            "reelhaul.job": self.job,
        }

    async def _process(self) -> None:
        context, number = self._context, self._delivery.item.attempt
        request = lease_service_pb2.ClaimRequest(
            job=self.job,
            attempt=number,
            worker=context.worker,
            slot=context.describe_slot(),
            request_id=str(uuid.uuid4()),
        )
        response = await lease_keeper.claim_lease(context.leases, request, context.clock)
        if response is None:
            await self._delivery.nak(_UNCLAIMED_DELAY)
            return
        if not response.HasField("lease"):
            await self._settle_refusal(response.refusal)
            return
        lease = response.lease
        logs.tenant.set(lease.spec.tenant)
        self.epoch = lease.epoch
        fetch = context.fetches.begin(lease.spec, f"{self.job}/attempts/{number}")
        metadata = artifact_metadata(self.job, lease.epoch, lease.spec)
        reporter = self._create_reporter(lease, number, fetch, metadata, context.queue)
        log.info("claimed", extra={"job": self.job, "epoch": lease.epoch})
        failpoints.hit("fetcher.claim.after")
        async with self._exclusive_download():
            # The spans of the download are those of the attempt, which jobs records when it ends.
            with spans.continuing(lease.spec.traceparent):
                outcome = await self._execute(lease, metadata, reporter, self._keep_lease(lease, reporter))
        if isinstance(outcome, lease_pb2.Refusal):
            log.info("lease lost", extra={"job": self.job, "epoch": self.epoch, "cause": outcome.message})
            await self._settle_refusal(outcome)
        else:
            await self._finish(outcome, reporter)

    @asynccontextmanager
    async def _exclusive_download(self) -> AsyncIterator[None]:
        """Make this the only downloading attempt of its job on this worker, until the block exits.

        An earlier attempt has lost its lease, perhaps without notice yet: it is stopped first.
        """
        downloading = self._context.downloading
        earlier, downloading[self.job] = downloading.get(self.job), self
        try:
            if earlier is not None:
                text = "the worker has a later lease of the job"
                earlier._stop(lease_pb2.Refusal(reason=lease_pb2.Refusal.LOST, message=text))
                await earlier._downloaded.wait()
            yield
        finally:
            if downloading.get(self.job) is self:
                del downloading[self.job]
            self._downloaded.set()

    def _keep_lease(self, lease: lease_pb2.Lease, reporter: ProgressReporter) -> Coroutine[Any, Any, None]:
        keeper = LeaseKeeper(
            self._context.leases,
            self._delivery,
            lease.epoch,
            self._context.worker,
            reporter,
            self._stop,
            partial(self.end_recording, MediaWarning.RECORDING_STOPPED),
        )
        interval = lease.lease_duration.ToTimedelta().total_seconds() / 3
        return keeper.keep(interval, self._renew_now)

    async def _finish(self, request: Finish, reporter: ProgressReporter) -> None:
        """Report the outcome until jobs answers, however long it is away; then settle the item."""
        failpoints.hit("fetcher.finish.before")
        request.job, request.epoch = self.job, self.epoch
        request.progress.CopyFrom(reporter.latest)
        request.http_statuses.update(reporter.status_counts.http_statuses)
        # The progress also counts bytes that an earlier attempt received.
        request.ingress_bytes = reporter.usage.ingress_bytes
        stored = [artifact.name for artifact in request.succeeded.artifacts]
        response = await lease_keeper.finish_lease(self._context.leases, request, self._context.worker)
        failpoints.hit("fetcher.ack.before")
        committed = response is not None and response.HasField("receipt") and not response.receipt.cancelled
        if committed:
            self.committed = request
        if not (committed and request.HasField("succeeded")):
            await self._context.downloader.artifacts.delete(stored)
        if response is not None and response.receipt.job_ended:
            await self._discard()
        if response is None:
            await self._delivery.nak(_UNFINISHED_DELAY)
        elif response.HasField("refusal"):
            await self._settle_refusal(response.refusal)
        else:
            log.info("finished", extra={"job": self.job, "outcome": request.WhichOneof("outcome")})
            await self._delivery.ack()

    async def _settle_refusal(self, refusal: lease_pb2.Refusal) -> None:
        """Hand the item back if jobs says when to retry; otherwise its job needs no worker: acknowledge."""
        if refusal.job_ended:
            await self._discard()
        if refusal.HasField("retry_delay"):
            await self._delivery.nak(refusal.retry_delay.ToTimedelta())
        else:
            await self._delivery.ack()
