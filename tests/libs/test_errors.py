"""Errors as google.rpc.Status and back, within the size of a trailer."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TypeVar

import pytest
from google.protobuf import message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime import errors
from reelhaul_runtime.errors import ReelhaulError, Violation

REASONS = [reason for reason in ErrorReason.values() if reason != ErrorReason.ERROR_REASON_UNSPECIFIED]

Detail = TypeVar("Detail", bound=message.Message)


def detail(status: status_pb2.Status, kind: type[Detail]) -> Detail:
    """Return the first detail of *status* that is a *kind*."""
    for packed in status.details:
        unpacked = kind()
        if packed.Unpack(unpacked):
            return unpacked
    raise AssertionError(f"no {kind.__name__} in {status}")


@pytest.mark.parametrize("reason", REASONS, ids=ErrorReason.Name)
def test_every_reason_survives_a_status(reason: ErrorReason.ValueType):
    """An error with any reason is the same error after the conversion to a status and back."""
    status = errors.to_status(ReelhaulError(reason, "what happened"))
    error = errors.from_status(status)
    assert (error.reason, error.text) == (reason, "what happened")
    assert status.code == error.code != code_pb2.OK


@pytest.mark.parametrize("reason", REASONS, ids=ErrorReason.Name)
def test_promised_metadata_is_always_present(reason: ErrorReason.ValueType):
    """The metadata keys that a reason promises are present even if nobody set them."""
    info = detail(errors.to_status(ReelhaulError(reason, "x")), error_details_pb2.ErrorInfo)
    assert set(errors.error_spec(reason).metadata_keys) <= set(info.metadata)


def test_error_info_comes_first():
    """ErrorInfo is the first of all details, and names our domain."""
    error = ReelhaulError(
        ErrorReason.FIELD_INVALID,
        "two fields are wrong",
        violations=[Violation("job.url", "is empty"), Violation("job.labels", "are too many")],
        retry_delay=timedelta(seconds=3),
        help_url="https://reelhaul.dev/help",
    )
    status = errors.to_status(error)
    assert status.details[0].Is(error_details_pb2.ErrorInfo.DESCRIPTOR)
    assert detail(status, error_details_pb2.ErrorInfo).domain == "reelhaul.dev"
    assert errors.from_status(status).violations == error.violations
    assert errors.from_status(status).retry_delay == timedelta(seconds=3)
    assert errors.from_status(status).help_url == "https://reelhaul.dev/help"


def test_limits_are_named_in_quota_failure():
    """An exceeded quota or rate limit says whose it is, which, its value, and when to call again."""
    reset = datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=1)))
    quota = errors.QuotaExceeded("jobs_per_day", "all used", subject="apiKeys/a", limit=9, reset_time=reset)
    assert quota.metadata == {"quotaMetric": "jobs_per_day", "resetTime": "2026-01-01T23:00:00Z"}
    rate = errors.RateLimitExceeded("tenants/t", 60, "too fast", retry_delay=timedelta(seconds=7))
    statuses = [errors.to_status(error) for error in (quota, rate)]
    violations = [detail(status, error_details_pb2.QuotaFailure).violations[0] for status in statuses]
    assert [(each.subject, each.quota_metric, each.quota_id, each.quota_value) for each in violations] == [
        ("apiKeys/a", "jobs_per_day", "jobs_per_day/apiKeys", 9),
        ("tenants/t", "requests_per_minute", "requests_per_minute/tenants", 60),
    ]
    assert [each.description for each in violations] == ["all used", "too fast"]
    assert detail(statuses[1], error_details_pb2.RetryInfo).retry_delay.seconds == 7
    assert errors.from_status(statuses[0]).quota_violation == quota.quota_violation


def test_not_found_names_the_resource():
    """NotFound has ResourceInfo with the requested name."""
    status = errors.to_status(errors.NotFound("jobs/1"))
    assert detail(status, error_details_pb2.ResourceInfo).resource_name == "jobs/1"


def test_field_invalid():
    """FieldInvalid names the field in the message, the metadata and a violation."""
    error = errors.FieldInvalid("job.url", "must be http or https")
    assert str(error) == "job.url: must be http or https"
    assert error.metadata == {"field": "job.url"}
    assert error.violations == (Violation("job.url", "must be http or https"),)


def test_many_violations_fit_into_a_trailer():
    """Of 200 violations the status has the first ones and how many more there are, within 8 KiB."""
    many = [Violation(f"jobs[{index}].url", "must be an http or https URL " * 3) for index in range(200)]
    status = errors.to_status(ReelhaulError(ErrorReason.FIELD_INVALID, "many", violations=many))
    violations = detail(status, error_details_pb2.BadRequest).field_violations
    assert status.ByteSize() < 8 * 1024
    assert violations[0].field == "jobs[0].url"
    assert violations[-1].description == f"and {200 - (len(violations) - 1)} more"


def test_long_texts_fit_into_a_trailer():
    """Message, metadata and violations that repeat a caller's text are truncated to fit a trailer."""
    long = "x" * 20_000
    error = ReelhaulError(
        ErrorReason.URL_INVALID, long, metadata={"url": long}, violations=[Violation("job.url", long)]
    )
    assert errors.to_status(error).ByteSize() < 8 * 1024
    wide = errors.to_status(ReelhaulError(ErrorReason.URL_INVALID, "\u00e9" * 20_000))
    assert wide.ByteSize() < 8 * 1024


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (code_pb2.UNAVAILABLE, ErrorReason.SERVICE_UNAVAILABLE),
        (code_pb2.DEADLINE_EXCEEDED, ErrorReason.REQUEST_TIMED_OUT),
        (code_pb2.UNIMPLEMENTED, ErrorReason.METHOD_UNSUPPORTED),
        (code_pb2.UNKNOWN, ErrorReason.INTERNAL_ERROR),
    ],
)
def test_reason_of_a_foreign_status(code: int, reason: ErrorReason.ValueType):
    """A status that is not ours, e.g. a proxy's, gets the reason closest to its code."""
    info = error_details_pb2.ErrorInfo(reason="FIELD_INVALID", domain="elsewhere.example")
    status = status_pb2.Status(code=code, message="no")
    status.details.add().Pack(info)
    assert errors.from_status(status).reason == reason
