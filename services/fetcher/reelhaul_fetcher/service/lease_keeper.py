"""Leases: claims a job, renews its lease while it runs, and finishes it, also while jobs is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from google.rpc import code_pb2

from reelhaul.backoff import Backoff
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import PlaylistEntry
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_fetcher.model.site_limits import MAX_ENTRIES_BYTES
from reelhaul_fetcher.ports import Delivery, Leases
from reelhaul_fetcher.service import outcomes
from reelhaul_fetcher.service.outcomes import Finish
from reelhaul_fetcher.service.progress_reporter import ProgressReporter
from reelhaul_runtime.errors import ReelhaulError, UndecodableResponse

log = logging.getLogger(__name__)

#: Why an attempt is stopped: its outcome, or the refusal that took its lease.
StopReason = Finish | lease_pb2.Refusal

_CLAIM_TIMEOUT_SECONDS = 10.0
# Entries of a list that one renewal sends.
_MAX_ENTRIES = 500
_FINAL_CODES = (code_pb2.INVALID_ARGUMENT, code_pb2.RESOURCE_EXHAUSTED)
# INTERNAL_ERROR responses in sequence to one request.
_MAX_INTERNAL_ERRORS = 5
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

    An outcome that it rejects for good is replaced by a failure, which says so.
    """
    is_replaced, rejections = False, _RejectionCounter()
    async for _ in _tries():
        try:
            return await leases.finish(request)
        except ReelhaulError as error:
            log.warning("finish failed", extra={"job": request.job, "cause": error.text})
            if not rejections.is_final(error):
                continue
            if is_replaced:
                break
            # Too large, or a bug of ours: it must not hold the job forever.
            is_replaced, rejections = True, _RejectionCounter()
            request.failed.CopyFrom(outcomes.failed(error, request.job, worker).failed)
            request.ClearField("progress")
            request.ClearField("http_statuses")
    return None


class _RejectionCounter:
    """Decides whether errors of jobs reject a request finally, so that it is not repeated."""

    def __init__(self) -> None:
        self._internal_errors = 0

    def is_final(self, error: ReelhaulError) -> bool:
        """Return whether *error*, the latest response to the request, is final."""
        if isinstance(error, UndecodableResponse):
            return True
        if error.reason == ErrorReason.INTERNAL_ERROR:
            # Probably a bug of jobs that this request triggers each time.
            self._internal_errors += 1
            return self._internal_errors >= _MAX_INTERNAL_ERRORS
        self._internal_errors = 0
        return error.code in _FINAL_CODES and not error.retryable


async def has_ended(leases: Leases, job: str) -> bool | None:
    """Return whether *job* has ended and no attempt follows; None if jobs does not respond."""
    # No lease has this epoch: the renewal is refused, and the refusal reports whether the job has ended.
    request = lease_service_pb2.RenewRequest(job=job, epoch=0)
    try:
        return (await leases.renew(request)).refusal.job_ended
    except ReelhaulError as error:
        log.warning("the state of a job is unknown", extra={"job": job, "cause": error.text})
        return None


async def _tries() -> AsyncIterator[None]:
    backoff = Backoff()
    while True:
        yield
        await asyncio.sleep(backoff.next_delay())


class LeaseKeeper:
    """Renews one lease.

    *stop* is called with the reason if the attempt must end, also because jobs rejects what *worker* sends
    of it; *end_recording* at every renewal after
    the user has stopped the recording.
    """

    def __init__(
        self,
        leases: Leases,
        delivery: Delivery,
        epoch: int,
        worker: str,
        reporter: ProgressReporter,
        stop: Callable[[StopReason], None],
        end_recording: Callable[[], None],
    ) -> None:
        self._leases, self._delivery, self._epoch, self._worker = leases, delivery, epoch, worker
        self._reporter, self._stop, self._end_recording = reporter, stop, end_recording
        self._rejections = _RejectionCounter()

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
        entries = _first_entries(reporter.unsent_entries)
        request = lease_service_pb2.RenewRequest(
            job=job, epoch=self._epoch, progress=reporter.latest, media=media, entries=entries
        )
        try:
            response = await self._leases.renew(request)
        except ReelhaulError as error:
            log.warning("renewal failed", extra={"job": job, "cause": error.text})
            if self._rejections.is_final(error):
                self._stop(outcomes.failed(error, job, self._worker))
            return False
        self._rejections = _RejectionCounter()
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


def _first_entries(entries: list[PlaylistEntry]) -> list[PlaylistEntry]:
    """Return as many of the first *entries* as fit into one renewal, at least one."""
    size = 0
    for count, entry in enumerate(entries[:_MAX_ENTRIES]):
        size += entry.ByteSize()
        if count and size > MAX_ENTRIES_BYTES:
            return entries[:count]
    return entries[:_MAX_ENTRIES]
