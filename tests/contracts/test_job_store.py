"""The contract of JobStore, on SQLite and PostgreSQL."""

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
from reelhaul_jobs.model import leases, queue_transitions, rate_limited_lease, wait_reason
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import SiteLimits, SiteRateLimit
from reelhaul_jobs.model.rate_limited_lease import RateLimitView
from reelhaul_jobs.model.retries import error_status
from reelhaul_jobs.model.states import AttemptState, Priority, QueueStage, State
from reelhaul_jobs.model.transition import RefusalReason, Transition, create_event
from reelhaul_jobs.ports.jobs import Query
from reelhaul_runtime.errors import NotFound, ReelhaulError, StateConflict

SITE = "videos.example"


async def test_add_then_get(store):
    """Every field of a job is stored."""
    new = job(1, schedule_time=NOW + timedelta(hours=1), priority=Priority.HIGH)
    await store.add([new])
    assert new == await store.get(new.id)


async def test_add_many(store):
    """Jobs added together, alike or not, are read as they were added, and so are their first events."""
    odd = {"quotes": "'\"\\", "null": "a\0b", "percent": "%s :own {}", "wide": "\U0001f3ac\u2028"}
    new = [
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
    await store.add(new)
    for each in new:
        assert each == await store.get(each.id)
        assert [create_event(each, None)] == list(await store.list_events(each.id, after=0, limit=9))


async def test_get_missing(store):
    """A job that does not exist is NotFound."""
    with pytest.raises(NotFound):
        await store.get(job(1).id)


async def test_id_taken(store):
    """An id is taken once; nothing of the second call is stored."""
    await store.add([job(1)])
    with pytest.raises(ReelhaulError) as failure:
        await store.add([job(2), job(1)], request())
    assert failure.value.reason == ErrorReason.RESOURCE_EXISTS
    with pytest.raises(NotFound):
        await store.get(job(2).id)
    # The request was not recorded either: it may be tried again.
    assert [job(2)] == list(await store.add([job(2)], request()))


async def test_repeated_request(store):
    """A repeated request returns the same job, also if all come at once."""
    results = await asyncio.gather(*(store.add([job(n)], request()) for n in range(1, 6)))
    assert len({added[0].id for added in results}) == 1
    assert (await store.list_page(Query(tenant="acme", limit=10))).total == 1


async def test_find_by_idempotency_key(store):
    """The job of a request is found as it is now; a new request has none."""
    assert await store.find_by_idempotency_key(request()) is None
    await store.add([job(1)], request())
    claimed = (await store.change(job(1).id, lambda j: leases.claim(j, claim(), NOW))).job
    assert [claimed] == list(await store.find_by_idempotency_key(request()))
    with pytest.raises(ReelhaulError, match="another request"):
        await store.find_by_idempotency_key(request(digest=b"two"))


async def test_request_id_of_another_request(store):
    """A request_id that comes with another payload is rejected."""
    await store.add([job(1)], request(digest=b"one"))
    with pytest.raises(ReelhaulError) as failure:
        await store.add([job(2)], request(digest=b"two"))
    assert failure.value.reason == ErrorReason.REQUEST_ID_REUSED


async def test_change_records_history(store):
    """Claim and finish leave an attempt and one event for each state."""
    await store.add([job(1)])
    claimed = (await store.change(job(1).id, lambda j: leases.claim(j, claim(), NOW))).job
    assert (claimed.state, claimed.epoch, claimed.queue_stage) == (State.RUNNING, 1, QueueStage.LEASED)
    outcome = leases.Outcome(
        result=leases.Succeeded(
            media=media_pb2.MediaInfo(title="A video"),
            got=media_pb2.DeliveredMedia(height=720),
            artifacts=(media_pb2.ArtifactInfo(name="artifacts/1"),),
            warnings=(media_pb2.Warning(message="lower"),),
        ),
        progress=media_pb2.Progress(downloaded_bytes=99),
        http_statuses={503: 2},
    )
    await store.change(job(1).id, lambda j: leases.finish(j, 1, outcome, NOW))
    stored = await store.get(job(1).id)
    assert (stored.state, stored.media.title, stored.got.height) == (State.SUCCEEDED, "A video", 720)
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


async def test_a_rule_that_raises_changes_nothing(store):
    """If a rule raises, the job stays as it was."""
    await store.add([job(1)])
    with pytest.raises(StateConflict):
        await store.change(job(1).id, lambda j: queue_transitions.retry(j, NOW))
    assert job(1) == await store.get(job(1).id)


async def test_change_of_a_missing_job(store):
    """A change of a job that does not exist is NotFound."""
    with pytest.raises(NotFound):
        await store.change(job(1).id, lambda j: queue_transitions.retry(j, NOW))


async def test_concurrent_claims(store):
    """Of twenty workers that claim one attempt at once, one gets the lease."""
    await store.add([job(1)])

    async def claim_job(number: int) -> bool:
        request = claim(worker=f"w{number}", request_id=f"r{number}")
        return (await store.change(job(1).id, lambda j: leases.claim(j, request, NOW))).refusal is None

    assert sum(await asyncio.gather(*(claim_job(n) for n in range(20)))) == 1
    assert (await store.get(job(1).id)).epoch == 1


async def test_worker_that_failed_is_excluded(store):
    """After a full disk, the next attempt goes to another worker; after a minute to any."""
    full = leases.Failed(error=error_status(ErrorReason.WORKER_DISK_FULL, "disk full"), avoid_worker=True)
    await store.add([job(1), job(2)])
    for each in (job(1), job(2)):
        await store.change(each.id, lambda j: leases.claim(j, claim(), NOW))
        await store.change(each.id, lambda j: leases.finish(j, 1, leases.Outcome(result=full), NOW))
    due = max([(await store.get(each.id)).due for each in (job(1), job(2))])
    for each in (job(1), job(2)):
        await store.change(each.id, lambda j: queue_transitions.make_ready(j, due))
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
    ("cause", "reason"),
    [
        (ErrorReason.WORKER_DISK_FULL, wait_reason.WaitReason.DISK_FULL),
        (ErrorReason.MEDIA_NOT_LIVE_YET, wait_reason.WaitReason.LIVE_NOT_BEGUN),
        (None, wait_reason.WaitReason.IN_QUEUE),
    ],
)
async def test_wait_reason_of_a_released_job(store, cause, reason):
    """A job that its worker released for a while says why it waits and until when."""
    scheduled_job = job(1, schedule_time=NOW + timedelta(hours=1))
    await store.add([scheduled_job])
    scheduled = wait_reason.explain_wait(await store.get(scheduled_job.id))
    assert (scheduled.reason, scheduled.until) == (
        wait_reason.WaitReason.SCHEDULED,
        scheduled_job.schedule_time,
    )
    later = scheduled_job.schedule_time + timedelta(seconds=1)
    await store.change(scheduled_job.id, lambda job: leases.claim(job, claim(), later))
    delay = timedelta(seconds=15)
    error = None if cause is None else error_status(cause, "")
    released = leases.Outcome(result=leases.Released(delay=delay, error=error))
    await store.change(scheduled_job.id, lambda job: leases.finish(job, 1, released, later))
    wait = wait_reason.explain_wait(await store.get(scheduled_job.id))
    assert (wait.reason, wait.until) == (reason, later + delay)
    (attempt,) = await store.list_attempts(scheduled_job.id, below=None, limit=9)
    assert attempt.state is AttemptState.RELEASED
    assert attempt.error == error


