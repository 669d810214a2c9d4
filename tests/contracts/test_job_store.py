"""What every JobStore and QueueStore promises: held against SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.job_stores import LEASE, NOW, SqlStore, claim, job, open_store, postgresql_store, request
from tests.postgresql import migrated_database

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import fair_scheduling, leases, queue_transitions, rate_limited_lease, wait_reason
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import SiteLimits, SiteRateLimit
from reelhaul_jobs.model.rate_limited_lease import RateLimitView
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.states import AttemptState, Priority, QueueStage, State
from reelhaul_jobs.model.transition import RefusalReason, Transition, create_event
from reelhaul_jobs.ports.jobs import Query
from reelhaul_jobs.ports.queue import BacklogQuery
from reelhaul_runtime.errors import NotFound, ReelhaulError, StateConflict

SITE = "videos.example"


async def test_add_then_get(store):
    """A job is read as it was added, to the last field."""
    asked = job(1, schedule_time=NOW + timedelta(hours=1), priority=Priority.HIGH)
    await store.add([asked])
    assert asked == await store.get(asked.id)


async def test_add_many_of_several_forms(store):
    """Jobs added together are read as they were added, alike or not, and so are their first events."""
    odd = {"quotes": "'\"\\", "null": "a\0b", "percent": "%s :own {}", "wide": "\U0001f3ac\u2028"}
    asked = [
        job(1),
        job(2, url="https://videos.example/%3A:x?a='b'&c=\"d\"", labels=odd, batch_id="b"),
        job(3, tenant="other", priority=Priority.LOW, traceparent="00-1"),
        job(4, format=media_pb2.FormatSpec(max_height=144), expire_time=NOW + timedelta(days=400)),
        job(5, parent="p", position=2**31 - 1, batch_id="p"),
        replace(job(6), state=State.RETRYING, queue_stage=QueueStage.LATER, due=NOW, revision=4, charged=1),
        replace(
            job(7), state=State.RETRYING, queue_stage=QueueStage.LATER, due=NOW + LEASE, revision=4, charged=1
        ),
        job(8),
    ]
    await store.add(asked)
    for one in asked:
        assert one == await store.get(one.id)
        assert [create_event(one, None)] == list(await store.list_events(one.id, after=0, limit=9))


async def test_get_missing(store):
    """A job that never was is NotFound."""
    with pytest.raises(NotFound):
        await store.get(job(1).id)


async def test_id_taken(store):
    """An id is taken once; nothing of the second call is kept."""
    await store.add([job(1)])
    with pytest.raises(ReelhaulError) as failure:
        await store.add([job(2), job(1)], request())
    assert failure.value.reason == ErrorReason.RESOURCE_EXISTS
    with pytest.raises(NotFound):
        await store.get(job(2).id)
    # The request was not remembered either: it may be tried again.
    assert [job(2)] == list(await store.add([job(2)], request()))


async def test_same_request_twice(store):
    """The same request answers the same job, however often it comes, also all at once."""
    answers = await asyncio.gather(*(store.add([job(n)], request()) for n in range(1, 6)))
    assert len({answer[0].id for answer in answers}) == 1
    assert (await store.list_page(Query(tenant="acme", limit=10))).total == 1


async def test_earlier_request(store):
    """What a request made is found by it, as it is now; of a new one there is nothing."""
    assert await store.find_by_idempotency_key(request()) is None
    await store.add([job(1)], request())
    claimed = (await store.change(job(1).id, lambda j: leases.claim(j, claim(), NOW))).job
    assert [claimed] == list(await store.find_by_idempotency_key(request()))
    with pytest.raises(ReelhaulError, match="another request"):
        await store.find_by_idempotency_key(request(digest=b"two"))


async def test_request_id_with_another_payload(store):
    """A request_id that returns with another payload is refused."""
    await store.add([job(1)], request(digest=b"one"))
    with pytest.raises(ReelhaulError) as failure:
        await store.add([job(2)], request(digest=b"two"))
    assert failure.value.reason == ErrorReason.REQUEST_ID_REUSED


async def test_change_keeps_history(store):
    """Claim and finish leave an attempt and one event for each state."""
    await store.add([job(1)])
    claimed = (await store.change(job(1).id, lambda j: leases.claim(j, claim(), NOW))).job
    assert (claimed.state, claimed.epoch, claimed.queue_stage) == (State.RUNNING, 1, QueueStage.LEASED)
    outcome = leases.Outcome(
        result=leases.Succeeded(
            media=media_pb2.MediaInfo(title="A film"),
            got=media_pb2.DeliveredMedia(height=720),
            artifacts=(media_pb2.ArtifactInfo(name="artifacts/1"),),
            warnings=(media_pb2.Warning(message="lower"),),
        ),
        progress=media_pb2.Progress(downloaded_bytes=99),
        http_statuses={503: 2},
    )
    await store.change(job(1).id, lambda j: leases.finish(j, 1, outcome, NOW))
    stored = await store.get(job(1).id)
    assert (stored.state, stored.media.title, stored.got.height) == (State.SUCCEEDED, "A film", 720)
    assert [artifact.name for artifact in stored.artifacts] == ["artifacts/1"]
    assert [event.state for event in await store.list_events(job(1).id, after=0, limit=10)] == [
        State.QUEUED,
        State.RUNNING,
        State.SUCCEEDED,
    ]
    attempt = await store.get_attempt(job(1).id, 1)
    assert (
        attempt.state,
        attempt.downloaded_bytes,
        attempt.http_statuses,
        attempt.finish_revision,
    ) == (AttemptState.SUCCEEDED, 99, {503: 2}, 3)
    assert attempt == await store.find_attempt_by_epoch(job(1).id, 1)
    assert [attempt] == list(await store.list_attempts(job(1).id, below=None, limit=5))


async def test_failing_rule_changes_nothing(store):
    """What a rule raises leaves the job as it was."""
    await store.add([job(1)])
    with pytest.raises(StateConflict):
        await store.change(job(1).id, lambda j: queue_transitions.retry(j, NOW))
    assert job(1) == await store.get(job(1).id)


async def test_change_of_no_job(store):
    """A change of a job that never was is NotFound."""
    with pytest.raises(NotFound):
        await store.change(job(1).id, lambda j: queue_transitions.retry(j, NOW))


async def test_claims_race(store):
    """Of twenty workers that claim one attempt at once, one gets it."""
    await store.add([job(1)])

    async def try_it(number: int) -> bool:
        asked = claim(worker=f"w{number}", request_id=f"r{number}")
        return (await store.change(job(1).id, lambda j: leases.claim(j, asked, NOW))).refusal is None

    assert sum(await asyncio.gather(*(try_it(n) for n in range(20)))) == 1
    assert (await store.get(job(1).id)).epoch == 1


async def test_the_worker_that_could_not_is_avoided(store):
    """The next attempt of a job whose worker's disk was full is another's; after a minute anybody's."""
    full = leases.Failed(error=error_status(ErrorReason.WORKER_DISK_FULL, "no room"), avoid_worker=True)
    await store.add([job(1), job(2)])
    for made in (job(1), job(2)):
        await store.change(made.id, lambda j: leases.claim(j, claim(), NOW))
        await store.change(made.id, lambda j: leases.finish(j, 1, leases.Outcome(result=full), NOW))
    due = max([(await store.get(made.id)).due for made in (job(1), job(2))])
    for made in (job(1), job(2)):
        await store.change(made.id, lambda j: queue_transitions.make_ready(j, due))
    again = claim(attempt=2, request_id="r2")
    refused = await store.change(job(1).id, lambda j: leases.claim(j, again, due))
    assert refused.refusal.reason is RefusalReason.SLOT_UNFIT
    assert refused.refusal.retry_delay == timedelta(seconds=2)
    assert (await store.get(job(1).id)).state is State.QUEUED
    other = claim(attempt=2, worker="w2", request_id="r3")
    assert (await store.change(job(1).id, lambda j: leases.claim(j, other, due))).refusal is None
    assert (await store.get(job(1).id)).avoid_until is None
    late = due + timedelta(minutes=1)
    assert (await store.change(job(2).id, lambda j: leases.claim(j, again, late))).refusal is None


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (ErrorReason.WORKER_DISK_FULL, wait_reason.WaitReason.DISK_FULL),
        (ErrorReason.MEDIA_NOT_LIVE_YET, wait_reason.WaitReason.LIVE_NOT_BEGUN),
        (None, wait_reason.WaitReason.IN_QUEUE),
    ],
)
async def test_handed_back_for_a_reason(store, cause, told):
    """A job that its worker handed back for a while says why and until when."""
    kept = job(1, schedule_time=NOW + timedelta(hours=1))
    await store.add([kept])
    scheduled = wait_reason.explain_wait(await store.get(kept.id))
    assert (scheduled.reason, scheduled.until) == (wait_reason.WaitReason.SCHEDULED, kept.schedule_time)
    later = kept.schedule_time + timedelta(seconds=1)
    await store.change(kept.id, lambda job: leases.claim(job, claim(), later))
    delay = timedelta(seconds=15)
    error = None if cause is None else error_status(cause, "")
    back = leases.Outcome(result=leases.Released(delay=delay, error=error))
    await store.change(kept.id, lambda job: leases.finish(job, 1, back, later))
    wait = wait_reason.explain_wait(await store.get(kept.id))
    assert (wait.reason, wait.until) == (told, later + delay)
    (attempt,) = await store.list_attempts(kept.id, below=None, limit=9)
    assert attempt.state is AttemptState.RELEASED
    assert attempt.error == error


