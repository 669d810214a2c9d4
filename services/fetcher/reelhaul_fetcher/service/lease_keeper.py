"""Keeping a lease: renewed every third of it, at once when hinted, and obeyed."""

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

#: Why work is stopped: an outcome, or the refusal that took the lease.
Stop = Finish | lease_pb2.Refusal

# What one renewal may carry.
_ENTRIES = 500


class LeaseKeeper:
    """Renews one lease; *stop* hears why the work under it is to end.

    *end_recording* hears that what is recorded is enough for its user, at every renewal from then on.
    """

    def __init__(
        self,
        leases: Leases,
        delivery: Delivery,
        epoch: int,
        reporter: ProgressReporter,
        stop: Callable[[Stop], None],
        end_recording: Callable[[], None] = lambda: None,
    ) -> None:
        self._leases, self._delivery, self._epoch = leases, delivery, epoch
        self._reporter, self._stop, self._end_recording = reporter, stop, end_recording

    async def keep(self, turn: float, hint: asyncio.Event) -> None:
        """Renew every *turn* seconds, and at once when *hint* is set; for ever."""
        wait = turn
        while True:
            try:
                async with asyncio.timeout(wait):
                    await hint.wait()
            except TimeoutError:
                pass
            hint.clear()
            wait = turn if await self._renewed() else min(turn, 1.0)

    async def _renewed(self) -> bool:
        """Renew once; False where jobs did not answer."""
        reporter, job = self._reporter, self._delivery.item.job
        media = reporter.unsent_media
        entries = reporter.unsent_entries[:_ENTRIES]
        request = lease_service_pb2.RenewRequest(
            job=job, epoch=self._epoch, progress=reporter.latest, media=media, entries=entries
        )
        try:
            answer = await self._leases.renew(request)
        except ReelhaulError as error:
            log.warning("renewal failed", extra={"job": job, "cause": error.text})
            return False
        if media is reporter.unsent_media:
            reporter.unsent_media = None
        if answer.HasField("refusal"):
            self._stop(answer.refusal)
        elif answer.renewal.cancel_requested:
            self._stop(Finish(cancelled=Finish.Cancelled()))
        else:
            if answer.renewal.stop_recording:
                self._end_recording()
            reporter.mark_entries_sent(len(entries))
            await self._delivery.in_progress()
        return True


log = logging.getLogger(__name__)

_CLAIM_SECONDS = 10.0


async def claim_lease(
    leases: Leases, request: lease_service_pb2.ClaimRequest, clock: Callable[[], float]
) -> lease_service_pb2.ClaimResponse | None:
    """jobs' answer; None where it stays away. One request_id: a repeated claim gets the same lease."""
    give_up = clock() + _CLAIM_SECONDS
    async for _ in _turns():
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
    """jobs' answer to the outcome, however long it is away; None where it will never take one.

    An outcome that it refuses to read becomes the failure that this is.
    """
    async for _ in _turns():
        try:
            return await leases.finish(request)
        except ReelhaulError as error:
            log.warning("finish failed", extra={"job": request.job, "cause": error.text})
            if error.code == code_pb2.INVALID_ARGUMENT:
                if request.HasField("failed"):
                    break
                # A bug, which must not hold the job for ever.
                request.failed.CopyFrom(outcomes.failed(error, request.job, worker).failed)
    return None


async def _turns() -> AsyncIterator[None]:
    backoff = Backoff()
    while True:
        yield
        await asyncio.sleep(backoff.next_delay())
