"""A download job, its attempts and its state events: immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from functools import cached_property
from operator import itemgetter
from typing import Any

from google.rpc import status_pb2

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model.states import (
    TRANSITIONS,
    AttemptState,
    DeliveryState,
    Kind,
    Priority,
    QueueStage,
    State,
)
from reelhaul_runtime.errors import StateConflict
from reelhaul_runtime.sites import site_of

# A waiting job ranks as if it were older by this much.
_PRIORITY_OFFSETS: Mapping[Priority, timedelta] = {
    Priority.HIGH: timedelta(hours=1),
    Priority.NORMAL: timedelta(0),
    Priority.LOW: timedelta(hours=-1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and after which delays failed attempts are retried."""

    max_attempts: int = 3
    min_backoff: timedelta = timedelta(seconds=5)
    max_backoff: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """How a playlist becomes jobs, and how far that has come."""

    max_entries: int = 100
    #: Skip entries that earlier jobs of the same schedule have seen.
    new_entries_only: bool = False
    #: Number of entries of the playlist if the site tells it, else 0.
    entry_count: int = 0
    job_count: int = 0
    skipped_count: int = 0

    @property
    def last_position(self) -> int:
        """The position of the last entry that became a job or was skipped; 0 before the first."""
        return self.job_count + self.skipped_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The delivery of one artifact of a job to the job's destination."""

    #: Name of the artifact.
    artifact: str
    state: DeliveryState = DeliveryState.PENDING
    #: Where the object is; empty until it is delivered.
    uri: str = ""
    #: Why the last try failed.
    error: status_pb2.Status | None = None
    attempt_count: int = 0
    #: When it is tried next; while it runs, when it is taken from a runner that went silent.
    due: datetime | None = None
    #: When it fails for good.
    deadline: datetime
    update_time: datetime

    @property
    def is_running(self) -> bool:
        """Whether a runner holds it, or went silent."""
        return self.state is DeliveryState.RUNNING


