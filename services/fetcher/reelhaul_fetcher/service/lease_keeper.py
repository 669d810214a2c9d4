"""Keeping a lease: renewed every third of it, at once when hinted, and obeyed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_fetcher.ports import Delivery, Leases
from reelhaul_fetcher.service.outcomes import Finish
from reelhaul_fetcher.service.progress_reporter import Reporter
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
        reporter: Reporter,
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
            reporter.entries_sent(len(entries))
            await self._delivery.in_progress()
        return True
