"""Health in plain text: probes without TLS see the states of a service with mutual TLS, and nothing else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.servers import free_port
from tests.tls_files import SERVICE_NAME, Authority

from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.health_server import HealthAddressUnavailable, serving_health
from reelhaul_runtime.rpc.server import serving
from reelhaul_runtime.settings import SuiteSettings

JOBS = "reelhaul.jobs.v1.JobService"


async def check(channel: aio.Channel, service: str) -> str:
    """Return what health says of *service*, or the name of the status."""
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        response = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
    except aio.AioRpcError as error:
        return error.code().name
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)


async def test_probe_without_tls_sees_a_service_with_mutual_tls(tmp_path: Path):
    """Ready, unready and draining are seen without TLS; the main port refuses that, this one other calls."""
    database_up, drain_may_end, health = asyncio.Event(), asyncio.Event(), health_aio.HealthServicer()
    health_port, draining = free_port(), asyncio.Event()

    async def ping_database() -> None:
        await database_up.wait()

    async def drain() -> None:
        draining.set()
        await drain_may_end.wait()

    async def serve(stop: asyncio.Event, main_port: asyncio.Future[int]) -> None:
        async with serving(
            "127.0.0.1:0",
            [
                (
                    job_service_pb2_grpc.add_JobServiceServicer_to_server,
                    job_service_pb2_grpc.JobServiceServicer(),
                    JOBS,
                )
            ],
            authenticator=NoAuthentication("the token", SERVICE_NAME),
            checks={"jobs.database": ping_database},
            health=health,
            on_drain=drain,
            tls=Authority().issue(tmp_path / "jobs", SERVICE_NAME),
            health_address=f"127.0.0.1:{health_port}",
        ) as port:
            main_port.set_result(port)
            await stop.wait()

    stop, main_port = asyncio.Event(), asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(stop, main_port))
    port = await main_port
    async with (
        aio.insecure_channel(f"127.0.0.1:{health_port}") as probe,
        aio.insecure_channel(f"127.0.0.1:{port}") as plain,
    ):
        assert await check(plain, "") == "UNAVAILABLE"
        assert await check(probe, "") == "SERVING"
        assert await check(probe, "unknown") == "NOT_FOUND"
        await health.set(JOBS, health_pb2.HealthCheckResponse.NOT_SERVING)
        assert await check(probe, JOBS) == "NOT_SERVING"
        watch = health_pb2_grpc.HealthStub(probe).Watch(
            health_pb2.HealthCheckRequest(service=JOBS), timeout=20
        )
        states = aiter(watch)
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        database_up.set()
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.SERVING
        assert await check(probe, "jobs.database") == "SERVING"
        with pytest.raises(aio.AioRpcError) as failure:
            await job_service_pb2_grpc.JobServiceStub(probe).GetJob(
                job_service_pb2.GetJobRequest(name="jobs/1"), timeout=10
            )
        assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED
        reflection = reflection_pb2_grpc.ServerReflectionStub(probe).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10
        )
        with pytest.raises(aio.AioRpcError) as failure:
            await reflection.read()
        assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED
        stop.set()
        await draining.wait()
        assert await check(probe, JOBS) == "NOT_SERVING"
        drain_may_end.set()
        await server


async def test_idle_connections_are_limited():
    """Of a hundred connections that send nothing, most are closed at once; a probe is answered later."""
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving_health("127.0.0.1:0", health_aio.HealthServicer()))
        connections = []
        for _ in range(100):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            connections.append(reader)
        closed = [asyncio.create_task(_wait_until_closed(reader)) for reader in connections]
        try:
            for task in asyncio.as_completed(closed, timeout=30):
                await task
        except TimeoutError:
            pytest.fail(f"{sum(not task.done() for task in closed)} idle connections are still open")
        async with aio.insecure_channel(f"127.0.0.1:{port}") as probe:
            assert await check(probe, "") == "SERVING"


async def _wait_until_closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(4096):
            pass
    except OSError:
        pass


async def test_address_in_use_is_refused():
    """A second server at the address fails with a text for the operator."""
    async with serving_health("127.0.0.1:0", health_aio.HealthServicer()) as port:
        with pytest.raises(HealthAddressUnavailable, match=f"127.0.0.1:{port} is used by another process"):
            async with serving_health(f"127.0.0.1:{port}", health_aio.HealthServicer()):
                pass


def test_wrong_address_is_refused():
    """An address without a port is refused with the name of its setting."""
    with pytest.raises(ValueError, match="storage_health_address"):
        SuiteSettings(_env_file=None, storage_health_address="0.0.0.0")


def test_used_address_ends_the_service_with_the_name_of_its_setting(tmp_path: Path):
    """storage ends with code 2, and says which setting has the address that is used."""
    port = free_port()
    environment = {
        **os.environ,
        "REELHAUL_DATA_DIR": str(tmp_path),
        "REELHAUL_SUITE_TOKEN": "token",
        "REELHAUL_STORAGE_ADDRESS": f"127.0.0.1:{port}",
        "REELHAUL_STORAGE_HEALTH_ADDRESS": f"127.0.0.1:{port}",
        "REELHAUL_STORAGE_METRICS_ADDRESS": "",
    }
    result = subprocess.run(
        [sys.executable, "-m", "reelhaul_runtime", "serve", "storage"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert f"REELHAUL_STORAGE_HEALTH_ADDRESS: 127.0.0.1:{port} is used" in result.stderr
