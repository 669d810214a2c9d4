"""Faults: a plan drawn from the seed, and the injector that applies it to the processes of this run only."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import nats
import nats.errors
from grpc import aio
from tests.chaos.audit import JobsDatabase
from tests.chaos.outages import OUTAGES, Parts
from tests.failpoints import read_failpoints_hit
from tests.s3_server import S3Server
from tests.suite.suite import Suite

from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc

#: Failpoints, each with the probability that a process kills itself when it passes there.
FAILPOINTS = {
    "jobs.create.before_commit": 0.01,
    "jobs.create.after_commit": 0.01,
    "jobs.dispatch.before_publish": 0.01,
    "jobs.dispatch.after_publish": 0.02,
    "jobs.claim.after_commit": 0.02,
    "jobs.renew.after_commit": 0.01,
    "jobs.finish.before_commit": 0.02,
    "jobs.finish.after_commit": 0.03,
    "fetcher.claim.after": 0.02,
    "fetcher.finish.before": 0.03,
    "fetcher.ack.before": 0.03,
    "storage.claim.after_commit": 0.02,
    "storage.publish.after_rename": 0.03,
    "storage.finish.after_commit": 0.03,
    "storage.multipart.after_create": 0.02,
    "storage.parts.after_take": 0.03,
    "storage.publish.before_discard": 0.03,
}

# How often each service is chosen to be killed.
_KILL_WEIGHTS = {"jobs": 4, "fetcher": 5, "storage": 2, "nats": 2, "s3": 4}
# Seconds for which the S3 server is away before it is started again, which takes another three.
_S3_OUTAGE_SECONDS = 1.0

# A stall waits up to this many polls for a fetcher that holds a lease.
_BUSY_POLLS, _POLL_SECONDS = 20, 0.2
# Before the first outage, and of other faults between two.
_UNDISTURBED_SECONDS, _BETWEEN_OUTAGES_SECONDS = 6.0, 8.0
# Far above every epoch that a run can reach.
_UNUSED_EPOCH = 100_000


class FaultKind(Enum):
    """What a fault does."""

    #: Kill a process.
    KILL = "kill"
    #: Stop a fetcher that holds leases for longer than they last.
    STALL = "stall"
    #: Delete the broker's WORK stream.
    WIPE = "wipe"
    #: Stop the jobs service for as long as a stall.
    STOP_JOBS = "stop_jobs"
    #: Take something that the services depend on away for a while: see outages.py.
    OUTAGE = "outage"


@dataclass(frozen=True)
class Fault:
    """A fault, *after* seconds after the previous one."""

    after: float
    kind: FaultKind
    #: The process to kill, or the name of the outage; empty for the other kinds.
    process: str = ""


@dataclass(frozen=True)
class Recovery:
    """How fast a job succeeded that was created at the end of an outage, or in it where that is tolerated."""

    outage: str
    seconds: float
    #: The same before the outage.
    usual_seconds: float


def plan_faults(
    rng: random.Random,
    seconds: float,
    replicas: Mapping[str, int],
    stall: float,
    outages: Sequence[str] = (),
) -> Iterator[Fault]:
    """Yield the faults of a run of *seconds* with stalls of *stall* seconds.

    *replicas*: number of processes by service, where it is not 1. Each of *outages* occurs at most once.
    """
    waiting, next_outage = rng.sample(outages, len(outages)), _UNDISTURBED_SECONDS
    services = [
        name for name, weight in _KILL_WEIGHTS.items() if replicas.get(name, 1) for _ in range(weight)
    ]
    elapsed, wiped, jobs_stopped, next_stall = 0.0, False, False, rng.uniform(2, 4)
    while True:
        after = rng.uniform(0.5, 1.6)
        elapsed += after
        if elapsed > seconds:
            return
        if waiting and elapsed > next_outage:
            name = waiting.pop()
            yield Fault(after, FaultKind.OUTAGE, name)
            elapsed += OUTAGES[name].seconds
            next_outage = elapsed + _BETWEEN_OUTAGES_SECONDS
        elif not wiped and elapsed > seconds * 0.4:
            wiped = True
            yield Fault(after, FaultKind.WIPE)
        elif not jobs_stopped and elapsed > seconds * 0.7:
            jobs_stopped = True
            elapsed += stall
            yield Fault(after, FaultKind.STOP_JOBS)
        elif elapsed > next_stall:
            yield Fault(after, FaultKind.STALL)
            elapsed += stall
            next_stall = elapsed + rng.uniform(3, 6)
        else:
            service = rng.choice(services)
            number = rng.randint(1, replicas.get(service, 1))
            yield Fault(after, FaultKind.KILL, service if number == 1 else f"{service}-{number}")


def plan_outage(name: str) -> Iterator[Fault]:
    """Yield the faults of a run of the one outage *name*."""
    yield Fault(_UNDISTURBED_SECONDS, FaultKind.OUTAGE, name)


def failpoints_setting() -> str:
    """Return FAILPOINTS as a value of REELHAUL_FAILPOINTS."""
    return ",".join(f"{name}=kill:{probability}" for name, probability in FAILPOINTS.items())


def count_failpoint_kills(log: Path) -> Counter[str]:
    """Count the processes of each service that killed themselves at a failpoint, from the suite's *log*."""
    return Counter(point.partition(".")[0] for point in read_failpoints_hit(log))


