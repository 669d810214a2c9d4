"""Upstreams: services behind the gateway, whose silence is told in our words and not in gRPC's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from google.rpc import code_pb2, status_pb2

from reelhaul_runtime import errors
from reelhaul_transcoding.upstream import Answer, Call, Upstream, UpstreamError


class ReasonedUpstream:
    """An upstream whose failures all carry a reason.

    Services answer with reasons of their own; what has none comes from gRPC on the way, and
    its text holds addresses of the inside.
    """

    def __init__(self, owner: str, inner: Upstream) -> None:
        self._owner, self._inner = owner, inner

    async def unary(self, call: Call) -> Answer:
        """See Upstream.unary."""
        try:
            return await self._inner.unary(call)
        except UpstreamError as error:
            raise self._named(error) from error

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        """See Upstream.stream."""
        try:
            async with aclosing(self._inner.stream(call)) as messages:  # type: ignore[type-var]
                async for message in messages:
                    yield message
        except UpstreamError as error:
            raise self._named(error) from error

    def _named(self, error: UpstreamError) -> UpstreamError:
        if error.status.details:
            return error
        code = error.status.code
        if code in _UNANSWERED:
            code = code_pb2.UNAVAILABLE
            failure: errors.ReelhaulError = errors.Unavailable(self._owner, f"{self._owner} does not answer")
        else:
            failure = errors.from_status(status_pb2.Status(code=code, message=_TEXTS.get(code, "")))
        told = errors.to_status(failure)
        # The code is gRPC's: a reason only says more.
        told.code = code
        told.message = told.message or error.status.message
        return UpstreamError(told, error.headers)


# By gRPC a call is CANCELLED that arrives as its server leaves; who hangs up here is told nothing.
_UNANSWERED = (code_pb2.UNAVAILABLE, code_pb2.CANCELLED)
_TEXTS = {
    code_pb2.DEADLINE_EXCEEDED: "the call passed its deadline",
    code_pb2.INTERNAL: "internal error",
    code_pb2.UNKNOWN: "internal error",
}
