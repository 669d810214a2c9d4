"""When a failed attempt is worth another, and when that may begin."""

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


def error_reason(status: status_pb2.Status) -> ErrorReason.ValueType:
    """Why, as ErrorInfo says; INTERNAL_ERROR where it says nothing that we know."""
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
    """A job's error: why it ended, for Job.error."""
    promised = dict.fromkeys(errors.error_spec(reason).metadata_keys, "")
    info = error_details_pb2.ErrorInfo(
        reason=ErrorReason.Name(reason), domain=errors.DOMAIN, metadata=promised | dict(metadata or {})
    )
    packed = any_pb2.Any()
    packed.Pack(info)
    return status_pb2.Status(code=errors.error_spec(reason).code, message=text, details=[packed])


def normalize_error(status: status_pb2.Status) -> status_pb2.Status:
    """*status* as it may stand in Job.error: never OK, and always with a reason."""
    if status.code != code_pb2.OK and error_reason(status) != ErrorReason.INTERNAL_ERROR:
        return status
    return error_status(error_reason(status), status.message or "the worker gave no reason")


def retry_delay(
    policy: RetryPolicy,
    *,
    charged: int,
    failures: Mapping[str, int],
    reason: ErrorReason.ValueType,
    retry_after: timedelta | None,
    jitter: Jitter = random.random,
) -> timedelta | None:
    """How long to wait before another attempt; None if there shall be none.

    *charged* and *failures* count the attempt that just failed. *asked* is the site's
    Retry-After, which is never undercut.
    """
    spec = errors.error_spec(reason)
    if not spec.retryable or charged >= policy.max_attempts:
        return None
    if spec.max_retries and failures.get(ErrorReason.Name(reason), 0) > spec.max_retries:
        return None
    if retry_after is not None and retry_after > MAX_RETRY_AFTER:
        return None
    backoff = exponential_delay(max(charged - 1, 0), policy.min_backoff, policy.max_backoff)
    spread = backoff * (0.5 + jitter() / 2)
    return max(spread, retry_after) if retry_after is not None else spread
