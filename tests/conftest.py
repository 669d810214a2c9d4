"""Fixtures of all tests: real servers on free ports."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from tests.s3_server import S3Server, running_s3_server
from tests.servers import NatsServer
from tests.sites.site import Site, running_site
from tests.sites.youtube.site import YouTube, running_youtube

# Tests fork as the fetcher's processes do; gRPC's fork handlers would fail in a process that has its threads.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# What tests start has no keys, unless they are about them.
os.environ["REELHAUL_AUTH"] = "none"

# Every storage of a test has an HTTP port of its own.
os.environ["REELHAUL_STORAGE_HTTP_ADDRESS"] = "127.0.0.1:0"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without collecting garbage; later, look only for garbage of the tests themselves.

    Modules and collected tests stay until the end. A quarter of the processor's time went into visiting them.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)
        gc.enable()


#: Fixtures that start servers, the engine's processes or services of the suite.
_PROCESS_FIXTURES = frozenset(
    {
        "nats_url",
        "nats_server",
        "services",
        "programs",
        "broker",
        "site",
        "youtube",
        "engine_environment",
        "s3_server",
        "start_storage",
        "up",
    }
)
#: Modules that start such processes without a fixture, or measure with much data.
_PROCESS_MODULES = frozenset(
    {
        "test_cli",
        "test_client",
        "test_doctor",
        "test_encoder_preconditions",
        "test_end_to_end",
        "test_engine_trial",
        "test_envoy",
        "test_ffmpeg",
        "test_full_disk",
        "test_guard_process",
        "test_isolation",
        "test_job_states",
        "test_kills",
        "test_listing_cost",
        "test_live_alert",
        "test_namespace",
        "test_operator_errors",
        "test_replicas",
        "test_serve",
        "test_supervisor",
        "test_up_command",
        "test_up_suite",
        "test_verify",
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start processes, and run their files first.

    ``make test-fast`` leaves them out. The quick tests fill the time in which the last long file runs.
    """
    for item in items:
        assert isinstance(item, pytest.Function)
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if (
            folder in ("console", "docs", "suite", "chaos", "sites")
            or item.path.stem in _PROCESS_MODULES
            or not {"postgresql", "s3"}.isdisjoint(p for p in parameters if isinstance(p, str))
            or not _PROCESS_FIXTURES.isdisjoint(item.fixturenames)
        ):
            item.add_marker("processes")
    long_files = {item.path for item in items if item.get_closest_marker("processes")}
    items.sort(key=lambda item: item.path not in long_files)


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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that the tests of a session share: each uses a prefix or bucket of its own."""
    with running_s3_server(tmp_path_factory.mktemp("s3"), {"reader": ["Read:media", "List:media"]}) as server:
        yield server