async def test_pages(store):
    """Pages have no gaps or duplicates in either direction, while jobs are added."""
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
    """A page of a tenant has that tenant's jobs only; a page of None has all."""
    await store.add([job(1), job(2, tenant="other")])
    assert (await store.list_page(Query(tenant="acme", limit=5))).total == 1
    assert (await store.list_page(Query(tenant=None, limit=5))).total == 2


async def test_deleted_job(store):
    """A deleted job is neither found nor listed."""
    await store.add([job(1)])
    await store.change(job(1).id, lambda j: queue_transitions.delete(j, NOW))
    with pytest.raises(NotFound):
        await store.get(job(1).id)
    assert (await store.list_page(Query(tenant=None, limit=5))).total == 0


async def test_leased_jobs_are_counted(store):
    """A claim receives the number of leased jobs of its site, if it asks for that."""
    await store.add([job(n) for n in range(1, 4)] + [job(9, url="https://other.example/")])
    for number in (1, 2, 9):
        await store.change(job(number).id, lambda j: leases.claim(j, claim(), NOW))
    counts = []

    def rule(current, view):
        counts.append(view.leased_count)
        return Transition(before=current, job=current)

    for counted in (True, False):
        await store.change_lease(job(3).id, lambda j: (j.site, ""), rule, NOW, counted=counted)
    assert counts == [2, 0]


async def test_concurrent_claims_count_each_other(store):
    """Of eight workers that claim four jobs of one site at once, as many get one as its limit allows."""
    await store.add([job(n) for n in range(1, 5)])
    limits = SiteLimits(max_running=3)

    async def claim_job(number: int) -> bool:
        request = claim(worker=f"w{number}", request_id=f"r{number}")

        def rule(current, view):
            return rate_limited_lease.claim(current, request, view, limits, NOW)

        job_id = job(1 + number % 4).id
        change = await store.change_lease(job_id, lambda j: (j.site, ""), rule, NOW, counted=True)
        return change.started_attempt is not None

    assert sum(await asyncio.gather(*(claim_job(n) for n in range(8)))) == 3
    states = [(await store.get(job(n).id)).state for n in range(1, 5)]
    assert sorted(states) == [State.QUEUED, State.RUNNING, State.RUNNING, State.RUNNING]


