"""Jobs client: batches the claims and finishes of many slots into one call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from grpc import StatusCode, aio

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul.work.v1.lease_service_pb2 import ExchangeRequest, ExchangeResponse
from reelhaul_runtime import errors, logs
from reelhaul_runtime.rpc.channels import error_from_rpc
from reelhaul_runtime.tracing import spans

T = TypeVar("T")

# A claimed lease may carry half a megabyte of cached metadata; a response may have 16 MiB.
_MAX_CALLS, _MAX_BYTES = 24, 1 << 20


@dataclass(frozen=True, slots=True)
class _PendingCall:
    """A call and the future that its caller waits for."""

    call: ExchangeRequest.Call
    answer: asyncio.Future[ExchangeResponse.Answer]
    #: The trace context of its caller.
    traceparent: str


class BatchingLeaseClient:
    """``ports.Leases`` on jobs' LeaseService.

    At most one RPC of claims and finishes is in flight; calls that arrive meanwhile are batched into the
    next one. Renewals are sent at once.
    """

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = lease_service_pb2_grpc.LeaseServiceStub(channel)
        self._queue: list[_PendingCall] = []
        self._sending: asyncio.Task[None] | None = None

    async def claim(self, request: lease_service_pb2.ClaimRequest) -> lease_service_pb2.ClaimResponse:
        return (await self._call(ExchangeRequest.Call(claim=request))).claim

    async def renew(self, request: lease_service_pb2.RenewRequest) -> lease_service_pb2.RenewResponse:
        try:
            return _require_response(await self._stub.Renew(request))
        except aio.AioRpcError as error:
            raise _to_error(error) from error

    async def finish(self, request: lease_service_pb2.FinishRequest) -> lease_service_pb2.FinishResponse:
        return (await self._call(ExchangeRequest.Call(finish=request))).finish

    async def _call(self, call: ExchangeRequest.Call) -> ExchangeResponse.Answer:
        loop = asyncio.get_running_loop()
        pending = _PendingCall(call, loop.create_future(), logs.traceparent.get())
        self._queue.append(pending)
        if self._sending is None:
            self._sending = loop.create_task(self._send_queue())
        answer = await pending.answer
        if answer.HasField("error"):
            raise errors.from_status(answer.error)
        return answer

    async def _send_queue(self) -> None:
        """Send batches until the queue is empty."""
        try:
            while batch := self._next_batch():
                try:
                    answers = await self._send(batch)
                except Exception as error:  # the callers of the batch raise it
                    _set_exception(batch, error)
                except asyncio.CancelledError:
                    # The channel is being closed: no call will be answered.
                    for pending in (*batch, *self._queue):
                        pending.answer.cancel()
                    raise
                else:
                    _set_answers(batch, answers)
        finally:
            self._sending = None

    def _next_batch(self) -> list[_PendingCall]:
        """Take at least one call off the queue, up to the limits of a batch; drop cancelled calls."""
        waiting = [pending for pending in self._queue if not pending.answer.done()]
        size, count = 0, 0
        for pending in waiting[:_MAX_CALLS]:
            size += pending.call.ByteSize()
            if count and size > _MAX_BYTES:
                break
            count += 1
        self._queue = waiting[count:]
        return waiting[:count]

    async def _send(self, batch: Sequence[_PendingCall]) -> Sequence[ExchangeResponse.Answer]:
        # A call has one span: of a batch it is in the first trace that is recorded.
        traced = (pending.traceparent for pending in batch if spans.is_sampled(pending.traceparent))
        logs.traceparent.set(next(traced, batch[0].traceparent))
        if len(batch) > 1:
            request = ExchangeRequest(calls=[pending.call for pending in batch])
            return _require_response(await self._stub.Exchange(request)).answers
        call = batch[0].call
        if call.HasField("claim"):
            return [ExchangeResponse.Answer(claim=_require_response(await self._stub.Claim(call.claim)))]
        return [ExchangeResponse.Answer(finish=_require_response(await self._stub.Finish(call.finish)))]


def _require_response(response: T | None) -> T:
    """Return *response*. Raises UndecodableResponse for None, which grpc.aio returns for malformed bytes."""
    if response is None:
        raise errors.UndecodableResponse("jobs")
    return response


def _set_answers(batch: Sequence[_PendingCall], answers: Sequence[ExchangeResponse.Answer]) -> None:
    for pending, answer in zip(batch, answers, strict=True):
        if not pending.answer.done():
            pending.answer.set_result(answer)


def _set_exception(batch: Sequence[_PendingCall], error: Exception) -> None:
    for pending in batch:
        if not pending.answer.done():
            converted = _to_error(error) if isinstance(error, aio.AioRpcError) else error
            pending.answer.set_exception(converted)


def _to_error(error: aio.AioRpcError) -> errors.ReelhaulError:
    converted = error_from_rpc(error, "jobs")
    if error.code() == StatusCode.RESOURCE_EXHAUSTED and converted.reason == ErrorReason.OVERLOADED:
        # Jobs never says this; gRPC itself does, of a message that exceeds its limit.
        return errors.FieldInvalid("request", f"jobs does not accept it: {error.details()}")
    return converted