class FaultInjector:
    """Injects planned faults and counts them."""

    def __init__(
        self,
        suite: Suite,
        database: JobsDatabase,
        stall_seconds: float,
        s3: S3Server | None,
        parts: Parts,
        run_one_job: Callable[[], Awaitable[float]],
    ) -> None:
        self._suite, self._database, self._stall_seconds = suite, database, stall_seconds
        self._parts, self._run_one_job = parts, run_one_job
        self._s3 = s3
        self._s3_outage: asyncio.Task[None] | None = None
        #: Kills by service.
        self.kills: Counter[str] = Counter()
        self.stalls = 0
        self.wipes = 0
        self.recoveries: list[Recovery] = []

    async def run(self, plan: Iterable[Fault]) -> None:
        """Inject all faults of *plan* at their times; the S3 server runs at the return."""
        for fault in plan:
            await asyncio.sleep(fault.after)
            match fault.kind:
                case FaultKind.KILL if fault.process == "s3":
                    self._kill_s3()
                case FaultKind.KILL:
                    self._kill(fault.process)
                case FaultKind.STALL:
                    await self._stall_fetcher()
                case FaultKind.STOP_JOBS:
                    await self._stop(self._suite.processes().get("jobs"))
                case FaultKind.OUTAGE:
                    await self._run_outage(fault.process)
                case FaultKind.WIPE:
                    await self._wipe_work_stream()
        if self._s3_outage is not None:
            await self._s3_outage

    async def _run_outage(self, name: str) -> None:
        """Run the outage *name*, and measure how fast a job succeeds after it, or in it."""
        outage = OUTAGES[name]
        usual = await self._run_one_job()
        async with outage.run(self._parts):
            await asyncio.sleep(outage.seconds)
            if outage.tolerated:
                self.recoveries.append(Recovery(name, await self._run_one_job(), usual))
        if not outage.tolerated:
            self.recoveries.append(Recovery(name, await self._run_one_job(), usual))

    def _kill_s3(self) -> None:
        """Kill the S3 server unless it is away; start it again after a while, beside the other faults."""
        if self._s3 is not None and (self._s3_outage is None or self._s3_outage.done()):
            self._s3.kill()
            self.kills["s3"] += 1
            self._s3_outage = asyncio.create_task(self._restart_s3(self._s3))

    async def _restart_s3(self, s3: S3Server) -> None:
        await asyncio.sleep(_S3_OUTAGE_SECONDS)
        await asyncio.to_thread(s3.start)

    def _kill(self, name: str) -> None:
        pid = self._suite.processes().get(name)
        if pid is None:
            return  # It is dead already.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills[name.partition("-")[0]] += 1

    async def _stall_fetcher(self) -> None:
        """Stop a fetcher until its leases have expired, while another one is alive to claim the jobs."""
        for _ in range(_BUSY_POLLS):
            if pid := await self._busiest_fetcher():
                await self._stop(pid)
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _busiest_fetcher(self) -> int | None:
        """Return the pid of the fetcher with the most leases; None if no other fetcher is alive."""
        fetchers = {pid for name, pid in self._suite.processes().items() if name.startswith("fetcher")}
        leases = await asyncio.to_thread(self._database.list_leases)
        held = Counter(pid for _, _, worker in leases if (pid := int(worker.split("-")[-2])) in fetchers)
        return held.most_common(1)[0][0] if held and len(fetchers) > 1 else None

    async def _stop(self, pid: int | None) -> None:
        """Stop the process *pid* with SIGSTOP for the length of a stall, then continue it."""
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(self._stall_seconds)
            finally:
                os.kill(pid, signal.SIGCONT)
            self.stalls += 1

    async def _wipe_work_stream(self) -> None:
        """Delete the broker's WORK stream with everything in it."""
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


class StaleRenewer:
    """Tries to renew leases with epochs that it never held; the jobs service must refuse every one."""

    def __init__(self, stub: lease_service_pb2_grpc.LeaseServiceStub, database: JobsDatabase) -> None:
        self._stub, self._database = stub, database
        #: Number of refused renewals.
        self.refused = 0
        #: Jobs of which a stale lease was renewed.
        self.renewed_jobs: set[str] = set()

    async def run(self) -> None:
        """Try every running job twice a second, until cancelled."""
        while True:
            await asyncio.sleep(0.5)
            for job, epoch, _ in await asyncio.to_thread(self._database.list_leases):
                if job not in self.renewed_jobs:
                    with suppress(aio.AioRpcError):
                        await self._renew(job, epoch - 1 if epoch > 1 else epoch + _UNUSED_EPOCH)

    async def _renew(self, job: str, wrong_epoch: int) -> None:
        request = lease_service_pb2.RenewRequest(job=f"jobs/{job}", epoch=wrong_epoch)
        response = await self._stub.Renew(request, timeout=2)
        if response.HasField("renewal"):
            self.renewed_jobs.add(job)
        else:
            self.refused += 1
