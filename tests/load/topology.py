"""The services in several replicas on one machine, each a process as a container would run it.

Two jobs, two storages and two gateways, the fetchers, PostgreSQL, an S3 server, and a NATS cluster of three
servers. A client of the gateways selects one that is ready (``balancer``); gRPC clients know the addresses of
both jobs.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.nats_cluster import NatsCluster, running_nats_cluster
from tests.postgresql import fresh_database
from tests.s3_server import S3Server, running_s3_server
from tests.servers import free_port, kill_group
from tests.suite.suite import SITE_NETWORK

from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.storage.v1 import storage_service_pb2

SUITE_TOKEN = "load"
#: Seconds in which a gateway that drains still serves, because load balancers need them; as in deploy/k8s.
_UNREADY_SECONDS = 5
_READY_TIMEOUT = 180.0
# A process that starts beside others on a busy machine answers late.
_PROBE_SECONDS = 10.0
_EXIT_TIMEOUT = 60.0
_UNLIMITED = 10**9
_CONNECTIONS = 8192
_PROTO_SERVICES = {
    "jobs": job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,
    "fetcher": fetcher_service_pb2.DESCRIPTOR.services_by_name["FetcherService"].full_name,
    "storage": storage_service_pb2.DESCRIPTOR.services_by_name["StorageService"].full_name,
}


class TopologyError(Exception):
    """A process did not become ready or did not end in time. The message names its log."""


@dataclass
class Replica:
    """A process of one service, which can be stopped, killed and started again at its address."""

    service: str
    number: int
    address: str
    metrics_address: str
    log: Path = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    process: subprocess.Popen[bytes] = field(init=False, repr=False)

    @property
    def name(self) -> str:
        """Service and number, for example ``jobs-1``."""
        return f"{self.service}-{self.number}"

    async def start(self) -> None:
        """Start the process; return when it is ready. Raises TopologyError."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [sys.executable, "-m", "reelhaul_runtime", "serve", self.service],
                cwd=self.log.parent,
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        await self.wait_until_ready()

    async def wait_until_ready(self) -> None:
        """Return when the service says that it is ready. Raises TopologyError."""
        try:
            await wait_until(
                lambda: self.process.poll() is not None or is_ready(self.service, self.address),
                _READY_TIMEOUT,
            )
        except TimeoutError as error:
            raise TopologyError(f"{self.name} is not ready; its log: {self.log}") from error
        if self.process.poll() is not None:
            raise TopologyError(f"{self.name} exited with {self.process.returncode}; its log: {self.log}")

    async def drain(self) -> int:
        """Send SIGTERM and return the exit code. Raises TopologyError."""
        self.process.terminate()
        try:
            return await asyncio.to_thread(self.process.wait, _EXIT_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise TopologyError(f"{self.name} does not end after SIGTERM; its log: {self.log}") from error

    def kill(self) -> None:
        """Kill the process alone, as the kernel does if memory is short; what it started must notice."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """Kill the process group."""
        if hasattr(self, "process"):
            kill_group(self.process)


@dataclass
class Topology:
    """All processes of a run."""

    folder: Path
    replicas: Sequence[Replica]
    nats: NatsCluster
    s3: S3Server
    jobs_database: str
    storage_database: str
    key_file: Path

    def of(self, service: str) -> list[Replica]:
        """Return the replicas of *service*."""
        return [replica for replica in self.replicas if replica.service == service]

    def addresses(self, service: str) -> list[str]:
        """Return the addresses of the replicas of *service*."""
        return [replica.address for replica in self.of(service)]

    @property
    def key(self) -> str:
        """The API key with full access that the first start created."""
        return self.key_file.read_text().strip()


@asynccontextmanager
async def running_topology(
    folder: Path, *, fetchers: int, slots: int, site_limit: int
) -> AsyncIterator[Topology]:
    """Run everything in *folder* until the block ends; every service is ready when it begins."""
    async with AsyncExitStack() as stack:
        jobs_database = stack.enter_context(fresh_database())
        storage_database = stack.enter_context(fresh_database())
        s3 = stack.enter_context(running_s3_server(folder / "s3", metrics_port=free_port()))
        cluster = await stack.enter_async_context(running_nats_cluster(folder / "nats"))
        topology = Topology(
            folder,
            _plan_replicas(folder, {"storage": 2, "jobs": 2, "fetcher": fetchers, "gateway": 2}),
            cluster,
            s3,
            jobs_database,
            storage_database,
            folder / "key",
        )
        _configure(topology, slots, site_limit)
        for replica in topology.replicas:
            stack.callback(replica.end)
        # One storage and one jobs first: they migrate the databases, and create the first key.
        for number in (1, 2):
            for service in ("storage", "jobs"):
                await topology.of(service)[number - 1].start()
        for service in ("fetcher", "gateway"):
            await asyncio.gather(*(replica.start() for replica in topology.of(service)))
        yield topology


async def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Return when *condition*, which is called in a thread, is true. Raises TimeoutError after *seconds*."""
    async with asyncio.timeout(seconds):
        while True:
            if await asyncio.to_thread(condition):
                return
            await asyncio.sleep(0.1)


def is_ready(service: str, address: str) -> bool:
    """Return whether *service* at *address* says that it may get requests."""
    if service == "gateway":
        try:
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=_PROBE_SECONDS) as response:
                return bool(response.status == 200)
        except OSError:
            return False
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        request = health_pb2.HealthCheckRequest(service=_PROTO_SERVICES[service])
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_PROBE_SECONDS)
        except grpc.RpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def _plan_replicas(folder: Path, numbers: Mapping[str, int]) -> list[Replica]:
    replicas = []
    for service, number in numbers.items():
        for index in range(1, number + 1):
            own = folder / f"{service}-{index}"
            own.mkdir(mode=0o700)
            address = f"127.0.0.1:{free_port()}"
            metrics = f"127.0.0.1:{free_port()}"
            replicas.append(Replica(service, index, address, metrics, own / "log"))
    return replicas


