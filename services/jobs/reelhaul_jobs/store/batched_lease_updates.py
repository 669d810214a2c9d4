"""Changes of leased jobs in SQL: many workers' calls in one go, each told how its site stands by then."""

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
from reelhaul_runtime.errors import NotFound, ReelhaulError
from reelhaul_runtime.sql.writer import Outcome


@dataclass(frozen=True, slots=True)
class LeaseUpdate:
    """What JobStore.change_at_site was asked for."""

    job_id: str
    key: RateLimitKey
    rule: LeaseRule
    now: datetime
    counted: bool


def apply(connection: Connection, asked: Sequence[LeaseUpdate]) -> Sequence[Outcome]:
    """What became of each of *asked*, done in their order."""
    outcomes: list[Outcome] = []
    for part in _without_repeats(asked):
        outcomes += _changed(connection, part)
    return outcomes


def _without_repeats(asked: Sequence[LeaseUpdate]) -> Iterator[list[LeaseUpdate]]:
    """*asked* in parts, in each of which no job comes twice: the second change sees the first."""
    part: dict[str, LeaseUpdate] = {}
    for one in asked:
        if one.job_id in part:
            yield list(part.values())
            part = {}
        part[one.job_id] = one
    yield list(part.values())


def _changed(connection: Connection, asked: Sequence[LeaseUpdate]) -> list[Outcome]:
    found = update.select_for_update(connection, [one.job_id for one in asked])
    sites = RateLimitCache(connection, asked)
    outcomes = [_outcome(one, found.get(one.job_id), sites) for one in asked]
    update.write(connection, [o.value for o in outcomes if o.error is None and o.value.changed])
    for gate in sites.changed.values():
        rate_limits.write(connection, gate)
    return outcomes


def _outcome(one: LeaseUpdate, job: Job | None, sites: RateLimitCache) -> Outcome:
    if job is None:
        return Outcome(error=NotFound(f"jobs/{one.job_id}"))
    site, egress = one.key(job)
    try:
        change = one.rule(job, sites.passage(site, egress, counted=one.counted))
    except ReelhaulError as error:
        return Outcome(error=error)
    sites.note(change)
    return Outcome(change)


class RateLimitCache:
    """How sites stand, with what the changes before, not yet written, have made of them."""

    def __init__(self, connection: Connection, asked: Sequence[LeaseUpdate]) -> None:
        self._connection = connection
        self._now = asked[0].now
        self._any_gate = rate_limits.any_exist(connection)
        self._leased: dict[str, int] = defaultdict(int)
        if any(one.counted for one in asked):
            self._leased.update(rate_limits.count_leased(connection))
        self._passages: dict[tuple[str, str], RateLimitView] = {}
        #: Gates to be written.
        self.changed: dict[tuple[str, str], SiteRateLimit] = {}

    def passage(self, site: str, egress: str, *, counted: bool) -> RateLimitView:
        """How *site* stands for *egress*."""
        known = self._passages.get((site, egress))
        if known is None:
            known = RateLimitView(rate_limit=SiteRateLimit(site=site, egress=egress))
            if self._any_gate:
                known = rate_limits.get_view(self._connection, site, egress, self._now)
            for gate in self.changed.values():
                known = with_updated_limit(known, gate)
            self._passages[site, egress] = known
        return replace(known, leased_count=self._leased[site]) if counted else known

    def note(self, change: Transition) -> None:
        """*change* is going to be written."""
        held = (change.job.queue_stage is QueueStage.LEASED) - (
            change.before.queue_stage is QueueStage.LEASED
        )
        self._leased[change.job.site] += held
        if (gate := change.rate_limit) is not None:
            self.changed[gate.site, gate.egress] = gate
            # Also by another egress a site's gate is seen.
            for key, known in self._passages.items():
                self._passages[key] = with_updated_limit(known, gate)


def with_updated_limit(passage: RateLimitView, gate: SiteRateLimit) -> RateLimitView:
    """*passage* where *gate* is what it has become, if it is one of its site's."""
    if gate.site != passage.rate_limit.site:
        return passage
    if gate.egress == passage.rate_limit.egress:
        return replace(passage, rate_limit=gate)
    others = tuple(gate if other.egress == gate.egress else other for other in passage.other_egresses)
    return replace(passage, other_egresses=others)
