"""One run: idle, jobs without watchers, then with them, restarts and kills under load, and the checks."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from tests.chaos.audit import JobsDatabase, open_jobs_database
from tests.chaos.invariants import Observations, Violation, find_violations
from tests.chaos.storage import inspect_storage
from tests.chaos.videos import VideoSource, running_video_source
from tests.load import costs, restarts
from tests.load.callers import Callers, open_callers
from tests.load.costs import Costs
from tests.load.restarts import Restart
from tests.load.topology import Topology, TopologyError, running_topology, wait_until
from tests.load.watcher_pool import WatcherPool, running_watchers
from tests.load.watchers import KINDS

from reelhaul.jobs.v1.job_pb2 import Job

_OPEN_TIMEOUT = 300.0
_IDLE_SECONDS = 15.0
# A job that runs takes at most its download, a lease and the waits of its retries.
_END_SECONDS_PER_JOB = 3.0
_WATCHERS_END_TIMEOUT = 60.0
# Violations of these phases count; what is killed answers no more.
UNDISTURBED = ("jobs", "watchers", "restarts", "end")


@dataclass(frozen=True)
class LoadOptions:
    """Options of a run; those of the command line have the same names."""

    #: Jobs that are unfinished at a time.
    jobs: int = 400
    #: Watchers, a third of each kind.
    watchers: int = 3000
    #: Minutes of load with watchers, before the restarts.
    minutes: float = 5.0
    fetchers: int = 4
    slots: int = 4
    #: Seconds that a download takes at the site, on average: with the slots it decides the rate of jobs.
    download_seconds: float = 12.0

    @property
    def site_limit(self) -> int:
        """Jobs of the site that run at once: one less than there are slots."""
        return self.fetchers * self.slots - 1


@dataclass
class Phase:
    """A period of the run."""

    name: str
    seconds: float
    before: Costs
    after: Costs
    ended_jobs: int
    events: Mapping[str, int] = field(default_factory=dict)


@dataclass
class LoadResult:
    """Result of a run."""

    phases: list[Phase] = field(default_factory=list)
    latencies: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    #: Ages of events at the watchers in seconds, by phase and kind of watcher.
    ages: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    #: Memory by replica at moments of the run, by the name of the moment.
    memory: dict[str, Mapping[str, float]] = field(default_factory=dict)
    restarts: list[Restart] = field(default_factory=list)
    kills: list[Restart] = field(default_factory=list)
    resumes: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    watches: int = 0
    violations: list[Violation] = field(default_factory=list)

    @property
    def failed_calls(self) -> int:
        """Failed calls outside of the phase in which processes are killed."""
        return sum(sum(self.failures.get(phase, {}).values()) for phase in UNDISTURBED)


async def run(options: LoadOptions, folder: Path) -> LoadResult:
    """Run with all data in *folder*; all processes have ended at the return."""
    async with AsyncExitStack() as stack:
        videos = stack.enter_context(running_video_source(folder / "videos"))
        topology = await stack.enter_async_context(
            running_topology(
                folder,
                fetchers=options.fetchers,
                slots=options.slots,
                site_limit=options.site_limit,
            )
        )
        database = stack.enter_context(open_jobs_database(topology.jobs_database))
        await asyncio.to_thread(database.install_audit)
        callers = await stack.enter_async_context(
            open_callers(topology, videos, open_jobs=options.jobs, download_seconds=options.download_seconds)
        )
        pools = await stack.enter_async_context(running_watchers(topology, KINDS, callers.select_job))
        return await _Run(options, topology, database, callers, pools, videos).run()


class _Run:
    def __init__(
        self,
        options: LoadOptions,
        topology: Topology,
        database: JobsDatabase,
        callers: Callers,
        pools: Sequence[WatcherPool],
        videos: VideoSource,
    ) -> None:
        self._options, self._topology, self._database = options, topology, database
        self._callers, self._pools, self._videos = callers, pools, videos
        self._result = LoadResult()
        self._violations = list[Violation]()

    async def run(self) -> LoadResult:
        await self._run_phase("idle", asyncio.sleep(_IDLE_SECONDS))
        await self._measure_memory("idle")
        calling = asyncio.create_task(self._callers.run())
        try:
            await self._run_phases()
        except (TopologyError, TimeoutError) as error:
            # What was measured until then is reported all the same.
            self._violations.append(Violation("topology", "", repr(error)))
        finally:
            calling.cancel()
            await asyncio.wait([calling])
        if not calling.cancelled() and (failure := calling.exception()):
            self._violations.append(Violation("callers", "", f"the watch of all jobs ended: {failure!r}"))
        await self._check()
        return self._result

    async def _run_phases(self) -> None:
        options, result = self._options, self._result
        self._set_phase("ramp")
        await self._callers.wait_for_open(options.jobs, _OPEN_TIMEOUT)
        await self._measure_memory(f"{options.jobs} jobs")
        await self._run_phase("jobs", asyncio.sleep(60 * min(1.0, options.minutes / 2)))
        await self._open_watchers()
        half = 30 * options.minutes

        async def measure_in_the_middle() -> None:
            await asyncio.sleep(half)
            await self._measure_memory("middle")
            await asyncio.sleep(half)

        await self._run_phase("watchers", measure_in_the_middle())
        await self._measure_memory("end")
        self._set_phase("restarts")
        print("restarts")
        result.restarts = await restarts.restart_all(self._topology)
        self._set_phase("kills")
        print("kills")
        result.kills = await restarts.kill_each(self._topology, self._database)
        await self._end()

    def _set_phase(self, name: str) -> None:
        self._callers.phase = name
        for pool in self._pools:
            pool.set_phase(name)

    async def _run_phase(self, name: str, period: Awaitable[None]) -> None:
        """Measure what the suite does while *period* is awaited."""
        print(f"phase {name}", flush=True)
        self._set_phase(name)
        before, begin, ended = await self._measure(), time.monotonic(), len(self._callers.ended)
        await period
        seconds = time.monotonic() - begin
        after = await self._measure()
        self._result.phases.append(Phase(name, seconds, before, after, len(self._callers.ended) - ended))

    async def _open_watchers(self) -> None:
        """Open the watchers of one kind after the other, and measure the memory after each."""
        number = self._options.watchers // len(self._pools)
        self._set_phase("opening")
        for pool in self._pools:
            pool.keep_number(keep=True)
            for _ in range(number):
                job = self._callers.select_job()
                assert job is not None, "there is no unfinished job"
                pool.watch(job)
            await pool.wait_for_opened(number, _OPEN_TIMEOUT)
            await self._measure_memory(f"{number} {pool.kind} watchers")

    async def _measure_memory(self, moment: str) -> None:
        self._result.memory[moment] = (await self._measure()).megabytes
        total = sum(self._result.memory[moment].values())
        print(f"  memory, {moment}: {total:.0f} MB in all services", flush=True)

    async def _measure(self) -> Costs:
        watchers = {f"watchers-{pool.kind}": pool.pid for pool in self._pools}
        return await asyncio.to_thread(costs.measure, self._topology, watchers)

    async def _end(self) -> None:
        """Let all jobs and watchers end."""
        print("end", flush=True)
        self._set_phase("end")
        self._callers.stop_creating()
        for pool in self._pools:
            pool.keep_number(keep=False)
        with suppress(TimeoutError):
            await self._callers.wait_for_end(60 + _END_SECONDS_PER_JOB * self._options.jobs)
        with suppress(TimeoutError):
            await wait_until(lambda: not any(pool.number for pool in self._pools), _WATCHERS_END_TIMEOUT)
        with suppress(TimeoutError):
            # The confirmation of artifacts at storage follows the end of a job.
            await wait_until(lambda: not self._database.count_pending(), _WATCHERS_END_TIMEOUT)

    async def _check(self) -> None:
        result, callers = self._result, self._callers
        for pool in self._pools:
            unended = pool.running.total()
            await pool.end()
            for phase, ages in pool.ages.items():
                result.ages.setdefault(phase, {})[pool.kind] = ages
            result.resumes[pool.kind] = pool.resumes.total()
            result.watches += pool.opened
            callers.wrong_responses += pool.failures
            if unended:
                self._violations.append(
                    Violation("watchers", "", f"{unended} {pool.kind} watchers did not end")
                )
        rows = await asyncio.to_thread(self._database.list_jobs)
        states = {f"jobs/{row.id}": Job.State.Name(row.state) for row in rows}
        for pool in self._pools:
            for job, state in pool.ends:
                if states.get(job) != state:
                    text = f"a {pool.kind} watcher ended with {state}, the job is {states.get(job)}"
                    self._violations.append(Violation("watchers", job, text))
        for replica in self._topology.replicas:
            await replica.drain()
        stored = await inspect_storage(
            self._topology.folder / "inspection", self._topology.storage_database, rows, self._topology.s3
        )
        observed = Observations(
            jobs=callers.jobs,
            rows=rows,
            audit=await asyncio.to_thread(self._database.list_audit),
            stored=replace(stored, work=self._list_work()),
            requests=Counter(urlsplit(request.path).path for request in self._videos.site.requests),
            site_limit=self._options.site_limit,
            wrong_responses=callers.wrong_responses,
            ledger_errors=await asyncio.to_thread(self._database.find_ledger_errors),
            admissions=await asyncio.to_thread(self._database.count_admissions),
        )
        result.states = Counter(states.values())
        result.latencies, result.failures = callers.latencies, callers.failures
        result.violations = [*find_violations(observed), *self._violations]

    def _list_work(self) -> list[str]:
        """Return what is left in the work folders of the fetchers."""
        folders = (replica.log.parent / "work" for replica in self._topology.of("fetcher"))
        return sorted(path.name for folder in folders if folder.exists() for path in folder.iterdir())
