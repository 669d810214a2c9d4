"""Deliveries: what happens to the artifacts of a job that are delivered to a destination of its tenant.

One delivery of a job runs at a time. Its runner holds it for ``LEASE`` unless it renews; then it is tried
again, by whoever leads the loop. ``Job.delivery_time`` is when the next delivery is to be tried.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from google.rpc import status_pb2

from reelhaul.backoff import exponential_delay
from reelhaul.jobs.v1 import job_pb2
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import transition
from reelhaul_jobs.model.job import Delivery, Job
from reelhaul_jobs.model.rate_limit import Jitter
from reelhaul_jobs.model.retries import error_reason
from reelhaul_jobs.model.states import DeliveryState
from reelhaul_jobs.model.transition import Transition
from reelhaul_runtime.errors import StateConflict, error_spec

#: How long a delivery is tried before it fails for good.
WINDOW = timedelta(days=1)
#: How long a runner holds a delivery without renewing.
LEASE = timedelta(seconds=60)

# What may pass by itself, and what somebody has to correct: a password, a missing bucket.
_FIRST_DELAY, _LONGEST_DELAY = timedelta(seconds=2), timedelta(minutes=10)
_FIRST_SLOW_DELAY, _LONGEST_SLOW_DELAY = timedelta(minutes=5), timedelta(hours=2)
# What no later try changes.
_PERMANENT = frozenset(
    {
        ErrorReason.RESOURCE_NOT_FOUND,
        ErrorReason.ARTIFACT_EXPIRED,
        ErrorReason.ARTIFACT_CORRUPT,
        ErrorReason.FIELD_INVALID,
    }
)


def start(job: Job, artifacts: tuple[media_pb2.ArtifactInfo, ...], now: datetime) -> dict[str, Any]:
    """Return the fields of *job*, which succeeds with *artifacts*, that start their deliveries."""
    if not job.deliver_to:
        return {}
    deliveries = tuple(
        Delivery(artifact=artifact.name, due=now, deadline=now + WINDOW, update_time=now)
        for artifact in artifacts
    )
    return {"deliveries": deliveries, "delivery_time": _next_time(deliveries)}


def claim(job: Job, now: datetime) -> Transition:
    """Start the first delivery of *job* that is due; no change if none is."""
    if job.delete_time is not None or job.delivery_time is None or job.delivery_time > now:
        return transition.no_change(job)
    due = [index for index, each in enumerate(job.deliveries) if each.due is not None and each.due <= now]
    # One whose runner went silent comes first: at most one is running.
    index = min(due, key=lambda index: (not job.deliveries[index].is_running, index))
    delivery = job.deliveries[index]
    running = replace(
        delivery,
        state=DeliveryState.RUNNING,
        attempt_count=delivery.attempt_count + 1,
        due=now + LEASE,
        update_time=now,
    )
    return _with_delivery(job, index, running, now)


def renew(job: Job, running: Delivery, now: datetime) -> Transition:
    """Hold the delivery *running* for another ``LEASE``; no change if it is not held any more."""
    if (index := _find_running(job, running)) is None:
        return transition.no_change(job)
    deliveries = _replaced(job, index, replace(job.deliveries[index], due=now + LEASE))
    # Nothing that callers see.
    renewed = job.replace_fields(deliveries=deliveries, delivery_time=_next_time(deliveries))
    return Transition(before=job, job=renewed)


def complete(job: Job, running: Delivery, uri: str, now: datetime) -> Transition:
    """Record that the object is verified at *uri*; no change if the delivery is not held any more."""
    if (index := _find_running(job, running)) is None:
        return transition.no_change(job)
    delivered = replace(
        running, state=DeliveryState.DELIVERED, uri=uri, error=None, due=None, update_time=now
    )
    return _with_delivery(job, index, delivered, now)


def fail(
    job: Job, running: Delivery, error: status_pb2.Status, now: datetime, jitter: Jitter = random.random
) -> Transition:
    """Record why the try failed, and when the next one is; no change if the delivery is not held any more."""
    if (index := _find_running(job, running)) is None:
        return transition.no_change(job)
    due = now + _delay(running, error, jitter)
    if error_reason(error) in _PERMANENT or due > running.deadline:
        failed = replace(running, state=DeliveryState.FAILED, error=error, due=None, update_time=now)
    else:
        failed = replace(running, state=DeliveryState.PENDING, error=error, due=due, update_time=now)
    return _with_delivery(job, index, failed, now)


def redeliver(job: Job, now: datetime) -> Transition:
    """Start the FAILED deliveries of *job* again. Raises STATE_CONFLICT if there are none."""
    if all(delivery.state is not DeliveryState.FAILED for delivery in job.deliveries):
        raise StateConflict(job.name, job.state.name, f"{job.name} has no failed deliveries")
    deliveries = tuple(
        replace(
            delivery,
            state=DeliveryState.PENDING,
            error=None,
            due=now,
            deadline=now + WINDOW,
            update_time=now,
        )
        if delivery.state is DeliveryState.FAILED
        else delivery
        for delivery in job.deliveries
    )
    return _with_deliveries(job, deliveries, now)


def object_name(job: Job, artifact: str) -> str:
    """Return the key of *artifact* below the destination's prefix: the job's id, "/", and its file name.

    A file name that an earlier artifact of the job has gets a number: "a.srt", "a (2).srt".
    """
    used = set[str]()
    for info in job.artifacts:
        name, number = info.file_name or "file", 1
        stem, dot, suffix = name.rpartition(".")
        while name in used:
            number += 1
            name = f"{stem} ({number}){dot}{suffix}" if stem else f"{info.file_name} ({number})"
        used.add(name)
        if info.name == artifact:
            return f"{job.id}/{name}"
    raise ValueError(f"{artifact} is no artifact of {job.name}")


def delivery_to_proto(job: Job, delivery: Delivery) -> job_pb2.ArtifactDelivery:
    """Return *delivery* of *job* as its row holds it; its lease, too, is the next_attempt_time."""
    message = job_pb2.ArtifactDelivery(
        artifact=delivery.artifact,
        destination=f"destinations/{job.deliver_to}",
        state=cast("job_pb2.ArtifactDelivery.State.ValueType", delivery.state),
        uri=delivery.uri,
        error=delivery.error,
        attempt_count=delivery.attempt_count,
    )
    message.deadline.FromDatetime(delivery.deadline)
    message.update_time.FromDatetime(delivery.update_time)
    if delivery.due is not None:
        message.next_attempt_time.FromDatetime(delivery.due)
    return message


def delivery_from_proto(message: job_pb2.ArtifactDelivery) -> Delivery:
    """Return the delivery that a row holds as *message*."""
    return Delivery(
        artifact=message.artifact,
        state=DeliveryState(message.state),
        uri=message.uri,
        error=message.error if message.HasField("error") else None,
        attempt_count=message.attempt_count,
        due=message.next_attempt_time.ToDatetime(UTC) if message.HasField("next_attempt_time") else None,
        deadline=message.deadline.ToDatetime(UTC),
        update_time=message.update_time.ToDatetime(UTC),
    )


def _find_running(job: Job, running: Delivery) -> int | None:
    """Return the index of *running* in *job*; None if it was deleted or taken over since it was claimed."""
    if job.delete_time is not None:
        return None
    for index, delivery in enumerate(job.deliveries):
        if delivery.artifact == running.artifact:
            return index if delivery.is_running and delivery.attempt_count == running.attempt_count else None
    return None


def _delay(running: Delivery, error: status_pb2.Status, jitter: Jitter) -> timedelta:
    tries = running.attempt_count - 1
    if error_spec(error_reason(error)).retryable:
        delay = exponential_delay(tries, _FIRST_DELAY, _LONGEST_DELAY)
    else:
        delay = exponential_delay(tries, _FIRST_SLOW_DELAY, _LONGEST_SLOW_DELAY)
    return delay * (1 - jitter() / 4)


def _with_delivery(job: Job, index: int, delivery: Delivery, now: datetime) -> Transition:
    return _with_deliveries(job, _replaced(job, index, delivery), now)


def _with_deliveries(job: Job, deliveries: tuple[Delivery, ...], now: datetime) -> Transition:
    # The expiry of the artifacts in storage depends on whether deliveries are unfinished.
    had_ended, has_ended = job.delivery_time is None, _next_time(deliveries) is None
    fields: dict[str, Any] = {"confirm_time": now} if had_ended != has_ended else {}
    changed = job.bump(now, deliveries=deliveries, delivery_time=_next_time(deliveries), **fields)
    return Transition(before=job, job=changed)


def _replaced(job: Job, index: int, delivery: Delivery) -> tuple[Delivery, ...]:
    return (*job.deliveries[:index], delivery, *job.deliveries[index + 1 :])


def _next_time(deliveries: tuple[Delivery, ...]) -> datetime | None:
    """Return when the next delivery is to be tried: while one runs, when its lease ends."""
    running = [each.due for each in deliveries if each.due and each.is_running]
    return min(running or [each.due for each in deliveries if each.due], default=None)
