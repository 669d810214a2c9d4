"""Workers: processes that share the address of the gateway, and replace each other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.samples import Sample
from tests.gateway.fake_services import SUITE_TOKEN, GatewayHarness
from tests.scrapes import scrape, total
from tests.servers import WITHOUT_METRICS

from reelhaul_runtime.up import ports, procfs

pytestmark = pytest.mark.processes

SECONDS = 60
COUNT = 2
METRICS_TOKEN = "the token of Prometheus"


class Workers:
    """A running `serve gateway` with several workers, at *url*."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, count: int) -> None:
        self.process, self.url, self.count = process, url, count

    async def get(self, path: str) -> httpx.Response:
        """Send a request on a new connection."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=SECONDS) as client:
            return await client.get(path)

    async def load(self, *, until_gone: int) -> None:
        """Send requests until the process is gone; those that its end cuts off may fail."""
        while until_gone in procfs.children(self.process.pid):
            with suppress(httpx.TransportError):
                assert (await self.get("/v1/jobs/018f")).status_code == 200

    async def wait_until_ready(self, count: int) -> None:
        """Wait until a worker says that *count* workers are ready."""
        async with asyncio.timeout(SECONDS):
            while await self._count_ready() != count:  # noqa: ASYNC110 - another process has no Event
                await asyncio.sleep(0.05)

    async def _count_ready(self) -> int:
        try:
            body: dict[str, Any] = (await self.get("/readyz")).json()
        except httpx.TransportError:
            return 0
        assert body["workers"]["wanted"] == self.count
        return int(body["workers"]["ready"])


@asynccontextmanager
async def running_workers(
    harness: GatewayHarness, data: Path, *, count: int = COUNT, metrics: str = ""
) -> AsyncIterator[Workers]:
    """Run `serve gateway` with *count* workers before the fake services of *harness*.

    *metrics*: where they serve metrics.
    """
    address = f"127.0.0.1:{ports.find_free_port()}"
    settings = {"gateway_address": address, "gateway_workers": count, "suite_token": SUITE_TOKEN}
    settings |= {"gateway_metrics_address": metrics, "metrics_token": METRICS_TOKEN if metrics else ""}
    settings |= {**harness.addresses, "data_dir": data, "drain_seconds": 5}
    environment = {f"REELHAUL_{name.upper()}": str(value) for name, value in settings.items()}
    command = (sys.executable, "-P", "-m", "reelhaul_runtime", "serve", "gateway")
    environment = {"PATH": os.environ["PATH"], "REELHAUL_AUTH": "none", **WITHOUT_METRICS, **environment}
    # gRPC's C core of the workers writes lines of its own, in its own form.
    environment |= {"GRPC_VERBOSITY": "DEBUG"}
    with (data / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stderr=log, start_new_session=True
        )
    try:
        yield Workers(process, f"http://{address}", count)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def test_killed_worker_is_replaced_while_others_serve(harness: GatewayHarness, tmp_path: Path):
    """After `kill -9` of a worker only its own connections fail; it comes back, and all drain at the end.

    Each line that they write is JSON, also those of gRPC's C core.
    """
    async with running_workers(harness, tmp_path) as workers:
        await workers.wait_until_ready(COUNT)
        first, second = procfs.children(workers.process.pid)
        load = [asyncio.create_task(workers.load(until_gone=first)) for _ in range(4)]
        os.kill(first, signal.SIGKILL)
        await asyncio.gather(*load)
        for _ in range(30):
            assert (await workers.get("/v1/jobs/018f")).status_code == 200
        await workers.wait_until_ready(COUNT)
        (new,) = set(procfs.children(workers.process.pid)) - {second}
        assert new != first
        components = (await workers.get("/health/detailed")).json()["components"]
        (component,) = [each for each in components if each["component"] == "gateway.workers"]
        assert component["message"] == "2 of 2 workers answer"
        async with (
            asyncio.timeout(SECONDS),
            httpx.AsyncClient(base_url=workers.url, trust_env=False, timeout=SECONDS) as client,
            client.stream("GET", "/v1/jobs/endless:watch") as watch,
        ):
            lines = watch.aiter_lines()
            await anext(lines)
            workers.process.terminate()
            assert "error" in json.loads([line async for line in lines][-1])
            assert await workers.process.wait() == 0
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {"grpc", "reelhaul_gateway.app", "reelhaul_runtime.up.workers"} <= {
        record["logger"] for record in records
    }


async def test_scrape_has_the_requests_of_all_workers(harness: GatewayHarness, tmp_path: Path):
    """One scrape of a gateway with three workers has all their series, and counts each request once."""
    count, requests = 3, 60
    address = f"127.0.0.1:{ports.find_free_port()}"
    async with running_workers(harness, tmp_path, count=count, metrics=address) as workers:
        await workers.wait_until_ready(count)
        for _ in range(requests):
            assert (await workers.get("/v1/jobs/018f")).status_code == 200

        async def read() -> list[Sample]:
            return await asyncio.to_thread(scrape, f"http://{address}/metrics", METRICS_TOKEN)

        route = {"http_route": "/v1/{name=jobs/*}", "http_response_status_code": "200"}
        async with asyncio.timeout(SECONDS):
            # A request is counted after its client has the response.
            while total(await read(), "http_server_requests_total", **route) < requests:
                pass
        samples = await read()
        assert total(samples, "http_server_requests_total", **route) == requests
        durations = "http_server_request_duration_seconds_count"
        assert total(samples, durations, http_route=route["http_route"]) == requests
        assert {sample.labels["worker"] for sample in samples} == {"1", "2", "3"}
        assert total(samples, "reelhaul_ready") == count
        by_worker = [total(samples, "process_start_time_seconds", worker=each) for each in "123"]
        assert all(by_worker)
        (victim, *_) = procfs.children(workers.process.pid)
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(SECONDS):
            # That of the new process begins at zero, those of the others stay.
            while total(samples, "process_start_time_seconds") <= sum(by_worker):
                samples = await read()
        assert total(samples, "http_server_requests_total", **route) < requests
