"""TLS of gRPC: who may connect, which certificates make a service, and their replacement while calls run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from tests.tls_files import SERVICE_NAME, Authority

from reelhaul.jobs.v1 import (
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_runtime.certificate import TlsFiles
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc import channels
from reelhaul_runtime.rpc.server import serving
from reelhaul_runtime.settings import InvalidSetting

TOKEN = "the suite's token"
JOBS = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
LEASES = lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"]


class Jobs(job_service_pb2_grpc.JobServiceServicer):
    """Answers GetJob at once, and WatchJob once a second message is requested."""

    def __init__(self) -> None:
        self.finish_watches = asyncio.Event()

    async def GetJob(self, request, context):
        return job_pb2.Job(name=request.name)

    async def WatchJob(self, request, context):
        yield job_service_pb2.WatchJobResponse()
        await self.finish_watches.wait()
        yield job_service_pb2.WatchJobResponse()


class Leases(lease_service_pb2_grpc.LeaseServiceServicer):
    """Answers Claim, an RPC between services."""

    async def Claim(self, request, context):
        return lease_service_pb2.ClaimResponse()


@asynccontextmanager
async def serve(tls: TlsFiles, jobs: Jobs | None = None) -> AsyncIterator[str]:
    """Serve with *tls*; yields the address."""
    servicers = [
        (job_service_pb2_grpc.add_JobServiceServicer_to_server, jobs or Jobs(), JOBS.full_name),
        (lease_service_pb2_grpc.add_LeaseServiceServicer_to_server, Leases(), LEASES.full_name),
    ]
    authenticator = NoAuthentication(TOKEN, tls.service_name)
    async with serving(
        "127.0.0.1:0", servicers, authenticator=authenticator, drain_seconds=1, tls=tls
    ) as port:
        yield f"127.0.0.1:{port}"


async def call(address: str, tls: TlsFiles | None, *, internal: bool, token: str = TOKEN) -> str:
    """Call the server at *address*; return the name of the status."""
    # A retried call would take a second longer until it fails.
    async with channels.open_channel(address, [], suite_token=token, tls=tls) as channel:
        try:
            if internal:
                stub = lease_service_pb2_grpc.LeaseServiceStub(channel)
                await stub.Claim(lease_service_pb2.ClaimRequest(), timeout=10)
            else:
                await job_service_pb2_grpc.JobServiceStub(channel).GetJob(
                    job_service_pb2.GetJobRequest(name="jobs/1"), timeout=10
                )
        except aio.AioRpcError as error:
            return error.code().name
    return "OK"


async def test_services_prove_themselves_by_certificate(tmp_path: Path):
    """With mTLS internal RPCs need a certificate of a service and the token, the others any certificate."""
    authority, other_authority = Authority(), Authority()
    service = authority.issue(tmp_path / "service", SERVICE_NAME)
    client = authority.issue(tmp_path / "client", "client.example")
    stranger = other_authority.issue(tmp_path / "stranger", SERVICE_NAME, authorities=authority.pem)
    without_certificate = replace(service, certificate=None, key=None)
    async with serve(service) as address:
        for tls, token, internal, public in (
            (service, TOKEN, "OK", "OK"),
            (service, "", "PERMISSION_DENIED", "OK"),
            (service, "another token", "PERMISSION_DENIED", "OK"),
            (client, TOKEN, "PERMISSION_DENIED", "OK"),
            (stranger, TOKEN, "UNAVAILABLE", "UNAVAILABLE"),
            (without_certificate, TOKEN, "UNAVAILABLE", "UNAVAILABLE"),
            (None, TOKEN, "UNAVAILABLE", "UNAVAILABLE"),
        ):
            assert await call(address, tls, internal=True, token=token) == internal, tls
            assert await call(address, tls, internal=False, token=token) == public, tls


async def test_clients_check_the_name_of_the_server(tmp_path: Path):
    """A server without the name of the services, or of other authorities, gets no calls; twin: with it."""
    authority, other_authority = Authority(), Authority()
    service = authority.issue(tmp_path / "service", SERVICE_NAME)
    for names, issuer, status in (
        ((SERVICE_NAME, "127.0.0.1"), authority, "OK"),
        (("127.0.0.1", "localhost"), authority, "UNAVAILABLE"),
        ((SERVICE_NAME,), other_authority, "UNAVAILABLE"),
    ):
        server = issuer.issue(tmp_path / "server", *names, authorities=authority.pem)
        async with serve(server) as address:
            assert await call(address, service, internal=True) == status, names


async def test_tls_of_the_server_alone(tmp_path: Path):
    """Without a name of the services clients need no certificate, and check the server's address."""
    authority = Authority()
    for name, status in (("127.0.0.1", "OK"), ("jobs.example", "UNAVAILABLE")):
        server = replace(authority.issue(tmp_path / "server", name), service_name="")
        client = TlsFiles(ca=server.ca)
        async with serve(server) as address:
            assert await call(address, client, internal=False) == status
            assert await call(address, client, internal=True) == status
            assert await call(address, client, internal=True, token="") != "OK"


