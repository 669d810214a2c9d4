"""What every test may ask for: real servers, started from their wheels on free ports."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.sites.site import Site, running_site
from tests.sites.youtube.site import YouTube, running_youtube

from reelhaul_runtime import broker

# Tests fork what the fetcher's children fork without gRPC, whose handlers end a fork beside its threads.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@contextmanager
def running_process(command: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """*command* in a process group of its own, which is ended with the block."""
    process = subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real nats-server with JetStream, one for all tests: use streams and subjects of your own."""
    folder: Path = tmp_path_factory.mktemp("nats")
    port = broker.free_port()
    config = broker.write_config(folder, port)
    with running_process([broker.executable(), "-c", str(config)], stderr=subprocess.DEVNULL):
        asyncio.run(broker.listening(port))
        yield f"nats://127.0.0.1:{port}"


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
