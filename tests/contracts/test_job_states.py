"""Random walks over jobs on both databases: only allowed transitions, no stale write, no stuck job."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tests.job_stores import LEASE, NOW, claim, job, open_store, sqlite_store
from tests.postgresql import migrated_database

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.api.downloads import responses
from reelhaul_jobs.api.jobs.messages import job_to_proto
from reelhaul_jobs.api.kept_messages import KeptMessages
from reelhaul_jobs.model import fair_scheduling, leases, queue_transitions, user_actions
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.results import JobView
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.states import RETRY_TRANSITIONS, TRANSITIONS, Priority, QueueStage, State
from reelhaul_jobs.model.transition import Transition, no_change
from reelhaul_jobs.model.user_actions import Update
from reelhaul_jobs.ports.queue import BacklogQuery
from reelhaul_runtime.errors import NotFound, StateConflict

OUTCOMES: dict[str, Any] = {
    "succeeded": leases.Succeeded(
        media=media_pb2.MediaInfo(title="A video"), artifacts=(media_pb2.ArtifactInfo(name="artifacts/1"),)
    ),
    "failed for now": leases.Failed(error=error_status(ErrorReason.UPSTREAM_UNAVAILABLE, "")),
    "failed for good": leases.Failed(error=error_status(ErrorReason.MEDIA_NOT_FOUND, "")),
    "failed where the disk is full": leases.Failed(
        error=error_status(ErrorReason.WORKER_DISK_FULL, ""), avoid_worker=True
    ),
    "cancelled": leases.Cancelled(),
    "released": leases.Released(),
    "released for a while": leases.Released(delay=timedelta(minutes=1)),
}


class Walk(RuleBasedStateMachine):
    """Acts as workers, callers and loops, in any order."""

    jobs = Bundle("jobs")
    claimed = Bundle("claimed")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.now = NOW
        self.jobs_by_id: dict[str, Job] = {}
        #: Successes of each job since its last RetryJob.
        self.completed: dict[str, int] = {}
        #: What a reader who polls keeps.
        self.messages = {convert: KeptMessages(convert) for convert in (responses.download, job_to_proto)}

    async def open_store(self) -> Any:
        raise NotImplementedError

    @initialize()
    def open(self) -> None:
        self.store = self.runner.run(self.open_store())

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                self.all_end()
        finally:
            self.runner.run(self.stack.aclose())
            self.runner.close()

    @rule(target=jobs)
    def add(self) -> str:
        new = replace(job(1), id=str(uuid.uuid4()), create_time=self.now)
        self.runner.run(self.store.add([new]))
        self.jobs_by_id[new.id] = new
        return new.id

    @rule(target=claimed, job_id=jobs, back=st.integers(0, 1), worker=st.sampled_from(["w1", "w2"]))
    def claim(self, job_id: str, back: int, worker: str) -> tuple[str, int]:
        before = self.jobs_by_id[job_id]
        request = claim(attempt=max(1, before.attempt - back), worker=worker, request_id=str(uuid.uuid4()))
        change = self.change(job_id, lambda j: leases.claim(j, request, self.now))
        if change.refusal is None:
            assert back == 0 or before.attempt == 1
            assert change.job.epoch == before.epoch + 1
        return job_id, change.job.epoch

    @rule(target=claimed, lease=claimed)
    def go_silent(self, lease: tuple[str, int]) -> tuple[str, int]:
        """Let the lease expire, another worker claim the job, and the first one come back."""
        self.time_passes(40)
        self.sweep()
        other_lease = self.claim(lease[0], 0, "w2")
        self.renew(lease)
        return other_lease

    @rule(lease=claimed)
    def renew(self, lease: tuple[str, int]) -> None:
        job_id, epoch = lease
        change = self.change(job_id, lambda j: leases.renew(j, epoch, self.now, LEASE))
        self.check_fence(change, epoch)

    @rule(lease=claimed, name=st.sampled_from(sorted(OUTCOMES)))
    def finish(self, lease: tuple[str, int], name: str) -> None:
        job_id, epoch = lease
        outcome = leases.Outcome(result=OUTCOMES[name])
        change = self.change(job_id, lambda j: leases.finish(j, epoch, outcome, self.now))
        self.check_fence(change, epoch)
        if change.changed and change.job.state is State.SUCCEEDED:
            self.completed[job_id] = self.completed.get(job_id, 0) + 1

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        if self.is_deleted(job_id):
            return
        try:
            change = self.change(job_id, lambda j: queue_transitions.cancel(j, self.now))
        except StateConflict:
            assert self.jobs_by_id[job_id].state in (State.SUCCEEDED, State.FAILED)
        else:
            assert change.job.state in (State.CANCELLING, State.CANCELLED)

    @rule(
        job_id=jobs,
        action=st.sampled_from(["pause", "resume", "update", "delete", "expire"]),
        path=st.sampled_from(["labels", "priority", "schedule_time", "ttl"]),
        priority=st.sampled_from(Priority),
        seconds=st.sampled_from([None, 1, 40]),
    )
    def act(self, job_id: str, action: str, path: str, priority: Priority, seconds: int | None) -> None:
        """Take a user's or retention's action; one rule for all, so that workers' rules are as frequent."""
        if action == "update":
            self.update(job_id, path, priority, seconds)
        else:
            getattr(self, action)(job_id)

    def pause(self, job_id: str) -> None:
        if self.is_deleted(job_id):
            return
        try:
            change = self.change(job_id, lambda j: user_actions.pause(j, self.now))
        except StateConflict:
            assert (
                self.jobs_by_id[job_id].state.is_terminal or self.jobs_by_id[job_id].state is State.CANCELLING
            )
        else:
            assert (change.job.state, change.job.queue_stage) == (State.PAUSED, QueueStage.IDLE)

    def resume(self, job_id: str) -> None:
        if self.is_deleted(job_id):
            return
        before = self.jobs_by_id[job_id]
        try:
            change = self.change(job_id, lambda j: user_actions.resume(j, self.now))
        except StateConflict:
            assert before.state.is_terminal or before.state is State.CANCELLING
        else:
            assert change.changed == (before.state is State.PAUSED)

    def update(self, job_id: str, path: str, priority: Priority, seconds: int | None) -> None:
        if self.is_deleted(job_id):
            return
        update = Update(
            paths=frozenset({path}),
            priority=priority,
            labels={"priority": priority.name},
            schedule_time=None if seconds is None else self.now + timedelta(seconds=seconds),
            ttl=timedelta(days=int(priority)),
        )
        try:
            change = self.change(job_id, lambda j: user_actions.update(j, update, self.now), allow_ended=True)
        except StateConflict:
            assert path in ("priority", "schedule_time")
        else:
            assert change.job.state is change.before.state

    def delete(self, job_id: str) -> None:
        if not self.is_deleted(job_id):
            self.change(job_id, lambda j: queue_transitions.delete(j, self.now), allow_ended=True)
            with pytest.raises(NotFound):
                self.runner.run(self.store.get(job_id))

    def expire(self, job_id: str) -> None:
        change = self.change(job_id, lambda j: queue_transitions.expire(j, self.now), allow_ended=True)
        assert change.job.delete_time is None or change.before.state.is_terminal or not change.changed

    @rule(job_ids=st.lists(jobs, min_size=1, max_size=4, unique=True))
    def cancel_many(self, job_ids: list[str]) -> None:
        existing = [job_id for job_id in job_ids if not self.is_deleted(job_id)]
        changes = self.runner.run(
            self.store.change_many(
                existing,
                lambda j: no_change(j) if j.state.is_terminal else queue_transitions.cancel(j, self.now),
            )
        )
        assert [change.job.id for change in changes] == existing
        for change in changes:
            self.check_transition(change)

    @rule(job_id=jobs)
    def retry(self, job_id: str) -> None:
        if self.is_deleted(job_id):
            return
        try:
            self.change(job_id, lambda j: queue_transitions.retry(j, self.now), retried=True)
        except StateConflict:
            assert self.jobs_by_id[job_id].state not in RETRY_TRANSITIONS

    @rule(seconds=st.sampled_from([1, 20, 40, 700]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def sweep(self) -> None:
        for stage, rule_of in (
            (QueueStage.LATER, queue_transitions.make_ready),
            (QueueStage.LEASED, leases.expire),
        ):
            for job_id in self.runner.run(self.store.list_due(stage, self.now, 1000)):
                self.change(job_id, lambda j, rule_of=rule_of: rule_of(j, self.now))

    @rule()
    def publish(self) -> None:
        backlog = self.runner.run(self.store.get_backlog(BacklogQuery(limit=5), self.now))
        selected = fair_scheduling.select_fairly(backlog.ready, 5, in_flight=backlog.in_flight)
        assert selected == self.runner.run(self.store.mark_published(selected, self.now + LEASE, None))
        for ready in selected:
            if ready.id in self.jobs_by_id:
                self.jobs_by_id[ready.id] = self.runner.run(self.store.get(ready.id))
                assert self.jobs_by_id[ready.id].queue_stage is QueueStage.PUBLISHED

    @rule(job_id=jobs)
    def republish(self, job_id: str) -> None:
        self.change(job_id, lambda j: queue_transitions.republish(j, self.now))

    @invariant()
    def completed_at_most_once(self) -> None:
        assert all(times == 1 for times in self.completed.values())

    def is_deleted(self, job_id: str) -> bool:
        """Return whether the job is deleted."""
        return self.jobs_by_id[job_id].delete_time is not None

    def change(
        self, job_id: str, rule: Any, *, retried: bool = False, allow_ended: bool = False
    ) -> Transition:
        """Apply *rule* to the job and check the transition; *allow_ended*: it may change an ended job."""
        change: Transition = self.runner.run(self.store.change(job_id, rule))
        self.check_transition(change, retried=retried, allow_ended=allow_ended)
        return change

    def check_transition(
        self, change: Transition, *, retried: bool = False, allow_ended: bool = False
    ) -> None:
        """Check that the store has the result of *change*, and that it is one allowed transition."""
        before, job_id = self.jobs_by_id[change.job.id], change.job.id
        assert change.before == before
        self.jobs_by_id[job_id] = change.job
        if not self.is_deleted(job_id):
            assert self.runner.run(self.store.get(job_id)) == change.job
            self.check_shown(change.job)
        if change.job.state is not before.state:
            assert change.job.state in (RETRY_TRANSITIONS if retried else TRANSITIONS)[before.state]
        assert before.revision <= change.job.revision <= before.revision + 1 + self.is_deleted(job_id)
        assert change.job.epoch >= before.epoch
        assert change.job.charged <= change.job.retry.max_attempts
        if before.state.is_terminal and not retried and not allow_ended:
            assert change.job == before

    def check_shown(self, job: Job) -> None:
        """Check that a reader who keeps what ended jobs show sees *job* as it is."""
        for convert, messages in self.messages.items():
            found = self.runner.run(self.store.get_or_kept(job.id, messages.find))
            shown = messages.serialize(found if isinstance(found, bytes) else JobView.from_row(found))
            assert shown == KeptMessages(convert).serialize(JobView.from_row(job))

    def check_fence(self, change: Transition, epoch: int) -> None:
        """Check that a stale epoch changed nothing."""
        if change.before.epoch != epoch or not change.before.is_leased:
            assert change.refusal is not None
            assert not change.changed
        else:
            assert change.refusal is None

    def all_end(self) -> None:
        """Check that every job ends once faults end, and that its events are one path of transitions."""
        for _ in range(30):
            self.now += timedelta(hours=1)
            self.sweep()
            for job_id, current in list(self.jobs_by_id.items()):
                if current.state is State.PAUSED:
                    self.resume(job_id)
                if self.jobs_by_id[job_id].state is State.QUEUED:
                    _, epoch = self.claim(job_id, 0, "w9")
                    self.finish((job_id, epoch), "succeeded")
        for job_id, ended in self.jobs_by_id.items():
            assert ended.state.is_terminal, ended
            assert ended.queue_stage is QueueStage.IDLE
            events = self.runner.run(self.store.list_events(job_id, after=0, limit=1000))
            assert [event.old_state for event in events] == [None, *(event.state for event in events[:-1])]
            attempts = self.runner.run(self.store.list_attempts(job_id, below=None, limit=1000))
            epochs = [attempt.epoch for attempt in attempts]
            assert epochs == sorted(set(epochs), reverse=True)
            assert all(attempt.end_time is not None for attempt in attempts)


class SqliteWalk(Walk):
    async def open_store(self) -> Any:
        folder = tempfile.mkdtemp(prefix="reelhaul-test-")
        self.stack.callback(shutil.rmtree, folder)
        return await self.stack.enter_async_context(sqlite_store(Path(folder)))


class PostgresqlWalk(Walk):
    url = ""

    async def open_store(self) -> Any:
        return await self.stack.enter_async_context(open_store(self.url))


def run_walk(machine: type[Walk], examples: int, *phases: Phase) -> None:
    bounds = settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        phases=phases or tuple(Phase),
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=bounds)


def test_walk_in_sqlite() -> None:
    """Every walk keeps the rules on SQLite."""
    run_walk(SqliteWalk, 40)


def test_walk_in_postgresql() -> None:
    """Every walk keeps the rules on PostgreSQL."""
    with migrated_database("reelhaul_jobs") as url:
        PostgresqlWalk.url = url
        run_walk(PostgresqlWalk, 8)


def test_walk_finds_a_missing_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fence the walk fails: it can find what it looks for."""
    check_fence = leases.check_fence
    monkeypatch.setattr(
        leases, "check_fence", lambda j, epoch: None if j.is_leased else check_fence(j, epoch)
    )
    with pytest.raises(AssertionError):
        run_walk(SqliteWalk, 200, Phase.generate)