async def test_server_without_a_certificate_does_not_start(tmp_path: Path):
    """A server that has authorities and no certificate refuses to start, by the name of the setting."""
    files = Authority().issue(tmp_path / "service", SERVICE_NAME)
    with pytest.raises(InvalidSetting, match="REELHAUL_TLS_CERTIFICATE is not set"):
        async with serve(TlsFiles(ca=files.ca)):
            pytest.fail("it serves")


async def test_certificates_are_replaced_under_load(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Certificates of another authority replace the old ones while calls run: none fails, streams go on."""
    caplog.set_level(logging.INFO)
    old, new = Authority(), Authority()
    folder = tmp_path / "service"
    both = old.pem + new.pem
    files = old.issue(folder, SERVICE_NAME, authorities=both)
    jobs = Jobs()
    async with (
        serve(files, jobs) as address,
        channels.open_channel(address, [JOBS], suite_token=TOKEN, tls=files) as channel,
    ):
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        watch = stub.WatchJob(job_service_pb2.WatchJobRequest(name="jobs/1"))
        assert await watch.read() is not aio.EOF
        replaced = asyncio.Event()
        load = [asyncio.create_task(_call_until(replaced, stub)) for _ in range(4)]
        # The new authority is trusted already; then the certificate, then the old authority's end.
        new.issue(folder, SERVICE_NAME, authorities=both)
        await _wait_for_replacements(caplog, 2)
        new.issue(folder, SERVICE_NAME)
        await _wait_for_replacements(caplog, 4)
        replaced.set()
        assert min(await asyncio.gather(*load)) > 10
        jobs.finish_watches.set()
        assert await watch.read() is not aio.EOF
        assert await watch.read() is aio.EOF
        # The server has the new certificate, and no longer trusts the old authority.
        fresh = new.issue(tmp_path / "fresh", SERVICE_NAME)
        outdated = old.issue(tmp_path / "outdated", SERVICE_NAME, authorities=both)
        assert await call(address, fresh, internal=True) == "OK"
        assert await call(address, outdated, internal=True) == "UNAVAILABLE"


async def _call_until(end: asyncio.Event, stub: Any) -> int:
    """Call until *end*; return how many calls succeeded. Raises if one fails."""
    count = 0
    while not end.is_set():
        try:
            await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"), timeout=10)
        except grpc.RpcError as error:
            raise AssertionError(f"after {count} calls: {error}") from error
        count += 1
    return count


async def _wait_for_replacements(caplog: pytest.LogCaptureFixture, count: int) -> None:
    """Wait until the server and the channel have loaded their files again, *count* times in total."""
    async with asyncio.timeout(20):
        while caplog.text.count("replaced the TLS certificate") < count:  # noqa: ASYNC110 - a log has no Event
            await asyncio.sleep(0.05)
