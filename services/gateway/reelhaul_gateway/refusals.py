"""Refusals: the responses to requests that are refused before the application receives them."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway.connections import MAX_HEAD_BYTES, MAX_HEADERS
from reelhaul_runtime import errors
from reelhaul_transcoding.codec.encoder import Encoder


@cache
def refusal_body(status: HTTPStatus) -> bytes:
    """Return the body of a refusal with *status*: a google.rpc.Status in JSON."""
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
    return Encoder().encode(errors.to_status(refusals.get(status, overloaded)))
