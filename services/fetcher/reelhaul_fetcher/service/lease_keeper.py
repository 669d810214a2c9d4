"""Leases: claims a job, renews its lease while it runs, and finishes it, also while jobs is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from google.rpc import code_pb2

from reelhaul.backoff import Backoff
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_fetcher.ports import Delivery, Leases
from reelhaul_fetcher.service import outcomes
from reelhaul_fetcher.service.outcomes import Finish
from reelhaul_fetcher.service.progress_reporter import ProgressReporter
from reelhaul_runtime.errors import ReelhaulError

log = logging.getLogger(__name__)

#: Why an attempt is stopped: its outcome, or the refusal that took its lease.
StopReason = Finish | lease_pb2.Refusal

_CLAIM_TIMEOUT_SECONDS = 10.0
# Entries of a list that one renewal sends.
_MAX_ENTRIES = 500
# The longest wait after a renewal that jobs did not answer.
_RETRY_SECONDS = 1.0


async def claim_lease(
    leases: Leases, request: lease_service_pb2.ClaimRequest, clock: Callable[[], float]
) -> lease_service_pb2.ClaimResponse | None:
    """Return the response of jobs; None if it stays away.

    All tries have one request_id: a repeated claim gets the same lease.
    """
    give_up = clock() + _CLAIM_TIMEOUT_SECONDS
    async for _ in _tries():
        if clock() >= give_up:
            break
        try:
            return await leases.claim(request)
        except ReelhaulError as error:
            log.warning("claim failed", extra={"job": request.job, "cause": error.text})
    return None


async def finish_lease(
    leases: Leases, request: Finish, worker: str
) -> lease_service_pb2.FinishResponse | None:
    """Return the response of jobs, however long it is away; None if it will never accept an outcome.

    An outcome that it rejects as invalid is replaced by a failure, which says so.
    """
    async for _ in _tries():
        try:
            return await leases.finish(request)
        except ReelhaulError as error:
            log.warning("finish failed", extra={"job": request.job, "cause": error.text})
            if error.code == code_pb2.INVALID_ARGUMENT:
                if request.HasField("failed"):
                    break
                # A bug of ours; it must not hold the job forever.
                request.failed.CopyFrom(outcomes.failed(error, request.job, worker).failed)
    return None


async def _tries() -> AsyncIterator[None]:
    backoff = Backoff()
    while True:
        yield
        await asyncio.sleep(backoff.next_delay())


class LeaseKeeper:
    """Renews one lease.

    *stop* is called with the reason if the attempt must end; *end_recording* at every renewal after
    the user has stopped the recording.
    """

    def __init__(
        self,
        leases: Leases,
        delivery: Delivery,
        epoch: int,
        reporter: ProgressReporter,
        stop: Callable[[StopReason], None],
        end_recording: Callable[[], None],
    ) -> None:
        self._leases, self._delivery, self._epoch = leases, delivery, epoch
        self._reporter, self._stop, self._end_recording = reporter, stop, end_recording

    async def keep(self, interval: float, renew_now: asyncio.Event) -> None:
        """Renew every *interval* seconds, and at once when *renew_now* is set, until cancelled."""
        wait = interval
        while True:
            try:
                async with asyncio.timeout(wait):
                    await renew_now.wait()
            except TimeoutError:
                pass
            renew_now.clear()
            wait = interval if await self._renew() else min(interval, _RETRY_SECONDS)

    async def _renew(self) -> bool:
        """Renew once; return False if jobs did not answer."""
        reporter, job = self._reporter, self._delivery.item.job
        media = reporter.unsent_media
        entries = reporter.unsent_entries[:_MAX_ENTRIES]
        request = lease_service_pb2.RenewRequest(
            job=job, epoch=self._epoch, progress=reporter.latest, media=media, entries=entries
        )
        try:
            response = await self._leases.renew(request)
        except ReelhaulError as error:
            log.warning("renewal failed", extra={"job": job, "cause": error.text})
            return False
        if media is reporter.unsent_media:
            reporter.unsent_media = None
        if response.HasField("refusal"):
            self._stop(response.refusal)
        elif response.renewal.cancel_requested:
            self._stop(outcomes.cancelled())
        else:
            if response.renewal.stop_recording:
                self._end_recording()
            reporter.mark_entries_sent(len(entries))
            await self._delivery.in_progress()
        return True
