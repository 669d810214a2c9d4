"""The states of a job and the transitions between them, as data."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class State(IntEnum):
    """State of a job; numbered as reelhaul.jobs.v1.Job.State."""

    #: Accepted; waits for a worker.
    QUEUED = 1
    #: A worker has its lease.
    RUNNING = 2
    #: An attempt failed; the next one waits for its back-off.
    RETRYING = 3
    #: A user cancelled it; its worker has not stopped yet.
    CANCELLING = 4
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7
    #: Paused by a user.
    PAUSED = 8

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended; only RetryJob may reopen it."""
        return self in _TERMINAL


#: The transitions of workers, loops and users, RetryJob excepted.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.PAUSED}),
    State.RUNNING: frozenset(
        {
            State.QUEUED,
            State.RETRYING,
            State.SUCCEEDED,
            State.FAILED,
            State.CANCELLING,
            State.PAUSED,
        }
    ),
    State.RETRYING: frozenset({State.QUEUED, State.CANCELLED, State.PAUSED}),
    State.CANCELLING: frozenset({State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
}

#: The transitions of RetryJob.
RETRY_TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
}

_TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class QueueStage(IntEnum):
    """What the background loops do with a job next, and when: ``Job.due``. Column ``lane``."""

    #: Nothing: the job is terminal or paused.
    IDLE = 0
    #: Make it ready at ``due``.
    LATER = 1
    #: Publish it; ``due`` is its rank: its creation time, shifted by its priority.
    READY = 2
    #: Its work item is in JetStream; check at ``due`` that it is not lost.
    PUBLISHED = 3
    #: A worker has its lease, which expires at ``due``.
    LEASED = 4


class Priority(IntEnum):
    """Order among the waiting jobs of one tenant; numbered as Job.Priority."""

    LOW = 1
    NORMAL = 2
    HIGH = 3


class Kind(IntEnum):
    """Kind of a job: one download, or the expansion of a playlist; numbered as Job.Kind."""

    SINGLE = 1
    EXPANSION = 2


class DeliveryState(IntEnum):
    """State of the delivery of an artifact; numbered as ArtifactDelivery.State."""

    PENDING = 1
    RUNNING = 2
    DELIVERED = 3
    FAILED = 4


class AttemptState(IntEnum):
    """State of an attempt; numbered as Attempt.State."""

    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    CANCELLED = 4
    RELEASED = 5
    LOST = 6