async def test_pages(store):
    """Pages of a keyset meet without gap or double, in both directions, while jobs are added."""
    await store.add([job(n, create_time=NOW) for n in range(1, 8)])
    seen, after = [], None
    while True:
        page = await store.list_page(Query(tenant="acme", limit=3, after=after))
        seen += [found.id for found in page.jobs]
        await store.add([job(100 + len(seen))])
        if not page.has_more:
            break
        after = (page.jobs[-1].create_time, page.jobs[-1].id)
    assert [job(n).id for n in range(7, 0, -1)] == seen
    ascending = await store.list_page(Query(tenant="acme", limit=2, descending=False, skip=1))
    assert [job(2).id, job(3).id] == [found.id for found in ascending.jobs]


async def test_pages_of_one_tenant(store):
    """A tenant's page holds that tenant's jobs only; None holds all."""
    await store.add([job(1), job(2, tenant="other")])
    assert (await store.list_page(Query(tenant="acme", limit=5))).total == 1
    assert (await store.list_page(Query(tenant=None, limit=5))).total == 2


async def test_deleted_job_is_gone(store):
    """A deleted job is neither read nor listed."""
    await store.add([job(1)])
    await store.change(job(1).id, lambda j: queue_transitions.delete(j, NOW))
    with pytest.raises(NotFound):
        await store.get(job(1).id)
    assert (await store.list_page(Query(tenant=None, limit=5))).total == 0


