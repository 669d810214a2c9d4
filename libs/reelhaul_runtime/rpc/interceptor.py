"""Server interceptor: authenticates callers, enforces method policies, turns errors into statuses.

One interceptor for all our RPCs, unary and streaming. Health is open to anyone, reflection to callers who may
read; of both it also rejects malformed messages. Some of their methods are coroutines over ``context.write``,
which a streaming wrapper would break.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2
from grpc import aio

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import MethodPolicy, PermissionLevel
from reelhaul_runtime import errors, logs
from reelhaul_runtime.auth.authorization import authorize, combine_metadata
from reelhaul_runtime.auth.calls import AuditLog, Authenticator, IncomingCall, RateLimiter
from reelhaul_runtime.auth.peers import Metadata
from reelhaul_runtime.metrics import instruments
from reelhaul_runtime.rpc.bodies import log_bodies
from reelhaul_runtime.rpc.metrics import MethodMetrics
from reelhaul_runtime.rpc.policy import max_deadline_seconds, method_descriptor, method_policy
from reelhaul_runtime.rpc.running_streams import RunningStreams
from reelhaul_runtime.tracing import rpc as rpc_spans
from reelhaul_runtime.tracing import spans

log = logging.getLogger(__name__)
access_log = logs.AccessLog("reelhaul_runtime.rpc")

if TYPE_CHECKING:  # these classes are generic in their stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]
    ServicerContext = aio.ServicerContext[Any, Any]

_OUR_PACKAGES, _REFLECTION = "/reelhaul.", "/grpc.reflection."
_REFLECTION_POLICY = MethodPolicy(permission=PermissionLevel.PERMISSION_LEVEL_READ_ONLY)
#: Failures of our own services that pass within moments: callers' channels may retry by themselves.
_CHANNEL_MAY_RETRY = (
    ErrorReason.SERVICE_UNAVAILABLE,
    ErrorReason.OVERLOADED,
    ErrorReason.STORAGE_UNAVAILABLE,
)
# Fields of requests and responses that name a job, if they are strings.
_JOB_FIELDS = ("job", "job_id", "name")
_JOB_ID = re.compile(r"[0-9a-fA-F-]{36}", re.ASCII)
#: The request, or a message of a request stream, that is not valid protobuf. gRPC answers an error of a
#: deserializer with UNKNOWN and the name of the Python class.
_MALFORMED: Any = object()
_STATUS_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_OK = status_pb2.Status()
_CANCELLED = status_pb2.Status(code=code_pb2.CANCELLED, message="the caller cancelled the call")


class PolicyInterceptor(aio.ServerInterceptor):
    """Checks each call against its method's policy and answers errors with their status."""

    def __init__(
        self,
        authenticator: Authenticator,
        rate_limiter: RateLimiter | None = None,
        audit_log: AuditLog | None = None,
    ) -> None:
        self._authenticator, self._rate_limiter, self._audit_log = authenticator, rate_limiter, audit_log
        # By path: the handler of a method never changes.
        self._handlers: dict[str, Handler] = {}
        self._streams = RunningStreams(authenticator)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        path = handler_call_details.method
        if (wrapped := self._handlers.get(path)) is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method: Any = (
            handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        )
        metrics = MethodMetrics(
            path, request_streaming=handler.request_streaming, response_streaming=handler.response_streaming
        )
        if not path.startswith(_OUR_PACKAGES):
            call = self._wrap_foreign(path, method, metrics)
        elif handler.response_streaming:
            call = self._wrap_streaming(path, method, metrics)
        else:
            call = self._wrap_unary(path, method, metrics)
        wrapped = self._handlers[path] = _replace_method(handler, call)
        return wrapped

    def _wrap_unary(
        self, path: str, method: Callable[[Any, Any], Awaitable[Any]], metrics: MethodMetrics
    ) -> Callable[[Any, Any], Any]:
        descriptor = method_descriptor(path)
        policy, audit_log = method_policy(path), self._audit_log_of(path)
        request_field, response_field = _job_field(descriptor.input_type), _job_field(descriptor.output_type)
        is_create = descriptor.name.startswith("Create")  # AIP-133

        async def call(request: Any, context: ServicerContext) -> Any:
            incoming = IncomingCall(path, policy, request)
            async with AbortWithStatus(path, context, metrics, incoming, audit_log):
                async with asyncio.timeout(_deadline_seconds(path, context)):
                    await self._authorize(incoming, context)
                    request = _check_request(request)
                    _set_job(request, request_field)
                    response = incoming.response = await _await_if_awaitable(method(request, context))
                    _set_job(response, response_field)
                    incoming.creates_job = is_create and bool(logs.job.get())
                    return response

        return call

    def _wrap_streaming(
        self, path: str, method: Callable[[Any, Any], Any], metrics: MethodMetrics
    ) -> Callable[[Any, Any], Any]:
        policy, audit_log = method_policy(path), self._audit_log_of(path)
        request_field = _job_field(method_descriptor(path).input_type)

        async def call(request: Any, context: ServicerContext) -> AsyncIterator[Any]:
            incoming = IncomingCall(path, policy, request)
            async with AbortWithStatus(path, context, metrics, incoming, audit_log):
                async with asyncio.timeout(_deadline_seconds(path, context)) as timeout:
                    metadata = await self._authorize(incoming, context)
                    request = _check_request(request)
                    _set_job(request, request_field)
                    async with self._streams.tracking(timeout, incoming, metadata):
                        async for message in method(request, context):
                            yield message

        return call

    def _wrap_foreign(
        self, path: str, method: Callable[[Any, Any], Any], metrics: MethodMetrics
    ) -> Callable[[Any, Any], Any]:
        """Return *method*, of a service that is not ours, with INVALID_ARGUMENT for malformed messages."""

        async def authorize_reflection(context: ServicerContext) -> None:
            if path.startswith(_REFLECTION):
                await self._authorize(IncomingCall(path, _REFLECTION_POLICY, None), context)

        async def call(request: Any, context: ServicerContext) -> Any:
            async with AbortWithStatus(path, context, metrics):
                await authorize_reflection(context)
                return await _await_if_awaitable(method(_check_request(request), context))

        async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Any]:
            async with AbortWithStatus(path, context, metrics):
                await authorize_reflection(context)
                async for message in method(_check_request(request), context):
                    yield message

        return stream if inspect.isasyncgenfunction(method) else call

    async def _authorize(self, call: IncomingCall, context: ServicerContext) -> Metadata:
        metadata = combine_metadata(context.invocation_metadata() or ())
        call.peer = self._authenticator.identify_peer(metadata, context.peer(), context.auth_context)
        logs.begin_request(
            str(metadata.get("x-request-id", "")), str(metadata.get("traceparent", "")), call.peer.address
        )
        if not call.peer.service and (trace := logs.traceparent.get()):
            logs.traceparent.set(spans.limit_caller(trace))
        # Without a trace context services do background work, such as housekeeping.
        begins_trace = not call.peer.service or call.peer.forwarded
        call.span = rpc_spans.start_server(call.path, begins_trace=begins_trace)
        await authorize(call, metadata, self._authenticator, self._rate_limiter)
        if call.limits:
            context.set_trailing_metadata(call.limits)
        return metadata

    def _audit_log_of(self, path: str) -> AuditLog | None:
        return self._audit_log if method_policy(path).audited else None


