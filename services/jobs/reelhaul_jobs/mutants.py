"""Mutants: jobs without one of its safeguards, so that the crash test can prove that it would notice.

REELHAUL_MUTANT names one; settings refuse it outside of a crash test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import leases
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.model.transition import Refusal, Transition
from reelhaul_jobs.service.leases import Leases, Receipt, Renewed
from reelhaul_jobs.service.reaper import Reaper


class LeasesWithoutFencing(Leases):
    """``no-fence``: takes every epoch for the newest one."""

    async def renew(
        self,
        job_id: str,
        epoch: int,
        progress: media_pb2.Progress | None,
        media: media_pb2.MediaInfo | None,
        entries: Sequence[media_pb2.PlaylistEntry] = (),
    ) -> Renewed | Refusal:
        """As Leases.renew, whoever asks."""
        return await super().renew(job_id, await self._newest(job_id), progress, media, entries)

    async def finish(self, job_id: str, epoch: int, outcome: leases.Outcome) -> Receipt | Refusal:
        """As Leases.finish, whoever asks."""
        return await super().finish(job_id, await self._newest(job_id), outcome)

    async def _newest(self, job_id: str) -> int:
        return (await self._store.get(job_id)).epoch


class SweeperDisabled(Reaper):
    """``no-sweeper``: sees neither silent workers nor lost items."""

    async def _sweep(self, lane: QueueStage, before: datetime, rule: Callable[[Job], Transition]) -> int:
        return 0 if lane is QueueStage.LEASED else await super()._sweep(lane, before, rule)

    async def _recover(self, now: datetime) -> int:
        await self._bus.ensure_streams()
        return 0
