"""One chaos run: load under faults, a crash of the whole suite, recovery without faults, then the checks."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.chaos.audit import JobsDatabase, open_jobs_database
from tests.chaos.faults import (
    FaultInjector,
    Recovery,
    StaleRenewer,
    count_failpoint_kills,
    failpoints_setting,
    plan_faults,
    plan_outage,
)
from tests.chaos.invariants import Observations, Violation, find_violations
from tests.chaos.links import ADDRESSES
from tests.chaos.load import LoadGenerator
from tests.chaos.outages import OUTAGES, Parts, open_parts
from tests.chaos.s3_throttle import running_s3_throttle
from tests.chaos.storage import inspect_storage
from tests.chaos.videos import VideoSource, running_video_source
from tests.postgresql import fresh_database
from tests.s3_server import S3Server, running_s3_server
from tests.suite.suite import Suite, running_suite

from reelhaul.jobs.v1 import job_service_pb2, schedule_service_pb2
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.up import data_dir, ports, process

# Its jobs wait for each other, those of the others only for slots.
_LIMITED_TENANT, _CONCURRENT_JOBS = "brook", 3

_SUITE_SCRIPT = Path(__file__).with_name("suite_process.py")
_PUBLIC_SERVICES = [
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    schedule_service_pb2.DESCRIPTOR.services_by_name["ScheduleService"],
]
_LEASE_SERVICE = [lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"]]


@dataclass(frozen=True)
class ChaosOptions:
    """Options of a run; those of the command line have the same names."""

    seconds: float = 90
    seed: int = 1
    db: str = "sqlite"
    #: ``disk``, or ``s3``: then the S3 server is killed and started again as well.
    storage: str = "disk"
    #: The safeguard that the jobs service lacks; empty: none.
    mutant: str = ""
    fetchers: int = 3
    clients: int = 21
    #: Seconds of a lease; recovery takes a small multiple of it.
    lease: float = 3.0
    #: Seconds after the faults in which all jobs must have ended.
    patience: float = 60
    #: The one outage of the run, instead of random faults; empty: those.
    scenario: str = ""
    #: The outages that may occur: that of the scenario, or those that random faults are drawn from as well.
    outages: tuple[str, ...] = ()

    @property
    def replicas(self) -> Mapping[str, int]:
        """Number of processes by service, where it is not always 1."""
        return {
            "fetcher": self.fetchers,
            "jobs": 1 if self.db == "sqlite" else 2,
            "s3": 1 if self.storage == "s3" else 0,
        }

    @property
    def site_limit(self) -> int:
        """Running jobs that the site allows: one less than there are slots."""
        return 2 * self.fetchers - 1

    @property
    def large_share(self) -> float:
        """Share of videos that are sent to S3 in several parts."""
        return 0.04 if self.storage == "s3" else 0

    @property
    def stall(self) -> float:
        """Seconds of a stall: long enough for another fetcher to claim the job, too short to finish it."""
        return self.lease * 7 / 6 + 1.8


@dataclass
class ChaosResult:
    """Result of a run."""

    accepted: int = 0
    states: Counter[str] = field(default_factory=Counter)
    #: Successful calls by method.
    calls: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    stalls: int = 0
    wipes: int = 0
    #: Moments at which the quota ledger was checked.
    ledger_checks: int = 0
    #: Renewals of stale leases that were refused.
    stale_renewals_refused: int = 0
    recovery_seconds: float = 0
    #: By outage.
    recoveries: list[Recovery] = field(default_factory=list)
    #: Connections to S3 that were refused, late and cut; None without an S3 that throttles.
    throttled: tuple[int, int, int] | None = None
    violations: list[Violation] = field(default_factory=list)


def run(options: ChaosOptions, folder: Path) -> ChaosResult:
    """Run the test with its data in *folder*; all its processes have ended at the return."""
    process.become_subreaper()
    (folder / "data").mkdir(mode=0o700)
    with ExitStack() as stack:
        settings = _settings(options, folder / "data")
        parts = open_parts(stack, options.outages, folder)
        settings |= stack.enter_context(_database_settings(options.db, parts))
        if parts.broker is not None:
            settings |= {"nats_url": parts.broker.url, "jobs_stream_replicas": "3"}
        videos = stack.enter_context(running_video_source(folder / "videos", options.large_share))
        database = stack.enter_context(open_jobs_database(settings["jobs_database_url"]))
        s3 = stack.enter_context(running_s3_server(folder / "s3")) if options.storage == "s3" else None
        if s3 is not None and any(OUTAGES[name].needs == "s3" for name in options.outages):
            parts.s3 = stack.enter_context(running_s3_throttle(s3.port))
            settings["storage_url"] = s3.storage_url().replace(str(s3.port), str(parts.s3.port))
        return asyncio.run(_Run(options, folder / "data", settings, videos, database, s3, parts).run())


class _Run:
    def __init__(
        self,
        options: ChaosOptions,
        folder: Path,
        settings: dict[str, str],
        videos: VideoSource,
        database: JobsDatabase,
        s3: S3Server | None,
        parts: Parts,
    ) -> None:
        self._options, self._data_dir, self._settings = options, folder, settings
        self._parts = parts
        self._videos, self._database, self._s3 = videos, database, s3
        # The suite is started twice; further replicas of jobs have the same addresses both times.
        self._replicas = [f"127.0.0.1:{ports.find_free_port()}" for _ in range(1, options.replicas["jobs"])]
        self._result = ChaosResult()
        self._stale_renewals: set[str] = set()
        self._ledger_errors: list[str] = []

    async def run(self) -> ChaosResult:
        token = data_dir.load_suite_token(data_dir.create_run_folder(self._data_dir))
        async with AsyncExitStack() as stack:
            first = self._settings["jobs_address"]
            channels = [
                await stack.enter_async_context(open_channel(address, _PUBLIC_SERVICES))
                for address in (first, *self._replicas)
            ]
            load = LoadGenerator(
                channels,
                self._videos,
                self._options.seed,
                self._options.clients,
                schedules_jobs="clock-forward" not in self._options.outages,
            )
            internal = await stack.enter_async_context(open_channel(first, _LEASE_SERVICE, suite_token=token))
            load_task = await self._run_with_faults(load, lease_service_pb2_grpc.LeaseServiceStub(internal))
            await self._check_ledger()
            await self._recover(load_task)
        await self._check_ledger()
        rows = await asyncio.to_thread(self._database.list_jobs)
        stored = await inspect_storage(self._data_dir, self._settings["storage_database_url"], rows, self._s3)
        observed = Observations(
            jobs=load.jobs,
            rows=rows,
            audit=await asyncio.to_thread(self._database.list_audit),
            stored=stored,
            requests=Counter(urlsplit(request.path).path for request in self._videos.site.requests),
            wipes=self._result.wipes,
            site_limit=self._options.site_limit,
            stale_renewals=self._stale_renewals,
            wrong_responses=load.wrong_responses,
            ledger_errors=self._ledger_errors,
            admissions=await asyncio.to_thread(self._database.count_admissions),
        )
        self._result.accepted = sum(bool(job.names) for job in load.jobs)
        self._result.calls = load.successes
        self._result.states = Counter(Job.State.Name(row.state) for row in rows if not row.deleted)
        slow = [
            Violation(
                "recovery", "", f"{each.outage}: a job took {each.seconds:.1f} s, more than {limit:g} s"
            )
            for each in self._result.recoveries
            if each.seconds > (limit := OUTAGES[each.outage].recovery_seconds)
        ]
        self._result.violations = find_violations(observed) + slow
        return self._result

    async def _run_with_faults(
        self, load: LoadGenerator, leases: lease_service_pb2_grpc.LeaseServiceStub
    ) -> asyncio.Task[None]:
        """Run load and faults, then kill the suite. Return the load task, whose last calls are unanswered."""
        options, result = self._options, self._result
        if options.scenario:
            plan, failpoints = plan_outage(options.scenario), ""
        else:
            rng = random.Random(f"{options.seed}/plan")
            plan = plan_faults(rng, options.seconds, options.replicas, options.stall, options.outages)
            failpoints = failpoints_setting()
        with self._suite(failpoints=failpoints) as suite:
            await asyncio.to_thread(self._database.install_audit)
            await asyncio.to_thread(self._database.limit_concurrent_jobs, _LIMITED_TENANT, _CONCURRENT_JOBS)
            load_task = asyncio.create_task(load.run())
            renewer = StaleRenewer(leases, self._database)
            background = [asyncio.create_task(each) for each in (renewer.run(), self._watch_ledger())]
            injector = FaultInjector(
                suite, self._database, options.stall, self._s3, self._parts, load.run_one_job
            )
            await injector.run(plan)
            for task in background:
                task.cancel()
            await asyncio.wait(background)
            for task in background:
                if not task.cancelled():
                    task.result()
            load.stop()
            await asyncio.to_thread(suite.crash)
            result.kills = injector.kills + count_failpoint_kills(suite.log)
        result.kills += Counter(("jobs", "fetcher", "storage", "nats"))
        if self._s3 is not None:
            self._s3.kill()
            result.kills["s3"] += 1
            await asyncio.to_thread(self._s3.start)
        result.stalls, result.wipes = injector.stalls, injector.wipes
        result.recoveries = injector.recoveries
        if (s3 := self._parts.s3) is not None:
            result.throttled = s3.refused, s3.delayed, s3.cut
        result.stale_renewals_refused = renewer.refused
        self._stale_renewals = renewer.renewed_jobs
        return load_task

    async def _watch_ledger(self) -> None:
        """Check the quota ledger twice a second, until cancelled."""
        while True:
            await asyncio.sleep(0.5)
            await self._check_ledger()

    async def _check_ledger(self) -> None:
        self._ledger_errors += await asyncio.to_thread(self._database.find_ledger_errors)
        self._result.ledger_checks += 1

    async def _recover(self, load_task: asyncio.Task[None]) -> None:
        """Run the suite without faults until every job has ended, or until the patience has."""
        work = self._data_dir / "work"
        with self._suite() as suite:
            begin = time.monotonic()
            end = begin + self._options.patience
            with suppress(TimeoutError):
                await asyncio.wait_for(load_task, self._options.patience)
            while time.monotonic() < end:
                if not await asyncio.to_thread(self._database.count_pending) and not any(work.iterdir()):
                    break
                await asyncio.sleep(0.2)
            self._result.recovery_seconds = time.monotonic() - begin
            await asyncio.to_thread(suite.stop)

    @contextmanager
    def _suite(self, **settings: str) -> Iterator[Suite]:
        mutant = ("--mutant", self._options.mutant) if self._options.mutant else ()
        outages = [OUTAGES[name] for name in self._options.outages]
        links = ("--links", json.dumps(ADDRESSES)) if any(each.needs == "links" for each in outages) else ()
        clock = ("--clock", str(self._parts.clock.file)) if self._parts.clock is not None else ()
        options = (*mutant, *links, *clock)
        command = ("-P", str(_SUITE_SCRIPT), *options, str(self._options.fetchers), *self._replicas)
        with running_suite(
            self._data_dir, command=command, s3=self._s3, **self._settings, **settings
        ) as suite:
            yield suite


def _settings(options: ChaosOptions, folder: Path) -> dict[str, str]:
    names = ("gateway", "jobs", "fetcher", "storage", "storage_http")
    # Fixed, because the clients reconnect to them after the crash.
    addresses = {f"{name}_address": f"127.0.0.1:{ports.find_free_port()}" for name in names}
    return addresses | {
        "chaos": "1",
        "jobs_lease_seconds": str(options.lease),
        "jobs_site_limit": str(options.site_limit),
        "storage_sweep_seconds": "2",
        "drain_seconds": "8",
        "jobs_database_url": f"sqlite:///{folder}/jobs.db",
        "storage_database_url": f"sqlite:///{folder}/storage.db",
    }


@contextmanager
def _database_settings(db: str, parts: Parts) -> Iterator[dict[str, str]]:
    """Create the PostgreSQL databases if *db* asks for them, and yield the settings that name them."""
    if db == "sqlite":
        yield {}
        return
    if parts.database is not None:
        names = ("jobs_database_url", "storage_database_url")
        yield {name: parts.database.url(parts.database.create_database()) for name in names}
        return
    with fresh_database() as jobs, fresh_database() as catalog:
        yield {"jobs_database_url": jobs, "storage_database_url": catalog}
