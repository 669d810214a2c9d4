"""ReasonedUpstream: errors of gRPC itself get a reason and a message without internals."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway.clients import ReasonedUpstream
from reelhaul_runtime import errors
from reelhaul_transcoding.upstream import Call, UpstreamError


class _FailingUpstream:
    """An upstream whose calls fail as if its server were shutting down."""

    def __init__(self, code: int, *details: Any) -> None:
        self._status = status_pb2.Status(code=code, message="CANCELLED", details=details)

    async def unary(self, call: Any) -> Any:
        raise UpstreamError(self._status)

    async def stream(self, call: Any) -> AsyncGenerator[bytes, None]:
        raise UpstreamError(self._status)
        yield b""


async def _failure(upstream: Any, streaming: bool) -> status_pb2.Status:
    call = Call("/reelhaul.jobs.v1.JobService/GetJob", b"", (), 1.0)
    response = anext(upstream.stream(call)) if streaming else upstream.unary(call)
    with pytest.raises(UpstreamError) as failure:
        await response
    return failure.value.status


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("code", [code_pb2.CANCELLED, code_pb2.UNAVAILABLE])
async def test_server_that_shuts_down_is_unavailable(code: int, streaming: bool) -> None:
    """Whether it rejects or cancels the call, the client may retry."""
    status = await _failure(ReasonedUpstream("jobs", _FailingUpstream(code)), streaming)
    assert status.code == code_pb2.UNAVAILABLE
    assert errors.from_status(status).reason == ErrorReason.SERVICE_UNAVAILABLE
    assert status.message == "jobs does not answer"


async def test_errors_with_details_pass_unchanged() -> None:
    """An error with details is the service's own, whatever its code."""
    own = errors.to_status(errors.ReelhaulError(ErrorReason.REQUEST_CANCELLED, "stopped"))
    status = await _failure(ReasonedUpstream("jobs", _FailingUpstream(own.code, *own.details)), False)
    assert (status.code, errors.from_status(status).reason) == (own.code, ErrorReason.REQUEST_CANCELLED)
