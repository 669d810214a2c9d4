"""Quotas: what jobs reserve, use and return of the limits of their key and their tenant, as a ledger.

A job reserves bytes when it is admitted, reserves more while it receives more than that, and settles what it
received at the end of each attempt. When it ends, the rest of its reservation is released. All of it counts
for the day (UTC) on which the job was admitted, or last retried by its user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from google.rpc import status_pb2

from reelhaul.admin.v1 import api_key_pb2
from reelhaul_jobs.model.job import AttemptOutcome, Job
from reelhaul_jobs.model.retries import normalize_error
from reelhaul_jobs.model.states import AttemptState, Kind, State
from reelhaul_jobs.model.transition import Refusal, RefusalReason, Transition
from reelhaul_runtime.errors import QuotaExceeded, to_status

#: Bytes that a job reserves at first, and beyond what it has received.
RESERVATION_STEP = 100_000_000

#: The day of the ledger that sums all days.
ALL_DAYS = 0

_NO_LIMITS = api_key_pb2.Quota()
_UNLIMITED = 1 << 62
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class LedgerRow:
    """What an account used on one day, or in total; bytes but for ``jobs``."""

    jobs: int = 0
    reserved: int = 0
    settled: int = 0
    released: int = 0
    #: Bytes of artifacts that are stored now; in total only.
    stored: int = 0

    @property
    def live(self) -> int:
        """Bytes reserved by jobs that have not ended."""
        return self.reserved - self.settled - self.released

    @property
    def used(self) -> int:
        """Bytes received or reserved."""
        return self.reserved - self.released


#: Account and day of a row.
LedgerKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Remainder:
    """The bytes left of the limit that leaves the fewest, with the error of a job that needs more."""

    bytes: int = _UNLIMITED
    error: QuotaExceeded | None = None


def day_of(time: datetime) -> int:
    """Return the day of *time*, in days since 1970."""
    return (time - _EPOCH) // timedelta(days=1)


def day_end(day: int) -> datetime:
    """Return when *day* ends: the next midnight in UTC."""
    return _EPOCH + timedelta(days=day + 1)


def account_of_key(key_id: str) -> str:
    """Return the account of a key: its resource name."""
    return f"apiKeys/{key_id}"


def account_of_tenant(tenant: str) -> str:
    """Return the account of a tenant: its resource name."""
    return f"tenants/{tenant}"


def accounts_of(job: Job) -> tuple[str, ...]:
    """Return the accounts that *job* uses: those of its key, if it has one, and of its tenant."""
    tenant = account_of_tenant(job.tenant)
    return (account_of_key(job.api_key), tenant) if job.api_key else (tenant,)


def ledger_keys(job: Job, day: int) -> set[LedgerKey]:
    """Return the rows that *job* changes if it counts for *day*."""
    return {(account, each) for account in accounts_of(job) for each in (day, ALL_DAYS)}


def is_readmitted(change: Transition) -> bool:
    """Return whether a user retried a job that had ended."""
    return change.before.end_time is not None and change.job.end_time is None


def needs_settlement(change: Transition) -> bool:
    """Return whether an attempt or the job ends with *change*, and its use of quotas is counted."""
    if change.before.quota_day is None or change.before.end_time is not None:
        return False
    return change.job.end_time is not None or change.attempt_outcome is not None


def needs_extension(change: Transition) -> bool:
    """Return whether the job of *change*, a renewal, has received more than it has reserved."""
    job = change.job
    if job.quota_day is None or change.attempt_outcome is not None or job.kind is Kind.EXPANSION:
        return False
    return job.state is State.RUNNING and _observed_bytes(job) > job.reserved_bytes


@dataclass(slots=True)
class QuotaBook:
    """The rows of some accounts, locked by the transaction that reads and writes them, with their limits."""

    rows: dict[LedgerKey, LedgerRow]
    limits: Mapping[str, api_key_pb2.Quota]

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Undo what the block did if it raises."""
        saved = {key: replace(row) for key, row in self.rows.items()}
        try:
            yield
        except BaseException:
            self.rows.update(saved)
            raise

    def admit(self, job: Job) -> Job:
        """Return *job*, new or retried, with its reservation of the day of its update_time.

        It gets less than it asks for if less is left. Raises QUOTA_EXCEEDED if nothing is left.
        """
        day = day_of(job.update_time)
        for account in accounts_of(job):
            limit = self._limits(account).jobs_per_day
            if 0 < limit <= self.rows[account, day].jobs:
                raise _jobs_exceeded(account, limit, day)
        remainder = self._remainder(job, day)
        if remainder.bytes <= 0 and remainder.error is not None:
            raise remainder.error
        reserved = min(_first_reservation(job), remainder.bytes)
        self._post(job, day, live=reserved, jobs=1)
        return job.replace_fields(quota_day=day, reserved_bytes=reserved)

    def withdraw(self, job: Job) -> None:
        """Undo the admission of *job*, which was not stored after all."""
        assert job.quota_day is not None
        self._post(job, job.quota_day, live=-job.reserved_bytes, jobs=-1)

    def settle(self, change: Transition) -> Transition:
        """Return *change*, for which ``needs_settlement`` holds, with the new reservation of its job."""
        before, after, received = change.before, change.job, _received_bytes(change)
        assert before.quota_day is not None
        if after.end_time is not None:
            stored = sum(artifact.size_bytes for artifact in after.artifacts)
            self._post(before, before.quota_day, live=-before.reserved_bytes, settled=received, stored=stored)
            return replace(change, job=after.replace_fields(reserved_bytes=0, stored_bytes=stored))
        # The next attempt starts with as much as the first one, if that much is left.
        kept = max(0, before.reserved_bytes - received)
        self._post(before, before.quota_day, live=kept - before.reserved_bytes, settled=received)
        left = self._remainder(before, before.quota_day).bytes
        more = max(0, min(_first_reservation(after) - kept, left))
        self._post(before, before.quota_day, live=more)
        return replace(change, job=after.replace_fields(reserved_bytes=kept + more))

    def extend(self, change: Transition, now: datetime) -> Transition:
        """Return *change*, for which ``needs_extension`` holds, with a reservation beyond what was received.

        If the job has received more than its quotas have left, it ends with QUOTA_EXCEEDED.
        """
        before, after, observed = change.before, change.job, _observed_bytes(change.job)
        assert before.quota_day is not None
        remainder = self._remainder(before, before.quota_day)
        more = max(0, min(observed + RESERVATION_STEP - before.reserved_bytes, remainder.bytes))
        if before.reserved_bytes + more < observed and remainder.error is not None:
            return self.settle(_exhaust(change, to_status(remainder.error), now))
        self._post(before, before.quota_day, live=more)
        return replace(change, job=after.replace_fields(reserved_bytes=before.reserved_bytes + more))

    def _post(
        self, job: Job, day: int, *, live: int = 0, settled: int = 0, stored: int = 0, jobs: int = 0
    ) -> None:
        """Record *settled* bytes, and that the bytes which *job* has reserved change by *live*."""
        # What was received beyond the reservation is reserved at the moment that it is settled.
        needed = live + settled
        for account in accounts_of(job):
            for row in (self.rows[account, day], self.rows[account, ALL_DAYS]):
                row.jobs += jobs
                row.reserved += max(0, needed)
                row.released += max(0, -needed)
                row.settled += settled
            self.rows[account, ALL_DAYS].stored += stored

    def _remainder(self, job: Job, day: int) -> Remainder:
        """Return what the limits of bytes leave for *job*, which counts for *day*."""
        smallest = Remainder()
        for account in accounts_of(job):
            limits, total = self._limits(account), self.rows[account, ALL_DAYS]
            if limits.bytes_per_day > 0:
                left = limits.bytes_per_day - self.rows[account, day].used
                if left < smallest.bytes:
                    smallest = Remainder(left, _bytes_exceeded(account, limits.bytes_per_day, day))
            if limits.stored_bytes > 0:
                left = limits.stored_bytes - total.stored - total.live
                if left < smallest.bytes:
                    smallest = Remainder(left, _storage_exceeded(account, limits.stored_bytes))
        return smallest

    def _limits(self, account: str) -> api_key_pb2.Quota:
        return self.limits.get(account, _NO_LIMITS)


