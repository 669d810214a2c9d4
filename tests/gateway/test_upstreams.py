"""What gRPC says on the way to a service is told as that service's silence."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway.upstreams import ReasonedUpstream
from reelhaul_runtime import errors
from reelhaul_transcoding.upstream import UpstreamError


class _Leaving:
    """An upstream whose server leaves as a call arrives."""

    def __init__(self, code: int, *details: Any) -> None:
        self._status = status_pb2.Status(code=code, message="CANCELLED", details=details)

    async def unary(self, call: Any) -> Any:
        raise UpstreamError(self._status)

    async def stream(self, call: Any) -> AsyncIterator[bytes]:
        raise UpstreamError(self._status)
        yield b""


async def _told(upstream: Any, streamed: bool) -> status_pb2.Status:
    call: Any = None
    asked = anext(upstream.stream(call)) if streamed else upstream.unary(call)
    with pytest.raises(UpstreamError) as failure:
        await asked
    return failure.value.status


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("code", [code_pb2.CANCELLED, code_pb2.UNAVAILABLE])
async def test_a_server_that_leaves_does_not_answer(code: int, streamed: bool) -> None:
    """Whether it refuses the call or cancels it: nobody answered, and to ask again is right."""
    told = await _told(ReasonedUpstream("jobs", _Leaving(code)), streamed)
    assert told.code == code_pb2.UNAVAILABLE
    assert errors.from_status(told).reason == ErrorReason.SERVICE_UNAVAILABLE
    assert told.message == "jobs does not answer"


async def test_what_a_service_says_itself_is_passed_on() -> None:
    """A failure with details is the service's own, whatever its code."""
    own = errors.to_status(errors.ReelhaulError(ErrorReason.REQUEST_CANCELLED, "stopped"))
    told = await _told(ReasonedUpstream("jobs", _Leaving(own.code, *own.details)), False)
    assert (told.code, errors.from_status(told).reason) == (own.code, ErrorReason.REQUEST_CANCELLED)
