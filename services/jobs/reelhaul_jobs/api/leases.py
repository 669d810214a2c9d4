"""LeaseService, for fetchers: proto in, one call, proto out."""

from __future__ import annotations

import asyncio

from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_jobs.api import fields
from reelhaul_jobs.api import lease_messages as to_leases
from reelhaul_jobs.service.leases import Leases
from reelhaul_runtime.errors import to_status
from reelhaul_runtime.rpc.interceptor import to_public_error

_EXCHANGE = "/reelhaul.work.v1.LeaseService/Exchange"


class LeaseServicer(lease_service_pb2_grpc.LeaseServiceServicer):
    """reelhaul.work.v1.LeaseService."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def Claim(
        self, request: lease_service_pb2.ClaimRequest, context: object = None
    ) -> lease_service_pb2.ClaimResponse:
        job_id, slots = fields.job_id(request.job, "job"), min(max(request.slot.slot_count, 1), 4096)
        claim = to_leases.claim_of(request, self._leases.duration)
        return to_leases.claim_response(await self._leases.claim(job_id, claim, slots))

    async def Renew(
        self, request: lease_service_pb2.RenewRequest, context: object = None
    ) -> lease_service_pb2.RenewResponse:
        job_id, media = fields.job_id(request.job, "job"), to_leases.media_of(request)
        progress, entries = to_leases.progress_of(request), to_leases.entries_of(request)
        return to_leases.renew_response(
            await self._leases.renew(job_id, request.epoch, progress, media, entries)
        )

    async def Finish(
        self, request: lease_service_pb2.FinishRequest, context: object = None
    ) -> lease_service_pb2.FinishResponse:
        job_id, outcome = fields.job_id(request.job, "job"), to_leases.outcome_of(request)
        return to_leases.finish_response(await self._leases.finish(job_id, request.epoch, outcome))

    async def Exchange(
        self, request: lease_service_pb2.ExchangeRequest, context: object = None
    ) -> lease_service_pb2.ExchangeResponse:
        calls = to_leases.calls_of(request)
        answers = await asyncio.gather(*(self._answered(call) for call in calls))
        return lease_service_pb2.ExchangeResponse(answers=answers)

    async def _answered(
        self, call: lease_service_pb2.ExchangeRequest.Call
    ) -> lease_service_pb2.ExchangeResponse.Answer:
        try:
            if call.HasField("claim"):
                return lease_service_pb2.ExchangeResponse.Answer(claim=await self.Claim(call.claim))
            return lease_service_pb2.ExchangeResponse.Answer(finish=await self.Finish(call.finish))
        except Exception as error:  # it concerns this one only
            return lease_service_pb2.ExchangeResponse.Answer(
                error=to_status(to_public_error(_EXCHANGE, error))
            )
