"""gRPC client of one tenant: repeats a call until it gets a definite response."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc import aio
from tests.chaos.fault_injection import TENANT_KEY

from reelhaul.jobs.v1 import job_service_pb2_grpc, schedule_service_pb2_grpc

# After these it is unknown whether the call took effect, so it is repeated.
_RETRYABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    # gRPC sends it for a call that arrives while the server shuts down, as services do when their
    # supervisor is killed.
    grpc.StatusCode.CANCELLED,
)
_CALL_TIMEOUT = 4.0
_RETRY_DELAY = 0.1


class Refused(Exception):
    """The service refused the call with a definite status."""

    def __init__(self, error: aio.AioRpcError, *, repeated: bool) -> None:
        super().__init__(f"{error.code().name} {error.details()}")
        self.code = error.code()
        #: Whether the same call was sent before without a definite response; it may have taken effect then.
        self.repeated = repeated


class TenantClient:
    """Calls JobService and ScheduleService as one tenant, each attempt on the next replica of jobs."""

    def __init__(self, replicas: Sequence[aio.Channel], tenant: str) -> None:
        self.tenant = tenant
        #: Number of successful calls by method.
        self.successes: Counter[str] = Counter()
        self._jobs = cycle([job_service_pb2_grpc.JobServiceStub(channel) for channel in replicas])
        self._schedules = cycle(
            [schedule_service_pb2_grpc.ScheduleServiceStub(channel) for channel in replicas]
        )

    async def call(self, method: str, request: Message) -> Any:
        """Call *method* until it succeeds and return its response. Raises Refused."""
        repeated = False
        stubs: Any = self._schedules if "Schedule" in method else self._jobs
        while True:
            try:
                rpc = getattr(next(stubs), method)
                response = await rpc(request, timeout=_CALL_TIMEOUT, metadata=((TENANT_KEY, self.tenant),))
            except aio.AioRpcError as error:
                if error.code() not in _RETRYABLE:
                    raise Refused(error, repeated=repeated) from error
            else:
                self.successes[method] += 1
                return response
            repeated = True
            await asyncio.sleep(_RETRY_DELAY)

    async def try_call(self, method: str, request: Message) -> bool:
        """Call *method*; return False if the job's state does not allow it. Raises Refused."""
        try:
            await self.call(method, request)
        except Refused as refusal:
            if refusal.code is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            return False
        return True