@dataclass(frozen=True, kw_only=True)
class Job:
    """A requested download and its progress. All times are aware, in UTC."""

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
    #: How long the job is kept after its end, unless ``expire_time`` is set.
    ttl: timedelta = timedelta(days=7)
    expire_time: datetime | None = None
    batch_id: str = ""
    traceparent: str = ""
    #: Id of the schedule that created it; empty if none did.
    schedule: str = ""
    #: Id of the expansion that created it, and its entry's position in the playlist, from 1; empty and 0
    #: if none did.
    parent: str = ""
    position: int = 0
    #: Set for an EXPANSION only.
    expansion: Expansion | None = None
    #: Id of the tenant's destination that the artifacts are delivered to; empty if there is none.
    deliver_to: str = ""
    #: Id of the key that created it; empty without one.
    api_key: str = ""

    state: State = State.QUEUED
    #: Incremented on every re-queue, charged or not, so that no publication is a duplicate.
    attempt: int = 1
    #: Number of the newest lease: the fence.
    epoch: int = 0
    #: Attempts that count against the retry policy.
    charged: int = 0
    #: Incremented on every change except of progress.
    revision: int = 1
    queue_stage: QueueStage = QueueStage.READY
    due: datetime | None = None
    #: The worker that has the lease, or had the last one.
    worker: str = ""
    #: That worker does not get the next attempt before this time.
    avoid_until: datetime | None = None
    #: The request_id of the Claim that granted the lease.
    claim_id: str = ""
    #: The egress that the newest lease's worker uses.
    egress: str = ""
    #: ErrorReason name -> failed attempts since the job was created or retried by its user.
    failures: Mapping[str, int] = field(default_factory=dict)
    start_time: datetime | None = None
    end_time: datetime | None = None

    progress: media_pb2.Progress | None = None
    error: status_pb2.Status | None = None
    media: media_pb2.MediaInfo | None = None
    got: media_pb2.DeliveredMedia | None = None
    artifacts: tuple[media_pb2.ArtifactInfo, ...] = ()
    warnings: tuple[media_pb2.Warning, ...] = ()
    #: When a user asked to stop the recording and keep it; None if nobody did.
    recording_stop_time: datetime | None = None
    #: One for each artifact of a SUCCEEDED job with ``deliver_to``.
    deliveries: tuple[Delivery, ...] = ()
    #: When the next delivery is to be tried; None if all have ended.
    delivery_time: datetime | None = None
    #: When storage is to be told the artifacts' expiry; None once it is told.
    confirm_time: datetime | None = None
    #: Set if the jobs of this expansion are to be cancelled with it.
    cascade_time: datetime | None = None
    #: When a user deleted it: gone for callers; purged once its artifacts are gone.
    delete_time: datetime | None = None
    #: The day, in days since 1970, that its use of quotas counts for; None if it is not counted.
    quota_day: int | None = None
    #: Bytes that it reserves of its quotas until it ends.
    reserved_bytes: int = 0
    #: Bytes of its artifacts, counted against its quotas until they are deleted.
    stored_bytes: int = 0

    @property
    def name(self) -> str:
        """The resource name."""
        return f"jobs/{self.id}"

    @property
    def shared_fields(self) -> tuple[Any, ...]:
        """Return all fields except id and URL: jobs of one batch mostly differ only in these."""
        values: tuple[Any, ...] = _shared_fields(self.__dict__)
        return values

    @cached_property
    def site(self) -> str:
        """The site that it downloads from."""
        return site_of(self.url)

    @classmethod
    def from_row(cls, site: str, fields: Mapping[str, Any]) -> Job:
        """Create a job from all its *fields* and its *site*, without the cost of ``__init__``."""
        job = object.__new__(cls)
        job.__dict__.update(fields)
        if site:
            job.__dict__["site"] = site
        return job

    @property
    def etag(self) -> str:
        """The strong entity tag, quoted: the revision."""
        return f'"{self.revision}"'

    @property
    def is_leased(self) -> bool:
        """Whether a worker may hold it."""
        return self.state in (State.RUNNING, State.CANCELLING)

    @property
    def artifacts_expire_time(self) -> datetime | None:
        """When the artifacts expire: not before their deliveries have ended."""
        deadlines = [delivery.deadline for delivery in self.deliveries if self.delivery_time is not None]
        return max([self.expire_time, *deadlines]) if self.expire_time else None

    @property
    def next_attempt_time(self) -> datetime | None:
        """When the next attempt may start, while it is RETRYING."""
        return self.due if self.state is State.RETRYING else None

    def bump(self, now: datetime, **fields: Any) -> Job:
        """Return this job with other *fields* and the next revision."""
        return self.replace_fields(revision=self.revision + 1, update_time=now, **fields)

    def replace_fields(self, **fields: Any) -> Job:
        """Return this job with other *fields*, like ``dataclasses.replace`` without its ``__init__``.

        Raises TypeError if there is no such field.
        """
        if not fields.keys() <= self.__dict__.keys():
            raise TypeError(f"a job has no {', '.join(sorted(fields.keys() - self.__dict__.keys()))}")
        job = object.__new__(Job)
        job.__dict__.update(self.__dict__, **fields)
        if "url" in fields:
            # The cached site may be that of the other URL.
            job.__dict__.pop("site", None)
        return job

    def transition(
        self,
        to: State,
        now: datetime,
        transitions: Mapping[State, frozenset[State]] = TRANSITIONS,
        **fields: Any,
    ) -> Job:
        """Return this job in state *to*, with other *fields*.

        Raises STATE_CONFLICT if *transitions* has no such transition.
        """
        if to not in transitions.get(self.state, frozenset()):
            raise StateConflict(
                self.name, self.state.name, f"{self.name} is {self.state.name}, cannot become {to.name}"
            )
        return self.bump(now, state=to, **fields)

    def end(self, to: State, now: datetime, **fields: Any) -> Job:
        """Return this job in the terminal state *to*, kept until it expires."""
        expire_time = self.expire_time or now + self.ttl
        return self.transition(
            to, now, queue_stage=QueueStage.IDLE, due=None, end_time=now, expire_time=expire_time, **fields
        )

    def rank(self, since: datetime) -> datetime:
        """Return its rank among its tenant's ready jobs if it waits since *since*; the lowest goes first."""
        return since - self.priority_offset(self.priority)

    @staticmethod
    def priority_offset(priority: Priority) -> timedelta:
        """Return how much older *priority* makes a waiting job."""
        return _PRIORITY_OFFSETS[priority]


#: Names of a job's fields.
FIELDS = tuple(field.name for field in fields(Job))
_shared_fields = itemgetter(*(name for name in FIELDS if name not in ("id", "url")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of a job by one worker, under one lease."""

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
    #: The job's revision after Finish; None if no Finish ended it.
    finish_revision: int | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return f"jobs/{self.job}/attempts/{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOutcome:
    """How the attempt under a job's newest lease ended."""

    state: AttemptState
    error: status_pb2.Status | None = None
    http_statuses: Mapping[int, int] = field(default_factory=dict)
    #: Whether Finish ended it.
    finished: bool = False
    #: Bytes received under the lease; None: as many as the last progress says.
    received_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A state change of a job; ``old_state`` is None when it was created."""

    revision: int
    time: datetime
    old_state: State | None
    state: State
    charged: int = 0
    error: status_pb2.Status | None = None
    next_attempt_time: datetime | None = None