async def test_backlog_order(store):
    """Within a tenant HIGH passes NORMAL, which passes LOW, unless it has waited much longer."""
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
    """Each tenant has its share of the backlog, and what is published counts as held."""
    await store.add([job(n, tenant=f"t{n % 3}") for n in range(9)])
    picked = fair_scheduling.select_fairly((await store.get_backlog(BacklogQuery(limit=2), NOW)).ready, 3)
    assert picked == list(await store.mark_published(picked, NOW + timedelta(minutes=1), None))
    backlog = await store.get_backlog(BacklogQuery(limit=2, after_tenant="t0"), NOW)
    assert backlog.in_flight.by_tenant == {"t0": 1, "t1": 1, "t2": 1}
    assert backlog.in_flight.by_tenant_and_site["t0", SITE] == 1
    assert backlog.published == 3
    assert {"t0", "t1", "t2"} == set(backlog.ready)
    assert all(len(jobs) == 2 for jobs in backlog.ready.values())
    assert not {ready.id for ready in picked} & {r.id for jobs in backlog.ready.values() for r in jobs}


async def test_backlog_leaves_full_sites_out(store):
    """A thousand jobs of a full site hide none of another, and order goes across sites."""
    full = [job(n, url="https://full.example/") for n in range(1, 1001)]
    await store.add([*full, job(2001), job(2002, url="https://www.third.example/"), job(2003)])
    look = BacklogQuery(limit=2, free_slots=lambda site: 0 if site.site == "full.example" else 5)
    backlog = await store.get_backlog(look, NOW)
    assert [job(2001).id, job(2002).id] == [ready.id for ready in backlog.ready["acme"]]
    assert {"full.example", "videos.example", "third.example"} == set(backlog.sites)
    assert await store.get_queue_position(job(2002)) == 1002