def _job_field(message: Descriptor) -> str:
    """Return the field of *message* that names a job, empty if there is none."""
    fields = (message.fields_by_name.get(name) for name in _JOB_FIELDS)
    named = (each.name for each in fields if each is not None and each.type == FieldDescriptor.TYPE_STRING)
    return next(named, "")


def _set_job(message: Any, field: str) -> None:
    """Log the job that *message* names in *field* with the rest of the request."""
    # A streaming request is an iterator; names of other resources have another collection.
    value = getattr(message, field, "") if field else ""
    if isinstance(value, str) and (match := _JOB_ID.match(value.removeprefix("jobs/"))):
        logs.job.set(f"jobs/{match[0]}")


class AbortWithStatus:
    """Aborts the call with the status of the error that leaves the block.

    Counts and logs each call, and records it in the audit log if there is one.
    """

    def __init__(
        self,
        path: str,
        context: ServicerContext,
        metrics: MethodMetrics,
        call: IncomingCall | None = None,
        audit_log: AuditLog | None = None,
    ) -> None:
        self._path, self._context, self._metrics = path, context, metrics
        self._call, self._audit_log = call, audit_log
        self._started = time.monotonic()

    async def __aenter__(self) -> None:
        self._metrics.start()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, aio.AbortError | asyncio.CancelledError | GeneratorExit):
            code = "OK" if error is None else "CANCELLED"
            if isinstance(error, aio.AbortError):  # of a service that is not ours
                code = self._context.code().name
            self._end_call(code)
            if self._audit_log is not None:
                await self._record(_OK if error is None else _CANCELLED)
            self._end_span(_OK if error is None else _CANCELLED)
            return
        public = to_public_error(self._path, error)
        status = errors.to_status(public)
        reason = ErrorReason.Name(public.reason)
        instruments.ERRORS.labels(reason).inc()
        self._end_call(_STATUS_CODES[status.code].name, reason)
        if self._audit_log is not None:
            await self._record(status)
        self._end_span(status, reason)
        limits = () if self._call is None else tuple(self._call.limits)
        await self._context.abort(
            _STATUS_CODES[status.code], status.message, (*_trailing_metadata(public, status), *limits)
        )

    async def _record(self, status: status_pb2.Status) -> None:
        if self._audit_log is not None and self._call is not None:
            if self._call.request is _MALFORMED:
                self._call.request = None
            await self._audit_log.record(self._call, status)

    def _end_span(self, status: status_pb2.Status, reason: str = "") -> None:
        if self._call is not None and self._call.span.recorded:
            rpc_spans.end_server(self._call.span, self._path, status.code, reason)

    def _end_call(self, code: str, reason: str = "") -> None:
        """Count the call, and log one line of it, as the gateway does of each request."""
        seconds = time.monotonic() - self._started
        self._metrics.end(code, seconds)
        call = self._call
        # Health checks, reflection, what services ask each other, and what the gateway's line is about, but
        # not creations, whose job only this side knows.
        is_routine = (
            call is None
            or (call.peer.forwarded and not call.creates_job)
            or (bool(call.peer.service) and not call.peer.forwarded and not reason)
        )
        fields: dict[str, object] = {"rpc": self._path, "code": code}
        if reason:
            fields["reason"] = reason
        fields["milliseconds"] = round(seconds * 1000, 1)
        access_log.log(logging.DEBUG if is_routine else logging.INFO, "rpc", fields)
        if call is not None:
            log_bodies(self._path, call.request, call.response)


