"""What processes report of themselves, and how the suite collects it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.servers import free_port

from reelhaul.system.v1.system_service_pb2 import LogLevel, ReportHealthResponse, ServingStatus
from reelhaul.work.v1 import process_service_pb2
from reelhaul_runtime.errors import Unavailable
from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.server import Check, serving
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.system import service
from reelhaul_runtime.system.health import CheckResult
from reelhaul_runtime.system.process import DEGRADED, NOT_SERVING, SERVING, certificates
from reelhaul_runtime.system.process_report import ComponentStates, Describe, ProcessReport
from reelhaul_runtime.system.processes import ProcessReader
from reelhaul_runtime.system.remedies import REMEDIES
from reelhaul_runtime.up import status_table
from reelhaul_runtime.up.procfs import age_seconds
from reelhaul_runtime.up.status import Row, Status
from reelhaul_runtime.up.suite_state import SuiteState

_TOKEN = "the suite's own"
_Component = ReportHealthResponse.Component


async def _pass() -> None:
    pass


async def _fail() -> None:
    raise Unavailable("jobs.database", "jobs.database does not answer")


@asynccontextmanager
async def _running(
    checks: Mapping[str, Check], describe: Mapping[str, Describe], report: ProcessReport | None = None
) -> AsyncIterator[str]:
    """Serve the report of a process of jobs; yield its address once its checks have run."""
    report = report or ProcessReport("jobs", SuiteSettings(), describe)
    async with serving(
        "127.0.0.1:0",
        [report.servicer],
        authenticator=NoAuthentication(_TOKEN),
        checks=checks,
        health=report.states,
    ) as port:
        while checks.keys() - report.states.components.keys():  # noqa: ASYNC110 - a check sends no event
            await asyncio.sleep(0.01)
        yield f"127.0.0.1:{port}"


async def test_a_process_reports_its_components():
    """Version, process, memory, and each component with its status, details, and since when."""

    async def describe() -> _Component:
        return _Component(version="sqlite 3.45.1, revision 0010", used_count=3)

    start = datetime.now(UTC)
    async with _running({"jobs.database": _pass}, {"jobs.database": describe, "jobs.queue": describe}) as at:
        (process,) = await ProcessReader({"jobs": at}, _TOKEN, None).read()
    assert ("jobs", at, SERVING, os.getpid()) == (
        process.service,
        process.address,
        process.status,
        process.pid,
    )
    assert abs(process.uptime.ToTimedelta().total_seconds() - age_seconds(os.getpid())) < 5
    assert process.rss_bytes >= process.pss_bytes > 1_000_000
    database, queue = process.components
    assert (
        database.component,
        database.status,
        database.version,
    ) == ("jobs.database", SERVING, "sqlite 3.45.1, revision 0010")
    assert start <= database.change_time.ToDatetime(UTC) <= datetime.now(UTC)
    assert (queue.component, queue.status, queue.used_count) == ("jobs.queue", SERVING, 3)


async def test_a_component_that_fails_has_its_remedy():
    """The report says what is down, since when, and what to do; missing details hide nothing."""
    async with _running({"jobs.database": _fail}, {"jobs.database": _fail}) as at:
        (process,) = await ProcessReader({"jobs": at}, _TOKEN, None).read()
    (database,) = process.components
    assert NOT_SERVING == database.status == process.status
    assert database.message == "no details: Unavailable"
    assert REMEDIES["jobs.database"] == database.remedy
    report = service.health_report([CheckResult("jobs.database", NOT_SERVING, critical=True)], [process], 1.0)
    (component,) = report.components
    assert database.change_time == component.change_time
    assert REMEDIES["jobs.database"] == component.remedy


async def test_the_time_of_a_status_is_that_of_its_change():
    """A status that is confirmed every second keeps the time at which it began."""
    times = iter([datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)])
    states = ComponentStates(lambda: next(times))
    for status in (1, 1, 2, 2):
        await states.set("jobs.database", status)
        await states.set("", status)
        await states.set("reelhaul.jobs.v1.JobService", status)
    assert {"jobs.database": (2, datetime(2030, 1, 2, tzinfo=UTC))} == states.components


async def test_a_clock_that_is_wrong_is_named():
    """A replica whose clock differs by seconds is degraded, and clocks are what to look at."""

    class Ahead(ProcessReport):
        async def GetProcess(self, request, context):
            response = await super().GetProcess(request, context)
            response.time.FromDatetime(datetime.now(UTC) + timedelta(seconds=90))
            return response

    async with _running({}, {}, Ahead("jobs", SuiteSettings(), {})) as at:
        (process,) = await ProcessReader({"jobs": at}, _TOKEN, None).read()
    assert 85 < process.clock_offset.ToTimedelta().total_seconds() < 95
    (clock,) = process.components
    assert (clock.component, clock.status) == ("jobs.clock", DEGRADED)
    assert "ahead of" in clock.message
    assert "chrony" in clock.remedy
    assert service.health_report([], [process], 1.0).status == DEGRADED


async def test_replicas_that_do_not_answer_are_named():
    """Each address of a list is called: one that does not answer is down, the other is reported."""
    async with _running({}, {}) as at:
        dead = f"127.0.0.1:{free_port()}"
        alive, down = await ProcessReader({"jobs": f"{at},{dead}"}, _TOKEN, None).read()
        (unknown,) = await ProcessReader({"fetcher": "no-such-host.invalid:50052"}, _TOKEN, None).read()
    assert (at, SERVING, dead, NOT_SERVING) == (alive.address, alive.status, down.address, down.status)
    assert "jobs does not answer" == down.message == down.components[0].message
    assert "does not resolve" in unknown.message


async def test_log_levels_of_replicas_are_changed():
    """Each replica changes its log level; one that does not answer is named."""
    logger = logging.getLogger("reelhaul_jobs.of_a_test")
    call = process_service_pb2.SetLogLevelRequest(level=LogLevel.LOG_LEVEL_DEBUG, logger=logger.name)
    call.duration.seconds = 60
    async with _running({}, {}) as at:
        dead = f"127.0.0.1:{free_port()}"
        reader = ProcessReader({"jobs": f"{at},{dead}"}, _TOKEN, None)
        changed, silent = await reader.set_log_level(["jobs"], call)
        assert logger.level == logging.DEBUG
        call.level = LogLevel.LOG_LEVEL_UNSPECIFIED
        await reader.set_log_level(["jobs"], call)
    assert (changed.address, changed.error) == (at, "")
    assert (silent.address, silent.error) == (dead, "jobs does not answer")
    assert logger.level == logging.NOTSET


async def test_a_name_of_several_replicas_is_resolved(monkeypatch: pytest.MonkeyPatch):
    """Behind one DNS name, each address is a process of its own."""

    async def resolve(host: str, port: int, **_: object) -> list[Any]:
        assert host == "jobs.control"
        return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.3", "127.0.0.1", "127.0.0.1")]

    async with _running({}, {}) as at:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        port = at.rpartition(":")[2]
        alive, down = await ProcessReader({"jobs": f"jobs.control:{port}"}, _TOKEN, None).read()
        monkeypatch.undo()
    assert (at, SERVING) == (alive.address, alive.status)
    assert (f"127.0.0.3:{port}", NOT_SERVING) == (down.address, down.status)


async def test_a_process_without_report_degrades_nothing():
    """Who does not know the suite's credential, or an earlier build, is no outage."""
    async with _running({}, {}) as at:
        (process,) = await ProcessReader({"jobs": at}, "", None).read()
    assert process.status == ServingStatus.SERVING_STATUS_UNSPECIFIED
    assert process.message.startswith("it reports no state: ")
    assert service.health_report([], [process], 1.0).status == SERVING


