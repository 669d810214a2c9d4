"""Doing: what the plan says, to the processes that this test has started, and to no others."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import nats
import nats.errors
from grpc import aio
from tests.chaos.audit import Rows
from tests.chaos.plan import HALT, KILL, STALL, Fault
from tests.suite.suite import Suite

from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc

_FAILPOINT = re.compile(r'"failpoint": "(\w+)\.')

# So long a stall waits for a fetcher that has something to do.
_LOOKS, _LOOK_SECONDS = 20, 0.2
# No job is leased so often in a run.
_NEVER = 100_000


class Doing:
    """Kills, stalls and wipes; counts what it did."""

    def __init__(self, suite: Suite, rows: Rows, stall: float) -> None:
        self._suite, self._rows, self._stall_seconds = suite, rows, stall
        self.kills: Counter[str] = Counter()
        self.stalls = 0
        self.wipes = 0

    async def run(self, plan: Iterable[Fault]) -> None:
        """Do all of *plan*."""
        for fault in plan:
            await asyncio.sleep(fault.after)
            if fault.kind == KILL:
                self._kill(fault.part)
            elif fault.kind == STALL:
                await self._stall()
            elif fault.kind == HALT:
                await self._stop(self._suite.processes().get("jobs"))
            else:
                await self._wipe()

    def _kill(self, part: str) -> None:
        pid = self._suite.processes().get(part)
        if pid is None:
            return  # it is dead already
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills[part.partition("-")[0]] += 1

    async def _stall(self) -> None:
        """Stop a fetcher that holds leases for longer than they last, while another one can take them."""
        for _ in range(_LOOKS):
            if pid := await self._busy_fetcher():
                await self._stop(pid)
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _busy_fetcher(self) -> int | None:
        """The fetcher with the most leases, if another one lives."""
        fetchers = {pid for name, pid in self._suite.processes().items() if name.startswith("fetcher")}
        leased = await asyncio.to_thread(self._rows.leased)
        held = Counter(pid for _, _, worker in leased if (pid := int(worker.split("-")[-2])) in fetchers)
        return held.most_common(1)[0][0] if held and len(fetchers) > 1 else None

    async def _stop(self, pid: int | None) -> None:
        """Stop the process *pid* for a stall, and let it go on."""
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(self._stall_seconds)
            finally:
                os.kill(pid, signal.SIGCONT)
            self.stalls += 1

    async def _wipe(self) -> None:
        """Delete the broker's WORK stream, with all that is in it."""
        for _ in range(10):
            with suppress(nats.errors.Error, OSError, TimeoutError, KeyError):
                async with asyncio.timeout(2):
                    client = await nats.connect(self._suite.address("nats"), allow_reconnect=False)
                    try:
                        await client.jetstream().delete_stream("WORK")
                    finally:
                        await client.close()
                self.wipes += 1
                return
            await asyncio.sleep(0.2)


class Rogue:
    """A worker that speaks with leases it never held: none may be good."""

    def __init__(self, stub: lease_service_pb2_grpc.LeaseServiceStub, rows: Rows) -> None:
        self._stub, self._rows = stub, rows
        self.refused = 0
        #: Jobs of which a lease was renewed that is not theirs.
        self.believed: set[str] = set()

    async def run(self) -> None:
        """Try again and again, until cancelled."""
        while True:
            await asyncio.sleep(0.5)
            for job, epoch, _ in await asyncio.to_thread(self._rows.leased):
                if job not in self.believed:
                    with suppress(aio.AioRpcError):
                        await self._try(job, epoch - 1 if epoch > 1 else epoch + _NEVER)

    async def _try(self, job: str, foreign: int) -> None:
        request = lease_service_pb2.RenewRequest(job=f"jobs/{job}", epoch=foreign)
        answer = await self._stub.Renew(request, timeout=2)
        if answer.HasField("renewal"):
            self.believed.add(job)
        else:
            self.refused += 1


def killed_at_failpoints(log: Path) -> Counter[str]:
    """How many processes of each service killed themselves, as the suite's *log* tells."""
    with log.open(errors="replace") as lines:
        return Counter(found[1] for line in lines if (found := _FAILPOINT.search(line)))