async def test_a_failed_lease_change_affects_no_other(store):
    """A rule that raises, and a missing job, do not affect changes of the same batch."""
    await store.add([job(n) for n in range(1, 4)])

    def rule(current, view):
        if current.id == job(2).id:
            raise StateConflict(current.name, "QUEUED", "no")
        return leases.claim(current, claim(), NOW)

    changes = [
        store.change_lease(job(n).id, lambda j: (j.site, ""), rule, NOW, counted=True) for n in range(1, 5)
    ]
    results = await asyncio.gather(*changes, return_exceptions=True)
    assert [type(result) for result in results] == [Transition, StateConflict, Transition, NotFound]
    assert [(await store.get(job(n).id)).epoch for n in range(1, 4)] == [1, 0, 1]


async def test_get_or_create_key(store):
    """A key is created once, also if all ask at once."""
    keys = await asyncio.gather(*(store.get_or_create_key("tokens") for _ in range(5)))
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert keys[0] != await store.get_or_create_key("others")


async def test_repeated_request_at_two_replicas():
    """The same request at two replicas at once is one job."""
    with migrated_database("reelhaul_jobs") as url:
        async with open_store(url) as one, open_store(url) as two:
            for n in range(20):
                results = await asyncio.gather(
                    one.add([job(2 * n)], request(n)), two.add([job(2 * n + 1)], request(n))
                )
                assert results[0][0].id == results[1][0].id
            assert (await one.list_page(Query(tenant="acme", limit=50))).total == 20


async def test_odd_text_of_sites(store):
    """A title with a NUL, or a very long one, is stored all the same."""
    await store.add([job(1)])
    await store.change(job(1).id, lambda j: leases.claim(j, claim(), NOW))
    media = media_pb2.MediaInfo(title="a\0b" + "c" * 10_000)
    await store.change(job(1).id, lambda j: leases.renew(j, 1, NOW, LEASE, media=media))
    assert (await store.get(job(1).id)).media == media


async def test_one_probe_of_two_replicas():
    """Of two claims at two replicas, both by blocked egresses, one becomes the probe of a third egress."""
    lon = SiteRateLimit(site=SITE, egress="lon", parked_until=NOW + 9 * LEASE, reason="UPSTREAM_BLOCKED")
    par, ams = replace(lon, egress="par"), replace(lon, egress="ams", parked_until=NOW)
    with migrated_database("reelhaul_jobs") as url:
        async with open_store(url) as one, open_store(url) as two:
            await one.record_worker_heartbeat("w", 2, NOW, ("lon", "par", "ams"))
            await one.add([job(1), job(2), job(3)])
            for limit in (lon, par, ams):
                await one.change_lease(
                    job(3).id,
                    lambda _, limit=limit: (SITE, limit.egress),
                    lambda before, _, limit=limit: Transition(
                        before=before, job=before.replace_fields(), rate_limit=limit
                    ),
                    NOW,
                    counted=False,
                )
            both = threading.Event()
            changes = await asyncio.gather(
                claim_by(one, job(1), "lon", both), claim_by(two, job(2), "par", both)
            )
    assert sorted(change.started_attempt is not None for change in changes) == [False, True]


async def claim_by(store: SqlStore, new: Job, egress: str, both: threading.Event) -> Transition:
    """Claim *new* by *egress* or "ams"; waits a little, so that both claims overlap."""

    def rule(before: Job, view: RateLimitView) -> Transition:
        if not both.wait(0.5):
            both.set()
        request = replace(claim(), egress=egress, other_egresses=("ams",))
        return rate_limited_lease.claim(before, request, view, SiteLimits(), NOW)

    return await store.change_lease(new.id, lambda _: (SITE, egress), rule, NOW, counted=False)


async def test_one_probe_in_one_transaction():
    """Claims of one transaction see the rate limits that earlier ones changed, for any egress."""
    lon = SiteRateLimit(site=SITE, egress="lon", parked_until=NOW + 9 * LEASE, reason="UPSTREAM_BLOCKED")
    ams = replace(lon, egress="ams", parked_until=NOW)
    async with postgresql_store() as store:
        await store.record_worker_heartbeat("w", 2, NOW, ("lon", "ams"))
        await store.add([job(n) for n in range(4)])
        for limit in (lon, ams):
            await store.change_lease(
                job(0).id,
                lambda _, limit=limit: (SITE, limit.egress),
                lambda before, _, limit=limit: Transition(
                    before=before, job=before.replace_fields(), rate_limit=limit
                ),
                NOW,
                counted=False,
            )
        no_waiting = threading.Event()
        no_waiting.set()
        claims = ((1, "lon"), (2, "lon"), (3, "ams"))
        changes = await asyncio.gather(*(claim_by(store, job(n), by, no_waiting) for n, by in claims))
    assert [change.started_attempt is not None for change in changes] == [True, False, False]
