"""LeaseService, which fetchers call: converts each request, calls one use case, and converts its result."""

from __future__ import annotations

import asyncio

from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.leases import messages
from reelhaul_jobs.service.leases import Leases
from reelhaul_runtime.errors import to_status
from reelhaul_runtime.rpc.interceptor import to_public_error

_EXCHANGE = "/reelhaul.work.v1.LeaseService/Exchange"
_MAX_SLOTS = 4096


class LeaseServicer(lease_service_pb2_grpc.LeaseServiceServicer):
    """reelhaul.work.v1.LeaseService."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def Claim(
        self, request: lease_service_pb2.ClaimRequest, context: object
    ) -> lease_service_pb2.ClaimResponse:
        job_id, slots = fields.parse_job_id(request.job, "job"), request.slot.slot_count
        claim = messages.claim_from_request(request, self._leases.duration)
        result = await self._leases.claim(job_id, claim, min(max(slots, 1), _MAX_SLOTS))
        return messages.claim_response(result)

    async def Renew(
        self, request: lease_service_pb2.RenewRequest, context: object
    ) -> lease_service_pb2.RenewResponse:
        job_id, media = fields.parse_job_id(request.job, "job"), messages.media_from_request(request)
        progress, entries = messages.progress_from_request(request), messages.entries_from_request(request)
        result = await self._leases.renew(job_id, request.epoch, progress, media, entries)
        return messages.renew_response(result)

    async def Finish(
        self, request: lease_service_pb2.FinishRequest, context: object
    ) -> lease_service_pb2.FinishResponse:
        job_id, outcome = fields.parse_job_id(request.job, "job"), messages.outcome_from_request(request)
        return messages.finish_response(await self._leases.finish(job_id, request.epoch, outcome))

    async def Exchange(
        self, request: lease_service_pb2.ExchangeRequest, context: object
    ) -> lease_service_pb2.ExchangeResponse:
        calls = messages.calls_from_request(request)
        answers = await asyncio.gather(*(self._answer(call, context) for call in calls))
        return lease_service_pb2.ExchangeResponse(answers=answers)

    async def _answer(
        self, call: lease_service_pb2.ExchangeRequest.Call, context: object
    ) -> lease_service_pb2.ExchangeResponse.Answer:
        try:
            if call.HasField("claim"):
                return lease_service_pb2.ExchangeResponse.Answer(claim=await self.Claim(call.claim, context))
            return lease_service_pb2.ExchangeResponse.Answer(finish=await self.Finish(call.finish, context))
        except Exception as error:  # one call's failure is no other call's
            status = to_status(to_public_error(_EXCHANGE, error))
            return lease_service_pb2.ExchangeResponse.Answer(error=status)
