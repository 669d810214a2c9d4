"""What is true by itself: retries, refusals, tokens, ids."""

from __future__ import annotations

import uuid
from dataclasses import fields
from datetime import UTC, datetime, timedelta

from google.rpc import status_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_jobs.model import ids, retries
from reelhaul_jobs.model.job import Expansion, Job, RetryPolicy
from reelhaul_jobs.model.states import RETRY_TRANSITIONS, TRANSITIONS, State
from reelhaul_jobs.service.watch.resume_tokens import Position, ResumeTokens
from reelhaul_jobs.store import rows

NOW = datetime(2030, 1, 1, tzinfo=UTC)
POLICY = RetryPolicy(max_attempts=5, min_backoff=timedelta(seconds=4), max_backoff=timedelta(seconds=20))


def wait(charged: int, reason=ErrorReason.UPSTREAM_UNAVAILABLE, asked=None, failures=1, jitter=1.0):
    name = ErrorReason.Name(reason)
    return retries.retry_delay(
        POLICY,
        charged=charged,
        failures={name: failures},
        reason=reason,
        retry_after=asked,
        jitter=lambda: jitter,
    )


def test_backoff_doubles_to_its_cap():
    """The wait doubles from attempt to attempt, up to the cap, and jitter only shortens it."""
    assert [wait(n).total_seconds() for n in (1, 2, 3, 4)] == [4, 8, 16, 20]
    assert wait(1, jitter=0.0) == timedelta(seconds=2)


def test_no_attempt_beyond_the_policy():
    """After the last attempt there is none."""
    assert wait(5) is None


def test_what_time_cannot_change_is_not_retried():
    """Gone, forbidden and the like end the job at once."""
    for reason in (
        ErrorReason.MEDIA_NOT_FOUND,
        ErrorReason.MEDIA_DRM_PROTECTED,
        ErrorReason.EXTRACTOR_FAILED,
        ErrorReason.INTERNAL_ERROR,
    ):
        assert wait(1, reason) is None


def test_reason_with_retries_of_its_own():
    """A failure that is worth one retry gets one."""
    assert wait(1, ErrorReason.POSTPROCESSING_FAILED, failures=1) is not None
    assert wait(2, ErrorReason.POSTPROCESSING_FAILED, failures=2) is None


def test_retry_after_is_never_undercut():
    """The site's wish prolongs the wait, even beyond the cap; an absurd one ends the job."""
    assert wait(1, asked=timedelta(minutes=5)) == timedelta(minutes=5)
    assert wait(4, asked=timedelta(seconds=1)) == timedelta(seconds=20)
    assert wait(1, asked=timedelta(days=365)) is None


def test_backoff_never_overflows():
    """A policy of many attempts does not overflow."""
    policy = RetryPolicy(max_attempts=10_000, max_backoff=timedelta(hours=24))
    waited = retries.retry_delay(
        policy,
        charged=9_000,
        failures={},
        reason=ErrorReason.UPSTREAM_UNAVAILABLE,
        retry_after=None,
        jitter=lambda: 1.0,
    )
    assert waited == timedelta(hours=24)


def test_error_always_has_a_reason():
    """A worker's failure without a reason of ours is told as INTERNAL_ERROR, never as OK."""
    for bare in (status_pb2.Status(), status_pb2.Status(code=5, message="?")):
        told = retries.normalize_error(bare)
        assert (told.code, retries.error_reason(told)) == (13, ErrorReason.INTERNAL_ERROR)


def test_roads_lead_to_an_end():
    """From every state a terminal one can be reached, and none leads on but by RetryJob."""
    for state in State:
        reached, frontier = {state}, {state}
        while frontier:
            frontier = {n for s in frontier for n in TRANSITIONS[s]} - reached
            reached |= frontier
        assert any(s.is_terminal for s in reached)
    assert all(not TRANSITIONS[state] for state in State if state.is_terminal)
    assert set(RETRY_TRANSITIONS) == {State.FAILED, State.CANCELLED}


def test_ids_sort_by_time():
    """Ids are UUIDv7: unique, and in the order of their making."""
    made = [ids.new_id(NOW + timedelta(milliseconds=n)) for n in range(100)]
    assert made == sorted(set(made))
    assert {(uuid.UUID(i).version, uuid.UUID(i).variant) for i in made} == {(7, uuid.RFC_4122)}


def test_resume_token():
    """A resume token tells the position it was made for."""
    tokens = ResumeTokens(b"k" * 32)
    position = Position(7 << 32 | 9, NOW)
    assert tokens.read("job", tokens.create("job", position)) == position


def test_a_job_is_remade_from_its_row():
    """What a row is read as has every field of a job, and is the job that was written."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    url = "https://www.videos.example/watch?v=1"
    job = Job(id=ids.new_id(now), tenant="t", url=url, format=FormatSpec(), create_time=now, update_time=now)
    job = job.replace_fields(
        labels={"a": "b"}, failures={"NETWORK": 2}, due=now, expansion=Expansion(job_count=3)
    )
    again = rows.job_from_row(rows.row_from_job(job))
    assert again == job
    assert again.site == "videos.example"
    assert {field.name for field in fields(Job)} <= vars(again).keys()
