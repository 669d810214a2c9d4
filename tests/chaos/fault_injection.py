"""The jobs service as the crash test runs it: callers name their tenant, and a safeguard may be missing.

Run by its path: ``python -P tests/chaos/fault_injection.py [--mutant NAME] [--clock FILE] serve jobs``.
A run against a mutant must fail; else the crash test would not notice that the safeguard is broken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs import app
from reelhaul_jobs.composition import access, backends, jobs
from reelhaul_jobs.model import leases
from reelhaul_jobs.model.results import LeaseReceipt, LeaseRenewal
from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.model.transition import Refusal
from reelhaul_jobs.ports.bus import JobBus
from reelhaul_jobs.ports.jobs import JobStore
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.leases import Leases
from reelhaul_jobs.service.reaper import Reaper
from reelhaul_jobs.store.quotas import QuotaLedger
from reelhaul_runtime.__main__ import main as runtime
from reelhaul_runtime.auth.level_quotas import LevelQuotas
from reelhaul_runtime.auth.peers import Metadata, Peer
from reelhaul_runtime.identity import Caller, NoAuthentication
from reelhaul_runtime.settings import SuiteSettings

#: Metadata key of the tenant that a caller says it is.
TENANT_KEY = "x-chaos-tenant"


class TrustedTenants(NoAuthentication):
    """Believe each caller which tenant it is: without keys all would be one, and the test needs several."""

    async def identify(self, metadata: Metadata, peer: Peer) -> Caller:
        caller = await super().identify(metadata, peer)
        if TENANT_KEY not in metadata:
            return caller
        tenant = str(metadata[TENANT_KEY])
        # One key for each tenant, which has its name and sees no other tenant.
        level = PermissionLevel.PERMISSION_LEVEL_DOWNLOAD
        return replace(caller, tenant=tenant, level=level, principal=f"apiKeys/{tenant}")


@asynccontextmanager
async def _trust_tenants(settings: SuiteSettings, *_: object) -> AsyncIterator[TrustedTenants]:
    yield TrustedTenants(settings.suite_token)


def _count_jobs(counts_jobs: bool, levels: LevelQuotas) -> QuotaLedger:
    """Return a ledger that counts jobs, as with keys."""
    return QuotaLedger(True, levels)


class LeasesWithoutFencing(Leases):
    """Mutant ``no-fence``: takes every epoch for the newest one."""

    def __init__(self, store: JobStore, *arguments: Any) -> None:
        super().__init__(store, *arguments)
        self._jobs = store

    async def renew(
        self,
        job_id: str,
        epoch: int,
        progress: media_pb2.Progress | None,
        media: media_pb2.MediaInfo | None,
        entries: Sequence[media_pb2.PlaylistEntry] = (),
    ) -> LeaseRenewal | Refusal:
        return await super().renew(job_id, await self._newest_epoch(job_id), progress, media, entries)

    async def finish(self, job_id: str, epoch: int, outcome: leases.Outcome) -> LeaseReceipt | Refusal:
        return await super().finish(job_id, await self._newest_epoch(job_id), outcome)

    async def _newest_epoch(self, job_id: str) -> int:
        return (await self._jobs.get(job_id)).epoch


class SweeperDisabled(Reaper):
    """Mutant ``no-sweeper``: finds neither expired leases nor lost work items."""

    def __init__(
        self,
        store: JobStore,
        queue: QueueStore,
        bus: JobBus,
        notifier: ChangeNotifier,
        now: Clock,
        lease: timedelta,
    ) -> None:
        super().__init__(store, _ScheduledOnlyQueue(queue), _HiddenStreamLossBus(bus), notifier, now, lease)


class _Proxy:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _ScheduledOnlyQueue(_Proxy):
    """A queue store in which only scheduled jobs are ever due."""

    async def list_due(self, stage: QueueStage, before: datetime, limit: int) -> Sequence[str]:
        due: Sequence[str] = await self._inner.list_due(stage, before, limit)
        return due if stage is QueueStage.LATER else ()


class _HiddenStreamLossBus(_Proxy):
    """A bus that does not report that the work stream had to be created again."""

    async def ensure_streams(self) -> bool:
        await self._inner.ensure_streams()
        return False


def read_clock(file: Path) -> datetime:
    """Return the time of a clock that is ahead of the right time by the seconds in *file*."""
    return datetime.now(UTC) + timedelta(seconds=float(file.read_text()))


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutant", default="")
    parser.add_argument("--clock", type=Path)
    arguments, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    mutant = arguments.mutant
    if arguments.clock is not None:
        backends.utc_now = app.utc_now = partial(read_clock, arguments.clock)  # type: ignore[assignment]
    access.open_authenticator = _trust_tenants
    backends.QuotaLedger = _count_jobs  # type: ignore[misc, assignment]
    match mutant:
        case "":
            pass
        case "no-fence":
            jobs.Leases = LeasesWithoutFencing  # type: ignore[misc]
        case "no-sweeper":
            jobs.Reaper = SweeperDisabled  # type: ignore[misc]
        case _:
            raise SystemExit(f"unknown mutant: {mutant}")
    runtime(prog_name="reelhaul")


if __name__ == "__main__":
    main()
