"""Leases: how workers claim, renew and finish jobs. Refusals are ordinary results, not errors."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from datetime import datetime, timedelta

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs import metrics
from reelhaul_jobs.model import leases, playlist_expansion, rate_limited_lease
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import SiteLimits, SiteRateLimit
from reelhaul_jobs.model.rate_limited_lease import RateLimitView
from reelhaul_jobs.model.results import LeaseGrant, LeaseReceipt, LeaseRenewal
from reelhaul_jobs.model.states import AttemptState, Kind, State
from reelhaul_jobs.model.transition import Refusal, RefusalReason, Transition
from reelhaul_jobs.ports.jobs import ExpansionRule, JobStore, LeaseRule, RateLimitKey
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.job_admission import JobAdmission
from reelhaul_runtime import failpoints
from reelhaul_runtime.errors import FieldInvalid, NotFound

log = logging.getLogger(__name__)

# A heartbeat that says nothing new is written only this often.
_HEARTBEAT_INTERVAL = timedelta(seconds=10)
_MAX_HEARTBEATS = 1000


class Leases:
    """Grants, renews and ends leases."""

    def __init__(
        self,
        store: JobStore,
        queue: QueueStore,
        notifier: ChangeNotifier,
        now: Clock,
        duration: timedelta,
        limits: SiteLimits | None = None,
        admission: JobAdmission | None = None,
    ) -> None:
        self._store = store
        self._queue = queue
        self._notifier = notifier
        self._now = now
        #: How long a lease lasts unless renewed.
        self.duration = duration
        self._limits = limits or SiteLimits()
        self._admission = admission
        # By worker: slots, egresses and the time of its last written heartbeat.
        self._heartbeats: dict[str, tuple[int, tuple[str, ...], datetime]] = {}

    async def claim(self, job_id: str, claim: leases.Claim, slots: int) -> LeaseGrant | Refusal:
        """Lease the job to a worker of *slots*, or return why not."""
        await self._record_heartbeat(claim.worker, slots, (claim.egress, *claim.other_egresses))

        def rule(job: Job, site: RateLimitView) -> Transition:
            return rate_limited_lease.claim(job, claim, site, self._limits, self._now())

        counted = self._limits.limits_running
        transition = await self._change_at_site(
            job_id, lambda job: (job.site, claim.egress), rule, counted=counted
        )
        failpoints.hit("jobs.claim.after_commit")
        if isinstance(transition, Refusal):
            return _refused("claim", transition)
        return LeaseGrant(transition.job, transition.before if transition.changed else None, self.duration)

    async def renew(
        self,
        job_id: str,
        epoch: int,
        progress: media_pb2.Progress | None,
        media: media_pb2.MediaInfo | None,
        entries: Sequence[media_pb2.PlaylistEntry] = (),
    ) -> LeaseRenewal | Refusal:
        """Extend the lease and return what its worker is to do, or that the lease is lost.

        Each of *entries* becomes a job, except of sites that the server, the tenant or the key forbids.
        """

        def renewed(job: Job) -> Transition:
            return leases.renew(job, epoch, self._now(), self.duration, progress=progress, media=media)

        def rule(job: Job, site: RateLimitView) -> Transition:
            return rate_limited_lease.renew(renewed(job), progress, site)

        def expanding_rule(job: Job, seen: Set[tuple[str, str]]) -> Transition:
            transition = renewed(job)
            if transition.refusal:
                return transition
            return playlist_expansion.add_children(transition, entries, seen, self._now())

        if entries:
            transition = await self._expand(job_id, entries, expanding_rule)
        else:
            transition = await self._change_at_site(job_id, lambda job: (job.site, job.egress), rule)
        failpoints.hit("jobs.renew.after_commit")
        if isinstance(transition, Refusal):
            return _refused("renew", transition)
        job = transition.job
        await self._record_heartbeat(job.worker, None, (job.egress,))
        assert job.due is not None
        return LeaseRenewal(
            expire_time=job.due,
            duration=self.duration,
            cancel_requested=job.state is State.CANCELLING,
            stop_recording=job.recording_stop_time is not None,
        )

    async def finish(self, job_id: str, epoch: int, outcome: leases.Outcome) -> LeaseReceipt | Refusal:
        """Commit the outcome and return its receipt, or that the lease is lost.

        A repeated call returns the receipt of the first one.
        """

        def rule(job: Job, site: RateLimitView) -> Transition:
            transition = rate_limited_lease.finish(job, epoch, outcome, site, self._limits, self._now())
            _check_artifacts(transition)
            return transition

        failpoints.hit("jobs.finish.before_commit")
        transition = await self._change_at_site(
            job_id, lambda job: rate_limited_lease.rate_limit_key(job, outcome), rule
        )
        failpoints.hit("jobs.finish.after_commit")
        if isinstance(transition, Refusal):
            receipt = await self._committed_receipt(job_id, epoch)
            return receipt or _refused("finish", transition)
        job = transition.job
        cancelled = job.state is State.CANCELLED
        return LeaseReceipt(job.update_time, job.revision, cancelled, ended=job.state.is_terminal)

    async def _change_at_site(
        self, job_id: str, key: RateLimitKey, rule: LeaseRule, *, counted: bool = False
    ) -> Transition | Refusal:
        try:
            transition = await self._store.change_lease(job_id, key, rule, self._now(), counted=counted)
        except NotFound:
            return _unknown_job()
        _log_parked(transition.rate_limit)
        await self._notifier.notify(transition)
        return transition.refusal or transition

    async def _expand(
        self, job_id: str, entries: Sequence[media_pb2.PlaylistEntry], rule: ExpansionRule
    ) -> Transition | Refusal:
        media_ids = [playlist_expansion.entry_key(entry) for entry in entries]
        try:
            await self._clear_forbidden(job_id, entries)
            transition = await self._store.expand(job_id, media_ids, rule)
        except NotFound:
            return _unknown_job()
        await self._notifier.notify(transition)
        await self._notifier.notify_jobs(transition.children)
        return transition.refusal or transition

    async def _clear_forbidden(self, job_id: str, entries: Sequence[media_pb2.PlaylistEntry]) -> None:
        """Clear the URLs of *entries* that no job of the list *job_id* may have. Raises ``NotFound``."""
        if self._admission is None:
            return
        job = await self._store.get(job_id)
        rules = await self._admission.site_rules(job.tenant, job.api_key)
        for entry in entries:
            if entry.url and not all(each.allow(entry.url) for each in rules):
                entry.ClearField("url")

    async def _committed_receipt(self, job_id: str, epoch: int) -> LeaseReceipt | None:
        """Return the receipt of an outcome that this epoch committed before; it never changes."""
        attempt = await self._store.find_attempt_by_epoch(job_id, epoch)
        if attempt is None or attempt.finish_revision is None or attempt.end_time is None:
            return None
        cancelled = attempt.state is AttemptState.CANCELLED
        ended = cancelled or attempt.state is AttemptState.SUCCEEDED
        return LeaseReceipt(attempt.end_time, attempt.finish_revision, cancelled, ended, repeated=True)

    async def _record_heartbeat(self, worker: str, slots: int | None, egresses: tuple[str, ...]) -> None:
        """Record that *worker* is alive, with its slots and egresses.

        *slots* None: slots and egresses are as last recorded, where they are known.
        """
        known_slots, known_egresses, last = self._heartbeats.get(worker, (1, egresses, None))
        now = self._now()
        # Sorted: workers name the least busy egress first, and that changes by the minute.
        report = (known_slots, known_egresses) if slots is None else (slots, tuple(sorted(set(egresses))))
        unchanged = report == (known_slots, known_egresses)
        if last is not None and unchanged and now - last < _HEARTBEAT_INTERVAL:
            return
        if len(self._heartbeats) > _MAX_HEARTBEATS:
            self._heartbeats = {
                name: heartbeat
                for name, heartbeat in self._heartbeats.items()
                if now - heartbeat[2] < _HEARTBEAT_INTERVAL
            }
        self._heartbeats[worker] = *report, now
        await self._queue.record_worker_heartbeat(worker, report[0], now, report[1])


def _check_artifacts(transition: Transition) -> None:
    """Raise FIELD_INVALID where the job would succeed without artifacts, or an expansion with some."""
    job = transition.job
    if not transition.changed or job.state is not State.SUCCEEDED:
        return
    if (job.kind is Kind.SINGLE) is not bool(job.artifacts):
        raise FieldInvalid(
            "succeeded.artifacts", "an expansion must have none, and any other job at least one"
        )


def _log_parked(limit: SiteRateLimit | None) -> None:
    if limit is not None and limit.is_parked and not limit.probe and limit.parked_until is not None:
        fields = {"site": limit.site, "egress": limit.egress, "reason": limit.reason}
        log.warning("site parked", extra=fields | {"until": limit.parked_until.isoformat()})


def _refused(operation: str, refusal: Refusal) -> Refusal:
    metrics.LEASES_REFUSED.labels(operation, refusal.reason.name).inc()
    return refusal


def _unknown_job() -> Refusal:
    return Refusal(reason=RefusalReason.UNKNOWN, message="there is no such job")
