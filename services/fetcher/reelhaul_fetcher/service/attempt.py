"""One work item, from its claim to its acknowledgement: never acknowledged before Finish is answered."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from google.rpc import code_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_fetcher.ports import Delivery, Leases, Queue, Usage
from reelhaul_fetcher.service.ending import ended
from reelhaul_fetcher.service.fetching import Fetching
from reelhaul_fetcher.service.places import Place
from reelhaul_fetcher.service.reporting import Reporter
from reelhaul_runtime import failpoints
from reelhaul_runtime.errors import ReelhaulError, to_status

log = logging.getLogger(__name__)

Finish = lease_service_pb2.FinishRequest

_CLAIM_SECONDS = 10.0
# Between two looks at an event that has not begun.
_SHORTEST_WAIT, _LONGEST_WAIT = timedelta(seconds=5), timedelta(hours=6)
_UNTOLD_WAIT = timedelta(minutes=1)
# Until a recording that found no room is tried again, here or elsewhere.
_ROOM_WAIT = timedelta(seconds=10)
# What one renewal may carry.
_ENTRIES = 500
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


@dataclass(slots=True)
class Bench:
    """What every attempt of a worker works with."""

    leases: Leases
    queue: Queue
    fetching: Fetching
    worker: str
    slot: Callable[[], lease_pb2.Slot]
    clock: Callable[[], float]


class Attempt:
    """One delivery. ``run`` takes it to its end; the other methods reach into it meanwhile."""

    def __init__(self, bench: Bench, delivery: Delivery, place: Place) -> None:
        self._bench, self._delivery, self.place = bench, delivery, place
        self._enough = asyncio.Event()
        self.job = delivery.item.job
        #: 0 until the job is claimed.
        self.epoch = 0
        self._usage = Usage()
        self._hint = asyncio.Event()
        self._work: asyncio.Task[Finish.Succeeded] | None = None
        # Why the work was stopped, if it was: an outcome, or the refusal that took the lease.
        self._stopped: Finish | lease_pb2.Refusal | None = None

    def renew_now(self) -> None:
        """Do not wait for the next turn: jobs has something to say."""
        self._hint.set()

    def hand_back(self) -> None:
        """Stop, and give the job back to the queue as unfinished."""
        released = Finish.Released(reason=Finish.Released.DRAIN)
        self._stop(Finish(released=released))

    def end_recording(self) -> None:
        """If it records, that is enough: what there is becomes its file."""
        if self.place.recording:
            self._enough.set()

    async def run(self) -> None:
        """Claim, work, finish, acknowledge."""
        claimed = await self._claimed()
        if claimed is None:
            await self._delivery.nak(timedelta(seconds=2))
            return
        if not claimed.HasField("lease"):
            await self._obey(claimed.refusal)
            return
        lease = claimed.lease
        self.epoch = lease.epoch
        bench = self._bench
        reporter = Reporter(bench.queue, self.job, lease.epoch, self._delivery.item.attempt, self.renew_now)
        reporter.enough, reporter.on_recording = self._enough, self._recording
        log.info("claimed", extra={"job": self.job, "epoch": lease.epoch})
        failpoints.reached("fetcher.claim.after")
        outcome = await self._outcome(lease, reporter)
        if isinstance(outcome, lease_pb2.Refusal):
            log.info("lease lost", extra={"job": self.job, "epoch": self.epoch, "why": outcome.message})
            await self._obey(outcome)
            return
        await self._finish(outcome, reporter)

    async def _claimed(self) -> lease_service_pb2.ClaimResponse | None:
        """jobs' answer; None where it stays away. One request_id: a repeated claim gets the same lease."""
        request = lease_service_pb2.ClaimRequest(
            job=self.job,
            attempt=self._delivery.item.attempt,
            worker=self._bench.worker,
            slot=self._bench.slot(),
            request_id=str(uuid.uuid4()),
        )
        give_up = self._bench.clock() + _CLAIM_SECONDS
        pause = _FIRST_PAUSE
        while self._bench.clock() < give_up:
            try:
                return await self._bench.leases.claim(request)
            except ReelhaulError as error:
                log.warning("claim failed", extra={"job": self.job, "cause": error.text})
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return None

    async def _outcome(self, lease: lease_pb2.Lease, reporter: Reporter) -> Finish | lease_pb2.Refusal:
        """How the work under *lease* ended."""
        self._work = asyncio.create_task(self._worked(lease, reporter))
        if self._stopped is not None:
            self._work.cancel()
        keeping = asyncio.create_task(self._keep(lease, reporter))
        try:
            async with reporter.publishing():
                await asyncio.wait({self._work})
        finally:
            # Once: what it cleans up is not to be cancelled as well.
            self._work.cancel()
            await ended(keeping)
            await asyncio.wait({self._work})
        if self._work.cancelled() and self._stopped is not None:
            return self._stopped
        error = self._work.exception()
        if error is None:
            return Finish(succeeded=self._work.result())
        if released := _until_it_begins(error, lease):
            return Finish(released=released)
        return Finish(failed=self._failed(error))

    async def _worked(self, lease: lease_pb2.Lease, reporter: Reporter) -> Finish.Succeeded:
        seconds = lease.spec.attempt_deadline.ToTimedelta().total_seconds()
        try:
            async with asyncio.timeout(seconds or None) as deadline:
                done, self._usage = await self._bench.fetching.fetched(self.job, lease, reporter)
                return done
        except TimeoutError:
            if not deadline.expired():
                raise
            raise ReelhaulError(
                ErrorReason.ATTEMPT_TIMED_OUT,
                f"the attempt took longer than {seconds:.0f} s",
                metadata={"deadline": f"{seconds:.0f}s"},
            ) from None

    async def _keep(self, lease: lease_pb2.Lease, reporter: Reporter) -> None:
        """Renew every third of the lease, and at once when hinted; do what the answers say."""
        turn = lease.lease_duration.ToTimedelta().total_seconds() / 3
        wait = turn
        while True:
            try:
                async with asyncio.timeout(wait):
                    await self._hint.wait()
            except TimeoutError:
                pass
            self._hint.clear()
            wait = turn if await self._renewed(reporter) else min(turn, 1.0)

    async def _renewed(self, reporter: Reporter) -> bool:
        """Renew once; False where jobs did not answer."""
        media = reporter.unsent_media
        entries = reporter.unsent_entries[:_ENTRIES]
        request = lease_service_pb2.RenewRequest(
            job=self.job, epoch=self.epoch, progress=reporter.latest, media=media, entries=entries
        )
        try:
            answer = await self._bench.leases.renew(request)
        except ReelhaulError as error:
            log.warning("renewal failed", extra={"job": self.job, "cause": error.text})
            return False
        if media is reporter.unsent_media:
            reporter.unsent_media = None
        if answer.HasField("refusal"):
            self._stop(answer.refusal)
        elif answer.renewal.cancel_requested:
            self._stop(Finish(cancelled=Finish.Cancelled()))
        else:
            reporter.entries_sent(len(entries))
            await self._delivery.in_progress()
        return True

    def _recording(self) -> None:
        """It lasts as long as the broadcast does: others are to have the slot."""
        if self.place.record():
            return
        released = Finish.Released(reason=Finish.Released.RECORDERS_BUSY)
        released.retry_delay.FromTimedelta(_ROOM_WAIT)
        self._stop(Finish(released=released))

    def _stop(self, why: Finish | lease_pb2.Refusal) -> None:
        # The first reason holds; but a lost lease ends all others.
        if self._stopped is None or isinstance(why, lease_pb2.Refusal):
            self._stopped = why
        if self._work is not None:
            self._work.cancel()

    def _failed(self, error: BaseException) -> Finish.Failed:
        if not isinstance(error, ReelhaulError):
            log.error("unexpected failure of a fetch", extra={"job": self.job}, exc_info=error)
            text = f"a bug in the worker ({type(error).__name__}); its log tells more"
            error = ReelhaulError(ErrorReason.INTERNAL_ERROR, text, metadata={"requestId": self.job})
        if error.reason == ErrorReason.WORKER_DISK_FULL:
            error.metadata["worker"] = self._bench.worker
        hint = lease_pb2.RetryHint(avoid_worker=error.reason == ErrorReason.WORKER_DISK_FULL)
        if error.retry_delay is not None:
            hint.retry_delay.FromTimedelta(error.retry_delay)
        log.info(
            "fetch failed",
            extra={"job": self.job, "reason": ErrorReason.Name(error.reason), "cause": error.text},
        )
        return Finish.Failed(status=to_status(error), retry_hint=hint)

    async def _finish(self, request: Finish, reporter: Reporter) -> None:
        """Tell the outcome until jobs answers, however long it is away; then settle the item."""
        failpoints.reached("fetcher.finish.before")
        request.job, request.epoch = self.job, self.epoch
        request.progress.CopyFrom(reporter.latest)
        request.http_statuses.update(reporter.sightings.http_statuses)
        request.ingress_bytes = self._usage.ingress_bytes or reporter.latest.downloaded_bytes
        pause = _FIRST_PAUSE
        while True:
            try:
                answer = await self._bench.leases.finish(request)
                break
            except ReelhaulError as error:
                log.warning("finish failed", extra={"job": self.job, "cause": error.text})
                if error.code == code_pb2.INVALID_ARGUMENT:
                    if request.HasField("failed"):
                        await self._delivery.nak(timedelta(seconds=30))
                        return
                    # jobs will never take this outcome: a bug, which must not hold the job for ever.
                    request.failed.CopyFrom(self._failed(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        failpoints.reached("fetcher.ack.before")
        if answer.HasField("refusal"):
            await self._obey(answer.refusal)
        else:
            log.info("finished", extra={"job": self.job, "as": request.WhichOneof("outcome")})
            await self._delivery.ack()

    async def _obey(self, refusal: lease_pb2.Refusal) -> None:
        """Hand the item back where jobs says when; else it is dealt with."""
        if refusal.HasField("retry_delay"):
            await self._delivery.nak(refusal.retry_delay.ToTimedelta())
        else:
            await self._delivery.ack()


def _until_it_begins(error: BaseException, lease: lease_pb2.Lease) -> Finish.Released | None:
    """Back to the queue until an announced event begins, where that is to be waited for."""
    announced = isinstance(error, ReelhaulError) and error.reason == ErrorReason.MEDIA_NOT_LIVE_YET
    if not announced or lease.spec.format.live.mode != FormatSpec.Live.WAIT:
        return None
    assert isinstance(error, ReelhaulError)
    # Events are put off, and brought forward: it is looked at again from time to time.
    wait = error.retry_delay if error.retry_delay is not None else _UNTOLD_WAIT
    released = Finish.Released(reason=Finish.Released.LIVE_NOT_BEGUN)
    released.retry_delay.FromTimedelta(min(max(wait, _SHORTEST_WAIT), _LONGEST_WAIT))
    return released
