"""Retry delays, errors, states, ids and resume tokens."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from google.rpc import status_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import ids, retries
from reelhaul_jobs.model.job import RetryPolicy
from reelhaul_jobs.model.states import RETRY_TRANSITIONS, TRANSITIONS, State
from reelhaul_jobs.service.watch.resume_tokens import Position, ResumeTokens

NOW = datetime(2030, 1, 1, tzinfo=UTC)
POLICY = RetryPolicy(max_attempts=5, min_backoff=timedelta(seconds=4), max_backoff=timedelta(seconds=20))


def delay(charged: int, reason=ErrorReason.UPSTREAM_UNAVAILABLE, retry_after=None, failures=1, jitter=1.0):
    name = ErrorReason.Name(reason)
    return retries.retry_delay(
        POLICY,
        charged=charged,
        failures={name: failures},
        reason=reason,
        retry_after=retry_after,
        jitter=lambda: jitter,
    )


def test_backoff_doubles_to_its_cap():
    """The delay doubles from attempt to attempt, up to the cap, and jitter only shortens it."""
    assert [delay(n).total_seconds() for n in (1, 2, 3, 4)] == [4, 8, 16, 20]
    assert delay(1, jitter=0.0) == timedelta(seconds=2)


def test_no_attempt_beyond_the_policy():
    """After the last attempt there is no retry."""
    assert delay(5) is None


def test_permanent_failures_are_not_retried():
    """Failures that time cannot change end the job at once."""
    for reason in (
        ErrorReason.MEDIA_NOT_FOUND,
        ErrorReason.MEDIA_DRM_PROTECTED,
        ErrorReason.EXTRACTOR_FAILED,
        ErrorReason.INTERNAL_ERROR,
    ):
        assert delay(1, reason) is None


@pytest.mark.parametrize("seconds", [None, 0, 5, 90, 7200, 30 * 86_400])
@pytest.mark.parametrize("charged", [1, 4])
def test_event_that_has_not_begun_is_not_retried(seconds: int | None, charged: int):
    """A job that is not to wait for an event ends with it, whenever that begins."""
    begins_after = None if seconds is None else timedelta(seconds=seconds)
    assert delay(charged, ErrorReason.MEDIA_NOT_LIVE_YET, begins_after) is None


def test_reason_with_a_limit_of_its_own():
    """A reason that allows one retry gets one."""
    assert delay(1, ErrorReason.POSTPROCESSING_FAILED, failures=1) is not None
    assert delay(2, ErrorReason.POSTPROCESSING_FAILED, failures=2) is None


def test_outage_of_storage_is_not_charged():
    """A job outlasts an outage of storage, asking at growing intervals, but not for ever."""
    reason, name = ErrorReason.STORAGE_UNAVAILABLE, "STORAGE_UNAVAILABLE"
    assert not retries.is_charged(reason, {name: 60})
    assert [delay(0, reason, failures=n).total_seconds() for n in (1, 2, 3, 60)] == [4, 8, 16, 20]
    assert retries.is_charged(reason, {name: 61})
    assert delay(5, reason, failures=61) is None
    assert retries.is_charged(ErrorReason.UPSTREAM_UNAVAILABLE, {"UPSTREAM_UNAVAILABLE": 1})


def test_delay_is_never_shorter_than_retry_after():
    """Retry-After extends the delay, even beyond the cap; an absurd one ends the job."""
    assert delay(1, retry_after=timedelta(minutes=5)) == timedelta(minutes=5)
    assert delay(4, retry_after=timedelta(seconds=1)) == timedelta(seconds=20)
    assert delay(1, retry_after=timedelta(days=365)) is None


def test_backoff_never_overflows():
    """A policy of many attempts does not overflow."""
    policy = RetryPolicy(max_attempts=10_000, max_backoff=timedelta(hours=24))
    result = retries.retry_delay(
        policy,
        charged=9_000,
        failures={},
        reason=ErrorReason.UPSTREAM_UNAVAILABLE,
        retry_after=None,
        jitter=lambda: 1.0,
    )
    assert result == timedelta(hours=24)


def test_error_always_has_a_reason():
    """A worker's error without a known reason becomes INTERNAL_ERROR, never OK."""
    for status in (status_pb2.Status(), status_pb2.Status(code=5, message="?")):
        error = retries.normalize_error(status)
        assert (error.code, retries.error_reason(error)) == (13, ErrorReason.INTERNAL_ERROR)


def test_every_state_leads_to_a_terminal_one():
    """A terminal state can be reached from every state, and only RetryJob leaves one."""
    for state in State:
        reached, frontier = {state}, {state}
        while frontier:
            frontier = {n for s in frontier for n in TRANSITIONS[s]} - reached
            reached |= frontier
        assert any(s.is_terminal for s in reached)
    assert all(not TRANSITIONS[state] for state in State if state.is_terminal)
    assert set(RETRY_TRANSITIONS) == {State.FAILED, State.CANCELLED}


def test_ids_sort_by_time():
    """Ids are UUIDv7, unique, in the order of creation."""
    created = [ids.new_id(NOW + timedelta(milliseconds=n)) for n in range(100)]
    assert created == sorted(set(created))
    assert {(uuid.UUID(i).version, uuid.UUID(i).variant) for i in created} == {(7, uuid.RFC_4122)}


def test_resume_token():
    """A resume token contains the position that it was created for."""
    tokens = ResumeTokens(b"k" * 32)
    position = Position(7 << 32 | 9, NOW)
    assert tokens.read("job", tokens.create("job", position)) == position
