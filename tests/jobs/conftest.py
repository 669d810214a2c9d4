"""Fixtures of the jobs service: running with its own broker, or one replica without servers."""

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
from tests.sqlite import create_migrated_file

from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_jobs.app import running
from reelhaul_jobs.settings import Settings
from reelhaul_runtime import nats_client
from reelhaul_runtime.rpc.channels import open_channel

TOKEN = "the suite's own"
#: Seconds for what takes a moment: the machine may be slow, the service is not.
TIMEOUT = 30
SERVICES = [
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"],
]


@dataclass
class JobsService:
    """A running jobs service: the stubs of a caller (jobs) and of a worker (leases), and its broker."""

    jobs: job_service_pb2_grpc.JobServiceStub
    leases: lease_service_pb2_grpc.LeaseServiceStub
    nats: Client
    settings: Settings
    port: int


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """The stores of a new SQLite database."""
    async with sqlite_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def replica(store: SqlStore) -> Replica:
    """A replica without servers, on that database."""
    return Replica(store)


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A broker for this test alone: all services use the same stream names."""
    async with running_nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, nats_server: NatsServer) -> Settings:
    """Settings of a service on a new database, with its own broker."""
    create_migrated_file("reelhaul_jobs", tmp_path / "jobs.db")
    return Settings(
        data_dir=tmp_path,
        nats_url=nats_server.url,
        jobs_address="127.0.0.1:0",
        # No service listens there.
        storage_address=f"127.0.0.1:{free_port()}",
        fetcher_address=f"127.0.0.1:{free_port()}",
        suite_token=TOKEN,
        # The workers of the tests seldom renew, and the machine may be slow.
        jobs_lease_seconds=10,
        drain_seconds=2,
    )


@asynccontextmanager
async def run_service(settings: Settings) -> AsyncIterator[JobsService]:
    """Run the service while the block runs; yield it when its streams exist."""
    async with (
        nats_client.connect(settings.nats_url, "test") as client,
        running(settings) as port,
        open_channel(f"127.0.0.1:{port}", SERVICES) as public_channel,
        open_channel(f"127.0.0.1:{port}", SERVICES, suite_token=TOKEN) as internal_channel,
    ):
        await eventually(lambda: consumers_exist(client))
        yield JobsService(
            job_service_pb2_grpc.JobServiceStub(public_channel),
            lease_service_pb2_grpc.LeaseServiceStub(internal_channel),
            client,
            settings,
            port,
        )


@pytest.fixture
async def service(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[JobsService]:
    """The running service, with the settings of ``with_settings``."""
    async with run_service(settings.model_copy(update=getattr(request, "param", {}))) as running_service:
        yield running_service


def with_settings(**settings: object) -> pytest.MarkDecorator:
    """Run the service with other settings in this test."""
    return pytest.mark.parametrize("service", [settings], indirect=True, ids=[""])


async def consumers_exist(client: Client) -> bool:
    """Return whether the consumers exist that fetchers bind to."""
    names = {consumer.name for consumer in await client.jetstream().consumers_info("WORK")}
    return {"work-high-default", "work-normal-default", "work-bulk-default"} <= names


async def eventually(condition: Callable[[], object], seconds: float = TIMEOUT) -> None:
    """Wait until *condition* returns true; what it raises counts as false."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                result = condition()
                if await result if asyncio.iscoroutine(result) else result:
                    return
            except Exception:
                pass
            await asyncio.sleep(0.02)
