"""A job, its attempts, its events: frozen facts, and the one way to change them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from functools import cached_property
from operator import itemgetter
from typing import Any

from google.rpc import status_pb2

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model.states import TRANSITIONS, AttemptState, Kind, Priority, QueueStage, State
from reelhaul_runtime.errors import StateConflict
from reelhaul_runtime.sites import site_of

#: How much older a priority makes a waiting job: what an equal wait is worth.
_HEAD_START: Mapping[Priority, timedelta] = {
    Priority.HIGH: timedelta(hours=1),
    Priority.NORMAL: timedelta(0),
    Priority.LOW: timedelta(hours=-1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How failed attempts are repeated."""

    max_attempts: int = 3
    min_backoff: timedelta = timedelta(seconds=5)
    max_backoff: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """How a list becomes jobs, and how far that has come."""

    max_entries: int = 100
    #: Leave out what earlier jobs of the same schedule have seen.
    new_entries_only: bool = False
    #: Entries of the list, where the site says; else 0.
    entry_count: int = 0
    job_count: int = 0
    skipped_count: int = 0

    @property
    def last_position(self) -> int:
        """Up to which position the list is dealt with."""
        return self.job_count + self.skipped_count


@dataclass(frozen=True, kw_only=True)
class Job:
    """One URL asked for, and how far it got. All times are aware, in UTC."""

    id: str
    tenant: str
    url: str
    format: media_pb2.FormatSpec
    create_time: datetime
    update_time: datetime
    priority: Priority = Priority.NORMAL
    kind: Kind = Kind.SINGLE
    labels: Mapping[str, str] = field(default_factory=dict)
    schedule_time: datetime | None = None
    retry: RetryPolicy = RetryPolicy()
    attempt_deadline: timedelta = timedelta(hours=1)
    #: How long after its end it is kept; ``expire_time``, where set, wins.
    ttl: timedelta = timedelta(days=7)
    expire_time: datetime | None = None
    batch_id: str = ""
    traceparent: str = ""
    #: Id of the schedule that it goes back to; empty: none.
    schedule: str = ""
    #: Id of the expansion that made it, and the entry's place in the list, from 1; empty and 0: none.
    parent: str = ""
    position: int = 0
    #: Of an EXPANSION only.
    expansion: Expansion | None = None

    state: State = State.QUEUED
    #: Counts each re-queue, charged or not, so that no publication is a duplicate.
    attempt: int = 1
    #: Number of the newest lease: the fence.
    epoch: int = 0
    #: Attempts charged to the retry policy.
    charged: int = 0
    #: Counts changes of anything but progress.
    revision: int = 1
    queue_stage: QueueStage = QueueStage.READY
    due: datetime | None = None
    #: Who holds the lease, or held it last.
    worker: str = ""
    #: Until then the next attempt is for another worker than that.
    avoid_until: datetime | None = None
    #: The request_id of the Claim that gave the lease.
    claim_id: str = ""
    #: The egress that the newest lease's worker uses.
    egress: str = ""
    #: ErrorReason name -> attempts of this series that failed so.
    failures: Mapping[str, int] = field(default_factory=dict)
    start_time: datetime | None = None
    end_time: datetime | None = None

    progress: media_pb2.Progress | None = None
    error: status_pb2.Status | None = None
    media: media_pb2.MediaInfo | None = None
    got: media_pb2.DeliveredMedia | None = None
    artifacts: tuple[media_pb2.ArtifactInfo, ...] = ()
    warnings: tuple[media_pb2.Warning, ...] = ()
    #: When a user asked its recording to end, with what there is; None: nobody did.
    recording_stop_time: datetime | None = None
    #: When storage is to be told of the artifacts' expiry; None once it knows.
    confirm_time: datetime | None = None
    #: Set: the jobs that it expanded to are to be cancelled with it.
    cascade_time: datetime | None = None
    #: Deleted by its user: gone for callers, purged when nothing of it is left.
    delete_time: datetime | None = None

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"jobs/{self.id}"

    @property
    def shared_fields(self) -> tuple[Any, ...]:
        """All of it but id and URL: jobs asked for together often differ in no more."""
        found: tuple[Any, ...] = _REST(self.__dict__)
        return found

    @cached_property
    def site(self) -> str:
        """The site that it downloads from."""
        return site_of(self.url)

    @classmethod
    def from_row(cls, site: str, fields: Mapping[str, Any]) -> Job:
        """A job of all its *fields*, and its *site*, as they were kept: they are not set one by one."""
        made = object.__new__(cls)
        made.__dict__.update(fields)
        if site:
            made.__dict__["site"] = site
        return made

    @property
    def etag(self) -> str:
        """Strong, quoted, of the revision."""
        return f'"{self.revision}"'

    @property
    def is_leased(self) -> bool:
        """Whether a worker may hold it."""
        return self.state in (State.RUNNING, State.CANCELLING)

    @property
    def next_attempt_time(self) -> datetime | None:
        """When the next attempt may begin, while it is RETRYING."""
        return self.due if self.state is State.RETRYING else None

    def bump(self, now: datetime, **fields: Any) -> Job:
        """This job with *fields*, one revision on."""
        return self.replace_fields(revision=self.revision + 1, update_time=now, **fields)

    def replace_fields(self, **fields: Any) -> Job:
        """This job with *fields*: as ``dataclasses.replace``, which sets all of its fifty one by one."""
        if not fields.keys() <= self.__dict__.keys():
            raise TypeError(f"a job has no {', '.join(sorted(fields.keys() - self.__dict__.keys()))}")
        made = object.__new__(Job)
        made.__dict__.update(self.__dict__, **fields)
        if "url" in fields:
            # It may have been worked out already, of the other URL.
            made.__dict__.pop("site", None)
        return made

    def transition(
        self,
        to: State,
        now: datetime,
        transitions: Mapping[State, frozenset[State]] = TRANSITIONS,
        **fields: Any,
    ) -> Job:
        """This job in its next state, or ``StateConflict`` if there is no such road."""
        if to not in transitions.get(self.state, frozenset()):
            raise StateConflict(
                self.name, self.state.name, f"{self.name} is {self.state.name}, cannot become {to.name}"
            )
        return self.bump(now, state=to, **fields)

    def end(self, to: State, now: datetime, **fields: Any) -> Job:
        """This job in the terminal state *to*, with nothing left to do but to expire."""
        expire_time = self.expire_time or now + self.ttl
        return self.transition(
            to, now, queue_stage=QueueStage.IDLE, due=None, end_time=now, expire_time=expire_time, **fields
        )

    def rank(self, since: datetime) -> datetime:
        """Its place among its tenant's ready jobs that waits since *since*: lower goes first."""
        return since - self.priority_offset(self.priority)

    @staticmethod
    def priority_offset(priority: Priority) -> timedelta:
        """How much older *priority* makes a waiting job."""
        return _HEAD_START[priority]


#: Names of a job's own fields.
FIELDS = tuple(field.name for field in fields(Job))
_REST = itemgetter(*(name for name in FIELDS if name not in ("id", "url")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a job by one worker, under one lease."""

    job: str
    number: int
    epoch: int
    worker: str
    engine_version: str
    start_time: datetime
    state: AttemptState = AttemptState.RUNNING
    error: status_pb2.Status | None = None
    downloaded_bytes: int = 0
    http_statuses: Mapping[int, int] = field(default_factory=dict)
    end_time: datetime | None = None
    #: The job's revision after Finish; None where no Finish ended it.
    finish_revision: int | None = None

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"jobs/{self.job}/attempts/{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOutcome:
    """How the attempt that held a job's newest lease ended."""

    state: AttemptState
    error: status_pb2.Status | None = None
    http_statuses: Mapping[int, int] = field(default_factory=dict)
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A job moved from one state to another; ``old_state`` is None for its birth."""

    revision: int
    time: datetime
    old_state: State | None
    state: State
    charged: int = 0
    error: status_pb2.Status | None = None
    next_attempt_time: datetime | None = None
