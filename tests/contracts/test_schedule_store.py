"""What every ScheduleStore promises: held against SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from google.rpc import status_pb2
from tests.contracts.test_job_expansions import a_list, entries
from tests.job_stores import LEASE, NOW, claim, job

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import leases, playlist_expansion, queue_transitions
from reelhaul_jobs.model import schedule as model
from reelhaul_jobs.model.job import Expansion, Job
from reelhaul_jobs.model.schedule import CatchUp, Run, Schedule, ScheduleState
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


def running(present: Schedule, live: bool) -> Run:
    return model.run_now(present, NOW, live, lambda job: None)


async def test_read_as_it_was_added(store):
    """A schedule survives the store to the last field."""
    full = schedule(
        time_zone="Europe/Berlin",
        template=replace(
            a_list(1),
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


async def test_schedules_are_their_tenants(store):
    """Two tenants may use one id; neither sees the other's."""
    await store.schedules.add(schedule())
    await store.schedules.add(schedule(tenant="other", cron="@daily"))
    assert (await store.schedules.get("other", "nightly")).cron == "@daily"
    assert [one.tenant for one in await store.schedules.list_all("acme")] == ["acme"]
    with pytest.raises(NotFound):
        await store.schedules.get("third", "nightly")


async def test_a_taken_id(store):
    """An id is taken once for a tenant; the same request again is no second one."""
    first = await store.schedules.add(schedule(), request())
    again = await store.schedules.add(schedule(cron="@daily"), request())
    assert (again.cron, again.revision) == (first.cron, first.revision)
    with pytest.raises(ReelhaulError) as failure:
        await store.schedules.add(schedule(), request(2))
    assert failure.value.reason == ErrorReason.RESOURCE_EXISTS


async def test_a_run_keeps_its_job_and_moves_the_schedule_on(store):
    """Job and schedule are written together, or not at all."""
    await store.schedules.add(schedule())
    run = await store.schedules.run("acme", "nightly", running)
    assert run.job is not None
    kept = await store.get(run.job.id)
    assert (kept.schedule, kept.state) == ("nightly", State.QUEUED)
    assert (await store.schedules.get("acme", "nightly")).last_job == run.job.id
    with pytest.raises(NotFound):
        await store.schedules.run("acme", "weekly", running)


async def test_the_same_run_twice(store):
    """A repeated request answers the first run's job, also all at once."""
    await store.schedules.add(schedule())
    runs = await asyncio.gather(
        *(store.schedules.run("acme", "nightly", running, request()) for _ in range(5))
    )
    assert len({run.job.id for run in runs}) == 1
    assert (await store.list_page(Query(tenant="acme", limit=10))).total == 1


async def test_a_rule_that_raises_leaves_no_trace(store):
    """A run that may not be makes no job."""
    await store.schedules.add(schedule(skip_overlapping=True))
    await store.schedules.run("acme", "nightly", running)
    with pytest.raises(ReelhaulError) as failure:
        await store.schedules.run("acme", "nightly", running)
    assert failure.value.reason == ErrorReason.STATE_CONFLICT
    assert (await store.list_page(Query(tenant="acme", limit=10))).total == 1


async def test_live_until_the_last_job_ends(store):
    """A schedule has a live job as long as one of its jobs has not ended."""
    await store.schedules.add(schedule(skip_overlapping=True))
    run = await store.schedules.run("acme", "nightly", running)
    assert run.job is not None
    await store.change(run.job.id, lambda j: queue_transitions.cancel(j, NOW))
    assert (await store.schedules.run("acme", "nightly", running)).job is not None


async def test_due(store):
    """What runs is due when its time has come, the longest waiting first; what is paused never."""
    for name, hours, state in (("a", 2, 1), ("b", 1, 1), ("c", 1, 2), ("d", 9, 1)):
        due = NOW + timedelta(hours=hours)
        await store.schedules.add(schedule(name, next_run_time=due, state=ScheduleState(state)))
    assert await store.schedules.list_due(NOW + timedelta(hours=3), 10) == [("acme", "b"), ("acme", "a")]
    assert await store.schedules.list_due(NOW + timedelta(hours=3), 1) == [("acme", "b")]


async def expanded(store, number: int, found: list[media_pb2.PlaylistEntry]) -> Job:
    """A run of "nightly" whose list has these entries."""
    asked = a_list(number, expansion=Expansion(max_entries=100, new_entries_only=True), schedule="nightly")
    await store.add([asked])
    held = (await store.change(asked.id, lambda j: leases.claim(j, claim(), NOW))).job
    media = media_pb2.MediaInfo(extractor="tube:tab")

    def rule(present, seen):
        change = leases.renew(present, held.epoch, NOW, LEASE, media=media)
        return playlist_expansion.add_children(change, found, seen, NOW)

    return (await store.expand(asked.id, [playlist_expansion.entry_key(e) for e in found], rule)).job


async def test_what_was_seen_is_remembered(store):
    """A later run takes only what no earlier one has seen; the schedule counts it."""
    await store.schedules.add(schedule(new_entries_only=True))
    first = await expanded(store, 10, entries(1, 2))
    # A new entry on top moves the others down.
    moved = [media_pb2.PlaylistEntry(url="https://v.example/9", media_id="9", position=1)]
    moved += [replace_position(entry) for entry in entries(1, 2)]
    second = await expanded(store, 20, moved)
    assert (first.expansion.job_count, second.expansion.job_count) == (2, 1)
    assert second.expansion.skipped_count == 2
    assert (await store.schedules.get("acme", "nightly")).seen_count == 3


async def test_deleting_forgets(store):
    """With a schedule goes what it has seen; its jobs stay."""
    await store.schedules.add(schedule(new_entries_only=True))
    await expanded(store, 10, entries(1, 2))
    await store.schedules.delete("acme", "nightly", lambda found: None)
    with pytest.raises(NotFound):
        await store.schedules.get("acme", "nightly")
    assert (await store.list_page(Query(tenant="acme", limit=10))).total == 3
    await store.schedules.add(schedule(new_entries_only=True))
    assert (await expanded(store, 20, entries(1, 2))).expansion.job_count == 2


async def test_a_run_of_a_deleted_schedule_goes_on(store):
    """Entries that come after their schedule was deleted become jobs, and nobody remembers them."""
    assert (await expanded(store, 10, entries(1, 2))).expansion.job_count == 2


def replace_position(entry: media_pb2.PlaylistEntry) -> media_pb2.PlaylistEntry:
    return media_pb2.PlaylistEntry(url=entry.url, media_id=entry.media_id, position=entry.position + 1)
