"""Benchmark ``watch``, in parts: spread (500 watchers of 500 jobs), crowd (500 watchers of one job).

``crowd`` is measured with and without slow watchers. Each part is measured against a minimal echo server
too: the cost of grpc.aio without the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

import grpc
from tests.servers import free_port

from bench import load
from bench.harness import JobsEnvironment, JobsService, jobs_environment, running_jobs
from bench.processes import Process, python_command, running
from bench.report import Report, median_ratio
from bench.watch.scene import RunningJob, Scene, SceneResult, Stage
from reelhaul.work.v1 import lease_pb2
from reelhaul.work.v1.lease_service_pb2 import ClaimRequest

_WATCHERS = 500
# Watchers that are grpc.aio clients; the others cost the machine next to nothing.
_REAL_WATCHERS = 10
_P99_LIMIT_MS = 50.0


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those in *only*."""
    rounds, seconds = (2, 3.0) if report.short else (5, 10.0)
    for name, measure_part, jobs in (("spread", _measure_spread, _WATCHERS), ("crowd", _measure_crowd, 1)):
        if not only or name in only:
            async with _running_servers(jobs, seconds) as servers:
                await measure_part(report, servers, rounds)


@dataclass(frozen=True, slots=True)
class _Servers:
    """The jobs service and the echo server, with the same running jobs."""

    service: Stage
    echo: Stage
    jobs: Sequence[RunningJob]


async def _measure_spread(report: Report, servers: _Servers, rounds: int) -> None:
    report.print_title(f"{_WATCHERS} watchers of {_WATCHERS} jobs, 1,000 events a second")
    scene = Scene(servers.jobs, [name for name, _ in servers.jobs], _REAL_WATCHERS, rate=1000.0)
    echo, service = SceneResult(), SceneResult()
    await servers.echo.play(scene, rounds, echo)
    await servers.service.play(scene, rounds, service)
    echo.add_to(report, "floor")
    service.add_to(report, "500 of 500")
    _add_overhead(report, "500 of 500", service, echo)
    report.add_target("watch-500-jobs-p99", median(service.p99) / _P99_LIMIT_MS, "<=", 1)


async def _measure_crowd(report: Report, servers: _Servers, rounds: int) -> None:
    report.print_title(f"{_WATCHERS} watchers of one job, 4 events a second; then more that do not read")
    name = servers.jobs[0][0]
    scene = Scene(servers.jobs, [name] * _WATCHERS, _REAL_WATCHERS, rate=4.0)
    echo, service = SceneResult(), SceneResult()
    one_slow, many_slow = SceneResult(slow=1), SceneResult(slow=50)
    await servers.echo.play(scene, rounds, echo)
    await servers.service.play(scene, rounds, service, one_slow, many_slow)
    echo.add_to(report, "floor")
    service.add_to(report, "500 of one")
    one_slow.add_to(report, "500 of one, a slow one beside")
    many_slow.add_to(report, "500 of one, 50 slow ones beside")
    _add_overhead(report, "500 of one", service, echo)
    report.add_target("watch-one-job-p99", median(service.p99) / _P99_LIMIT_MS, "<=", 1)
    report.add_target("watch-one-slow-neighbour-p99", median_ratio(one_slow.p99, service.p99), "<=", 1.1)
    report.add_target("watch-50-slow-neighbours-p99", median_ratio(many_slow.p99, service.p99), "<=", 1.1)


def _add_overhead(report: Report, name: str, service: SceneResult, echo: SceneResult) -> None:
    """Add the service's ratios to the echo server, which hold on a busy machine too."""
    report.add_figure(f"{name}: p99 over the floor's", "x", [median(service.p99) / median(echo.p99)])
    report.add_figure(f"{name}: CPU over the floor's", "x", [median(service.cpu) / median(echo.cpu)])


@asynccontextmanager
async def _running_servers(jobs: int, seconds: float) -> AsyncIterator[_Servers]:
    settings = {"REELHAUL_JOBS_SITE_LIMIT": "0", "REELHAUL_JOBS_LEASE_SECONDS": "600"}
    async with (
        jobs_environment(settings=settings) as environment,
        running_jobs(environment) as service,
        _running_echo_server(environment) as echo,
    ):
        running_job_list = await _start_jobs(service, jobs)
        service_stage = Stage(environment, environment.address, service.process, seconds)
        yield _Servers(service_stage, Stage(environment, *echo, seconds), running_job_list)


@asynccontextmanager
async def _running_echo_server(environment: JobsEnvironment) -> AsyncIterator[tuple[str, Process]]:
    """Run the echo server; yield its address and process."""
    address = f"127.0.0.1:{free_port()}"
    command = python_command("-m", "bench.watch.echo_server", address, environment.nats_url)
    async with running(command, environment.folder / "echo.log") as process:
        async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(30):
            await channel.channel_ready()
        yield address, process


async def _start_jobs(service: JobsService, number: int) -> list[RunningJob]:
    """Create *number* jobs and claim them as their worker."""
    jobs = list[RunningJob]()
    for _ in range(number):
        job = await service.jobs.CreateJob(load.new_request())
        request = ClaimRequest(
            job=job.name,
            attempt=1,
            worker="bench",
            slot=lease_pb2.Slot(engine_version="none 1", slot_count=1),
            request_id=job.name.removeprefix("jobs/"),
        )
        response = await service.leases.Claim(request)
        jobs.append((job.name, response.lease.epoch))
    return jobs
