"""Errors of attempts, and whether and when a failed attempt is retried."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import timedelta

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from reelhaul.backoff import exponential_delay
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model.job import RetryPolicy
from reelhaul_jobs.model.rate_limit import MAX_RETRY_AFTER, Jitter
from reelhaul_runtime import errors

# Not retried, although the job could succeed later: callers who want to wait set `live: wait`, and their jobs
# are released until the event begins.
_NOT_AWAITED = frozenset({ErrorReason.MEDIA_NOT_LIVE_YET})

# Failures that are no fault of the job or its site are not charged as attempts, up to this number: with the
# default back-off an outage of storage may last nine hours.
_UNCHARGED_FAILURES = {ErrorReason.STORAGE_UNAVAILABLE: 60}


def error_reason(status: status_pb2.Status) -> ErrorReason.ValueType:
    """Return the reason in the ErrorInfo of *status*; INTERNAL_ERROR if there is none that is known."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
            break
    known = info.domain == errors.DOMAIN and info.reason in ErrorReason.keys()
    return ErrorReason.Value(info.reason) if known else ErrorReason.INTERNAL_ERROR


def error_status(
    reason: ErrorReason.ValueType, text: str, metadata: Mapping[str, str] | None = None
) -> status_pb2.Status:
    """Return a value for Job.error, with every metadata key that *reason* documents."""
    required = dict.fromkeys(errors.error_spec(reason).metadata_keys, "")
    info = error_details_pb2.ErrorInfo(
        reason=ErrorReason.Name(reason), domain=errors.DOMAIN, metadata=required | dict(metadata or {})
    )
    packed = any_pb2.Any()
    packed.Pack(info)
    return status_pb2.Status(code=errors.error_spec(reason).code, message=text, details=[packed])


def normalize_error(status: status_pb2.Status) -> status_pb2.Status:
    """Return *status* as a valid Job.error: never OK, and always with a reason."""
    if status.code != code_pb2.OK and error_reason(status) != ErrorReason.INTERNAL_ERROR:
        return status
    return error_status(error_reason(status), status.message or "the worker gave no reason")


def is_charged(reason: ErrorReason.ValueType, failures: Mapping[str, int]) -> bool:
    """Return whether a failure counts as an attempt; *failures* includes it."""
    uncharged = _UNCHARGED_FAILURES.get(reason)
    return uncharged is None or failures.get(ErrorReason.Name(reason), 0) > uncharged


def retry_delay(
    policy: RetryPolicy,
    *,
    charged: int,
    failures: Mapping[str, int],
    reason: ErrorReason.ValueType,
    retry_after: timedelta | None,
    jitter: Jitter = random.random,
) -> timedelta | None:
    """Return the delay before the next attempt; None if the job is not retried.

    *charged* and *failures* include the attempt that just failed, *charged* only if it is charged. The delay
    is never shorter than *retry_after*, the site's Retry-After.
    """
    spec = errors.error_spec(reason)
    if not spec.retryable or reason in _NOT_AWAITED or charged >= policy.max_attempts:
        return None
    failed = failures.get(ErrorReason.Name(reason), 0)
    if spec.max_retries and failed > spec.max_retries:
        return None
    if retry_after is not None and retry_after > MAX_RETRY_AFTER:
        return None
    tries = charged if is_charged(reason, failures) else failed
    backoff = exponential_delay(max(tries - 1, 0), policy.min_backoff, policy.max_backoff)
    jittered = backoff * (0.5 + jitter() / 2)
    return max(jittered, retry_after) if retry_after is not None else jittered
