"""Benchmark ``auth``: what authentication by key and rate limits add to a call, with warm caches.

Parts: interceptor (the functions that the interceptor calls, in CPU time of one thread), calls (GetJob over
gRPC, in CPU of the server, with keys and limits against the same server without). "memory" and "redis" are
keys with rate limits that are counted there.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

from grpc import aio
from tests.redis_server import RedisServer
from tests.servers import free_port, wait_until_listening

from bench.auth.servers import KEY_VARIABLE, create_authenticator, open_rate_limiter
from bench.processes import Process, python_command, running
from bench.report import Report
from reelhaul import api_keys
from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul_runtime.auth.authorization import authorize, combine_metadata
from reelhaul_runtime.auth.calls import IncomingCall
from reelhaul_runtime.rpc.policy import method_policy

_PATH = "/reelhaul.jobs.v1.JobService/GetJob"
_PEER = "ipv4:192.0.2.1:40000"
_REQUEST = job_service_pb2.GetJobRequest(name="jobs/01890a5d-ac96-774b-bcce-b302099a8057")
_CALLERS = 32
# What the interceptor may add to a call, in microseconds.
_MAX_MICROSECONDS = 30


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those in *only*."""
    redis = RedisServer()
    with redis.running():
        await wait_until_listening(redis.port)
        modes = {"none": "none", "keys": "keys", "memory": "memory", "redis": redis.url}
        if not only or "interceptor" in only:
            await _measure_interceptor(report, modes)
        if not only or "calls" in only:
            await _measure_calls(report, modes)


async def _measure_interceptor(report: Report, modes: Mapping[str, str]) -> None:
    report.print_title("authentication, level, rate limit: the functions alone, one call after the other")
    rounds, calls = (3, 2_000) if report.short else (9, 10_000)
    cpu, latency = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for _ in range(rounds):
        for name, mode in modes.items():
            microseconds = await _time_authorization(mode, calls // 10 if name == "redis" else calls)
            cpu[name].append(microseconds[0])
            latency[name].append(microseconds[1])
    report.add_figures("us", {f"interceptor: {name}, cpu": values for name, values in cpu.items()})
    report.add_figure("interceptor: redis, latency", "us", latency["redis"])
    for name in ("keys", "memory"):
        added = median(cpu[name]) - median(cpu["none"])
        report.add_target(
            f"auth-interceptor-{name}-over-{_MAX_MICROSECONDS}-us", added / _MAX_MICROSECONDS, "<=", 1
        )


async def _time_authorization(mode: str, calls: int) -> tuple[float, float]:
    """Return the microseconds of CPU and of time that the authorization of a call takes."""
    key_string = api_keys.create_key_string()
    authenticator = create_authenticator(mode, key_string)
    pairs = (("user-agent", "bench"), ("authorization", f"Bearer {key_string}"))
    policy = method_policy(_PATH)
    async with open_rate_limiter(mode) as rate_limiter:

        async def call() -> None:
            metadata = combine_metadata(pairs)
            incoming = IncomingCall(_PATH, policy, _REQUEST)
            incoming.peer = authenticator.identify_peer(metadata, _PEER, dict)
            await authorize(incoming, metadata, authenticator, rate_limiter)

        await call()  # the key is verified, and Redis has its script
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(calls):
            await call()
        return (time.process_time() - cpu) / calls * 1e6, (time.perf_counter() - start) / calls * 1e6


async def _measure_calls(report: Report, modes: Mapping[str, str]) -> None:
    report.print_title(f"GetJob over gRPC, {_CALLERS} callers, a constant as the response: CPU of the server")
    rounds, seconds = (3, 1.0) if report.short else (9, 3.0)
    cpu, rate = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    async with AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(_running_server(mode)) for name, mode in modes.items()
        }
        for number in range(rounds + 1):
            for name in list(servers)[:: 1 if number % 2 == 0 else -1]:
                microseconds, calls = await _load(*servers[name], seconds)
                if number:  # in the first round connections are opened and code is warmed up
                    cpu[name].append(microseconds)
                    rate[name].append(calls / seconds)
    report.add_figures("us", {f"calls: {name}, cpu of the server": values for name, values in cpu.items()})
    report.add_figures("calls/s", {f"calls: {name}": values for name, values in rate.items()})
    for name in ("keys", "memory", "redis"):
        added = [with_ - without for with_, without in zip(cpu[name], cpu["none"], strict=True)]
        report.add_figure(f"calls: {name} over none, cpu of the server", "us", added)


@asynccontextmanager
async def _running_server(mode: str) -> AsyncIterator[tuple[Process, Any]]:
    """Run a server; yields its process, and the function that calls it."""
    port, key_string = free_port(), api_keys.create_key_string()
    command = python_command("-m", "bench.auth.servers", str(port), mode)
    environment = {KEY_VARIABLE: key_string, "PYTHONPATH": os.getcwd()}
    with tempfile.TemporaryDirectory(prefix="reelhaul-bench-auth-") as folder:
        async with (
            running(command, Path(folder) / "log", environment) as process,
            aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            await wait_until_listening(port, 30)
            stub = job_service_pb2_grpc.JobServiceStub(channel)
            metadata = (("authorization", f"Bearer {key_string}"),)

            async def call() -> None:
                await stub.GetJob(_REQUEST, metadata=metadata)

            yield process, call


async def _load(process: Process, call: Any, seconds: float) -> tuple[float, int]:
    """Call from _CALLERS callers for *seconds*; return the server's CPU per call (µs) and the calls."""
    end, calls, before = time.monotonic() + seconds, 0, process.cpu_seconds

    async def repeat() -> None:
        nonlocal calls
        while time.monotonic() < end:
            await call()
            calls += 1

    await asyncio.gather(*(repeat() for _ in range(_CALLERS)))
    return (process.cpu_seconds - before) / calls * 1e6, calls
