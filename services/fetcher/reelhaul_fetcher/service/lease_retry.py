"""Asking jobs, which may be away for a while: again and again, at a pace that spares it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from google.rpc import code_pb2

from reelhaul.work.v1 import lease_service_pb2
from reelhaul_fetcher.ports import Leases
from reelhaul_fetcher.service import outcomes
from reelhaul_fetcher.service.outcomes import Finish
from reelhaul_runtime.errors import ReelhaulError

log = logging.getLogger(__name__)

_CLAIM_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


async def claim(
    leases: Leases, request: lease_service_pb2.ClaimRequest, clock: Callable[[], float]
) -> lease_service_pb2.ClaimResponse | None:
    """jobs' answer; None where it stays away. One request_id: a repeated claim gets the same lease."""
    give_up = clock() + _CLAIM_SECONDS
    async for _ in _turns():
        if clock() >= give_up:
            break
        try:
            return await leases.claim(request)
        except ReelhaulError as error:
            log.warning("claim failed", extra={"job": request.job, "cause": error.text})
    return None


async def finish(leases: Leases, request: Finish, worker: str) -> lease_service_pb2.FinishResponse | None:
    """jobs' answer to the outcome, however long it is away; None where it will never take one.

    An outcome that it refuses to read becomes the failure that this is.
    """
    async for _ in _turns():
        try:
            return await leases.finish(request)
        except ReelhaulError as error:
            log.warning("finish failed", extra={"job": request.job, "cause": error.text})
            if error.code == code_pb2.INVALID_ARGUMENT:
                if request.HasField("failed"):
                    break
                # A bug, which must not hold the job for ever.
                request.failed.CopyFrom(outcomes.failed(error, request.job, worker).failed)
    return None


async def _turns() -> AsyncIterator[None]:
    pause = _FIRST_PAUSE
    while True:
        yield
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
