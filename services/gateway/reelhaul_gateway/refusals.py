"""Refusals: the responses to requests that are refused before the application receives them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway import metrics
from reelhaul_gateway.connections import MAX_HEAD_BYTES, MAX_HEADERS
from reelhaul_runtime import errors, logs
from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.http.asgi import Header

access_log = logs.AccessLog("reelhaul_gateway")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The response to a refused request."""

    headers: list[Header]
    body: bytes


def refuse(status: HTTPStatus, client: str, *, with_body: bool = True) -> Refusal:
    """Log that a request of *client*, an IP address, is refused with *status*; return the response."""
    body = _body(status) if with_body else b""
    metrics.count_request("", "", status.value, None)
    metrics.TOTALS.response_bytes += len(body)
    request_id = logs.begin_request("", "", client)
    # What was requested is not known for certain: the head is incomplete or malformed.
    fields: dict[str, object] = {"status": status.value, "bytes": len(body), "reason": _reason(status)}
    access_log.log(logging.INFO, "request refused", fields)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-request-id", request_id.encode()),
    ]
    return Refusal(headers, body)


@cache
def _body(status: HTTPStatus) -> bytes:
    """Return the body of a refusal with *status*: a google.rpc.Status in JSON."""
    return Encoder().encode(errors.to_status(_error(status)))


@cache
def _reason(status: HTTPStatus) -> str:
    return ErrorReason.Name(_error(status).reason)


def _error(status: HTTPStatus) -> errors.ReelhaulError:
    refusals: dict[HTTPStatus, errors.ReelhaulError] = {
        HTTPStatus.BAD_REQUEST: errors.FieldInvalid("request", "must be valid HTTP"),
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: errors.FieldInvalid(
            "headers", f"must be at most {MAX_HEADERS}, and with the URL at most {MAX_HEAD_BYTES} bytes"
        ),
        HTTPStatus.INTERNAL_SERVER_ERROR: errors.ReelhaulError(
            ErrorReason.INTERNAL_ERROR, "internal error", metadata={"requestId": ""}
        ),
        HTTPStatus.REQUEST_TIMEOUT: errors.ReelhaulError(
            ErrorReason.REQUEST_TIMED_OUT, "the request took too long to arrive"
        ),
    }
    overloaded = errors.ReelhaulError(
        ErrorReason.OVERLOADED, "too many requests are being received; try again"
    )
    return refusals.get(status, overloaded)