def _trailing_metadata(
    error: errors.ReelhaulError, status: status_pb2.Status
) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailing metadata of *status*.

    https://grpc.io/docs/guides/error/#richer-error-model
    """
    details = ("grpc-status-details-bin", status.SerializeToString())
    if status.code != code_pb2.UNAVAILABLE or error.reason in _CHANNEL_MAY_RETRY:
        return (details,)
    # gRPC retries every UNAVAILABLE at once, also that of a site which asks for a pause. This forbids it:
    # https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback
    return (details, ("grpc-retry-pushback-ms", "-1"))


def to_public_error(path: str, error: BaseException) -> errors.ReelhaulError:
    """Return *error*, of a call of *path*, as callers may see it; log what is hidden from them."""
    public = _public_error(path, error)
    if public.reason == ErrorReason.INTERNAL_ERROR:
        log.error("unexpected error in %s", path, exc_info=error)
    return public


def _public_error(path: str, error: BaseException) -> errors.ReelhaulError:
    if isinstance(error, errors.ReelhaulError):
        return error
    if isinstance(error, TimeoutError):
        return errors.ReelhaulError(ErrorReason.REQUEST_TIMED_OUT, "the call passed its deadline")
    if isinstance(error, NotImplementedError):
        # The generated base class raises it for methods that a servicer does not implement.
        return errors.ReelhaulError(
            ErrorReason.METHOD_UNSUPPORTED,
            f"{path.removeprefix('/')} is not supported by this build",
            metadata={"method": path.removeprefix("/")},
        )
    return errors.ReelhaulError(
        ErrorReason.INTERNAL_ERROR,
        "internal error; the log has the details under this request id",
        metadata={"requestId": logs.request_id.get()},
    )


def _deadline_seconds(path: str, context: ServicerContext) -> float:
    """Return the smaller of the client's deadline and the policy's (MethodPolicy.max_deadline)."""
    remaining = context.time_remaining()
    maximum = max_deadline_seconds(path)
    return maximum if remaining is None else min(remaining, maximum)


def _check_request(request: Any) -> Any:
    """Return *request*, a message or a stream of them. Raises FIELD_INVALID if a message is malformed."""
    if request is _MALFORMED:
        raise errors.FieldInvalid("request", "must be a valid protobuf message")
    return _check_messages(request) if hasattr(request, "__aiter__") else request


async def _check_messages(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _check_request(request)


def _parse_or_malformed(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse(message: bytes) -> Any:
        try:
            return deserializer(message)
        except DecodeError:
            return _MALFORMED

    return parse


async def _await_if_awaitable(response: Any) -> Any:
    """Return the response of a servicer; methods of the generated base class are not coroutines."""
    return await response if inspect.isawaitable(response) else response


def _replace_method(handler: Handler, method: Callable[[Any, Any], Any]) -> Handler:
    create_handler = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    serializer = handler.response_serializer
    if serializer is not None:
        serializer = _unless_bytes(serializer)
    deserializer = handler.request_deserializer
    return create_handler(method, deserializer and _parse_or_malformed(deserializer), serializer)


def _unless_bytes(serializer: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Let a servicer return or yield bytes: a message that it serialized once for many callers."""
    return lambda message: message if isinstance(message, bytes) else serializer(message)
