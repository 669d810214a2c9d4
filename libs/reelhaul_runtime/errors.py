"""Errors: failures with a reason, raised by all layers and sent to callers as google.rpc.Status.

``ErrorReason`` in protos/reelhaul/type/v1/error_reason.proto is the only table: the ``(error)``
option of each reason has its code, whether it is retryable, and its metadata keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from reelhaul.type.v1 import error_reason_pb2, method_policy_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.redaction import redact_urls

#: ErrorInfo.domain of our errors.
DOMAIN = "reelhaul.dev"

# Status details are sent in an HTTP/2 trailer, in base64, after the percent-encoded message: above 8 KiB
# a client gets RESOURCE_EXHAUSTED instead.
_MAX_VIOLATIONS = 50
_MAX_VIOLATIONS_BYTES = 2500
_MAX_TEXT_BYTES = 512


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field of a request.

    ``field`` is its path in the request with protobuf's names, e.g. ``job.url``.
    """

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """Which limit a call exceeds, as a violation of QuotaFailure."""

    #: Resource whose limit it is: a key, a tenant, or ``addresses/{address}``.
    subject: str
    #: Field of Quota, or the name of a fixed limit.
    metric: str
    #: The limit.
    value: int

    @property
    def id(self) -> str:
        """Name of the limit, e.g. ``requests_per_minute/apiKeys``: the metric, and what kind has it."""
        return f"{self.metric}/{self.subject.partition('/')[0]}"


class ReelhaulError(Exception):
    """Base of every expected failure; anything else is a bug.

    ``metadata`` becomes ErrorInfo.metadata; keys that the reason promises are empty if missing.
    ``retry_delay`` becomes RetryInfo, ``help_url`` a Help link, ``quota_violation`` QuotaFailure.
    """

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        text: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[Violation] = (),
        retry_delay: timedelta | None = None,
        help_url: str = "",
        quota_violation: QuotaViolation | None = None,
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        promised = dict.fromkeys(error_spec(reason).metadata_keys, "")
        self.metadata: dict[str, str] = promised | dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_delay = retry_delay
        self.help_url = help_url
        self.quota_violation = quota_violation

    @property
    def code(self) -> int:
        """The google.rpc.Code of the reason."""
        return int(error_spec(self.reason).code)

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later without a change by the caller."""
        return error_spec(self.reason).retryable


class FieldInvalid(ReelhaulError):
    """A field of the request breaks a rule."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(
            ErrorReason.FIELD_INVALID,
            f"{field}: {description}",
            metadata={"field": field},
            violations=[Violation(field, description)],
        )


class NotFound(ReelhaulError):
    """The resource does not exist, or belongs to another tenant: the caller cannot tell which."""

    def __init__(self, resource: str) -> None:
        super().__init__(
            ErrorReason.RESOURCE_NOT_FOUND, f"{resource} does not exist", metadata={"resource": resource}
        )


class StateConflict(ReelhaulError):
    """The state of the resource does not allow the operation."""

    def __init__(self, resource: str, state: str, text: str) -> None:
        super().__init__(ErrorReason.STATE_CONFLICT, text, metadata={"resource": resource, "state": state})


class QuotaExceeded(ReelhaulError):
    """*subject*, a tenant or a key by its resource name, is at its *limit* of *metric*.

    *metric* is a field of Quota or the name of a fixed limit. *reset_time* is when the use returns to 0,
    None if it does not by itself.
    """

    def __init__(
        self, metric: str, text: str, *, subject: str, limit: int, reset_time: datetime | None = None
    ) -> None:
        reset = reset_time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if reset_time else ""
        super().__init__(
            ErrorReason.QUOTA_EXCEEDED,
            text,
            metadata={"quotaMetric": metric, "resetTime": reset},
            quota_violation=QuotaViolation(subject, metric, limit),
        )


