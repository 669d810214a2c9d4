"""Values of the watch streams: what a watcher asks for and the messages that it receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.filters import job_facts
from reelhaul_jobs.model.job import Event, Job
from reelhaul_jobs.model.results import Owner
from reelhaul_jobs.model.states import State
from reelhaul_jobs.model.wait_reason import Wait
from reelhaul_runtime.filters.ast import Node
from reelhaul_runtime.filters.evaluate import Facts, matches


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a watcher of one job wants messages, in seconds.

    ``progress``: between two progress messages; ``heartbeat``: of silence before a heartbeat.
    """

    progress: float = 0.25
    heartbeat: float = 15.0

    @property
    def leeway(self) -> float:
        """How early progress may be sent: updates that come at exactly this pace must not wait for jitter."""
        return self.progress / 5


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole job."""

    job: Job
    reset: bool = False
    terminal: bool = False
    wait: Wait | None = None
    #: As in JobView.
    children: Mapping[State, int] | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing happened for a while."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of WatchJob, shared by all watchers of the job; ``body`` says what happened."""

    sequence: int
    resume_token: str
    time: datetime
    body: Snapshot | Event | media_pb2.Progress | Heartbeat
    #: Why the job does not run; for events and progress.
    wait: Wait | None = None
    #: Progress updates that this watcher skipped since its previous message.
    conflated: int = 0
    #: Serialized forms by name, each made once for all watchers; none contains ``conflated``.
    encoded: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    def with_conflated(self, count: int) -> Message:
        """Return this message, sharing its serialized forms, for a watcher that skipped *count* updates."""
        return Message(self.sequence, self.resume_token, self.time, self.body, self.wait, count, self.encoded)


@dataclass(frozen=True, slots=True)
class JobChange:
    """A job that changed: its present row, deleted or not, and the states that it left recently."""

    job: Job
    left: frozenset[State]
    #: Everything that changed before this time has been sent once this message has.
    position: datetime
    #: Why it does not run.
    wait: Wait | None = None
    #: Serialized forms by name, each made once for all watchers.
    encoded: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    _facts: dict[str, object] = field(default_factory=dict, compare=False, repr=False)

    @property
    def facts(self) -> Facts:
        """The values that filters compare, computed once for all watchers."""
        if not self._facts:
            self._facts.update(job_facts(self.job))
        return self._facts


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchQuery:
    """What a watcher of many jobs asks for."""

    owner: Owner
    where: Node | None
    #: The filter as written: a resume_token is valid for this text only.
    text: str
    #: Seconds of silence before a heartbeat.
    heartbeat: float = 15.0

    def matches(self, change: JobChange) -> bool:
        """Whether the filter holds for the job now, or held in one of the states that it left recently."""
        if self.owner is not None and change.job.tenant != self.owner:
            return False
        if self.where is None:
            return True
        if matches(self.where, change.facts):
            return True
        return any(matches(self.where, {**change.facts, "state": int(state)}) for state in change.left)


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """One message of WatchJobs: a changed job, or a heartbeat (None); ``reset``: some changes were missed."""

    sequence: int
    resume_token: str
    change: JobChange | None = None
    reset: bool = False
