"""Job limits: what the server, a tenant and a key allow of a job, applied before it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.user_actions import Update
from reelhaul_runtime.auth.level_quotas import UNLIMITED, smallest_limit
from reelhaul_runtime.auth.site_rules import SiteRules, check_site


@dataclass(frozen=True, slots=True)
class JobLimits:
    """The limits of a caller's jobs; the smallest of what is requested and of these applies."""

    sites: Sequence[SiteRules] = ()
    #: Bytes and seconds of media of one job; -1: no limit.
    max_bytes: int = UNLIMITED
    max_seconds: int = UNLIMITED
    #: How long a job is kept after its end at most; None: no limit.
    retention: timedelta | None = None

    def admit(self, job: Job, now: datetime, field: str = "job.url") -> Job:
        """Return *job* within these limits. Raises SITE_FORBIDDEN of *field*, its URL."""
        if self.sites:
            check_site(job.url, field, self.sites)
        if self.max_bytes != UNLIMITED or self.max_seconds != UNLIMITED:
            job = job.replace_fields(format=self._limit_format(job.format))
        if self.retention is None:
            return job
        expire_time, ttl = self._limit_expiry(job.expire_time, job.ttl, now)
        return job.replace_fields(expire_time=expire_time, ttl=ttl)

    def limit_update(self, update: Update, now: datetime) -> Update:
        """Return *update* with an expiry within the retention."""
        if self.retention is None or not update.paths & {"expire_time", "ttl"}:
            return update
        expire_time, ttl = self._limit_expiry(update.expire_time, update.ttl or self.retention, now)
        paths = update.paths - {"expire_time", "ttl"} | {"expire_time" if expire_time else "ttl"}
        return Update(
            paths=paths,
            priority=update.priority,
            labels=update.labels,
            schedule_time=update.schedule_time,
            expire_time=expire_time,
            ttl=ttl,
        )

    def _limit_format(self, requested: media_pb2.FormatSpec) -> media_pb2.FormatSpec:
        limited = media_pb2.FormatSpec()
        limited.CopyFrom(requested)
        if self.max_bytes != UNLIMITED:
            limited.max_size_bytes = smallest_limit(requested.max_size_bytes, self.max_bytes)
        if self.max_seconds != UNLIMITED:
            longest = timedelta(seconds=self.max_seconds)
            if requested.HasField("max_duration"):
                longest = min(longest, requested.max_duration.ToTimedelta())
            limited.max_duration.FromTimedelta(longest)
        return limited

    def _limit_expiry(
        self, expire_time: datetime | None, ttl: timedelta, now: datetime
    ) -> tuple[datetime | None, timedelta]:
        """Return a time and a duration that are within the retention; the time is None if it is too late."""
        assert self.retention is not None
        if expire_time is not None and expire_time > now + self.retention:
            return None, self.retention
        return expire_time, min(ttl, self.retention)