class RateLimitExceeded(ReelhaulError):
    """*subject*, a key, a tenant or an address by its name, has used up its *limit* of units per minute.

    *headers* of the response, or its metadata, state the limits of the caller and what is left of them.
    """

    def __init__(
        self,
        subject: str,
        limit: int,
        text: str,
        *,
        retry_delay: timedelta,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.headers = headers
        metric = "requests_per_minute"
        super().__init__(
            ErrorReason.RATE_LIMIT_EXCEEDED,
            text,
            metadata={"quotaMetric": metric},
            retry_delay=retry_delay,
            quota_violation=QuotaViolation(subject, metric, limit),
        )


class Unavailable(ReelhaulError):
    """Another service, the database or the broker does not answer: retry later."""

    def __init__(self, service: str, text: str) -> None:
        super().__init__(
            ErrorReason.SERVICE_UNAVAILABLE,
            text,
            metadata={"service": service},
            retry_delay=timedelta(seconds=1),
        )


class UndecodableResponse(ReelhaulError):
    """Another service sent an undecodable response, because of a bug. A retry does not help."""

    def __init__(self, service: str) -> None:
        super().__init__(ErrorReason.INTERNAL_ERROR, f"the response of {service} cannot be read")


@cache
def error_spec(reason: ErrorReason.ValueType) -> method_policy_pb2.ErrorSpec:
    """Return the ``(error)`` option of *reason*: code, retry advice and promised metadata keys."""
    value = error_reason_pb2.DESCRIPTOR.enum_types_by_name["ErrorReason"].values_by_number[reason]
    spec: method_policy_pb2.ErrorSpec = value.GetOptions().Extensions[method_policy_pb2.error]
    return spec


def to_status(error: ReelhaulError) -> status_pb2.Status:
    """Return *error* as google.rpc.Status, ErrorInfo first (AIP-193), small enough for a trailer.

    URLs in it lose user info, query and fragment: callers and other services log and store errors.
    """
    info = error_details_pb2.ErrorInfo(
        reason=ErrorReason.Name(error.reason),
        domain=DOMAIN,
        metadata={key: _clean(value) for key, value in error.metadata.items()},
    )
    details: list[message.Message] = [info]
    if error.violations:
        details.append(_bad_request(error.violations))
    if error.reason == ErrorReason.RESOURCE_NOT_FOUND:
        resource = _clean(error.metadata["resource"])
        details.append(error_details_pb2.ResourceInfo(resource_name=resource))
    if error.retry_delay is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(error.retry_delay)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if (violation := error.quota_violation) is not None:
        details.append(_quota_failure(violation, error.text))
    if error.help_url:
        link = error_details_pb2.Help.Link(description="What to do", url=error.help_url)
        details.append(error_details_pb2.Help(links=[link]))
    return status_pb2.Status(
        code=error.code, message=_clean(error.text), details=[_pack(detail) for detail in details]
    )


def from_status(status: status_pb2.Status) -> ReelhaulError:
    """Return *status* as an error; the reason of a foreign status follows from its code alone."""
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, help_ = error_details_pb2.RetryInfo(), error_details_pb2.Help()
    quota_failure = error_details_pb2.QuotaFailure()
    for detail in status.details:
        for target in (info, bad_request, retry, help_, quota_failure):
            if detail.Is(target.DESCRIPTOR):
                detail.Unpack(target)
    if info.domain == DOMAIN and info.reason in ErrorReason.keys():
        reason = ErrorReason.Value(info.reason)
    else:
        reason = _REASON_BY_CODE.get(status.code, ErrorReason.INTERNAL_ERROR)
    return ReelhaulError(
        reason,
        status.message,
        metadata=dict(info.metadata),
        violations=[Violation(each.field, each.description) for each in bad_request.field_violations],
        retry_delay=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
        help_url=help_.links[0].url if help_.links else "",
        quota_violation=next(map(_quota_violation, quota_failure.violations), None),
    )


# For statuses that are not ours: a proxy's, or gRPC's own.
_REASON_BY_CODE: dict[int, ErrorReason.ValueType] = {
    code_pb2.CANCELLED: ErrorReason.REQUEST_CANCELLED,
    code_pb2.DEADLINE_EXCEEDED: ErrorReason.REQUEST_TIMED_OUT,
    code_pb2.NOT_FOUND: ErrorReason.RESOURCE_NOT_FOUND,
    code_pb2.RESOURCE_EXHAUSTED: ErrorReason.OVERLOADED,
    code_pb2.UNAUTHENTICATED: ErrorReason.CREDENTIAL_INVALID,
    code_pb2.UNAVAILABLE: ErrorReason.SERVICE_UNAVAILABLE,
    code_pb2.UNIMPLEMENTED: ErrorReason.METHOD_UNSUPPORTED,
}


def _bad_request(violations: tuple[Violation, ...]) -> error_details_pb2.BadRequest:
    """Return the first violations that fit into a trailer, and how many more there are."""
    bad_request, size = error_details_pb2.BadRequest(), 0
    for index, violation in enumerate(violations):
        field, description = _truncate(violation.field), _clean(violation.description)
        size += len(field.encode()) + len(description.encode()) + 8
        if index == _MAX_VIOLATIONS or size > _MAX_VIOLATIONS_BYTES:
            bad_request.field_violations.add(description=f"and {len(violations) - index} more")
            break
        bad_request.field_violations.add(field=field, description=description)
    return bad_request


def _quota_failure(violation: QuotaViolation, text: str) -> error_details_pb2.QuotaFailure:
    failure = error_details_pb2.QuotaFailure()
    failure.violations.add(
        subject=_clean(violation.subject),
        description=_clean(text),
        quota_metric=violation.metric,
        quota_id=violation.id,
        quota_value=violation.value,
    )
    return failure


def _quota_violation(violation: error_details_pb2.QuotaFailure.Violation) -> QuotaViolation:
    return QuotaViolation(violation.subject, violation.quota_metric, violation.quota_value)


def _clean(text: str) -> str:
    """Return *text* without the secrets of URLs, or its beginning."""
    # The beginning of a URL that is cut afterwards has no secrets left.
    return _truncate(redact_urls(text))


def _truncate(text: str) -> str:
    """Return *text*, or its beginning: a caller's values may be larger than a status can carry."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= _MAX_TEXT_BYTES:
        return encoded.decode()
    return encoded[: _MAX_TEXT_BYTES - 3].decode(errors="ignore") + "…"


def _pack(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
