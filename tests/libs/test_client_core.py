"""The core of both clients: errors, retries and the position of a watch."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reelhaul._core.errors import CallFailed, connection_lost, status_from_json
from reelhaul._core.resume import ResumePosition
from reelhaul._core.retries import Retries

_INFO = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "RATE_LIMIT_EXCEEDED",
    "metadata": {"limit": "10"},
}
_BAD_REQUEST = {
    "@type": "type.googleapis.com/google.rpc.BadRequest",
    "fieldViolations": [{"field": "url", "description": "is required"}],
}
_RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.500s"}
_HELP = {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"url": "https://a.example/help"}]}


def test_error_from_json():
    """Every detail of a Status in JSON becomes an attribute."""
    status = status_from_json({"code": 8, "message": "slow", "details": [_INFO, _BAD_REQUEST, _RETRY, _HELP]})
    failure = CallFailed.from_status(status)
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED")
    assert (failure.message, failure.metadata) == ("slow", {"limit": "10"})
    assert failure.fields == {"url": "is required"}
    assert failure.retry_delay == timedelta(seconds=1.5)
    assert failure.help_url == "https://a.example/help"
    assert failure.transient
    assert str(failure) == "RATE_LIMIT_EXCEEDED: slow"


@pytest.mark.parametrize(
    "detail",
    [
        5,
        None,
        "text",
        {"@type": 5},
        {"@type": "type.googleapis.com/other.Unknown"},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "soon"},
    ],
)
def test_error_with_invalid_details(detail: object):
    """Details that are unknown or malformed are left out; the others are kept."""
    failure = CallFailed.from_status(status_from_json({"code": 999, "details": [detail, _INFO]}))
    assert (failure.code, failure.reason, failure.retry_delay) == ("UNKNOWN", "RATE_LIMIT_EXCEEDED", None)


def test_permanent_failure_is_not_retried():
    """A failure that time does not change is raised at once."""
    failure = CallFailed("NOT_FOUND", "gone", reason="RESOURCE_NOT_FOUND")
    with pytest.raises(CallFailed) as raised:
        Retries().next_delay(failure)
    assert raised.value is failure


def test_retries_are_limited_by_tries():
    """The last of *tries* failures in a row is raised; a response starts the count again."""
    retries = Retries(tries=3)
    for _ in range(2):
        assert retries.next_delay(connection_lost("cut")) > 0
        assert retries.next_delay(connection_lost("cut")) > 0
        retries.reset()
    retries.next_delay(connection_lost("cut"))
    retries.next_delay(connection_lost("cut"))
    with pytest.raises(CallFailed):
        retries.next_delay(connection_lost("cut"))


def test_retries_are_limited_by_time():
    """Without time left a failure is raised."""
    with pytest.raises(CallFailed):
        Retries(seconds=-1).next_delay(connection_lost("cut"))


def test_retry_delay_of_the_server():
    """The server's retry_delay is a lower limit, up to *max_retry_delay*."""
    failure = CallFailed("UNAVAILABLE", "busy", retry_delay=timedelta(seconds=60))
    assert Retries().next_delay(failure) == 60
    assert Retries(max_retry_delay=7).next_delay(failure) == 7


def test_retry_delay_of_a_rate_limit():
    """The end of a rate limit's minute is waited for, also where other delays are cut short."""
    minute = timedelta(seconds=42)
    failure = CallFailed("RESOURCE_EXHAUSTED", "slow", reason="RATE_LIMIT_EXCEEDED", retry_delay=minute)
    assert Retries(max_retry_delay=5).next_delay(failure) == 42
    assert Retries(max_retry_delay=5, seconds=20).next_delay(failure) == 42


def test_lost_history_restarts_the_watch():
    """A token that the server no longer accepts is dropped; one that the caller passed is an error."""
    failure = CallFailed("INVALID_ARGUMENT", "unknown token", reason="RESUME_TOKEN_INVALID")
    position = ResumePosition(10, "from the caller")
    with pytest.raises(CallFailed):
        position.next_delay(failure)
    position.advance("from the server")
    assert position.next_delay(failure) == 0
    assert position.token == ""


def test_stream_at_its_maximum_duration_is_resumed():
    """REQUEST_TIMED_OUT ends one connection, not the watch."""
    position = ResumePosition(10)
    position.advance("t1")
    timed_out = CallFailed("DEADLINE_EXCEEDED", "12 h are over", reason="REQUEST_TIMED_OUT")
    assert position.next_delay(timed_out) < 1
    assert position.token == "t1"
