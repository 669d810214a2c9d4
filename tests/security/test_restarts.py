"""Processes that end are restarted at growing intervals; a port that is taken is replaced by another."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.fetcher.guard_harness import PUBLIC, proxy_client, running_site
from tests.suite.suite import running_suite

from reelhaul_fetcher.guard.rpc_client import GuardClient, GuardUnavailable
from reelhaul_fetcher.guard.supervisor import GuardConfig, running_guard
from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine


async def test_engine_that_does_not_start(tmp_path: Path) -> None:
    """An engine whose zygote ends at once is tried again at growing intervals."""
    times: list[float] = []
    started_often = asyncio.Event()

    async def on_start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        times.append(asyncio.get_running_loop().time())
        writer.close()
        if len(times) >= 4:
            started_often.set()

    server = await asyncio.start_server(on_start, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    (tmp_path / "yt_dlp.py").write_text(
        f"import os, socket\nsocket.create_connection({address})\nos._exit(1)\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    async with server, YtDlpEngine.open(environment, "w"), asyncio.timeout(60):
        await started_often.wait()
    first, second, third = (later - earlier for earlier, later in itertools.pairwise(times[:4]))
    assert first >= 0.5
    assert second >= 1
    assert third >= 2


async def test_guard_that_does_not_answer_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that dies, and whose successor does not come up, is started again until one does."""
    start, failures = GuardClient.start, 0

    async def fail_twice(config: Mapping[str, Any], *arguments: Any) -> GuardClient:
        nonlocal failures
        if failures < 2:
            failures += 1
            raise GuardUnavailable("the guard does not answer")
        return await start(config, *arguments)

    async with running_site() as site, running_guard(GuardConfig(allow_networks=(f"{PUBLIC}/32",))) as guard:
        monkeypatch.setattr(GuardClient, "start", fail_twice)
        os.kill(guard.pid, signal.SIGKILL)
        proxy_url = await guard.open("a")
        credentials, _, address = proxy_url.removeprefix("http://").partition("@")
        async with proxy_client(int(address.rpartition(":")[2])) as client:
            answer = await client.request("GET", f"http://{PUBLIC}:{site.port}/", credentials=credentials)
    assert failures == 2
    assert answer.status == 200


# `reelhaul up`, in which another program takes the port of the broker before nats-server listens.
_TAKE_PORT_OF_BROKER = """
import os, socket
from reelhaul_runtime.up import ports, startup
from reelhaul_runtime.up.preloader_process import open_preloader

reserve = ports.ReservedPorts.reserve

def take(self, address, **options):
    reserved = reserve(self, address, **options)
    if options:
        other = socket.create_server(("127.0.0.1", int(reserved.rpartition(":")[2])))
        os.set_inheritable(other.detach(), True)
    return reserved

ports.ReservedPorts.reserve = take
with open_preloader() as preloader:
    raise SystemExit(startup.main(preloader))
"""


def test_port_of_the_broker_is_taken(tmp_path: Path) -> None:
    """A program that takes the port of the broker before it listens does not keep the suite from starting."""
    with running_suite(tmp_path / "data", command=("-c", _TAKE_PORT_OF_BROKER)) as suite:
        assert suite.http.get("/readyz").status_code == 200
        log = suite.log.read_text()
    assert log.count("another program took the port of nats; choosing another") == 1