async def test_take_marks_once(store):
    """Of two who want to publish the same job one may; a claimed or changed one is left alone."""
    await store.add([job(1), job(2), job(3)])
    picked = (await store.get_backlog(BacklogQuery(limit=9), NOW)).ready["acme"]
    await store.change(job(1).id, lambda j: leases.claim(j, claim(), NOW))
    await store.change(job(2).id, lambda j: queue_transitions.cancel(j, NOW))
    answers = await asyncio.gather(*(store.mark_published(picked, NOW, None) for _ in range(5)))
    assert [job(3).id] == [ready.id for answer in answers for ready in answer]
    assert QueueStage.LEASED is (await store.get(job(1).id)).queue_stage
    (marked,) = await store.list_published(5)
    assert (marked.id, marked.attempt) == (job(3).id, 1)


async def test_take_needs_the_lead(store):
    """Who does not lead the dispatcher any more marks nothing."""
    await store.add([job(1)])
    picked = (await store.get_backlog(BacklogQuery(limit=9), NOW)).ready["acme"]
    await store.acquire_leadership("dispatcher", "a", NOW, LEASE)
    assert not await store.mark_published(picked, NOW, "b")
    assert picked == list(await store.mark_published(picked, NOW, "a"))


async def test_put_back(store):
    """What could not be published is ready again, in its place; what was claimed meanwhile is not."""
    await store.add([job(1), job(2)])
    picked = (await store.get_backlog(BacklogQuery(limit=9), NOW)).ready["acme"]
    await store.mark_published(picked, NOW + timedelta(minutes=1), None)
    await store.change(job(1).id, lambda j: leases.claim(j, claim(), NOW))
    await store.mark_ready(picked)
    assert QueueStage.LEASED is (await store.get(job(1).id)).queue_stage
    assert job(2) == await store.get(job(2).id)


async def test_site_counts(store):
    """A site tells how many of its jobs are published and leased, and how its gates stand."""
    await store.add([job(n) for n in range(1, 5)] + [job(9, url="https://other.example/")])
    await store.mark_published((await store.get_backlog(BacklogQuery(limit=3), NOW)).ready["acme"], NOW, None)
    await store.change(job(1).id, lambda j: leases.claim(j, claim(), NOW))
    site = await store.get_site_status(SITE, NOW)
    assert (site.published, site.leased, site.rate_limits) == (2, 1, (SiteRateLimit(site=SITE),))


async def test_gates_are_kept_with_the_change(store):
    """A change keeps the gate it made; a plain gate is forgotten; an old one in time."""
    await store.add([job(1)])
    await store.record_worker_heartbeat("w1", 4, NOW, ["lon"])
    parked = SiteRateLimit(
        site=SITE, egress="lon", parked_until=NOW + LEASE, reason="UPSTREAM_BLOCKED", probe="j"
    )

    async def keep(gate: SiteRateLimit | None) -> RateLimitView:
        seen = []

        def rule(found, passage):
            seen.append(passage)
            return Transition(before=found, job=found, rate_limit=gate)

        await store.change_lease(job(1).id, lambda _: (SITE, "lon"), rule, NOW, counted=True)
        return seen[-1]

    assert (await keep(parked)).rate_limit == SiteRateLimit(site=SITE, egress="lon")
    assert (await keep(None)).rate_limit == parked
    assert (await store.get_site_status(SITE, NOW)).rate_limits == (parked,)
    await store.record_worker_heartbeat("w2", 4, NOW, ["ams", "par"])
    others = SiteRateLimit(site=SITE, egress="ams"), SiteRateLimit(site=SITE, egress="par")
    assert (await keep(None)).other_egresses == others
    assert await store.count_worker_slots(NOW) == 8
    await store.delete_idle_rate_limits(NOW)
    assert (await keep(SiteRateLimit(site=SITE, egress="lon"))).rate_limit == parked
    assert (await keep(replace(parked, delay=LEASE))).rate_limit == SiteRateLimit(site=SITE, egress="lon")
    await store.delete_idle_rate_limits(NOW + timedelta(hours=1))
    assert (await keep(None)).rate_limit == SiteRateLimit(site=SITE, egress="lon")


