"""jobs, in memory: every job is whatever a test says."""

from __future__ import annotations

import itertools
from datetime import timedelta

from google.protobuf import duration_pb2, timestamp_pb2

from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_runtime.errors import Unavailable


class MemoryLeases:
    """Leases of jobs that are whatever ``specs`` says; ``away`` makes every call fail."""

    def __init__(self, log: list[str], lease_seconds: float = 30.0) -> None:
        self.log = log
        self.specs: dict[str, lease_pb2.FetchSpec] = {}
        self.away = False
        #: What the next renewals and claims are answered with, instead of yes.
        self.renewal = lease_service_pb2.RenewResponse()
        self.refusal: lease_pb2.Refusal | None = None
        #: Likewise, of outcomes.
        self.answer = lease_service_pb2.FinishResponse()
        self.finishes: list[lease_service_pb2.FinishRequest] = []
        self.renewals: list[lease_service_pb2.RenewRequest] = []
        self._lease_seconds = lease_seconds
        self._epochs = itertools.count(1)

    async def claim(self, request: lease_service_pb2.ClaimRequest) -> lease_service_pb2.ClaimResponse:
        """As ``ports.Leases.claim``."""
        self._check("claim")
        if self.refusal is not None:
            return lease_service_pb2.ClaimResponse(refusal=self.refusal)
        duration = duration_pb2.Duration()
        duration.FromTimedelta(timedelta(seconds=self._lease_seconds))
        lease = lease_pb2.Lease(
            epoch=next(self._epochs),
            lease_duration=duration,
            spec=self.specs[request.job],
            egress=request.slot.egress,
        )
        return lease_service_pb2.ClaimResponse(lease=lease)

    async def renew(self, request: lease_service_pb2.RenewRequest) -> lease_service_pb2.RenewResponse:
        """As ``ports.Leases.renew``."""
        self._check("renew")
        self.renewals.append(request)
        if self.renewal.WhichOneof("outcome"):
            return self.renewal
        return lease_service_pb2.RenewResponse(renewal=lease_pb2.Renewal())

    async def finish(self, request: lease_service_pb2.FinishRequest) -> lease_service_pb2.FinishResponse:
        """As ``ports.Leases.finish``."""
        self._check("finish")
        self.finishes.append(request)
        if self.answer.WhichOneof("outcome"):
            return self.answer
        now = timestamp_pb2.Timestamp()
        now.GetCurrentTime()
        return lease_service_pb2.FinishResponse(receipt=lease_pb2.Receipt(commit_time=now))

    def _check(self, call: str) -> None:
        self.log.append(call)
        if self.away:
            raise Unavailable("jobs", "jobs does not answer")
