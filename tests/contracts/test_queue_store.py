"""The contract of QueueStore, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.job_stores import LEASE, NOW, claim, job, put_in_stage, request

from reelhaul_jobs.model import fair_scheduling, leases, queue_transitions
from reelhaul_jobs.model.rate_limit import SiteRateLimit
from reelhaul_jobs.model.rate_limited_lease import RateLimitView
from reelhaul_jobs.model.states import Priority, QueueStage
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.queue import BacklogQuery

SITE = "videos.example"


async def test_backlog_order(store):
    """Within a tenant HIGH goes before NORMAL and LOW, unless those have waited much longer."""
    ids = {
        "low": job(1, priority=Priority.LOW),
        "normal": job(2),
        "high": job(3, priority=Priority.HIGH),
        "old low": job(4, priority=Priority.LOW, create_time=NOW - timedelta(hours=3)),
    }
    await store.add(list(ids.values()))
    backlog = await store.get_backlog(BacklogQuery(limit=10), NOW)
    names = {j.id: name for name, j in ids.items()}
    assert [names[ready.id] for ready in backlog.ready["acme"]] == ["old low", "high", "normal", "low"]
    assert await store.get_queue_position(ids["low"]) == 4


async def test_backlog_of_many_tenants(store):
    """Each tenant has its share of the backlog, and published jobs count as in flight."""
    await store.add([job(n, tenant=f"t{n % 3}") for n in range(9)])
    selected = fair_scheduling.select_fairly((await store.get_backlog(BacklogQuery(limit=2), NOW)).ready, 3)
    assert selected == list(await store.mark_published(selected, NOW + timedelta(minutes=1), None))
    backlog = await store.get_backlog(BacklogQuery(limit=2, after_tenant="t0"), NOW)
    assert backlog.in_flight.by_tenant == {"t0": 1, "t1": 1, "t2": 1}
    assert backlog.in_flight.by_tenant_and_site["t0", SITE] == 1
    assert backlog.published == 3
    assert {"t0", "t1", "t2"} == set(backlog.ready)
    assert all(len(jobs) == 2 for jobs in backlog.ready.values())
    assert not {ready.id for ready in selected} & {r.id for jobs in backlog.ready.values() for r in jobs}


async def test_backlog_has_no_more_than_fits(store):
    """Only as many jobs of each tenant are read as may be published; none if the window is full."""
    await store.add([job(n, tenant=f"t{n % 2}") for n in range(200)])
    backlog = await store.get_backlog(BacklogQuery(window=lambda slots: 3), NOW)
    assert (backlog.room, [len(jobs) for jobs in backlog.ready.values()]) == (3, [3, 3])
    larger = await store.get_backlog(BacklogQuery(window=lambda slots: 30), NOW)
    assert [len(jobs) for jobs in larger.ready.values()] == [30, 30]
    await store.mark_published([*backlog.ready["t0"]], NOW + timedelta(minutes=1), None)
    full = await store.get_backlog(BacklogQuery(window=lambda slots: 3), NOW)
    assert (full.room, full.ready) == (0, {})


async def test_backlog_leaves_full_sites_out(store):
    """A thousand jobs of a full site hide no job of another, and the order spans sites."""
    full = [job(n, url="https://full.example/") for n in range(1, 1001)]
    await store.add([*full, job(2001), job(2002, url="https://www.third.example/"), job(2003)])
    query = BacklogQuery(limit=2, free_slots=lambda site: 0 if site.site == "full.example" else 5)
    backlog = await store.get_backlog(query, NOW)
    assert [job(2001).id, job(2002).id] == [ready.id for ready in backlog.ready["acme"]]
    assert {"full.example", "videos.example", "third.example"} == set(backlog.sites)
    assert await store.get_queue_position(job(2002)) == 1002


async def test_mark_published_once(store):
    """Only one of several callers may publish a job; a claimed or cancelled one is left alone."""
    await store.add([job(1), job(2), job(3)])
    selected = (await store.get_backlog(BacklogQuery(limit=9), NOW)).ready["acme"]
    await store.change(job(1).id, lambda j: leases.claim(j, claim(), NOW))
    await store.change(job(2).id, lambda j: queue_transitions.cancel(j, NOW))
    results = await asyncio.gather(*(store.mark_published(selected, NOW, None) for _ in range(5)))
    assert [job(3).id] == [ready.id for marked in results for ready in marked]
    assert QueueStage.LEASED is (await store.get(job(1).id)).queue_stage
    (marked,) = await store.list_published(5)
    assert (marked.id, marked.attempt) == (job(3).id, 1)


async def test_mark_published_needs_the_leader(store):
    """A replica that does not lead the dispatcher any more marks nothing."""
    await store.add([job(1)])
    selected = (await store.get_backlog(BacklogQuery(limit=9), NOW)).ready["acme"]
    await store.acquire_leadership("dispatcher", "a", NOW, LEASE)
    assert not await store.mark_published(selected, NOW, "b")
    assert selected == list(await store.mark_published(selected, NOW, "a"))


async def test_mark_ready(store):
    """A job that was not published is ready again, at its rank, unless it was claimed meanwhile."""
    await store.add([job(1), job(2)])
    selected = (await store.get_backlog(BacklogQuery(limit=9), NOW)).ready["acme"]
    await store.mark_published(selected, NOW + timedelta(minutes=1), None)
    await store.change(job(1).id, lambda j: leases.claim(j, claim(), NOW))
    await store.mark_ready(selected)
    assert QueueStage.LEASED is (await store.get(job(1).id)).queue_stage
    assert job(2) == await store.get(job(2).id)


async def test_site_status(store):
    """The status of a site has its published and leased jobs, and its rate limits."""
    await store.add([job(n) for n in range(1, 5)] + [job(9, url="https://other.example/")])
    await store.mark_published((await store.get_backlog(BacklogQuery(limit=3), NOW)).ready["acme"], NOW, None)
    await store.change(job(1).id, lambda j: leases.claim(j, claim(), NOW))
    site = await store.get_site_status(SITE, NOW)
    assert (site.published, site.leased, site.rate_limits) == (2, 1, (SiteRateLimit(site=SITE),))


async def test_rate_limits_are_stored_with_the_change(store):
    """A change stores its rate limit; the default is not stored, and an idle one is deleted in time."""
    await store.add([job(1)])
    await store.record_worker_heartbeat("w1", 4, NOW, ["lon"])
    parked = SiteRateLimit(
        site=SITE, egress="lon", parked_until=NOW + LEASE, reason="UPSTREAM_BLOCKED", probe="j"
    )

    async def change_limit(limit: SiteRateLimit | None) -> RateLimitView:
        views = []

        def rule(current, view):
            views.append(view)
            return Transition(before=current, job=current, rate_limit=limit)

        await store.change_lease(job(1).id, lambda _: (SITE, "lon"), rule, NOW, counted=True)
        return views[-1]

    assert (await change_limit(parked)).rate_limit == SiteRateLimit(site=SITE, egress="lon")
    assert (await change_limit(None)).rate_limit == parked
    assert (await store.get_site_status(SITE, NOW)).rate_limits == (parked,)
    await store.record_worker_heartbeat("w2", 4, NOW, ["ams", "par"])
    others = SiteRateLimit(site=SITE, egress="ams"), SiteRateLimit(site=SITE, egress="par")
    assert (await change_limit(None)).other_egresses == others
    assert await store.count_worker_slots(NOW) == 8
    await store.delete_idle_rate_limits(NOW)
    assert (await change_limit(SiteRateLimit(site=SITE, egress="lon"))).rate_limit == parked
    assert (await change_limit(replace(parked, delay=LEASE))).rate_limit == SiteRateLimit(
        site=SITE, egress="lon"
    )
    await store.delete_idle_rate_limits(NOW + timedelta(hours=1))
    assert (await change_limit(None)).rate_limit == SiteRateLimit(site=SITE, egress="lon")


async def test_list_due(store):
    """The jobs of a queue stage are due by their time, the longest overdue first."""
    later = [job(n, schedule_time=NOW + timedelta(hours=1, minutes=-n)) for n in range(1, 4)]
    await store.add(later)
    before = NOW + timedelta(minutes=58)
    assert [job(3).id, job(2).id] == list(await store.list_due(QueueStage.LATER, before, 5))
    assert await store.count_in_stages([QueueStage.LATER, QueueStage.LEASED]) == 3


async def test_count_worker_slots(store):
    """Only the slots of live workers count."""
    await store.record_worker_heartbeat("w1", 4, NOW)
    await store.record_worker_heartbeat("w2", 8, NOW - timedelta(minutes=5))
    assert await store.count_worker_slots(NOW) == 4
    await store.record_worker_heartbeat("w2", 8, NOW)
    assert await store.count_worker_slots(NOW) == 12


async def test_expiry_pending(store):
    """An expiry is pending from its time on, until it is confirmed."""
    await store.add([replace(job(1), confirm_time=NOW)])
    assert [job(1).id] == [found.id for found in await store.list_expiry_pending(NOW, 5)]
    await store.mark_expiry_confirmed(job(1).id, NOW + timedelta(minutes=1))
    assert list(await store.list_expiry_pending(NOW, 5)) == []
    await store.mark_expiry_confirmed(job(1).id, None)
    assert list(await store.list_expiry_pending(NOW + timedelta(hours=1), 5)) == []


async def test_leadership(store):
    """A loop has one leader; when it releases the leadership or is silent, another takes over."""
    lasting = timedelta(seconds=5)
    acquired = [await store.acquire_leadership("sweeper", holder, NOW, lasting) for holder in ("a", "b", "a")]
    assert acquired == [True, False, True]
    assert await store.acquire_leadership("dispatcher", "b", NOW, lasting)
    assert await store.acquire_leadership("sweeper", "b", NOW + timedelta(seconds=6), lasting)
    await store.release_leadership("sweeper", "a")
    assert not await store.acquire_leadership("sweeper", "a", NOW + timedelta(seconds=7), lasting)
    await store.release_leadership("sweeper", "b")
    assert await store.acquire_leadership("sweeper", "a", NOW + timedelta(seconds=7), lasting)


async def test_delete_old_records(store):
    """Old events and idempotency records are deleted, some at a time; the job stays."""
    await store.add([job(1)], request())
    await store.add([job(n) for n in range(3, 6)])
    tomorrow = NOW + timedelta(days=1)
    assert not await store.delete_old_records(NOW, NOW, 2)
    assert [await store.delete_old_records(tomorrow, tomorrow, 3) for _ in range(2)] == [True, False]
    assert list(await store.list_events(job(1).id, after=0, limit=5)) == []
    assert [job(2)] == list(await store.add([job(2)], request(digest=b"other")))


@pytest.mark.parametrize("stage", [QueueStage.LATER, QueueStage.PUBLISHED, QueueStage.LEASED])
async def test_next_due_time(store, stage):
    """The next due time is the earliest of the rows that a loop waits for; jobs that are ready have none."""
    await store.add([job(n) for n in range(1, 4)])
    assert await store.get_next_due_time() is None
    for number, seconds in [(1, 30), (2, 20)]:
        await put_in_stage(store, number, stage, NOW + timedelta(seconds=seconds))
    assert await store.get_next_due_time() == NOW + timedelta(seconds=20)
    await store.mark_expiry_confirmed(job(3).id, NOW + timedelta(seconds=10))
    assert await store.get_next_due_time() == NOW + timedelta(seconds=10)


async def test_wait_for_write(store):
    """A wait ends when a write does, at once if one has ended since, and after its time if none does."""
    seen = store.count_writes()
    await store.wait_for_write(seen, 0.01)
    assert store.count_writes() == seen
    async with asyncio.timeout(5):
        waiting = asyncio.create_task(store.wait_for_write(seen, 60))
        await store.add([job(1)])
        await waiting
        assert store.count_writes() > seen
        await store.wait_for_write(seen, 60)


async def test_leadership_of_a_wrong_clock(store):
    """A leadership that ends later than it can have been taken is given to another replica."""
    lasting = timedelta(seconds=4)
    assert await store.acquire_leadership("dispatcher", "ahead", NOW + timedelta(minutes=10), lasting)
    assert await store.acquire_leadership("dispatcher", "right", NOW, lasting)
    assert not await store.acquire_leadership("dispatcher", "third", NOW + lasting / 2, lasting)
