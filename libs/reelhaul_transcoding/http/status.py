"""Statuses: HTTP statuses of gRPC codes, and failures as google.rpc.Status in JSON."""

from __future__ import annotations

import orjson
from google.rpc import code_pb2, error_details_pb2, status_pb2

from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.errors import DescribeError, SelectHttpStatus, TranscodingError
from reelhaul_transcoding.http.asgi import Header, Send, send_response

#: HTTP statuses by google.rpc.Code, from the comments of code.proto; all other codes are 500.
_HTTP_STATUSES: dict[int, int] = {
    code_pb2.OK: 200,
    code_pb2.CANCELLED: 499,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.DEADLINE_EXCEEDED: 504,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.ABORTED: 409,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.UNAVAILABLE: 503,
}
_SERVING, _SERVICE_UNKNOWN = 1, 3


def http_status_of(code: int) -> int:
    """Return the HTTP status of a google.rpc.Code; 500 for an unknown one."""
    return _HTTP_STATUSES.get(code, 500)


def http_status_of_health(serving_status: int) -> int:
    """Return 200 for SERVING, 404 for SERVICE_UNKNOWN, else 503.

    *serving_status* is a grpc.health.v1.HealthCheckResponse.ServingStatus. For a Check that
    failed, use ``http_status_of`` with its code.
    """
    return {_SERVING: 200, _SERVICE_UNKNOWN: 404}.get(serving_status, 503)


class StatusWriter:
    """Writes google.rpc.Status as JSON, and errors as HTTP responses.

    *describe* returns the details that come first in the Status of a TranscodingError;
    *challenge* is the WWW-Authenticate of a 401; *http_status* selects other HTTP statuses than
    those of the codes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        describe: DescribeError | None = None,
        challenge: str = "",
        http_status: SelectHttpStatus | None = None,
    ) -> None:
        self._encode = encoder.compile(status_pb2.Status.DESCRIPTOR)
        self._describe = describe
        self._challenge = challenge
        self._select_http_status = http_status

    def to_dict(self, status: status_pb2.Status) -> dict[str, object]:
        """Return ``{code, message, details}``; all three keys are always present."""
        return {"code": status.code, "message": status.message, "details": [], **self._encode(status)}

    def to_json(self, status: status_pb2.Status) -> bytes:
        """Return *status* as JSON text, with the keys of ``to_dict``."""
        return orjson.dumps(self.to_dict(status))

    def status_of(self, error: TranscodingError) -> status_pb2.Status:
        """Return *error* as google.rpc.Status, with BadRequest details for its field violations."""
        status = status_pb2.Status(code=error.code, message=error.message)
        for detail in self._describe(error) if self._describe else ():
            status.details.add().Pack(detail)
        if error.violations:
            bad_request = error_details_pb2.BadRequest()
            for violation in error.violations:
                bad_request.field_violations.add(field=violation.field, description=violation.description)
            status.details.add().Pack(bad_request)
        return status

    async def send_error(self, send: Send, error: TranscodingError) -> None:
        """Send *error* as a response."""
        await self.send_status(
            send, self.status_of(error), list(error.headers), http_status=error.http_status
        )

    async def send_status(
        self,
        send: Send,
        status: status_pb2.Status,
        headers: list[Header],
        *,
        http_status: int | None = None,
    ) -> None:
        """Send *status* as a response, with *http_status* or else ``http_status_of`` it."""
        extra = list(headers)
        if (seconds := _retry_after_seconds(status)) is not None:
            extra.append((b"retry-after", str(seconds).encode()))
        if status.code == code_pb2.UNAUTHENTICATED and self._challenge:
            extra.append((b"www-authenticate", self._challenge.encode()))
        http_status = http_status or self.http_status_of(status)
        await send_response(send, http_status, extra, self.to_json(status), reason=reason_of(status))

    def http_status_of(self, status: status_pb2.Status) -> int:
        """Return the HTTP status that the host selects for *status*, or else that of its code."""
        selected = self._select_http_status(status) if self._select_http_status else None
        return selected or http_status_of(status.code)


def reason_of(status: status_pb2.Status) -> str:
    """Return the reason in the ErrorInfo of *status*; the name of its code without one."""
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            return str(error_details_pb2.ErrorInfo.FromString(detail.value).reason)
    code = code_pb2.Code.DESCRIPTOR.values_by_number.get(status.code)
    return code.name if code is not None else str(status.code)


def _retry_after_seconds(status: status_pb2.Status) -> int | None:
    """Return the delay of a RetryInfo detail in whole seconds, rounded up; None without one."""
    for detail in status.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            info = error_details_pb2.RetryInfo.FromString(detail.value)
            return max(0, int(info.retry_delay.seconds) + (1 if info.retry_delay.nanos > 0 else 0))
    return None
