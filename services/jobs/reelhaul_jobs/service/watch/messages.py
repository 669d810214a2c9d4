"""What a watcher is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model.job import Event, Job
from reelhaul_runtime.errors import ReelhaulError

#: How long events are kept: a watcher that comes back later begins anew.
EVENTS_KEPT = timedelta(hours=24)

#: Just under the policy's 12 h: a stream ends with UNAVAILABLE, not with DEADLINE_EXCEEDED.
LONGEST_SECONDS = 12 * 3600 - 30.0

#: A lost notice costs no more than this.
REREAD_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole job."""

    job: Job
    reset: bool = False
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing happened."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a watch; ``body`` says what happened. Shared by all who are told the same."""

    sequence: int
    resume_token: str
    time: datetime
    body: Snapshot | Event | media_pb2.Progress | Heartbeat
    #: Progress that this watcher was not told of since its last.
    conflated: int = 0
    #: Its serialised forms, by name, each made once for all watchers; none holds ``conflated``.
    forms: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    def after(self, conflated: int) -> Message:
        """The same, its forms too, for a watcher that was not told of so much progress before it."""
        return Message(self.sequence, self.resume_token, self.time, self.body, conflated, self.forms)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a watcher wants to hear: seconds between progress, and of silence."""

    progress: float = 0.25
    heartbeat: float = 15.0

    @property
    def leeway(self) -> float:
        """How early progress may be told: what comes at just this pace must not wait for its jitter."""
        return self.progress / 5


def stream_ended() -> ReelhaulError:
    """How a stream ends that is not over: UNAVAILABLE, to be resumed."""
    return ReelhaulError(
        ErrorReason.OVERLOADED,
        "this stream ends here; go on with its resume_token",
        retry_delay=timedelta(milliseconds=200),
    )
