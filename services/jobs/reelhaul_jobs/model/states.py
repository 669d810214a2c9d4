"""States and their roads, as data: what may become what, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class State(IntEnum):
    """Where a job stands; numbered as reelhaul.jobs.v1.Job.State."""

    #: Admitted, waits for a worker.
    QUEUED = 1
    #: A worker holds it.
    RUNNING = 2
    #: An attempt failed; the next one waits for its time.
    RETRYING = 3
    #: Cancel asked for; the worker has not let go yet.
    CANCELLING = 4
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7
    #: Held by a user.
    PAUSED = 8

    @property
    def is_terminal(self) -> bool:
        """Whether only RetryJob leads on from here, if anything does."""
        return self in _TERMINAL


#: The roads that a job goes by itself or by cancel.
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

#: The roads that RetryJob opens, and nothing else does.
RETRY_TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
}

_TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class QueueStage(IntEnum):
    """What the loops have to do with a job next; ``Job.due`` says when."""

    #: Nothing: it is terminal or paused.
    IDLE = 0
    #: Waits for its time, ``due``.
    LATER = 1
    #: To be published; ``due`` is its rank: its age, shifted by its priority.
    READY = 2
    #: In JetStream; looked after again at ``due``.
    PUBLISHED = 3
    #: A worker's, until ``due`` unless renewed.
    LEASED = 4


class Priority(IntEnum):
    """Which of a tenant's waiting jobs goes first; numbered as Job.Priority."""

    LOW = 1
    NORMAL = 2
    HIGH = 3


class Kind(IntEnum):
    """What a job does; numbered as Job.Kind."""

    SINGLE = 1
    EXPANSION = 2


class AttemptState(IntEnum):
    """How an attempt stands or ended; numbered as Attempt.State."""

    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    CANCELLED = 4
    RELEASED = 5
    LOST = 6
