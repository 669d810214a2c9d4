"""Restored jobs: who ran runs again, and workers of the suite that was backed up change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.jobs.replica import START, Replica

from reelhaul_jobs.backup import prepare_restored
from reelhaul_jobs.model import leases
from reelhaul_jobs.model.states import AttemptState, QueueStage, State
from reelhaul_jobs.model.transition import RefusalReason


async def _prepare(replica: Replica, tmp_path: Path) -> None:
    await prepare_restored(f"sqlite:///{tmp_path}/jobs.db", replica.now)


def _cancelled() -> leases.Outcome:
    return leases.Outcome(result=leases.Cancelled())


async def test_a_running_job_is_queued_again(replica: Replica, tmp_path: Path):
    """A job on its last attempt is queued again, though its lease has not expired, and not charged."""
    job = await replica.add()
    running = await replica.claim(job.id)
    assert running.charged == 1
    await _prepare(replica, tmp_path)
    restored = await replica.store.get(job.id)
    assert (restored.state, restored.queue_stage) == (State.QUEUED, QueueStage.READY)
    assert (restored.charged, restored.attempt) == (0, 2)
    assert (await replica.store.get_attempt(job.id, 1)).state is AttemptState.RELEASED


async def test_a_job_that_was_being_cancelled_is_cancelled(replica: Replica, tmp_path: Path):
    """Nobody is left to stop its worker: the job has ended."""
    job = await replica.add()
    await replica.claim(job.id)

    def cancel(job):
        return replace(leases.revoke(job, START), job=job.transition(State.CANCELLING, START))

    await replica.store.change(job.id, cancel)
    await _prepare(replica, tmp_path)
    assert (await replica.store.get(job.id)).state is State.CANCELLED


async def test_workers_of_the_old_suite_are_fenced_off(replica: Replica, tmp_path: Path):
    """No epoch that the old suite granted, before or after the backup, is that of a lease of the new one."""
    running, queued = await replica.add(), await replica.add()
    old = [(await replica.claim(running.id)).epoch, 1, 2, 3]
    await _prepare(replica, tmp_path)
    for job in (running, queued):
        new = (await replica.claim(job.id)).epoch
        assert new not in old
        for epoch in old:
            change = await replica.store.change(
                job.id, lambda job, epoch=epoch: leases.finish(job, epoch, _cancelled(), START)
            )
            assert change.refusal
            assert change.refusal.reason is RefusalReason.LOST
        assert (await replica.store.get(job.id)).state is State.RUNNING


async def test_each_restoration_has_epochs_of_its_own(replica: Replica, tmp_path: Path):
    """Restored twice, also within a microsecond, a backup gives two suites that do not share epochs."""
    job = await replica.add()
    await _prepare(replica, tmp_path)
    first = (await replica.claim(job.id)).epoch
    await _prepare(replica, tmp_path)
    assert (await replica.claim(job.id)).epoch > first