async def test_leased_jobs_of_a_site_are_counted(store):
    """A claim is told how many jobs of its site are held."""
    await store.add([job(n) for n in range(1, 4)] + [job(9, url="https://other.example/")])
    for number in (1, 2, 9):
        await store.change(job(number).id, lambda j: leases.claim(j, claim(), NOW))
    told = []

    def rule(found, passage):
        told.append(passage.leased_count)
        return Transition(before=found, job=found)

    for counted in (True, False):
        await store.change_lease(job(3).id, lambda j: (j.site, ""), rule, NOW, counted=counted)
    assert told == [2, 0]


async def test_claims_at_once_count_each_other(store):
    """Of eight workers that claim jobs of one site at once, two for each job, as many get one as it bears."""
    await store.add([job(n) for n in range(1, 5)])
    limits = SiteLimits(max_running=3)

    async def try_it(number: int) -> bool:
        asked = claim(worker=f"w{number}", request_id=f"r{number}")

        def rule(found, passage):
            return rate_limited_lease.claim(found, asked, passage, limits, NOW)

        which = job(1 + number % 4).id
        done = await store.change_lease(which, lambda j: (j.site, ""), rule, NOW, counted=True)
        return done.started_attempt is not None

    assert sum(await asyncio.gather(*(try_it(n) for n in range(8)))) == 3
    states = [(await store.get(job(n).id)).state for n in range(1, 5)]
    assert sorted(states) == [State.QUEUED, State.RUNNING, State.RUNNING, State.RUNNING]


async def test_a_refused_change_at_a_site_harms_no_other(store):
    """A rule that raises, and a job that is not there, leave those alone that change at the same time."""
    await store.add([job(n) for n in range(1, 4)])

    def rule(found, passage):
        if found.id == job(2).id:
            raise StateConflict(found.name, "QUEUED", "no")
        return leases.claim(found, claim(), NOW)

    asked = [
        store.change_lease(job(n).id, lambda j: (j.site, ""), rule, NOW, counted=True) for n in range(1, 5)
    ]
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in done] == [Transition, StateConflict, Transition, NotFound]
    assert [(await store.get(job(n).id)).epoch for n in range(1, 4)] == [1, 0, 1]


async def test_due(store):
    """A lane's jobs come due by their time, the longest due first."""
    later = [job(n, schedule_time=NOW + timedelta(hours=1, minutes=-n)) for n in range(1, 4)]
    await store.add(later)
    before = NOW + timedelta(minutes=58)
    assert [job(3).id, job(2).id] == list(await store.list_due(QueueStage.LATER, before, 5))
    assert await store.count_in_stages([QueueStage.LATER, QueueStage.LEASED]) == 3


async def test_slots_of_live_workers(store):
    """Workers count while they are heard of."""
    await store.record_worker_heartbeat("w1", 4, NOW)
    await store.record_worker_heartbeat("w2", 8, NOW - timedelta(minutes=5))
    assert await store.count_worker_slots(NOW) == 4
    await store.record_worker_heartbeat("w2", 8, NOW)
    assert await store.count_worker_slots(NOW) == 12


async def test_unconfirmed(store):
    """Artifacts are to be confirmed until that is done, and not before their time."""
    await store.add([replace(job(1), confirm_time=NOW)])
    assert [job(1).id] == [found.id for found in await store.list_expiry_pending(NOW, 5)]
    await store.mark_expiry_confirmed(job(1).id, NOW + timedelta(minutes=1))
    assert list(await store.list_expiry_pending(NOW, 5)) == []
    await store.mark_expiry_confirmed(job(1).id, None)
    assert list(await store.list_expiry_pending(NOW + timedelta(hours=1), 5)) == []


async def test_one_leader(store):
    """A loop has one leader; when it resigns or goes silent, another takes over."""
    lasting = timedelta(seconds=5)
    answers = [await store.acquire_leadership("sweeper", holder, NOW, lasting) for holder in ("a", "b", "a")]
    assert answers == [True, False, True]
    assert await store.acquire_leadership("dispatcher", "b", NOW, lasting)
    assert await store.acquire_leadership("sweeper", "b", NOW + timedelta(seconds=6), lasting)
    await store.release_leadership("sweeper", "a")
    assert not await store.acquire_leadership("sweeper", "a", NOW + timedelta(seconds=7), lasting)
    await store.release_leadership("sweeper", "b")
    assert await store.acquire_leadership("sweeper", "a", NOW + timedelta(seconds=7), lasting)


