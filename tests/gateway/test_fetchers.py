"""Several fetchers behind one gateway: calls and probes go to those that serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from tests.gateway.fake_services import SUITE_TOKEN, running_gateway

from reelhaul.fetcher.v1 import fetcher_service_pb2, fetcher_service_pb2_grpc
from reelhaul.type.v1 import media_pb2
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.channels import to_target
from reelhaul_runtime.rpc.server import serving
from reelhaul_runtime.server_addresses import may_be_several
from reelhaul_runtime.settings import SuiteSettings

NAME = fetcher_service_pb2.DESCRIPTOR.services_by_name["FetcherService"].full_name
PROBE = "/v1:probeMedia?url=https://v.example/1"


class NamedFetcher(fetcher_service_pb2_grpc.FetcherServiceServicer):
    """Answers probes with its name as the title; it is not ready while it is ``broken``."""

    def __init__(self, name: str) -> None:
        self.name, self.broken = name, False

    async def ProbeMedia(self, request, context):
        return fetcher_service_pb2.ProbeMediaResponse(media=media_pb2.MediaInfo(title=self.name))

    async def check(self) -> None:
        if self.broken:
            raise RuntimeError("broken")


@asynccontextmanager
async def run_fetcher(fetcher: NamedFetcher) -> AsyncIterator[str]:
    """Run *fetcher*; yield its address."""
    add = fetcher_service_pb2_grpc.add_FetcherServiceServicer_to_server
    async with serving(
        "127.0.0.1:0",
        [(add, fetcher, NAME)],
        authenticator=NoAuthentication(SUITE_TOKEN),
        checks={"fetcher.engine": fetcher.check},
        drain_seconds=0,
    ) as port:
        yield f"127.0.0.1:{port}"


@asynccontextmanager
async def two_fetchers() -> AsyncIterator[tuple[httpx.AsyncClient, NamedFetcher, AsyncExitStack]]:
    """Run a gateway in front of the fetchers one and two; yield its client, and how to break or stop one."""
    one, two = NamedFetcher("one"), NamedFetcher("two")
    async with AsyncExitStack() as stack, AsyncExitStack() as stack_of_one:
        addresses = [
            await stack_of_one.enter_async_context(run_fetcher(one)),
            await stack.enter_async_context(run_fetcher(two)),
        ]
        harness = await stack.enter_async_context(running_gateway(fetcher_addresses=",".join(addresses)))
        client = httpx.AsyncClient(base_url=harness.url, timeout=10, trust_env=False)
        yield await stack.enter_async_context(client), one, stack_of_one


async def probed(client: httpx.AsyncClient, count: int = 8) -> list[str]:
    """Return the names of the fetchers that answered *count* probes."""
    return [(await client.get(PROBE)).json()["media"]["title"] for _ in range(count)]


async def until(client: httpx.AsyncClient, names: set[str]) -> None:
    """Wait until probes go to *names*."""
    async with asyncio.timeout(20):
        while set(await probed(client, 4)) != names:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_calls_go_in_turn():
    """Both fetchers answer."""
    async with two_fetchers() as (client, _, _):
        await until(client, {"one", "two"})
        names = await probed(client)
        assert names.count("one") == names.count("two")


@pytest.mark.parametrize("stops", [True, False], ids=["stopped", "not ready"])
async def test_the_other_goes_on(stops: bool):
    """While one fetcher is stopped or not ready, readiness, health and probes go on with the other."""
    async with two_fetchers() as (client, one, stack_of_one):
        await until(client, {"one", "two"})
        if stops:
            # Those that are asked at once, while the connection breaks, are answered too.
            answers = asyncio.gather(probed(client, 8), *(client.get("/readyz") for _ in range(4)))
            await stack_of_one.aclose()
            names, *ready_answers = await answers
            assert "two" in names
            assert {answer.status_code for answer in ready_answers} == {200}
        else:
            one.broken = True
            await until(client, {"two"})
        for _ in range(4):
            assert set(await probed(client, 2)) == {"two"}
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["services"]["fetcher"]) == (200, "SERVING")
            assert (await client.get("/health")).json()["status"] == "SERVING_STATUS_SERVING"
            await asyncio.sleep(0.2)
        if not stops:
            one.broken = False
            await until(client, {"one", "two"})


@pytest.mark.parametrize(
    ("addresses", "target", "is_balanced"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", False),
        ("localhost:1", "localhost:1", False),
        ("[::1]:1", "[::1]:1", False),
        ("127.0.0.1:1,127.0.0.2:1", "ipv4:127.0.0.1:1,127.0.0.2:1", True),
        (" 127.0.0.1:1 , 127.0.0.1:2,", "ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2", True),
    ],
)
def test_addresses(addresses: str, target: str, is_balanced: bool):
    """The setting takes one address, or several of one version of IP."""
    setting = SuiteSettings(fetcher_addresses=addresses).fetcher_target
    assert (to_target(setting), may_be_several(setting)) == (target, is_balanced)


def test_dns_name_may_be_several():
    """A DNS name may resolve to several fetchers."""
    assert may_be_several("fetchers.internal:50052")


@pytest.mark.parametrize(
    "addresses",
    ["127.0.0.1", "127.0.0.1:1,[::1]:1", "localhost:1,localhost:2", "127.0.0.1:1,10.0.0.1:1", "127.0.0.1:x"],
)
def test_invalid_addresses(addresses: str):
    """Mixed versions, names in a list, and addresses beyond loopback without authentication are refused."""
    with pytest.raises(ValueError, match=r"(?i)fetcher_addresses"):
        SuiteSettings(fetcher_addresses=addresses)
