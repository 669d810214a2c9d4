"""The contract of ScheduleStore, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from google.rpc import status_pb2
from tests.contracts.test_job_expansions import entries, expansion
from tests.job_stores import LEASE, NOW, claim, job

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import leases, playlist_expansion, queue_transitions
from reelhaul_jobs.model import schedule as model
from reelhaul_jobs.model.job import Expansion, Job
from reelhaul_jobs.model.schedule import CatchUp, CheckJob, Run, Schedule, ScheduleState
from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports.jobs import IdempotencyKey, Query
from reelhaul_runtime.errors import NotFound, ReelhaulError

NO_ID = "00000000-0000-0000-0000-000000000000"


def schedule(name: str = "nightly", **fields: object) -> Schedule:
    plain = Schedule(
        tenant="acme",
        id=name,
        cron="@every 6h",
        template=replace(job(1), id=NO_ID, create_time=NOW),
        next_run_time=NOW + timedelta(hours=6),
        create_time=NOW,
        update_time=NOW,
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


def request(number: int = 1, digest: bytes = b"d") -> IdempotencyKey:
    return IdempotencyKey("acme", "RunSchedule", f"request-{number}", digest, NOW)


def run_now(current: Schedule, live: bool, admit: CheckJob) -> Run:
    return model.run_now(current, NOW, live, admit)


async def test_read_as_it_was_added(store):
    """Every field of a schedule is stored."""
    full = schedule(
        time_zone="Europe/Berlin",
        template=replace(
            expansion(1),
            id="00000000-0000-0000-0000-000000000000",
            batch_id="00000000-0000-0000-0000-000000000000",
        ),
        skip_overlapping=True,
        new_entries_only=True,
        catch_up=CatchUp.ONCE,
        end_time=NOW + timedelta(days=9),
        state=ScheduleState.PAUSED,
        last_job=job(2).id,
        last_error=status_pb2.Status(code=5, message="gone"),
        failures=2,
        revision=7,
    )
    await store.schedules.add(full)
    found = await store.schedules.get("acme", "nightly")
    assert replace(found, template=full.template) == full
    inherited = (
        "url",
        "format",
        "priority",
        "kind",
        "labels",
        "retry",
        "attempt_deadline",
        "ttl",
        "expansion",
    )
    assert [getattr(found.template, name) for name in inherited] == [
        getattr(full.template, name) for name in inherited
    ]


async def test_schedules_of_two_tenants(store):
    """Two tenants may use the same id; neither sees the other's schedule."""
    await store.schedules.add(schedule())
    await store.schedules.add(schedule(tenant="other", cron="@daily"))
    assert (await store.schedules.get("other", "nightly")).cron == "@daily"
    assert [one.tenant for one in await store.schedules.list_all("acme")] == ["acme"]
    with pytest.raises(NotFound):
        await store.schedules.get("third", "nightly")


async def test_taken_id(store):
    """An id is taken once per tenant; a repeated request creates no second schedule."""
    first = await store.schedules.add(schedule(), request())
    repeated = await store.schedules.add(schedule(cron="@daily"), request())
    assert (repeated.cron, repeated.revision) == (first.cron, first.revision)
    with pytest.raises(ReelhaulError) as failure:
        await store.schedules.add(schedule(), request(2))
    assert failure.value.reason == ErrorReason.RESOURCE_EXISTS


async def test_a_run_stores_job_and_schedule(store):
    """Job and schedule are written together, or neither is."""
    await store.schedules.add(schedule())
    run = await store.schedules.run("acme", "nightly", run_now)
    assert run.job is not None
    stored = await store.get(run.job.id)
    assert (stored.schedule, stored.state) == ("nightly", State.QUEUED)
    assert (await store.schedules.get("acme", "nightly")).last_job == run.job.id
    with pytest.raises(NotFound):
        await store.schedules.run("acme", "weekly", run_now)


async def test_repeated_run(store):
    """A repeated request returns the first run's job, also if all come at once."""
    await store.schedules.add(schedule())
    runs = await asyncio.gather(
        *(store.schedules.run("acme", "nightly", run_now, request()) for _ in range(5))
    )
    assert len({run.job.id for run in runs}) == 1
    assert (await store.list_page(Query(tenant="acme", limit=10))).total == 1