async def test_forget(store):
    """Old events and requests go; the job stays."""
    await store.add([job(1)], request())
    await store.delete_old_records(NOW + timedelta(days=1), NOW + timedelta(days=1))
    assert list(await store.list_events(job(1).id, after=0, limit=5)) == []
    assert [job(2)] == list(await store.add([job(2)], request(digest=b"other")))


async def test_key_is_shared(store):
    """A key is made once, also when all ask at once."""
    keys = await asyncio.gather(*(store.get_or_create_key("tokens") for _ in range(5)))
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert keys[0] != await store.get_or_create_key("others")


async def test_same_request_at_two_replicas():
    """The same request at two replicas at once is one job."""
    with migrated_database("reelhaul_jobs") as url:
        async with open_store(url) as one, open_store(url) as two:
            for n in range(20):
                answers = await asyncio.gather(
                    one.add([job(2 * n)], request(n)), two.add([job(2 * n + 1)], request(n))
                )
                assert answers[0][0].id == answers[1][0].id
            assert (await one.list_page(Query(tenant="acme", limit=50))).total == 20


async def test_text_of_sites(store):
    """A title with a NUL, or one that never ends, is kept all the same."""
    await store.add([job(1)])
    await store.change(job(1).id, lambda j: leases.claim(j, claim(), NOW))
    media = media_pb2.MediaInfo(title="a\0b" + "c" * 10_000)
    await store.change(job(1).id, lambda j: leases.renew(j, 1, NOW, LEASE, media=media))
    assert (await store.get(job(1).id)).media == media


async def test_one_probe_by_another_egress():
    """Of two replicas' workers, who both come by an egress that is shut, one passes as the other's probe."""
    lon = SiteRateLimit(site=SITE, egress="lon", parked_until=NOW + 9 * LEASE, reason="UPSTREAM_BLOCKED")
    par, ams = replace(lon, egress="par"), replace(lon, egress="ams", parked_until=NOW)
    with migrated_database("reelhaul_jobs") as url:
        async with open_store(url) as one, open_store(url) as two:
            await one.record_worker_heartbeat("w", 2, NOW, ("lon", "par", "ams"))
            await one.add([job(1), job(2), job(3)])
            for gate in (lon, par, ams):
                await one.change_lease(
                    job(3).id,
                    lambda _, gate=gate: (SITE, gate.egress),
                    lambda before, _, gate=gate: Transition(
                        before=before, job=before.replace_fields(), rate_limit=gate
                    ),
                    NOW,
                    counted=False,
                )
            both = threading.Event()
            changes = await asyncio.gather(
                claimed_by(one, job(1), "lon", both), claimed_by(two, job(2), "par", both)
            )
    assert sorted(change.started_attempt is not None for change in changes) == [False, True]


async def claimed_by(store: SqlStore, wanted: Job, egress: str, both: threading.Event) -> Transition:
    """A claim that could go by "ams"; it takes its time, lest the other one comes too late."""

    def rule(before: Job, passage: RateLimitView) -> Transition:
        if not both.wait(0.5):
            both.set()
        asked = replace(claim(), egress=egress, other_egresses=("ams",))
        return rate_limited_lease.claim(before, asked, passage, SiteLimits(), NOW)

    return await store.change_lease(wanted.id, lambda _: (SITE, egress), rule, NOW, counted=False)


async def test_a_probe_in_the_same_go():
    """Claims that share a transaction see the gates that those before them have changed, by any egress."""
    lon = SiteRateLimit(site=SITE, egress="lon", parked_until=NOW + 9 * LEASE, reason="UPSTREAM_BLOCKED")
    ams = replace(lon, egress="ams", parked_until=NOW)
    async with postgresql_store() as store:
        await store.record_worker_heartbeat("w", 2, NOW, ("lon", "ams"))
        await store.add([job(n) for n in range(4)])
        for gate in (lon, ams):
            await store.change_lease(
                job(0).id,
                lambda _, gate=gate: (SITE, gate.egress),
                lambda before, _, gate=gate: Transition(
                    before=before, job=before.replace_fields(), rate_limit=gate
                ),
                NOW,
                counted=False,
            )
        passing = threading.Event()
        passing.set()
        coming = ((1, "lon"), (2, "lon"), (3, "ams"))
        changes = await asyncio.gather(*(claimed_by(store, job(n), by, passing) for n, by in coming))
    assert [change.started_attempt is not None for change in changes] == [True, False, False]
