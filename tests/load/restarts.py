"""Restarts under load: every replica drained and started again in turn, and one of each service killed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import httpx
from tests.chaos.audit import JobsDatabase
from tests.load.topology import Replica, Topology, wait_until
from tests.nats_cluster import NatsCluster

# Seconds that a new replica runs before the next one is drained (minReadySeconds of Kubernetes): clients
# connect to it again within two.
_SETTLE_SECONDS = 3.0
_RECOVERY_TIMEOUT = 120.0
#: The order of docs/operations.md for upgrades.
ORDER = ("storage", "jobs", "fetcher", "gateway")


@dataclass(frozen=True)
class Restart:
    """A restart of one replica."""

    name: str
    #: Exit code of the process; -9 if it was killed.
    exit_code: int
    #: Seconds until the process had ended, and from then until the new one was ready.
    drain_seconds: float
    start_seconds: float
    #: Seconds after which the jobs of a killed fetcher were taken from it, or a stream had another leader.
    recovery_seconds: float = 0.0


async def restart_all(topology: Topology) -> list[Restart]:
    """Restart every replica in turn, as a rolling upgrade does."""
    restarts = [await _restart_broker(topology.nats, name) for name in topology.nats.ports]
    for service in ORDER:
        for replica in topology.of(service):
            begin = time.monotonic()
            exit_code = await replica.drain()
            drained = time.monotonic()
            await replica.start()
            ready = time.monotonic()
            restarts.append(Restart(replica.name, exit_code, drained - begin, ready - drained))
            _print(restarts[-1])
            await asyncio.sleep(_SETTLE_SECONDS)
    return restarts


async def kill_each(topology: Topology, database: JobsDatabase) -> list[Restart]:
    """Kill the leader of the work stream, then one replica of each service; each starts again at once."""
    restarts = [await _kill_leader(topology.nats)]
    for service in ORDER:
        replica = topology.of(service)[0]
        restarts.append(await _kill(replica, database))
        _print(restarts[-1])
        await asyncio.sleep(_SETTLE_SECONDS)
    return restarts


async def _restart_broker(nats: NatsCluster, name: str) -> Restart:
    begin = time.monotonic()
    exit_code = await nats.stop(name)
    stopped = time.monotonic()
    await nats.start(name)
    # Its streams have caught up: with fewer than two servers that have, the cluster would stand still.
    await wait_until(lambda: _is_healthy(nats.monitoring[name]), _RECOVERY_TIMEOUT)
    restart = Restart(f"nats-{name}", exit_code, stopped - begin, time.monotonic() - stopped)
    _print(restart)
    return restart


async def _kill_leader(nats: NatsCluster) -> Restart:
    name = await nats.find_leader()
    begin = time.monotonic()
    nats.kill(name)
    await nats.find_leader()
    elected = time.monotonic()
    await nats.start(name)
    await wait_until(lambda: _is_healthy(nats.monitoring[name]), _RECOVERY_TIMEOUT)
    restart = Restart(f"nats-{name}", -9, 0.0, time.monotonic() - begin, elected - begin)
    _print(restart)
    return restart


def _is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


async def _kill(replica: Replica, database: JobsDatabase) -> Restart:
    pid = replica.process.pid
    begin = time.monotonic()
    replica.kill()
    await replica.start()
    ready = time.monotonic()
    if replica.service == "fetcher":
        await wait_until(lambda: not _has_leases(database, pid), _RECOVERY_TIMEOUT)
    recovered = time.monotonic() if replica.service == "fetcher" else begin
    return Restart(replica.name, -9, 0.0, ready - begin, recovered - begin)


def _has_leases(database: JobsDatabase, pid: int) -> bool:
    return any(int(worker.split("-")[-2]) == pid for _, _, worker in database.list_leases())


def _print(restart: Restart) -> None:
    print(
        f"  {restart.name:<12} exit {restart.exit_code:>3}, drained in {restart.drain_seconds:5.1f} s,"
        f" ready after {restart.start_seconds:4.1f} s"
        + (f", recovered after {restart.recovery_seconds:.1f} s" if restart.recovery_seconds else ""),
        flush=True,
    )
