"""jobs, seen from here: what many slots ask for at once goes in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from grpc import aio

from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul.work.v1.lease_service_pb2 import ExchangeRequest, ExchangeResponse
from reelhaul_runtime import errors
from reelhaul_runtime.rpc.channels import error_of, status_as_errors

# Each lease may bring half a megabyte of what is known of its media; the answer, sixteen.
_MOST_CALLS, _MOST_BYTES = 24, 1 << 20


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call, and who waits for its answer."""

    call: ExchangeRequest.Call
    answer: asyncio.Future[ExchangeResponse.Answer]


class BatchingLeaseClient:
    """jobs' LeaseService as ``ports.Leases``.

    One call of claims and finishes is under way at a time; what is asked for meanwhile goes
    together in the next. Renewals wait for nothing.
    """

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = lease_service_pb2_grpc.LeaseServiceStub(channel)
        self._waiting: list[_Asked] = []
        self._sending: asyncio.Task[None] | None = None

    async def claim(self, request: lease_service_pb2.ClaimRequest) -> lease_service_pb2.ClaimResponse:
        """As ``ports.Leases.claim``."""
        return (await self._answer(ExchangeRequest.Call(claim=request))).claim

    async def renew(self, request: lease_service_pb2.RenewRequest) -> lease_service_pb2.RenewResponse:
        """As ``ports.Leases.renew``."""
        with status_as_errors("jobs"):
            return await self._stub.Renew(request)

    async def finish(self, request: lease_service_pb2.FinishRequest) -> lease_service_pb2.FinishResponse:
        """As ``ports.Leases.finish``."""
        return (await self._answer(ExchangeRequest.Call(finish=request))).finish

    async def _answer(self, call: ExchangeRequest.Call) -> ExchangeResponse.Answer:
        loop = asyncio.get_running_loop()
        asked = _Asked(call, loop.create_future())
        self._waiting.append(asked)
        if self._sending is None:
            self._sending = loop.create_task(self._send())
        answer = await asked.answer
        if answer.HasField("error"):
            raise errors.from_status(answer.error)
        return answer

    async def _send(self) -> None:
        """Ask for what waits, until nothing does."""
        try:
            while together := self._next():
                try:
                    answers = await self._asked(together)
                except Exception as error:  # it concerns who asked
                    _fail(together, error)
                except asyncio.CancelledError:
                    # The channel is being closed: nobody will be answered any more.
                    for asked in (*together, *self._waiting):
                        asked.answer.cancel()
                    raise
                else:
                    _settle(together, answers)
        finally:
            self._sending = None

    def _next(self) -> list[_Asked]:
        """What goes in one call: as much as it bears, and one at least. Those who left are forgotten."""
        waiting = [asked for asked in self._waiting if not asked.answer.done()]
        size, number = 0, 0
        for asked in waiting[:_MOST_CALLS]:
            size += asked.call.ByteSize()
            if number and size > _MOST_BYTES:
                break
            number += 1
        self._waiting = waiting[number:]
        return waiting[:number]

    async def _asked(self, together: Sequence[_Asked]) -> Sequence[ExchangeResponse.Answer]:
        if len(together) > 1:
            request = ExchangeRequest(calls=[asked.call for asked in together])
            return (await self._stub.Exchange(request)).answers
        call = together[0].call
        if call.HasField("claim"):
            return [ExchangeResponse.Answer(claim=await self._stub.Claim(call.claim))]
        return [ExchangeResponse.Answer(finish=await self._stub.Finish(call.finish))]


def _settle(together: Sequence[_Asked], answers: Sequence[ExchangeResponse.Answer]) -> None:
    for asked, answer in zip(together, answers, strict=True):
        if not asked.answer.done():
            asked.answer.set_result(answer)


def _fail(together: Sequence[_Asked], error: Exception) -> None:
    for asked in together:
        if not asked.answer.done():
            named = error_of(error, "jobs") if isinstance(error, aio.AioRpcError) else error
            asked.answer.set_exception(named)
