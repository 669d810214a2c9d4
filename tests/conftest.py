"""Fixtures of all tests: real servers on free ports."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from tests.servers import NatsServer
from tests.sites.site import Site, running_site
from tests.sites.youtube.site import YouTube, running_youtube

# Tests fork as the fetcher's processes do; gRPC's fork handlers would fail in a process that has its threads.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a nats-server with JetStream, one for all tests: use your own streams and subjects."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    yield server.url
    server.kill()


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The local media site, one for all tests: use your own ``token`` where you count requests."""
    with running_site() as site:
        yield site


@pytest.fixture(scope="session")
def youtube() -> Iterator[YouTube]:
    """The fake YouTube, one for all tests: temporary faults are over after the first test that sees them."""
    with running_youtube() as youtube:
        yield youtube
