"""``reelhaul health``, the check that container engines run, against servers of gRPC and HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.servers import free_port
from tests.tls_files import SERVICE_NAME, Authority

from reelhaul.jobs.v1 import job_service_pb2_grpc
from reelhaul_runtime import health_check
from reelhaul_runtime.certificate import TlsFiles
from reelhaul_runtime.commands import health
from reelhaul_runtime.errors import Unavailable
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.server import serving
from reelhaul_runtime.up import probes

JOBS = "reelhaul.jobs.v1.JobService"


@asynccontextmanager
async def running_jobs(*, works: bool = True, tls: TlsFiles | None = None) -> AsyncIterator[str]:
    """Serve jobs, whose database answers or not; yields the address."""

    async def check_database() -> None:
        if not works:
            raise Unavailable("the database does not answer")

    servicer = job_service_pb2_grpc.JobServiceServicer()
    async with serving(
        "127.0.0.1:0",
        [(job_service_pb2_grpc.add_JobServiceServicer_to_server, servicer, JOBS)],
        authenticator=NoAuthentication("token", tls.service_name if tls else ""),
        checks={"jobs.database": check_database},
        drain_seconds=1,
        tls=tls,
    ) as port:
        yield f"127.0.0.1:{port}"


async def check(service: str) -> str:
    """Check *service* as the command does; return the reason why it is not ready, or ``ready``."""
    try:
        await asyncio.to_thread(health_check.check, service, 4.0)
    except health_check.NotReady as error:
        return str(error)
    return "ready"


async def test_a_service_is_ready_while_its_gRPC_health_says_so(monkeypatch: pytest.MonkeyPatch):
    """The check returns the readiness of the service at its address, also if that is all addresses."""
    async with running_jobs() as address:
        monkeypatch.setenv("REELHAUL_JOBS_ADDRESS", f"0.0.0.0:{address.rpartition(':')[2]}")
        assert await _wait_for("ready") == "ready"


async def test_a_service_whose_database_does_not_answer_is_not_ready(monkeypatch: pytest.MonkeyPatch):
    """Not serving is not ready."""
    async with running_jobs(works=False) as address:
        monkeypatch.setenv("REELHAUL_JOBS_ADDRESS", address)
        assert await check("jobs") == "not serving"


async def test_a_service_with_mutual_TLS_is_checked_with_its_own_certificate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """With the certificate of the settings the check works under mTLS."""
    tls = Authority().issue(tmp_path / "jobs", SERVICE_NAME)
    monkeypatch.setenv("REELHAUL_TLS_CERTIFICATE", str(tls.certificate))
    monkeypatch.setenv("REELHAUL_TLS_KEY", str(tls.key))
    async with running_jobs(tls=tls) as address:
        monkeypatch.setenv("REELHAUL_JOBS_ADDRESS", address)
        assert await _wait_for("ready") == "ready"


async def test_a_service_that_is_not_there_is_named_with_its_address(monkeypatch: pytest.MonkeyPatch):
    """The command exits with 1 and says what did not answer."""
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("REELHAUL_FETCHER_ADDRESS", address)
    result = await asyncio.to_thread(CliRunner().invoke, health, ["fetcher"])
    assert result.exit_code == 1
    assert result.output == f"fetcher: no answer at {address}: Connection refused\n"


async def test_an_address_without_a_port_is_named_by_its_setting(monkeypatch: pytest.MonkeyPatch):
    """A wrong address is no crash: the check names the setting and its form."""
    monkeypatch.setenv("REELHAUL_JOBS_ADDRESS", "127.0.0.1:http")
    assert await check("jobs") == "REELHAUL_JOBS_ADDRESS must be host:port"


@pytest.mark.parametrize(
    ("service", "response"),
    [
        ("gateway", b"HTTP/1.1 503 Service Unavailable\r\n\r\n"),
        ("gateway", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("gateway", b""),
        ("jobs", b""),
        ("jobs", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("jobs", bytes.fromhex("ffffff000000000001") + b"x" * 100),
        ("jobs", bytes.fromhex("000000040100000000") * 100),
    ],
)
async def test_what_speaks_another_protocol_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, service: str, response: bytes
):
    """Whatever a server answers, the check ends, and it is not ready."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(response)

        monkeypatch.setenv(f"REELHAUL_{service.upper()}_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        answering = asyncio.create_task(asyncio.to_thread(answer))
        assert await check(service) != "ready"
        await answering


async def test_an_unknown_service_is_refused():
    """A wrong name is a usage error, which names those that exist."""
    result = await asyncio.to_thread(CliRunner().invoke, health, ["database"])
    assert result.exit_code == 2
    assert "gateway, jobs, fetcher, storage" in result.output


async def _wait_for(expected: str) -> str:
    """Check jobs until the answer is *expected*, for at most ten seconds; return the last answer."""
    async with asyncio.timeout(10):
        while (answer := await check("jobs")) != expected:  # noqa: ASYNC110 - it asks as an engine does
            await asyncio.sleep(0.05)
    return answer


@pytest.mark.parametrize(("works", "answer"), [(True, True), (False, False)])
async def test_probes_of_the_supervisor(works: bool, answer: bool):
    """The supervisor's probes distinguish a service that is ready, one that is not, and none."""
    async with running_jobs(works=works) as address:
        async with asyncio.timeout(10):
            while await probes.is_ready(address, JOBS) is not answer:  # noqa: ASYNC110 - a server has no Event
                await asyncio.sleep(0.02)
        assert await probes.is_alive(address)
    assert not await probes.is_alive(address)


def test_an_answer_may_arrive_byte_by_byte():
    """The answer may be divided by TCP in any way."""
    call = health_check.HealthCall(JOBS)
    settings, headers = bytes.fromhex("000000040000000000"), bytes.fromhex("000000010400000001")
    body = bytes.fromhex("00000700000000000100000000020801")
    sent = b"".join(call.receive(bytes([byte])) for byte in settings + headers + body)
    assert call.is_serving
    assert sent == bytes.fromhex("000000040100000000")
