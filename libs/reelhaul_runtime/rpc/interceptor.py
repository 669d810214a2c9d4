"""The door of every server: who calls, how long it may take, and failures told as statuses.

One interceptor for all RPCs of ours, unary and streaming. Health and reflection pass
untouched: they are coroutines over ``context.write`` that a streaming wrapper would break.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

import grpc
from google.rpc import code_pb2, status_pb2
from grpc import aio

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime import errors, identity, logs
from reelhaul_runtime.rpc.policy import max_deadline_of, policy_of

log = logging.getLogger(__name__)

_OURS = "/reelhaul."
#: What passes within moments, and concerns nobody but us: callers' channels may try again by themselves.
_OWN_TROUBLES = (ErrorReason.SERVICE_UNAVAILABLE, ErrorReason.OVERLOADED, ErrorReason.STORAGE_UNAVAILABLE)
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class Authenticator(Protocol):
    """Tells who a caller is."""

    async def identify(self, metadata: Mapping[str, str | bytes]) -> identity.Caller:
        """The caller. Raises CREDENTIAL_MISSING or CREDENTIAL_INVALID."""


class PolicyInterceptor(aio.ServerInterceptor):
    """Checks each call against its policy and answers failures with their status."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        # By path: what is behind the door stays the same.
        self._doors: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        path = handler_call_details.method
        if (known := self._doors.get(path)) is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None or not path.startswith(_OURS):
            return handler
        inner: Any = (
            handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        )
        wrap = self._streaming if handler.response_streaming else self._single
        made = self._doors[path] = _rebuilt(handler, wrap(path, inner))
        return made

    def _single(self, path: str, inner: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Any]:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            async with AbortWithStatus(path, context):
                async with asyncio.timeout(_seconds_for(path, context)):
                    await self._admit(path, context)
                    return await _awaited(inner(request, context))

        return call

    def _streaming(self, path: str, inner: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with AbortWithStatus(path, context):
                async with asyncio.timeout(_seconds_for(path, context)):
                    await self._admit(path, context)
                    async for message in inner(request, context):
                        yield message

        return call

    async def _admit(self, path: str, context: aio.ServicerContext[Any, Any]) -> None:
        metadata = dict(context.invocation_metadata() or ())
        logs.begin_request(str(metadata.get("x-request-id", "")), str(metadata.get("traceparent", "")))
        who = await self._authenticator.identify(metadata)
        who.check(policy_of(path))
        identity.set_caller(who)


class AbortWithStatus:
    """Ends the call with the status of whatever failure leaves the block."""

    def __init__(self, path: str, context: aio.ServicerContext[Any, Any]) -> None:
        self._path, self._context = path, context
        self._begun = time.monotonic()

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._note(error)
        if error is None or isinstance(error, aio.AbortError | asyncio.CancelledError | GeneratorExit):
            return
        failure = to_public_error(self._path, error)
        status = errors.to_status(failure)
        await self._context.abort(_CODES[status.code], status.message, _trailers(failure, status))

    def _note(self, error: BaseException | None) -> None:
        if not log.isEnabledFor(logging.DEBUG):
            return
        milliseconds = round((time.monotonic() - self._begun) * 1000, 1)
        outcome = "OK" if error is None else type(error).__name__
        if isinstance(error, errors.ReelhaulError):
            outcome = ErrorReason.Name(error.reason)
        log.debug("rpc", extra={"rpc": self._path, "outcome": outcome, "milliseconds": milliseconds})


def _trailers(
    failure: errors.ReelhaulError, status: status_pb2.Status
) -> tuple[tuple[str, str | bytes], ...]:
    """What goes along with *status*.

    https://grpc.io/docs/guides/error/#richer-error-model
    """
    details = ("grpc-status-details-bin", status.SerializeToString())
    if status.code != code_pb2.UNAVAILABLE or failure.reason in _OWN_TROUBLES:
        return (details,)
    # gRPC knows UNAVAILABLE only, and would ask a site at once again that wants to be left alone:
    # https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback
    return (details, ("grpc-retry-pushback-ms", "-1"))


def to_public_error(path: str, error: BaseException) -> errors.ReelhaulError:
    """*error*, of a call of *path*, as a failure that callers know; the log holds what they are not told."""
    failure = _named(path, error)
    if failure.reason == ErrorReason.INTERNAL_ERROR:
        log.error("unexpected failure in %s", path, exc_info=error)
    return failure


def _named(path: str, error: BaseException) -> errors.ReelhaulError:
    """*error* as a failure that callers know."""
    if isinstance(error, errors.ReelhaulError):
        return error
    if isinstance(error, TimeoutError):
        return errors.ReelhaulError(ErrorReason.REQUEST_TIMED_OUT, "the call passed its deadline")
    if isinstance(error, NotImplementedError):
        # The generated base class answers so for what a servicer leaves out.
        return errors.ReelhaulError(
            ErrorReason.METHOD_UNSUPPORTED,
            f"{path.removeprefix('/')} is not served by this build yet",
            metadata={"method": path.removeprefix("/")},
        )
    return errors.ReelhaulError(
        ErrorReason.INTERNAL_ERROR,
        "internal error; the log holds it under this request id",
        metadata={"requestId": logs.request_id.get()},
    )


def _seconds_for(path: str, context: aio.ServicerContext[Any, Any]) -> float:
    """min(client's deadline, policy's), as MethodPolicy.max_deadline says."""
    asked = context.time_remaining()
    granted = max_deadline_of(path)
    return granted if asked is None else min(asked, granted)


async def _awaited(answer: Any) -> Any:
    """A servicer's answer; the generated base class's methods are no coroutines."""
    return await answer if inspect.isawaitable(answer) else answer


def _rebuilt(
    handler: grpc.RpcMethodHandler[Any, Any], behaviour: Callable[[Any, Any], Any]
) -> grpc.RpcMethodHandler[Any, Any]:
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    serializer = handler.response_serializer
    if handler.response_streaming and serializer is not None:
        serializer = _unless_serialised(serializer)
    return make(behaviour, handler.request_deserializer, serializer)


def _unless_serialised(serializer: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """A streaming servicer may yield bytes: a message that it serialised once for many callers."""
    return lambda message: message if isinstance(message, bytes) else serializer(message)
