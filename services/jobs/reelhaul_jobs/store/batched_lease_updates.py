"""Applies the lease updates of many workers in one transaction, each on the rate limits of the previous."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import SiteRateLimit
from reelhaul_jobs.model.rate_limited_lease import RateLimitView
from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import LeaseRule, RateLimitKey
from reelhaul_jobs.store import rate_limits, update
from reelhaul_jobs.store.quotas import QuotaLedger
from reelhaul_runtime.errors import NotFound, ReelhaulError
from reelhaul_runtime.sql.writer import Outcome


@dataclass(frozen=True, slots=True)
class LeaseUpdate:
    """The arguments of JobStore.change_lease."""

    job_id: str
    key: RateLimitKey
    rule: LeaseRule
    now: datetime
    counted: bool


def apply(ledger: QuotaLedger, connection: Connection, updates: Sequence[LeaseUpdate]) -> Sequence[Outcome]:
    """Apply *updates* in order; return the outcome of each."""
    outcomes: list[Outcome] = []
    for batch in _without_repeats(updates):
        outcomes += _apply_batch(ledger, connection, batch)
    return outcomes


def _without_repeats(updates: Sequence[LeaseUpdate]) -> Iterator[list[LeaseUpdate]]:
    """Split *updates* so that no job occurs twice in a batch: its second update must see the first."""
    batch: dict[str, LeaseUpdate] = {}
    for each in updates:
        if each.job_id in batch:
            yield list(batch.values())
            batch = {}
        batch[each.job_id] = each
    yield list(batch.values())


def _apply_batch(
    ledger: QuotaLedger, connection: Connection, updates: Sequence[LeaseUpdate]
) -> list[Outcome]:
    found = update.select_for_update(connection, [each.job_id for each in updates])
    cache = RateLimitCache(connection, updates)
    outcomes = [_apply_one(each, found.get(each.job_id), cache) for each in updates]
    changes = [outcome.value for outcome in outcomes if outcome.error is None]
    settled = ledger.settle(connection, changes, updates[0].now)
    update.write(connection, [change for change in settled if change.changed])
    for limit in cache.changed.values():
        rate_limits.write(connection, limit)
    remaining = iter(settled)
    return [outcome if outcome.error else Outcome(next(remaining)) for outcome in outcomes]


def _apply_one(lease_update: LeaseUpdate, job: Job | None, cache: RateLimitCache) -> Outcome:
    if job is None:
        return Outcome(error=NotFound(f"jobs/{lease_update.job_id}"))
    site, egress = lease_update.key(job)
    try:
        change = lease_update.rule(job, cache.get_view(site, egress, counted=lease_update.counted))
    except ReelhaulError as error:
        return Outcome(error=error)
    cache.record(change)
    return Outcome(change)


class RateLimitCache:
    """Rate limits and leased jobs by site, including changes that are not written yet."""

    def __init__(self, connection: Connection, updates: Sequence[LeaseUpdate]) -> None:
        self._connection = connection
        self._now = updates[0].now
        self._any_stored = rate_limits.any_exist(connection)
        self._leased: dict[str, int] = defaultdict(int)
        if any(each.counted for each in updates):
            self._leased.update(rate_limits.count_leased(connection))
        self._views: dict[tuple[str, str], RateLimitView] = {}
        #: Rate limits to be written.
        self.changed: dict[tuple[str, str], SiteRateLimit] = {}

    def get_view(self, site: str, egress: str, *, counted: bool) -> RateLimitView:
        """Return the rate limit of *site* for *egress*, with the leased jobs of the site if *counted*."""
        view = self._views.get((site, egress))
        if view is None:
            view = RateLimitView(rate_limit=SiteRateLimit(site=site, egress=egress))
            if self._any_stored:
                view = rate_limits.get_view(self._connection, site, egress, self._now)
            for limit in self.changed.values():
                view = with_updated_limit(view, limit)
            self._views[site, egress] = view
        return replace(view, leased_count=self._leased[site]) if counted else view

    def record(self, change: Transition) -> None:
        """Record *change*, which is going to be written."""
        leased = change.job.queue_stage is QueueStage.LEASED
        was_leased = change.before.queue_stage is QueueStage.LEASED
        self._leased[change.job.site] += leased - was_leased
        if (limit := change.rate_limit) is not None:
            self.changed[limit.site, limit.egress] = limit
            # The views of other egresses contain this one.
            for key, view in self._views.items():
                self._views[key] = with_updated_limit(view, limit)


def with_updated_limit(view: RateLimitView, limit: SiteRateLimit) -> RateLimitView:
    """Return *view* with *limit* in place of the previous one, if it is of the same site."""
    if limit.site != view.rate_limit.site:
        return view
    if limit.egress == view.rate_limit.egress:
        return replace(view, rate_limit=limit)
    others = tuple(limit if other.egress == limit.egress else other for other in view.other_egresses)
    return replace(view, other_egresses=others)
