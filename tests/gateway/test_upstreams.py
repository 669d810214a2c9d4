"""Several replicas of a service behind the gateway, by a list of addresses or by DNS."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
from tests.gateway.fake_services import SUITE_TOKEN, FakeJobs, running_gateway

from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul_gateway.clients import raw_channel
from reelhaul_gateway.transcoding import SERVICES
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.server import ConnectionLimits, serving

JOBS = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
SECONDS = 20


@asynccontextmanager
async def run_jobs(jobs: FakeJobs, address: str = "127.0.0.1:0", age: float = 300) -> AsyncIterator[str]:
    """Run *jobs* at *address*, with connections of at most *age* seconds; yield the address."""
    add = job_service_pb2_grpc.add_JobServiceServicer_to_server
    # Each of their names is ready; the gateway looks for the first.
    names = [service.full_name for service in SERVICES["jobs"]]
    async with serving(
        address,
        [(add, jobs, name) for name in names],
        authenticator=NoAuthentication(SUITE_TOKEN),
        drain_seconds=0,
        limits=ConnectionLimits(age_seconds=age),
    ) as port:
        yield f"{address.rpartition(':')[0]}:{port}"


async def test_requests_go_on_when_a_replica_stops():
    """Requests go in turn to two replicas; when one stops, only requests that it was answering may fail."""
    one, two = FakeJobs(), FakeJobs()
    async with AsyncExitStack() as stack, AsyncExitStack() as stack_of_one:
        addresses = [
            await stack_of_one.enter_async_context(run_jobs(one)),
            await stack.enter_async_context(run_jobs(two)),
        ]
        harness = await stack.enter_async_context(running_gateway(jobs_addresses=",".join(addresses)))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=harness.url, timeout=SECONDS, trust_env=False)
        )

        async def send(count: int) -> list[int]:
            statuses = []
            for _ in range(count):
                statuses.append((await client.get("/v1/jobs/018f")).status_code)
                statuses.append((await client.post("/v1/jobs", json={"url": "x"})).status_code)
            return statuses

        async with asyncio.timeout(SECONDS):
            while not all(each.metadata or each.create_requests for each in (one, two)):
                await send(1)
        sending = asyncio.gather(*(send(8) for _ in range(4)))
        await stack_of_one.aclose()
        statuses = [status for part in await sending for status in part]
        assert {*statuses} <= {200, 503}
        assert statuses.count(503) <= 4
        assert {*await send(8)} == {200}


class NameServer(asyncio.DatagramProtocol):
    """A DNS server (RFC 1035) in which every name has the IPv4 *addresses*."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(b"\0", 12) + 5
        is_ipv4 = data[end - 4 : end - 2] == b"\0\1"
        addresses = self.addresses if is_ipv4 else []
        head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, len(addresses), 0, 0)
        answers = (
            b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + bytes(map(int, address.split(".")))
            for address in addresses
        )
        self._transport.sendto(head + data[12:end] + b"".join(answers), addr)


async def test_name_is_resolved_again_for_new_replicas():
    """When connections have aged, calls go to a replica that DNS has gained, not to one it has lost."""
    one, two = FakeJobs(), FakeJobs()
    names = NameServer(["127.0.0.1"])
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(run_jobs(one, age=1))
        port = address.rpartition(":")[2]
        await stack.enter_async_context(run_jobs(two, f"127.0.0.2:{port}", age=1))
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: names, ("127.0.0.1", 0)
        )
        stack.callback(transport.close)
        target = f"dns://127.0.0.1:{transport.get_extra_info('sockname')[1]}/jobs.test:{port}"
        channel = await stack.enter_async_context(raw_channel(target, [JOBS]))
        stub = job_service_pb2_grpc.JobServiceStub(channel)

        async def call_until(replica: FakeJobs, other: FakeJobs, calls: int) -> None:
            """Call until *replica* alone has answered the last *calls*."""
            async with asyncio.timeout(SECONDS):
                while True:
                    for jobs in (replica, other):
                        jobs.metadata.clear()
                    for _ in range(calls):
                        await stub.GetJob(job_service_pb2.GetJobRequest(name="jobs/1"), timeout=5)
                    if len(replica.metadata) == calls:
                        return

        await call_until(one, two, 4)
        names.addresses = ["127.0.0.2"]
        await call_until(two, one, 4)
