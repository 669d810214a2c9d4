"""One work item, from its claim to its acknowledgement: never acknowledged before Finish is answered."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Progress
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_fetcher.model.disk_limits import DiskUsage
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_fetcher.ports import Delivery, Leases, WorkQueue
from reelhaul_fetcher.service import lease_keeper, outcomes
from reelhaul_fetcher.service.disk_space import DiskMonitor
from reelhaul_fetcher.service.download import Downloader
from reelhaul_fetcher.service.fetches import FetchRegistry, TrackedFetch
from reelhaul_fetcher.service.lease_keeper import LeaseKeeper, Stop
from reelhaul_fetcher.service.outcomes import Finish
from reelhaul_fetcher.service.progress_reporter import ProgressReporter
from reelhaul_fetcher.service.slots import Slot
from reelhaul_runtime import failpoints
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)


@dataclass(slots=True)
class AttemptContext:
    """What every attempt of a worker works with."""

    leases: Leases
    queue: WorkQueue
    downloader: Downloader
    disk: DiskMonitor
    worker: str
    describe_slot: Callable[[], lease_pb2.Slot]
    clock: Callable[[], float]
    fetches: FetchRegistry = field(default_factory=FetchRegistry)


class Attempt:
    """One delivery. ``run`` takes it to its end; the other methods reach into it meanwhile."""

    def __init__(
        self, bench: AttemptContext, delivery: Delivery, place: Slot, fetch: TrackedFetch | None = None
    ) -> None:
        self._bench, self._delivery, self.slot = bench, delivery, place
        #: How it shows to who asks this worker; None until the job is claimed.
        self.fetch = fetch
        #: The outcome that was committed, once one is.
        self.committed: Finish | None = None
        self.job = delivery.item.job
        #: 0 until the job is claimed.
        self.epoch = 0
        self._usage = Usage()
        self._hint = asyncio.Event()
        self._reporter: ProgressReporter | None = None
        self._work: asyncio.Task[Finish.Succeeded] | None = None
        self._stopped: Stop | None = None

    @property
    def stopping(self) -> bool:
        """Whether its work was told to end."""
        return self._stopped is not None

    def renew_now(self) -> None:
        """Do not wait for the next turn: jobs has something to say."""
        self._hint.set()

    def hand_back(self) -> None:
        """Stop, and give the job back to the queue as unfinished."""
        self._stop(outcomes.drained())

    def evict(self, *, own_fault: bool) -> None:
        """Stop, for want of space: *own_fault* where the job alone is too large for this worker."""
        log.warning("evicted for want of disk space", extra={"job": self.job, "own_fault": own_fault})
        worker = self._bench.worker
        self._stop(
            outcomes.too_large_for_worker(self.job, worker) if own_fault else outcomes.released_for_disk()
        )

    def disk_usage(self) -> DiskUsage:
        """What it takes of the disk. Blocks for a look at its folder."""
        written = self._bench.downloader.scratch.used_bytes(self.job, self.epoch)
        latest = self._reporter.latest if self._reporter else Progress()
        # Later stages make one file out of another; how large that is, nobody knows.
        coming = latest.total_bytes if latest.stage == Progress.DOWNLOADING else 0
        return DiskUsage(written, max(0, coming - written))

    def end_recording(self, why: Warned.Reason.ValueType = Warned.RECORDING_CUT) -> None:
        """If it records, that is enough: what there is becomes its file."""
        if self._reporter is not None and self.slot.recording:
            self._reporter.end_recording(why)

    async def run(self) -> None:
        """Claim, work, finish, acknowledge."""
        bench = self._bench
        claimed = await lease_keeper.claim_lease(bench.leases, self._claim(), bench.clock)
        if claimed is None:
            await self._delivery.nak(timedelta(seconds=2))
            return
        if not claimed.HasField("lease"):
            await self.settle_refusal(claimed.refusal)
            return
        lease = claimed.lease
        self.epoch = lease.epoch
        reporter = self._reporter = self._reporting(lease)
        log.info("claimed", extra={"job": self.job, "epoch": lease.epoch})
        failpoints.hit("fetcher.claim.after")
        outcome = await self._outcome(lease, reporter)
        if isinstance(outcome, lease_pb2.Refusal):
            log.info("lease lost", extra={"job": self.job, "epoch": self.epoch, "why": outcome.message})
            await self.settle_refusal(outcome)
            return
        await self._finish(outcome, reporter)

    def _claim(self) -> lease_service_pb2.ClaimRequest:
        return lease_service_pb2.ClaimRequest(
            job=self.job,
            attempt=self._delivery.item.attempt,
            worker=self._bench.worker,
            slot=self._bench.describe_slot(),
            request_id=str(uuid.uuid4()),
        )

    def _reporting(self, lease: lease_pb2.Lease) -> ProgressReporter:
        number = self._delivery.item.attempt
        if self.fetch is None:
            self.fetch = self._bench.fetches.begin(lease.spec, f"{self.job}/attempts/{number}")
        reporter = ProgressReporter(self._bench.queue, self.job, lease.epoch, number, self.renew_now)
        reporter.recording_callback = self._recording
        if lease.spec.recording_stopped:
            # It takes a moment: no room beside the slots is needed for that.
            reporter.recording_callback = partial(reporter.end_recording, Warned.RECORDING_STOPPED)
        reporter.on_published = self.fetch.update_progress
        return reporter

    async def _outcome(self, lease: lease_pb2.Lease, reporter: ProgressReporter) -> Stop:
        """How the work under *lease* ended."""
        self._work = asyncio.create_task(self._worked(lease, reporter))
        if self._stopped is not None:
            self._work.cancel()
        keeper = LeaseKeeper(
            self._bench.leases,
            self._delivery,
            lease.epoch,
            reporter,
            self._stop,
            partial(self.end_recording, Warned.RECORDING_STOPPED),
        )
        turn = lease.lease_duration.ToTimedelta().total_seconds() / 3
        keeping = asyncio.create_task(keeper.keep(turn, self._hint))
        try:
            async with reporter.publishing():
                await asyncio.wait({self._work})
        finally:
            # Once: what it cleans up is not to be cancelled as well.
            self._work.cancel()
            await cancel_and_wait(keeping)
            await asyncio.wait({self._work})
        if self._work.cancelled() and self._stopped is not None:
            return self._stopped
        error = self._work.exception()
        if error is None:
            return Finish(succeeded=self._work.result())
        return await self._unsuccessful(error, lease)

    async def _worked(self, lease: lease_pb2.Lease, reporter: ProgressReporter) -> Finish.Succeeded:
        seconds = lease.spec.attempt_deadline.ToTimedelta().total_seconds()
        try:
            async with asyncio.timeout(seconds or None) as deadline:
                done, self._usage = await self._bench.downloader.download(self.job, lease, reporter)
                return done
        except TimeoutError:
            if not deadline.expired():
                raise
            raise ReelhaulError(
                ErrorReason.ATTEMPT_TIMED_OUT,
                f"the attempt took longer than {seconds:.0f} s",
                metadata={"deadline": f"{seconds:.0f}s"},
            ) from None

    async def _unsuccessful(self, error: BaseException, lease: lease_pb2.Lease) -> Finish:
        error = outcomes.explain_lost_recording(error, lease)
        if released := outcomes.release_until_live(error, lease):
            return released
        full = isinstance(error, ReelhaulError) and error.reason == ErrorReason.WORKER_DISK_FULL
        # Its own folder is gone by now: who is short of space still was not filled by this job.
        if full and await self._bench.disk.measure():
            return outcomes.released_for_disk()
        return outcomes.failed(error, self.job, self._bench.worker)

    def _recording(self) -> None:
        """It lasts as long as the broadcast does: others are to have the slot."""
        if not self.slot.start_recording():
            self._stop(outcomes.recorders_busy())

    def _stop(self, why: Stop) -> None:
        # The first reason holds; but a lost lease ends all others.
        if self._stopped is None or isinstance(why, lease_pb2.Refusal):
            self._stopped = why
        if self._work is not None:
            self._work.cancel()

    async def _finish(self, request: Finish, reporter: ProgressReporter) -> None:
        """Tell the outcome until jobs answers, however long it is away; then settle the item."""
        failpoints.hit("fetcher.finish.before")
        request.job, request.epoch = self.job, self.epoch
        request.progress.CopyFrom(reporter.latest)
        request.http_statuses.update(reporter.status_counts.http_statuses)
        request.ingress_bytes = self._usage.ingress_bytes or reporter.latest.downloaded_bytes
        stored = [artifact.name for artifact in request.succeeded.artifacts]
        answer = await lease_keeper.finish_lease(self._bench.leases, request, self._bench.worker)
        failpoints.hit("fetcher.ack.before")
        committed = answer is not None and answer.HasField("receipt") and not answer.receipt.cancelled
        if committed:
            self.committed = request
        if not (committed and request.HasField("succeeded")):
            # Nobody will ask for it.
            await self._bench.downloader.artifacts.delete(stored)
        if answer is None:
            await self._delivery.nak(timedelta(seconds=30))
        elif answer.HasField("refusal"):
            await self.settle_refusal(answer.refusal)
        else:
            log.info("finished", extra={"job": self.job, "as": request.WhichOneof("outcome")})
            await self._delivery.ack()

    async def settle_refusal(self, refusal: lease_pb2.Refusal) -> None:
        """Hand the item back where jobs says when; else it is dealt with."""
        if refusal.HasField("retry_delay"):
            await self._delivery.nak(refusal.retry_delay.ToTimedelta())
        else:
            await self._delivery.ack()
