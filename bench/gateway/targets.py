"""The compared servers, each with an access log: the gateway as in production, Envoy, and FastAPI."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import envoy
from tests.servers import free_port, wait_until_listening

from bench.gateway.messages import job_as_json
from bench.processes import Process, python_command, running
from reelhaul.jobs.v1.job_service_pb2 import DESCRIPTOR

_START_SECONDS = 30.0


@dataclass(frozen=True)
class Request:
    """A request."""

    method: str
    target: str
    body: str = ""
    accept: str = "application/json"
    key: str = ""

    def serialize(self) -> str:
        """Return the request as sent over HTTP/1.1."""
        head = f"{self.method} {self.target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {self.accept}\r\n"
        if self.key:
            head += f"Authorization: Bearer {self.key}\r\n"
        if self.body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n"
        return f"{head}\r\n{self.body}"


@dataclass(frozen=True)
class LoadResult:
    """Result of a period of load: the target's CPU a response (µs), responses a second, latencies (ms)."""

    cpu: float
    rate: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Target:
    """A running server."""

    name: str
    port: int
    process: Process

    async def load(self, request: Request, connections: int, seconds: float) -> LoadResult:
        """Send *request* over *connections* for *seconds*. Raises RuntimeError if a response is wrong."""
        size = await self._check(request)
        cpu = self.process.cpu_seconds
        summary = await run_load(self.port, [request], size, connections, seconds)
        cpu = (self.process.cpu_seconds - cpu) / summary["responses"] * 1e6
        return LoadResult(cpu, summary["rate"], summary["p50"], summary["p99"])

    async def watch(self, request: Request, watchers: int, seconds: float) -> LoadResult:
        """Watch with *watchers* for *seconds*; the result counts events.

        Raises RuntimeError if a stream ends, or if an event is missing.
        """
        async with _running_client("watchers", self.port, [request], watchers, seconds) as client:
            assert client.stdout is not None
            await client.stdout.readline()
            cpu = self.process.cpu_seconds
            summary = await _read_summary(client)
            cpu = (self.process.cpu_seconds - cpu) / summary["events"] * 1e6
        return LoadResult(cpu, summary["rate"], summary["p50"], summary["p99"])

    async def _check(self, request: Request) -> int:
        """Check one response, a job or a list of jobs, by value; return the size of its body."""
        body = await fetch(self.port, request)
        response = json.loads(body)
        jobs = response.get("jobs", [response])
        if not jobs or any(job != job_as_json(int(job["name"][-12:])) for job in jobs):
            raise RuntimeError(f"{self.name}: {request.target} has answered {body[:2000]!r}")
        return len(body)


async def fetch(port: int, request: Request) -> bytes:
    """Return the body of one response. Raises RuntimeError if its status is not 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(request.serialize().encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
    body = await reader.readexactly(length)
    writer.close()
    if not head.startswith("http/1.1 200 "):
        raise RuntimeError(f"{request.target} has answered {head}{body[:2000]!r}")
    return body


async def run_load(
    port: int, requests: Sequence[Request], size: int, connections: int, seconds: float
) -> dict[str, Any]:
    """Send *requests* in turns from a client process; see bench.gateway.load. Returns its summary."""
    async with _running_client("load", port, requests, size, connections, seconds) as client:
        return await _read_summary(client)


@asynccontextmanager
async def _running_client(
    module: str, port: int, requests: Sequence[Request], *arguments: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a client process until it ends, or kill it if the block fails."""
    with tempfile.NamedTemporaryFile("w", prefix="reelhaul-bench-") as file:
        json.dump([request.serialize() for request in requests], file)
        file.flush()
        command = python_command("-m", f"bench.gateway.{module}", str(port), file.name, *map(str, arguments))
        client = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            yield client
        except BaseException:
            client.kill()
            raise
        finally:
            await client.wait()


async def _read_summary(client: asyncio.subprocess.Process) -> dict[str, Any]:
    """Return the JSON that *client* prints. Raises RuntimeError if it lists errors."""
    assert client.stdout is not None
    summary: dict[str, Any] = json.loads(
        await client.stdout.readline() or '{"errors": ["the client has failed"]}'
    )
    if summary["errors"]:
        raise RuntimeError(f"wrong responses: {summary['errors']}")
    return summary


@asynccontextmanager
async def running_targets() -> AsyncIterator[dict[str, Target]]:
    """Run the canned upstream, and the targets ``gateway``, ``envoy`` and ``fastapi``."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reelhaul-bench-")))

        async def run(name: str, port: int, command: list[str]) -> Target:
            process = await stack.enter_async_context(running(command, folder / f"{name}.log"))
            await wait_until_listening(port, _START_SECONDS)
            return Target(name, port, process)

        upstream, envoy_port, fastapi_port = free_port(), free_port(), free_port()
        await run("upstream", upstream, python_command("-m", "bench.gateway.upstream", str(upstream)))
        api = envoy.Api(
            [DESCRIPTOR.services_by_name["JobService"]], {"print_options": {"stream_newline_delimited": True}}
        )
        config = envoy.write_config(
            folder,
            {"": api},
            port=envoy_port,
            upstream_port=upstream,
            access_log=folder / "envoy-access.log",
        )
        fastapi = python_command("-m", "bench.gateway.fastapi_server", str(fastapi_port))
        yield {
            "gateway": await stack.enter_async_context(running_gateway(folder, f"127.0.0.1:{upstream}")),
            "envoy": await run("envoy", envoy_port, envoy.command(config)),
            "fastapi": await run("fastapi", fastapi_port, fastapi),
        }


@asynccontextmanager
async def running_gateway(
    folder: Path,
    jobs_address: str,
    settings: Mapping[str, str] | None = None,
    module: str = "reelhaul_runtime",
) -> AsyncIterator[Target]:
    """Run the gateway before the jobs service, by *module* and with further *settings*.

    Nothing listens at the addresses of storage and fetcher.
    """
    port = free_port()
    environment = {
        "REELHAUL_DATA_DIR": str(folder),
        "REELHAUL_GATEWAY_ADDRESS": f"127.0.0.1:{port}",
        "REELHAUL_JOBS_ADDRESS": jobs_address,
        "REELHAUL_STORAGE_ADDRESS": f"127.0.0.1:{free_port()}",
        "REELHAUL_FETCHER_ADDRESS": f"127.0.0.1:{free_port()}",
        "REELHAUL_SUITE_TOKEN": "bench",
        "REELHAUL_GATEWAY_METRICS_ADDRESS": "127.0.0.1:0",
        "REELHAUL_AUTH": "none",
        **(settings or {}),
    }
    command = python_command("-m", module, "serve", "gateway")
    async with running(command, folder / "gateway.log", environment) as process:
        await wait_until_listening(port, _START_SECONDS)
        yield Target("gateway", port, process)
