"""The jobs service as it really runs, with a broker of its own, and what talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from nats.aio.client import Client
from tests.job_stores import SqlStore, sqlite_store
from tests.jobs.replica import Replica
from tests.servers import NatsServer, free_port, running_nats_server

from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_jobs.app import running
from reelhaul_jobs.settings import Settings
from reelhaul_runtime import nats_client
from reelhaul_runtime.rpc.channels import open_channel

TOKEN = "the suite's own"
#: Seconds for what takes a moment: patience is for the machine, not for the service.
TIMEOUT = 30
SERVICES = [
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"],
]


@dataclass
class JobsService:
    """A running jobs service: stubs of a caller (jobs) and of a worker (leases), and its broker."""

    jobs: job_service_pb2_grpc.JobServiceStub
    leases: lease_service_pb2_grpc.LeaseServiceStub
    nats: Client
    settings: Settings
    port: int


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """All stores of a new SQLite database."""
    async with sqlite_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def replica(store: SqlStore) -> Replica:
    """A replica without servers, over that database."""
    return Replica(store)


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A broker of this test's own: the streams' names are the service's, not the test's."""
    async with running_nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, nats_server: NatsServer) -> Settings:
    return Settings(
        data_dir=tmp_path,
        nats_url=nats_server.url,
        jobs_address="127.0.0.1:0",
        # Nobody is there.
        storage_address=f"127.0.0.1:{free_port()}",
        fetcher_address=f"127.0.0.1:{free_port()}",
        suite_token=TOKEN,
        # Workers of the tests seldom renew, and the machine may be slow.
        jobs_lease_seconds=10,
        drain_seconds=2,
    )


@asynccontextmanager
async def run_service(settings: Settings) -> AsyncIterator[JobsService]:
    """The service, ready: its streams are there."""
    async with (
        nats_client.connect(settings.nats_url, "test") as client,
        running(settings) as port,
        open_channel(f"127.0.0.1:{port}", SERVICES) as outside,
        open_channel(f"127.0.0.1:{port}", SERVICES, suite_token=TOKEN) as inside,
    ):
        await eventually(lambda: consumers_exist(client))
        yield JobsService(
            job_service_pb2_grpc.JobServiceStub(outside),
            lease_service_pb2_grpc.LeaseServiceStub(inside),
            client,
            settings,
            port,
        )


@pytest.fixture
async def service(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[JobsService]:
    """The service, with the settings that the test asks for by ``with_settings``."""
    async with run_service(settings.model_copy(update=getattr(request, "param", {}))) as served:
        yield served


def with_settings(**settings: object) -> pytest.MarkDecorator:
    """Other settings of the service for this test."""
    return pytest.mark.parametrize("service", [settings], indirect=True, ids=[""])


async def consumers_exist(client: Client) -> bool:
    """Whether fetchers could bind by now."""
    names = {consumer.name for consumer in await client.jetstream().consumers_info("WORK")}
    return {"work-high-default", "work-normal-default", "work-bulk-default"} <= names


async def eventually(holds: Callable[[], object], seconds: float = TIMEOUT) -> None:
    """Return when *holds* does; what it raises counts as not yet."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                found = holds()
                if await found if asyncio.iscoroutine(found) else found:
                    return
            except Exception:
                pass
            await asyncio.sleep(0.02)
