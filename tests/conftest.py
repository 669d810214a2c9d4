"""What every test may ask for: real servers, started from their wheels on free ports."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from tests.servers import NatsServer
from tests.sites.site import Site, running_site
from tests.sites.youtube.site import YouTube, running_youtube

# Tests fork what the fetcher's children fork without gRPC, whose handlers end a fork beside its threads.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real nats-server with JetStream, one for all tests: use streams and subjects of your own."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    yield server.url
    server.kill()


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The local media site, one for all tests: take a ``token`` of your own where you count requests."""
    with running_site() as site:
        yield site


@pytest.fixture(scope="session")
def youtube() -> Iterator[YouTube]:
    """The stand-in for YouTube, one for all tests: its faults that pass have passed for who comes second."""
    with running_youtube() as youtube:
        yield youtube
