"""Leases: how workers hold jobs. Refusals are ordinary answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import leases, playlist_expansion, rate_limited_lease
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import SiteLimits, SiteRateLimit
from reelhaul_jobs.model.rate_limited_lease import RateLimitView
from reelhaul_jobs.model.states import AttemptState, Kind, State
from reelhaul_jobs.model.transition import Refusal, RefusalReason, Transition
from reelhaul_jobs.ports.jobs import ExpansionRule, JobStore, LeaseRule, RateLimitKey
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_runtime import failpoints
from reelhaul_runtime.errors import FieldInvalid, NotFound

log = logging.getLogger(__name__)

# A row a worker: told again only so often.
_SEEN_AGAIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Leased:
    """The job is the worker's; ``before`` tells what earlier leases left, None for a repeated claim."""

    job: Job
    before: Job | None
    duration: timedelta


@dataclass(frozen=True, slots=True)
class Renewed:
    """The lease goes on."""

    expire_time: datetime
    duration: timedelta
    cancel_requested: bool
    stop_recording: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome is committed."""

    time: datetime
    revision: int
    cancelled: bool
    repeated: bool = False


class Leases:
    """Claim, renew, finish."""

    def __init__(
        self,
        store: JobStore,
        queue: QueueStore,
        news: ChangeNotifier,
        now: Clock,
        duration: timedelta,
        limits: SiteLimits | None = None,
    ) -> None:
        self._store = store
        self._queue = queue
        self._news = news
        self._now = now
        #: How long a lease lasts unless renewed.
        self.duration = duration
        self._limits = limits or SiteLimits()
        self._seen: dict[str, tuple[int, tuple[str, ...], datetime]] = {}

    async def claim(self, job_id: str, claim: leases.Claim, slots: int) -> Leased | Refusal:
        """The job's lease, or why not."""
        await self._note(claim.worker, slots, (claim.egress, *claim.other_egresses))

        def rule(job: Job, passage: RateLimitView) -> Transition:
            return rate_limited_lease.claim(job, claim, passage, self._limits, self._now())

        counted = self._limits.limits_running
        change = await self._change_at_site(
            job_id, lambda job: (job.site, claim.egress), rule, counted=counted
        )
        failpoints.hit("jobs.claim.after_commit")
        if isinstance(change, Refusal) or change.refusal is not None:
            return change if isinstance(change, Refusal) else _refusal(change)
        return Leased(change.job, change.before if change.changed else None, self.duration)

    async def renew(
        self,
        job_id: str,
        epoch: int,
        progress: media_pb2.Progress | None,
        media: media_pb2.MediaInfo | None,
        entries: Sequence[media_pb2.PlaylistEntry] = (),
    ) -> Renewed | Refusal:
        """The lease prolonged, and whether to stop; or that it is gone. Each of *entries* is a job then."""

        def rule(job: Job, passage: RateLimitView) -> Transition:
            return rate_limited_lease.renew(self._renewed(job, epoch, progress, media), progress, passage)

        def growing(job: Job, seen: Set[tuple[str, str]]) -> Transition:
            change = self._renewed(job, epoch, progress, media)
            return (
                change
                if change.refusal
                else playlist_expansion.add_children(change, entries, seen, self._now())
            )

        if entries:
            change = await self._expand(job_id, entries, growing)
        else:
            change = await self._change_at_site(job_id, lambda job: (job.site, job.egress), rule)
        failpoints.hit("jobs.renew.after_commit")
        if isinstance(change, Refusal) or change.refusal is not None:
            return change if isinstance(change, Refusal) else _refusal(change)
        await self._note(change.job.worker, None, (change.job.egress,))
        job = change.job
        assert job.due is not None
        stopped = job.recording_stop_time is not None
        return Renewed(job.due, self.duration, job.state is State.CANCELLING, stopped)

    def _renewed(
        self,
        job: Job,
        epoch: int,
        progress: media_pb2.Progress | None,
        media: media_pb2.MediaInfo | None,
    ) -> Transition:
        return leases.renew(job, epoch, self._now(), self.duration, progress=progress, media=media)

    async def finish(self, job_id: str, epoch: int, outcome: leases.Outcome) -> Receipt | Refusal:
        """The receipt of the outcome, of the first one for a repeated call; or that the lease is gone."""

        def rule(job: Job, passage: RateLimitView) -> Transition:
            change = rate_limited_lease.finish(job, epoch, outcome, passage, self._limits, self._now())
            return _checked(change)

        failpoints.hit("jobs.finish.before_commit")
        change = await self._change_at_site(
            job_id, lambda job: rate_limited_lease.rate_limit_key(job, outcome), rule
        )
        failpoints.hit("jobs.finish.after_commit")
        if isinstance(change, Refusal):
            return change
        if change.refusal is not None:
            return await self._earlier(job_id, epoch) or change.refusal
        cancelled = change.job.state is State.CANCELLED
        return Receipt(change.job.update_time, change.job.revision, cancelled)

    async def _change_at_site(
        self, job_id: str, key: RateLimitKey, rule: LeaseRule, *, counted: bool = False
    ) -> Transition | Refusal:
        try:
            change = await self._store.change_lease(job_id, key, rule, self._now(), counted=counted)
        except NotFound:
            return Refusal(reason=RefusalReason.UNKNOWN, message="there is no such job")
        _tell_of(change.rate_limit)
        await self._news.tell(change)
        return change

    async def _expand(
        self, job_id: str, entries: Sequence[media_pb2.PlaylistEntry], rule: ExpansionRule
    ) -> Transition | Refusal:
        try:
            change = await self._store.expand(
                job_id, [playlist_expansion.entry_key(e) for e in entries], rule
            )
        except NotFound:
            return Refusal(reason=RefusalReason.UNKNOWN, message="there is no such job")
        await self._news.tell(change)
        await self._news.tell_all(change.children)
        return change

    async def _earlier(self, job_id: str, epoch: int) -> Receipt | None:
        """The receipt of an outcome that this epoch had committed before; it never changes."""
        attempt = await self._store.find_attempt_by_epoch(job_id, epoch)
        if attempt is None or attempt.finish_revision is None or attempt.end_time is None:
            return None
        cancelled = attempt.state is AttemptState.CANCELLED
        return Receipt(attempt.end_time, attempt.finish_revision, cancelled, repeated=True)

    async def _note(self, worker: str, slots: int | None, egresses: tuple[str, ...]) -> None:
        """Remember that *worker* lives, its slots and egresses; *slots* None: all as before, if known."""
        known, used, last = self._seen.get(worker, (1, egresses, None))
        now = self._now()
        # Sorted: workers offer the least busy one first, and that changes by the minute.
        told = (known, used) if slots is None else (slots, tuple(sorted(set(egresses))))
        if last is not None and told == (known, used) and now - last < _SEEN_AGAIN:
            return
        if len(self._seen) > 1000:
            self._seen = {name: seen for name, seen in self._seen.items() if now - seen[2] < _SEEN_AGAIN}
        self._seen[worker] = *told, now
        await self._queue.record_worker_heartbeat(worker, told[0], now, told[1])


def _checked(change: Transition) -> Transition:
    """*change*, unless a job would have succeeded without what makes it a success."""
    job = change.job
    if (
        change.changed
        and job.state is State.SUCCEEDED
        and (job.kind is Kind.SINGLE) is not bool(job.artifacts)
    ):
        raise FieldInvalid("succeeded.artifacts", "an expansion has none, any other job has one at least")
    return change


def _tell_of(gate: SiteRateLimit | None) -> None:
    if gate is not None and gate.is_parked and not gate.probe and gate.parked_until is not None:
        told = {"site": gate.site, "egress": gate.egress, "reason": gate.reason}
        log.warning("site parked", extra=told | {"until": gate.parked_until.isoformat()})


def _refusal(change: Transition) -> Refusal:
    assert change.refusal is not None
    return change.refusal