async def test_a_rule_that_raises_changes_nothing(store):
    """A run that is rejected creates no job."""
    await store.schedules.add(schedule(skip_overlapping=True))
    await store.schedules.run("acme", "nightly", run_now)
    with pytest.raises(ReelhaulError) as failure:
        await store.schedules.run("acme", "nightly", run_now)
    assert failure.value.reason == ErrorReason.STATE_CONFLICT
    assert (await store.list_page(Query(tenant="acme", limit=10))).total == 1


async def test_skip_overlapping(store):
    """A run overlaps as long as one job of the schedule has not ended."""
    await store.schedules.add(schedule(skip_overlapping=True))
    run = await store.schedules.run("acme", "nightly", run_now)
    assert run.job is not None
    await store.change(run.job.id, lambda j: queue_transitions.cancel(j, NOW))
    assert (await store.schedules.run("acme", "nightly", run_now)).job is not None


async def test_list_due(store):
    """Enabled schedules are due at their time, the longest overdue first; paused ones never."""
    for name, hours, state in (("a", 2, 1), ("b", 1, 1), ("c", 1, 2), ("d", 9, 1)):
        due = NOW + timedelta(hours=hours)
        await store.schedules.add(schedule(name, next_run_time=due, state=ScheduleState(state)))
    assert await store.schedules.list_due(NOW + timedelta(hours=3), 10) == [("acme", "b"), ("acme", "a")]
    assert await store.schedules.list_due(NOW + timedelta(hours=3), 1) == [("acme", "b")]


async def run_expansion(store, number: int, found: list[media_pb2.PlaylistEntry]) -> Job:
    """Run "nightly" over a playlist with these entries."""
    parent = expansion(
        number, expansion=Expansion(max_entries=100, new_entries_only=True), schedule="nightly"
    )
    await store.add([parent])
    claimed = (await store.change(parent.id, lambda j: leases.claim(j, claim(), NOW))).job
    media = media_pb2.MediaInfo(extractor="tube:tab")

    def rule(current, seen):
        change = leases.renew(current, claimed.epoch, NOW, LEASE, media=media)
        return playlist_expansion.add_children(change, found, seen, NOW)

    return (await store.expand(parent.id, [playlist_expansion.entry_key(e) for e in found], rule)).job


async def test_new_entries_only(store):
    """A later run takes only entries that no earlier one has seen; the schedule counts them."""
    await store.schedules.add(schedule(new_entries_only=True))
    first = await run_expansion(store, 10, entries(1, 2))
    # A new entry on top moves the others down.
    shifted = [media_pb2.PlaylistEntry(url="https://v.example/9", media_id="9", position=1)]
    shifted += [replace_position(entry) for entry in entries(1, 2)]
    second = await run_expansion(store, 20, shifted)
    assert (first.expansion.job_count, second.expansion.job_count) == (2, 1)
    assert second.expansion.skipped_count == 2
    assert (await store.schedules.get("acme", "nightly")).seen_count == 3


async def test_delete(store):
    """A schedule is deleted with its seen entries; its jobs stay."""
    await store.schedules.add(schedule(new_entries_only=True))
    await run_expansion(store, 10, entries(1, 2))
    await store.schedules.delete("acme", "nightly", lambda schedule: None)
    with pytest.raises(NotFound):
        await store.schedules.get("acme", "nightly")
    assert (await store.list_page(Query(tenant="acme", limit=10))).total == 3
    await store.schedules.add(schedule(new_entries_only=True))
    assert (await run_expansion(store, 20, entries(1, 2))).expansion.job_count == 2


async def test_run_of_a_deleted_schedule(store):
    """Entries that are reported after their schedule was deleted become jobs, and are not recorded."""
    assert (await run_expansion(store, 10, entries(1, 2))).expansion.job_count == 2


def replace_position(entry: media_pb2.PlaylistEntry) -> media_pb2.PlaylistEntry:
    return media_pb2.PlaylistEntry(url=entry.url, media_id=entry.media_id, position=entry.position + 1)
