"""Spans of attempts: recorded here when they end, because the worker of an attempt may be lost."""

from __future__ import annotations

import logging
from datetime import datetime

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import retries
from reelhaul_jobs.model.states import AttemptState
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import JobStore
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.tracing import spans

log = logging.getLogger(__name__)

_FAILED = frozenset({AttemptState.FAILED, AttemptState.LOST})


class AttemptSpans:
    """Records the span of each attempt that ended, if its job is traced.

    It is below the span that created the job, and linked to the attempt before it. The worker's spans are
    below it (`spans.attempt_context`).
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store

    async def record(self, transition: Transition) -> None:
        """Record the attempt that ended with *transition*, which is committed. Raises nothing."""
        job, outcome = transition.before, transition.attempt_outcome
        if outcome is None or not spans.is_on() or not spans.is_sampled(job.traceparent):
            return
        try:
            attempt = await self._store.find_attempt_by_epoch(job.id, job.epoch)
        except ReelhaulError as error:
            log.warning("the span of an attempt was lost", extra={"job": job.name, "cause": error.text})
            return
        if attempt is None or attempt.end_time is None:
            return
        earlier = [spans.attempt_context(job.traceparent, job.id, job.epoch - 1)] if job.epoch > 1 else []
        span = spans.start(
            "attempt",
            parent=job.traceparent,
            span_id=spans.attempt_id(job.id, job.epoch),
            start_ns=_nanoseconds(attempt.start_time),
            links=earlier,
        )
        span.set(
            {
                "reelhaul.job": job.name,
                "reelhaul.attempt": attempt.number,
                "reelhaul.outcome": outcome.state.name,
                "reelhaul.worker": attempt.worker,
            }
        )
        if outcome.state in _FAILED:
            status = outcome.error
            span.fail(ErrorReason.Name(retries.error_reason(status)) if status else outcome.state.name)
        span.end(_nanoseconds(attempt.end_time))


def _nanoseconds(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000) * 1000
