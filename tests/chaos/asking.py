"""Asking: calls as one tenant, repeated for as long as nobody answers them."""

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

# Answers that say nothing of what was done: ask again.
_UNKNOWN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    # By gRPC, of a call that arrives as the server leaves: a supervisor's death asks its services to.
    grpc.StatusCode.CANCELLED,
)
_CALL_SECONDS = 4.0
_PAUSE_SECONDS = 0.1


class Refused(Exception):
    """The answer was no."""

    def __init__(self, error: aio.AioRpcError, *, unsure: bool) -> None:
        super().__init__(f"{error.code().name} {error.details()}")
        self.code = error.code()
        #: Whether the same call had been made before, and got no answer.
        self.unsure = unsure


class Caller:
    """A caller of one tenant. Each call, and each repetition of one, goes to the next replica of jobs."""

    def __init__(self, replicas: Sequence[aio.Channel], tenant: str) -> None:
        self.tenant = tenant
        #: How often each method was done.
        self.done: Counter[str] = Counter()
        self._jobs = cycle([job_service_pb2_grpc.JobServiceStub(each) for each in replicas])
        self._schedules = cycle([schedule_service_pb2_grpc.ScheduleServiceStub(each) for each in replicas])

    async def ask(self, method: str, asked: Message) -> Any:
        """What *method* answers. Raises Refused."""
        unsure = False
        stubs: Any = self._schedules if "Schedule" in method else self._jobs
        while True:
            try:
                call = getattr(next(stubs), method)
                answer = await call(asked, timeout=_CALL_SECONDS, metadata=((TENANT_KEY, self.tenant),))
            except aio.AioRpcError as error:
                if error.code() not in _UNKNOWN:
                    raise Refused(error, unsure=unsure) from error
            else:
                self.done[method] += 1
                return answer
            unsure = True
            await asyncio.sleep(_PAUSE_SECONDS)

    async def did(self, method: str, asked: Message) -> bool:
        """Whether *method* was done; False where the job's state does not allow it. Raises Refused."""
        try:
            await self.ask(method, asked)
        except Refused as no:
            if no.code is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            return False
        return True