async def test_certificates_report_their_expiry(tmp_path: Path):
    """Certificates in use have their expiry; one that ends within a week is degraded."""
    authority = trustme.CA()
    expiry = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    for end, status in ((expiry, SERVING), (expiry - timedelta(days=29), DEGRADED)):
        pair = authority.issue_cert("localhost", not_after=end)
        pair.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
        pair.private_key_pem.write_to_path(tmp_path / "key.pem")
        settings = SuiteSettings(
            gateway_tls_certificate=tmp_path / "certificate.pem", gateway_tls_key=tmp_path / "key.pem"
        )
        (certificate,) = certificates("gateway", settings)
        assert ("gateway.https_certificate", status) == (certificate.component, certificate.status)
        assert end == certificate.expire_time.ToDatetime(UTC)
    assert certificates("jobs", settings) == []


def test_the_table_says_what_to_do():
    """For people: each component with its details, what is down since when, and below it the remedy."""
    down = _Component(
        component="storage.backend",
        status=NOT_SERVING,
        message="the disk is full",
        remedy="free space",
        free_bytes=1_500_000_000,
        total_bytes=20_000_000_000,
    )
    down.change_time.FromDatetime(datetime.now(UTC) - timedelta(seconds=90))
    slots = _Component(component="fetcher.slots", status=SERVING, used_count=1, total_count=2)
    certificate = _Component(component="gateway.https_certificate", status=SERVING)
    certificate.expire_time.FromDatetime(datetime(2030, 1, 31, tzinfo=UTC))
    fetcher = ReportHealthResponse.Process(
        service="fetcher", version="1.2.3", components=[slots, certificate]
    )
    report = ReportHealthResponse(status=NOT_SERVING, components=[down], processes=[fetcher])
    suite = SuiteState(1, 2.5, {}, {}, {})
    row = Row("jobs", None, "NOT_SERVING", "127.0.0.1:50051", None, 2_000_000, 1_000_000)
    lines = status_table.format_status(Status(suite, [row], report)).splitlines()
    assert "jobs            - NOT_SERVING 127.0.0.1:50051                      -      2.0      1.0" in lines
    (line,) = [line for line in lines if line.startswith("storage.backend")]
    assert re.search(r"NOT_SERVING 1\.5 GB free of 20\.0 GB, the disk is full, since .* UTC \(\d+ s\)$", line)
    assert lines[lines.index(line) + 1].strip() == "-> free space"
    assert "fetcher.slots              SERVING     1 of 2 in use" in lines
    assert "gateway.https_certificate  SERVING     expires 2030-01-31" in lines
    assert lines[-2:] == ["reelhaul 1.2.3: NOT_SERVING", "ready in 2.50 s"]


@pytest.mark.parametrize(
    ("status", "process", "expected"),
    [
        (SERVING, SERVING, SERVING),
        (SERVING, DEGRADED, DEGRADED),
        (SERVING, NOT_SERVING, DEGRADED),
        (NOT_SERVING, DEGRADED, NOT_SERVING),
    ],
)
def test_a_process_that_is_not_well_degrades_the_suite(status: Any, process: Any, expected: Any):
    """Whatever asks for the report: also of the gateway, for example for its certificate."""
    processes = [ReportHealthResponse.Process(status=each) for each in (SERVING, process)]
    assert service.degrade(status, processes) == expected