def _first_reservation(job: Job) -> int:
    # An expansion receives lists only.
    if job.kind is Kind.EXPANSION:
        return 0
    return min(RESERVATION_STEP, job.format.max_size_bytes or RESERVATION_STEP)


def _observed_bytes(job: Job) -> int:
    return job.progress.downloaded_bytes if job.progress else 0


def _received_bytes(change: Transition) -> int:
    """Return the bytes received by the attempt that ended with *change*; 0 if none did."""
    outcome = change.attempt_outcome
    if outcome is None:
        return 0
    return outcome.received_bytes or _observed_bytes(change.before)


def _exhaust(change: Transition, error: status_pb2.Status, now: datetime) -> Transition:
    """Return *change*, a renewal, as the end of its job because of *error*."""
    error = normalize_error(error)
    return replace(
        change,
        job=change.job.end(State.FAILED, now, error=error),
        attempt_outcome=AttemptOutcome(
            state=AttemptState.FAILED, error=error, received_bytes=_observed_bytes(change.job)
        ),
        refusal=Refusal(reason=RefusalReason.ENDED, message=error.message),
    )


def _jobs_exceeded(account: str, limit: int, day: int) -> QuotaExceeded:
    text = f"{account} has created its {limit} jobs of the day: create more after midnight UTC"
    return QuotaExceeded("jobs_per_day", text, subject=account, limit=limit, reset_time=day_end(day))


def _bytes_exceeded(account: str, limit: int, day: int) -> QuotaExceeded:
    text = f"{account} has fetched or reserved its {limit} bytes of the day: try again after midnight UTC"
    return QuotaExceeded("bytes_per_day", text, subject=account, limit=limit, reset_time=day_end(day))


def _storage_exceeded(account: str, limit: int) -> QuotaExceeded:
    text = f"{account} stores or has reserved its {limit} bytes: delete jobs first"
    return QuotaExceeded("stored_bytes", text, subject=account, limit=limit)
