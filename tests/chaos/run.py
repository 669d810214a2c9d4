"""One run: load and faults, a crash of everything, peace until all has ended, then the questions."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.chaos import audit, doing, films, invariants, plan, storage
from tests.chaos.load import Clients
from tests.postgresql import fresh_database
from tests.suite.suite import Suite, running_suite

from reelhaul.jobs.v1 import job_service_pb2, schedule_service_pb2
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.up import data_dir, process

_HOUSE = Path(__file__).with_name("house.py")
_CALLED = [
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    schedule_service_pb2.DESCRIPTOR.services_by_name["ScheduleService"],
]
_LEASES = [lease_service_pb2.DESCRIPTOR.services_by_name["LeaseService"]]


@dataclass(frozen=True)
class Asked:
    """What run is asked for."""

    seconds: float = 90
    seed: int = 1
    db: str = "sqlite"
    #: The safeguard that jobs is to lack; empty: none.
    mutant: str = ""
    fetchers: int = 3
    clients: int = 21
    #: Seconds of a lease: all that mends itself does so by this measure.
    lease: float = 3.0
    #: Seconds after the faults in which all must have ended.
    patience: float = 60

    @property
    def replicas(self) -> Mapping[str, int]:
        """How many there are of what there may be more than one of."""
        return {"fetcher": self.fetchers, "jobs": 1 if self.db == "sqlite" else 2}

    @property
    def site_limit(self) -> int:
        """Running jobs that the site is to allow: one less than there are slots."""
        return 2 * self.fetchers - 1

    @property
    def stall(self) -> float:
        """How long a fetcher is stopped: its lease lapses, another one has begun and not yet ended."""
        return self.lease * 7 / 6 + 1.8


@dataclass
class Outcome:
    """What came of it."""

    accepted: int = 0
    states: Counter[str] = field(default_factory=Counter)
    #: How often each method was answered as good.
    done: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    stalls: int = 0
    wipes: int = 0
    #: Renewals of leases that nobody holds, tried and refused.
    refused: int = 0
    drain_seconds: float = 0
    broken: list[invariants.Broken] = field(default_factory=list)


def run(asked: Asked, folder: Path) -> Outcome:
    """Do *asked* in *folder*, with nothing left running at the end."""
    process.become_subreaper()
    (folder / "data").mkdir(mode=0o700)
    with ExitStack() as stack:
        settings = _settings(asked, folder / "data") | stack.enter_context(_databases(asked.db))
        shown = stack.enter_context(films.showing(folder / "films"))
        rows = stack.enter_context(audit.opened(settings["jobs_database_url"]))
        return asyncio.run(_Run(asked, folder / "data", settings, shown, rows).run())


class _Run:
    def __init__(
        self, asked: Asked, data: Path, settings: dict[str, str], shown: films.Films, rows: audit.Rows
    ) -> None:
        self._asked, self._data, self._settings = asked, data, settings
        self._films, self._rows = shown, rows
        #: Where further replicas of jobs serve: at the same place at both starts.
        self._replicas = [f"127.0.0.1:{data_dir.reserve_port()}" for _ in range(1, asked.replicas["jobs"])]
        self._outcome = Outcome()
        self._believed: set[str] = set()

    async def run(self) -> Outcome:
        """Load and faults; then peace; then the questions."""
        token = data_dir.load_suite_token(data_dir.create_run_folder(self._data))
        async with AsyncExitStack() as stack:
            first = self._settings["jobs_address"]
            opened = [
                await stack.enter_async_context(open_channel(address, _CALLED))
                for address in (first, *self._replicas)
            ]
            clients = Clients(opened, self._films, self._asked.seed, self._asked.clients)
            inside = await stack.enter_async_context(open_channel(first, _LEASES, suite_token=token))
            loading = await self._in_trouble(clients, lease_service_pb2_grpc.LeaseServiceStub(inside))
            await self._in_peace(clients, loading)
        rows = await asyncio.to_thread(self._rows.jobs)
        kept = await storage.stored(self._data, self._settings["storage_database_url"], rows)
        facts = invariants.Facts(
            wishes=clients.wishes,
            rows=rows,
            audit=await asyncio.to_thread(self._rows.audit),
            stored=kept,
            requests=Counter(urlsplit(request.path).path for request in self._films.site.requests),
            wipes=self._outcome.wipes,
            site_limit=self._asked.site_limit,
            believed=self._believed,
            oddities=clients.oddities,
        )
        self._outcome.accepted = sum(bool(wish.names) for wish in clients.wishes)
        self._outcome.done = clients.done
        self._outcome.states = Counter(Job.State.Name(row.state) for row in rows if not row.deleted)
        self._outcome.broken = invariants.broken(facts)
        return self._outcome

    async def _in_trouble(
        self, clients: Clients, leases: lease_service_pb2_grpc.LeaseServiceStub
    ) -> asyncio.Task[None]:
        """Load under faults; the clients, some still without an answer when all has crashed."""
        asked, told = self._asked, self._outcome
        faults = plan.faults(random.Random(f"{asked.seed}/plan"), asked.seconds, asked.replicas, asked.stall)
        with self._suite(failpoints=plan.as_setting()) as suite:
            await asyncio.to_thread(self._rows.begin_audit)
            loading = asyncio.create_task(clients.run())
            rogue = doing.Rogue(leases, self._rows)
            intruding = asyncio.create_task(rogue.run())
            deeds = doing.Doing(suite, self._rows, asked.stall)
            await deeds.run(faults)
            intruding.cancel()
            await asyncio.wait({intruding})
            clients.stop()
            await asyncio.to_thread(suite.crash)
            told.kills = deeds.kills + doing.killed_at_failpoints(suite.log)
        told.kills += Counter(("jobs", "fetcher", "storage", "nats"))
        told.stalls, told.wipes, told.refused = deeds.stalls, deeds.wipes, rogue.refused
        self._believed = rogue.believed
        return loading

    async def _in_peace(self, clients: Clients, loading: asyncio.Task[None]) -> None:
        """No more faults: until all has ended, or patience has."""
        work = self._data / "work"
        with self._suite() as suite:
            begun = time.monotonic()
            end = begun + self._asked.patience
            with suppress(TimeoutError):
                await asyncio.wait_for(loading, self._asked.patience)
            while time.monotonic() < end:
                if not await asyncio.to_thread(self._rows.pending) and not any(work.iterdir()):
                    break
                await asyncio.sleep(0.2)
            self._outcome.drain_seconds = time.monotonic() - begun
            await asyncio.to_thread(suite.stop)

    @contextmanager
    def _suite(self, **more: str) -> Iterator[Suite]:
        mutant = ("--mutant", self._asked.mutant) if self._asked.mutant else ()
        command = ("-P", str(_HOUSE), *mutant, str(self._asked.fetchers), *self._replicas)
        with running_suite(self._data, command=command, **self._settings, **more) as suite:
            yield suite


def _settings(asked: Asked, data: Path) -> dict[str, str]:
    names = ("gateway", "jobs", "fetcher", "storage")
    # The same at both starts: the clients come back to them.
    addresses = {f"{name}_address": f"127.0.0.1:{data_dir.reserve_port()}" for name in names}
    return addresses | {
        "chaos": "1",
        "jobs_lease_seconds": str(asked.lease),
        "jobs_site_limit": str(asked.site_limit),
        "storage_sweep_seconds": "2",
        "drain_seconds": "8",
        "jobs_database_url": f"sqlite:///{data}/jobs.db",
        "storage_database_url": f"sqlite:///{data}/storage.db",
    }


@contextmanager
def _databases(db: str) -> Iterator[dict[str, str]]:
    """Where the rows are, as settings."""
    if db == "sqlite":
        yield {}
        return
    with fresh_database() as jobs, fresh_database() as catalogue:
        yield {"jobs_database_url": jobs, "storage_database_url": catalogue}
