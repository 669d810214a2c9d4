"""Failures with a reason: raised by the domain, told to callers as google.rpc.Status.

``ErrorReason`` in protos/reelhaul/type/v1/error_reason.proto is the only table: each
reason's code, retry advice and metadata keys stand in its ``(error)`` option.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from reelhaul.type.v1 import error_reason_pb2, method_policy_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason

DOMAIN = "reelhaul.dev"

# Details ride in an HTTP/2 trailer, a third larger as base64, beside the message with three
# bytes for one: above 8 KiB a client sees RESOURCE_EXHAUSTED instead.
_MAX_VIOLATIONS = 50
_MAX_VIOLATIONS_BYTES = 2500
_MAX_TEXT_BYTES = 512


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field of a request.

    ``field`` is its path in the request as protobuf names it, e.g. ``job.url``.
    """

    field: str
    description: str


class ReelhaulError(Exception):
    """A failure that we name; anything else is a bug.

    ``metadata`` fills ErrorInfo.metadata; a key that the reason promises and that is
    missing is filled with an empty string. ``retry_delay`` becomes RetryInfo,
    ``help_url`` a Help link, ``resource`` a ResourceInfo.
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
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        promised = dict.fromkeys(error_spec(reason).metadata_keys, "")
        self.metadata: dict[str, str] = promised | dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_delay = retry_delay
        self.help_url = help_url

    @property
    def code(self) -> int:
        """The google.rpc.Code of the reason."""
        return int(error_spec(self.reason).code)

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later with no change by the caller."""
        return error_spec(self.reason).retryable


class FieldInvalid(ReelhaulError):
    """A field of the request broke a rule."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(
            ErrorReason.FIELD_INVALID,
            f"{field}: {description}",
            metadata={"field": field},
            violations=[Violation(field, description)],
        )


class NotFound(ReelhaulError):
    """There is no such resource, or it is another tenant's: the caller cannot tell which."""

    def __init__(self, resource: str) -> None:
        super().__init__(
            ErrorReason.RESOURCE_NOT_FOUND, f"{resource} does not exist", metadata={"resource": resource}
        )


class StateConflict(ReelhaulError):
    """The resource is in a state that does not allow this."""

    def __init__(self, resource: str, state: str, text: str) -> None:
        super().__init__(ErrorReason.STATE_CONFLICT, text, metadata={"resource": resource, "state": state})


class Unavailable(ReelhaulError):
    """Another service, the database or the broker does not answer: try again."""

    def __init__(self, service: str, text: str) -> None:
        super().__init__(
            ErrorReason.SERVICE_UNAVAILABLE,
            text,
            metadata={"service": service},
            retry_delay=timedelta(seconds=1),
        )


@cache
def error_spec(reason: ErrorReason.ValueType) -> method_policy_pb2.ErrorSpec:
    """Code, retry advice and promised metadata keys of *reason*, from its ``(error)`` option."""
    value = error_reason_pb2.DESCRIPTOR.enum_types_by_name["ErrorReason"].values_by_number[reason]
    spec: method_policy_pb2.ErrorSpec = value.GetOptions().Extensions[method_policy_pb2.error]
    return spec


def to_status(error: ReelhaulError) -> status_pb2.Status:
    """*error* as google.rpc.Status, ErrorInfo first (AIP-193), within the size of a trailer."""
    info = error_details_pb2.ErrorInfo(
        reason=ErrorReason.Name(error.reason),
        domain=DOMAIN,
        metadata={key: _cut(value) for key, value in error.metadata.items()},
    )
    details: list[message.Message] = [info]
    if error.violations:
        details.append(_bad_request(error.violations))
    if error.reason == ErrorReason.RESOURCE_NOT_FOUND:
        resource = _cut(error.metadata["resource"])
        details.append(error_details_pb2.ResourceInfo(resource_name=resource))
    if error.retry_delay is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(error.retry_delay)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.help_url:
        link = error_details_pb2.Help.Link(description="What to do", url=error.help_url)
        details.append(error_details_pb2.Help(links=[link]))
    return status_pb2.Status(code=error.code, message=_cut(error.text), details=[_packed(d) for d in details])


def from_status(status: status_pb2.Status) -> ReelhaulError:
    """The failure that *status* tells of; a reason unknown here is judged by its code alone."""
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, help_ = error_details_pb2.RetryInfo(), error_details_pb2.Help()
    for detail in status.details:
        for target in (info, bad_request, retry, help_):
            if detail.Is(target.DESCRIPTOR):
                detail.Unpack(target)
    known = info.domain == DOMAIN and info.reason in ErrorReason.keys()
    return ReelhaulError(
        ErrorReason.Value(info.reason)
        if known
        else _REASON_OF_CODE.get(status.code, ErrorReason.INTERNAL_ERROR),
        status.message,
        metadata=dict(info.metadata),
        violations=[Violation(v.field, v.description) for v in bad_request.field_violations],
        retry_delay=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
        help_url=help_.links[0].url if help_.links else "",
    )


# For statuses that are not ours: a proxy's, or grpc's own.
_REASON_OF_CODE: dict[int, ErrorReason.ValueType] = {
    code_pb2.CANCELLED: ErrorReason.REQUEST_CANCELLED,
    code_pb2.DEADLINE_EXCEEDED: ErrorReason.REQUEST_TIMED_OUT,
    code_pb2.NOT_FOUND: ErrorReason.RESOURCE_NOT_FOUND,
    code_pb2.RESOURCE_EXHAUSTED: ErrorReason.OVERLOADED,
    code_pb2.UNAUTHENTICATED: ErrorReason.CREDENTIAL_INVALID,
    code_pb2.UNAVAILABLE: ErrorReason.SERVICE_UNAVAILABLE,
    code_pb2.UNIMPLEMENTED: ErrorReason.METHOD_UNSUPPORTED,
}


def _bad_request(violations: tuple[Violation, ...]) -> error_details_pb2.BadRequest:
    """The first violations that fit, and how many more there are."""
    told, size = error_details_pb2.BadRequest(), 0
    for place, violation in enumerate(violations):
        field, description = _cut(violation.field), _cut(violation.description)
        size += len(field.encode()) + len(description.encode()) + 8
        if place == _MAX_VIOLATIONS or size > _MAX_VIOLATIONS_BYTES:
            told.field_violations.add(description=f"and {len(violations) - place} more")
            break
        told.field_violations.add(field=field, description=description)
    return told


def _cut(text: str) -> str:
    """*text*, or its beginning where a caller sent more than a status can carry."""
    whole = text.encode(errors="replace")
    if len(whole) <= _MAX_TEXT_BYTES:
        return whole.decode()
    return whole[: _MAX_TEXT_BYTES - 3].decode(errors="ignore") + "…"


def _packed(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