def _configure(topology: Topology, slots: int, site_limit: int) -> None:
    """Set the environment of each replica, which names the addresses of all."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REELHAUL_")}
    common = inherited | {
        "REELHAUL_SUITE_TOKEN": SUITE_TOKEN,
        "REELHAUL_NATS_URL": topology.nats.url,
        "REELHAUL_LEVEL_QUOTAS": json.dumps({"FULL_ACCESS": {"requests_per_minute": _UNLIMITED}}),
        "REELHAUL_FETCHER_ALLOW_NETWORKS": SITE_NETWORK,
    }
    for service in ("jobs", "fetcher", "storage"):
        common[f"REELHAUL_{service.upper()}_ADDRESSES"] = ",".join(topology.addresses(service))
    of_service = {
        "jobs": {
            "REELHAUL_JOBS_DATABASE_URL": topology.jobs_database,
            "REELHAUL_JOBS_FIRST_KEY_FILE": str(topology.key_file),
            "REELHAUL_JOBS_SITE_LIMIT": str(site_limit),
            "REELHAUL_JOBS_STREAM_REPLICAS": "3",
        },
        "fetcher": {"REELHAUL_FETCHER_SLOTS": str(slots)},
        "storage": {
            "REELHAUL_STORAGE_DATABASE_URL": topology.storage_database,
            "REELHAUL_STORAGE_URL": topology.s3.storage_url(),
            "REELHAUL_STORAGE_DESTINATION_NETWORKS": "127.0.0.1/32",
            **topology.s3.credentials(),
        },
        "gateway": {
            "REELHAUL_GATEWAY_UNREADY_SECONDS": str(_UNREADY_SECONDS),
            # All clients have one address, as behind a load balancer.
            "REELHAUL_GATEWAY_MAX_CONNECTIONS": str(_CONNECTIONS),
            "REELHAUL_GATEWAY_MAX_CONNECTIONS_PER_PEER": str(_CONNECTIONS),
        },
    }
    for replica in topology.replicas:
        name = replica.service.upper()
        replica.environment = (
            common
            | of_service[replica.service]
            | {
                "REELHAUL_DATA_DIR": str(replica.log.parent),
                f"REELHAUL_{name}_ADDRESS": replica.address,
                f"REELHAUL_{name}_METRICS_ADDRESS": replica.metrics_address,
                "REELHAUL_STORAGE_HTTP_ADDRESS": f"127.0.0.1:{free_port()}",
            }
        )
