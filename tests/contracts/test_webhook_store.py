"""The contracts of WebhookStore and WebhookDeliveryStore, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from google.rpc import status_pb2
from sqlalchemy import func, select
from tests.contracts.test_schedule_store import schedule
from tests.job_stores import NOW, job

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import ids, queue_transitions, user_actions
from reelhaul_jobs.model import webhook as model
from reelhaul_jobs.model import webhook_delivery as deliveries
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.schedule import Run
from reelhaul_jobs.model.states import State
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.model.webhook import Webhook, WebhookState
from reelhaul_jobs.model.webhook_delivery import Delivery, DeliveryState, Event, NewEvent, TryResult
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.ports.webhooks import DeliveryQuery
from reelhaul_jobs.store.webhook_tables import webhook_events
from reelhaul_runtime.errors import NotFound, ReelhaulError

SECOND = timedelta(seconds=1)
FAILURE = TryResult(http_status=500, error=status_pb2.Status(code=14, message="no"))
SUCCESS = TryResult(http_status=204)


def webhook(name: str = "hook", tenant: str = "acme", **fields: object) -> Webhook:
    plain = Webhook(
        tenant=tenant,
        id=name,
        url="https://receiver.example/",
        sealed_secret=b"sealed",
        create_time=NOW,
        update_time=NOW,
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


def event(number: int = 1, **fields: object) -> Event:
    plain = Event(
        id=ids.new_id(NOW),
        tenant="acme",
        type="job.failed",
        time=NOW + number * SECOND,
        subject="jobs/1",
        data=b"data",
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


async def pause(store, number: int, tenant: str = "acme") -> Job:
    """Add a job and pause it, which is an event."""
    added = job(number, tenant=tenant)
    await store.add([added])
    return (await store.change(added.id, lambda each: user_actions.pause(each, NOW))).job


def end(each: Job, state: State = State.SUCCEEDED) -> Transition:
    running = each if each.state is State.RUNNING else each.transition(State.RUNNING, NOW)
    return Transition(before=each, job=running.end(state, NOW + SECOND))


async def record(store, *events: Event, to: Sequence[str] = ("hook",)) -> None:
    new = [NewEvent(event=each, webhooks=tuple(to)) for each in events]
    assert await store.webhook_deliveries.record_events([], new, lambda batches: [], NOW)


async def listed(store, **query: object) -> list[Delivery]:
    plain = DeliveryQuery(tenant="acme", webhook="hook", limit=100)
    return list(await store.webhook_deliveries.list_deliveries(replace(plain, **query)))  # type: ignore[arg-type]


async def finish(store, claimed: Delivery, result: TryResult, now=NOW) -> Delivery | None:
    return await store.webhook_deliveries.complete(
        claimed,
        result,
        lambda each: deliveries.complete(each, result, now, lambda: 0.0),
        lambda each: (
            model.record_failure(each, now, gone=result.gone) if result.error else model.record_success(each)
        ),
    )


async def test_read_as_it_was_added(store):
    """Every field of a webhook is stored, and repeated requests return the first one's."""
    full = webhook(
        event_types=("job.*", "batch.finished"),
        filter='labels.team = "ä"',
        state=WebhookState.SUSPENDED,
        sealed_old_secret=b"old",
        old_secret_end=NOW + SECOND,
        failing_since=NOW - SECOND,
        revision=7,
    )
    key = IdempotencyKey("acme", "CreateWebhook", "r", b"d", NOW)
    assert await store.webhooks.add(full, key) == full
    assert await store.webhooks.add(webhook("other"), key) == full
    assert await store.webhooks.get("acme", "hook") == full
    assert await store.webhooks.list_all("acme") == [full]


async def test_ids_and_quota(store):
    """An id is taken once per tenant, and a tenant has a hundred webhooks."""
    await store.webhooks.add(webhook())
    await store.webhooks.add(webhook(tenant="other"))
    with pytest.raises(ReelhaulError) as taken:
        await store.webhooks.add(webhook())
    assert taken.value.reason == ErrorReason.RESOURCE_EXISTS
    for number in range(model.MAX_PER_TENANT - 1):
        await store.webhooks.add(webhook(f"hook-{number}"))
    with pytest.raises(ReelhaulError) as full:
        await store.webhooks.add(webhook("one-more"))
    assert full.value.reason == ErrorReason.QUOTA_EXCEEDED


async def test_other_tenants(store):
    """Webhooks and deliveries of another tenant are not found."""
    await store.webhooks.add(webhook())
    await record(store, event())
    (delivery,) = await listed(store)
    for call in (
        store.webhooks.get("other", "hook"),
        store.webhooks.change("other", "hook", lambda each: each),
        store.webhooks.delete("other", "hook"),
        store.webhook_deliveries.get_delivery("other", "hook", delivery.id),
        store.webhook_deliveries.change_delivery("other", "hook", delivery.id, lambda each: each),
    ):
        with pytest.raises(NotFound):
            await call
    assert (
        await store.webhook_deliveries.list_deliveries(
            DeliveryQuery(tenant="other", webhook="hook", limit=10)
        )
        == []
    )


async def test_outbox_of_jobs(store):
    """Each change of a job of a tenant with a webhook is kept as the job was then, in order."""
    await store.webhooks.add(webhook())
    await store.webhooks.add(webhook(tenant="idle", state=WebhookState.DISABLED))
    paused = await pause(store, 1)
    await pause(store, 2, tenant="idle")
    await pause(store, 3, tenant="none")
    await store.change(paused.id, lambda each: user_actions.resume(each, NOW))
    ended = (await store.change(paused.id, end)).job
    entries = await store.webhook_deliveries.list_outbox(10)
    assert [(entry.type, entry.subject) for entry in entries] == [
        ("job.paused", paused),
        ("job.succeeded", ended),
    ]
    assert await store.webhook_deliveries.list_outbox(1) == entries[:1]


async def test_outbox_of_many_jobs(store):
    """Changes of one transaction are kept for those tenants alone that have a webhook."""
    await store.webhooks.add(webhook())
    await store.webhooks.add(webhook(tenant="zeta"))
    tenants = ["acme", "beta", "zeta", "acme"]
    await store.add([job(number, tenant=tenant) for number, tenant in enumerate(tenants)])
    await asyncio.gather(*(store.change(job(n).id, end) for n in range(len(tenants))))
    entries = await store.webhook_deliveries.list_outbox(10)
    assert sorted(entry.tenant for entry in entries) == ["acme", "acme", "zeta"]


async def test_outbox_of_schedules(store):
    """A failed run is kept with its schedule, a run that creates a job or is skipped is not."""
    await store.webhooks.add(webhook())
    await store.schedules.add(schedule())
    for failures in (0, 1):
        after = await store.schedules.run(
            "acme",
            "nightly",
            lambda each, live, admit, failures=failures: Run(
                before=each, after=each.bump(NOW, failures=failures)
            ),
        )
    (entry,) = await store.webhook_deliveries.list_outbox(10)
    assert (entry.type, entry.subject) == ("schedule.failed", after.after)


async def test_rolled_back_changes(store):
    """A change that is not committed leaves nothing in the outbox."""
    await store.webhooks.add(webhook())
    added = job(1)
    await store.add([added])

    def fail(each: Job) -> Transition:
        raise ReelhaulError(ErrorReason.INTERNAL_ERROR, "no")

    results = await asyncio.gather(
        store.change(added.id, fail), store.change(added.id, end), return_exceptions=True
    )
    assert isinstance(results[0], ReelhaulError)
    assert [entry.type for entry in await store.webhook_deliveries.list_outbox(10)] == ["job.succeeded"]


async def test_events_are_recorded_once(store):
    """Entries become events once, numbered per tenant, whoever else tries."""
    await store.webhooks.add(webhook())
    await store.webhooks.add(webhook(tenant="other"))
    paused = [await pause(store, 1), await pause(store, 2), await pause(store, 3, tenant="other")]
    entries = await store.webhook_deliveries.list_outbox(10)
    new = [
        NewEvent(event=event(tenant=each.tenant, id=ids.new_id(NOW), subject=each.name), webhooks=("hook",))
        for each in paused
    ]
    results = await asyncio.gather(
        *(store.webhook_deliveries.record_events(entries, new, lambda batches: [], NOW) for _ in range(3)),
    )
    assert sorted(results) == [False, False, True]
    assert await store.webhook_deliveries.list_outbox(10) == []
    assert sorted(delivery.event.sequence for delivery in await listed(store)) == [1, 2]
    assert [each.event.sequence for each in await listed(store, tenant="other")] == [1]
    await record(store, event(9))
    assert [each.event.sequence for each in await listed(store, limit=1)][:1] == [3]


async def test_unwanted_events(store):
    """An event that no webhook wants is counted, and not stored."""
    await store.webhooks.add(webhook())
    await record(store, event(1), to=())
    await record(store, event(2))
    assert [each.event.sequence for each in await listed(store)] == [2]
    number = select(func.count()).select_from(webhook_events)
    assert await store.database.read(lambda connection: connection.execute(number).scalar()) == 1


async def test_finished_batches(store):
    """A batch has finished with the event of its last job, once, and again after a retry."""
    await store.webhooks.add(webhook())
    await store.add([job(number, batch_id="batch") for number in (1, 2, 3)])
    finished: list[object] = []

    def collect(batches):
        finished.extend(batches)
        return []

    async def drain(limit: int = 10) -> list[object]:
        finished.clear()
        entries = await store.webhook_deliveries.list_outbox(limit)
        assert await store.webhook_deliveries.record_events(entries, [], collect, NOW)
        return list(finished)

    await store.change(job(1).id, end)
    assert await drain() == []
    await store.change(job(2).id, lambda each: end(each))
    await store.change(job(3).id, lambda each: Transition(before=each, job=each.end(State.CANCELLED, NOW)))
    # The last entry waits.
    assert await drain(limit=1) == []
    (batch,) = await drain()
    assert (batch.tenant, batch.batch_id, batch.parent) == ("acme", "batch", "")
    assert batch.state_counts == {State.SUCCEEDED: 2, State.CANCELLED: 1}
    assert await drain() == []
    await store.change(job(3).id, lambda each: queue_transitions.retry(each, NOW))
    await store.change(job(3).id, end)
    (batch,) = await drain()
    assert batch.state_counts == {State.SUCCEEDED: 3}


async def test_claims_in_order(store):
    """Of one job, a delivery is claimed when the earlier one has ended, or has been tried for 5 minutes."""
    await store.webhooks.add(webhook())
    await record(store, event(1), event(2), event(3, subject="jobs/2"))
    claim = store.webhook_deliveries.claim_next
    _, first = await claim("acme", "hook", "w1", NOW)
    _, other = await claim("acme", "hook", "w1", NOW)
    assert (first.event.sequence, other.event.sequence) == (1, 3)
    assert await claim("acme", "hook", "w1", NOW) is None
    await finish(store, other, SUCCESS)
    tried = await finish(store, first, FAILURE)
    assert tried is not None
    assert tried.due == NOW + 5 * SECOND
    assert await claim("acme", "hook", "w1", NOW + 4 * SECOND) is None
    _, again = await claim("acme", "hook", "w1", NOW + 5 * SECOND)
    assert (again.id, again.attempts) == (first.id, 2)
    await finish(store, again, FAILURE, NOW + 5 * SECOND)
    assert await claim("acme", "hook", "w1", NOW + 299 * SECOND) is None
    _, second = await claim("acme", "hook", "w1", NOW + 300 * SECOND)
    assert second.event.sequence == 2


async def test_success_lets_the_next_one_go(store):
    """The delivery after a successful one may be sent at once."""
    await store.webhooks.add(webhook(failing_since=NOW))
    await record(store, event(1), event(2))
    for number in (1, 2):
        _, claimed = await store.webhook_deliveries.claim_next("acme", "hook", "w1", NOW)
        assert claimed.event.sequence == number
        done = await finish(store, claimed, SUCCESS)
        assert done is not None
        assert (done.state, done.http_status) == (DeliveryState.SUCCEEDED, 204)
    assert (await store.webhooks.get("acme", "hook")).failing_since is None


async def test_lost_senders(store):
    """A sender that is silent for its lease loses the delivery, and cannot complete it any more."""
    await store.webhooks.add(webhook())
    await record(store, event())
    _, lost = await store.webhook_deliveries.claim_next("acme", "hook", "w1", NOW)
    assert (
        await store.webhook_deliveries.claim_next("acme", "hook", "w1", NOW + deliveries.LEASE - SECOND)
        is None
    )
    _, taken = await store.webhook_deliveries.claim_next("acme", "hook", "w1", NOW + deliveries.LEASE)
    assert await finish(store, lost, FAILURE) is None
    done = await finish(store, taken, SUCCESS)
    assert done is not None
    assert done.attempts == 2


async def test_restarted_senders(store):
    """What a sender held is due at once when it has restarted; what others hold is not."""
    await store.webhooks.add(webhook())
    await record(store, event(1), event(2, subject="jobs/2"))
    _, first = await store.webhook_deliveries.claim_next("acme", "hook", "w1", NOW)
    await store.webhook_deliveries.claim_next("acme", "hook", "w2", NOW)
    await store.webhook_deliveries.release_claims("w1", NOW)
    assert await finish(store, first, SUCCESS) is None
    _, again = await store.webhook_deliveries.claim_next("acme", "hook", "w1", NOW)
    assert (again.id, again.attempts) == (first.id, 2)
    assert await store.webhook_deliveries.claim_next("acme", "hook", "w1", NOW) is None


async def test_due_webhooks(store):
    """Enabled webhooks are listed with the number of deliveries that may be sent now."""
    for name in ("hook", "busy", "idle"):
        await store.webhooks.add(webhook(name))
    await record(store, event(1), event(2), event(3, subject="jobs/2"))
    await record(store, *(event(n, subject=f"jobs/{n}") for n in range(9)), to=("busy",))
    due = await store.webhook_deliveries.list_due(NOW, 4, 10)
    assert sorted(due) == [("acme", "busy", 4), ("acme", "hook", 2)]
    assert await store.webhook_deliveries.list_due(NOW - SECOND, 4, 10) == []
    await store.webhooks.change("acme", "busy", lambda each: each.bump(NOW, state=WebhookState.DISABLED))
    assert await store.webhook_deliveries.list_due(NOW, 4, 10) == [("acme", "hook", 2)]


async def test_disabled_webhooks(store):
    """What was to be sent to a webhook that is disabled fails, and says why."""
    await store.webhooks.add(webhook())
    await record(store, event(1), event(2, subject=""))
    _, claimed = await store.webhook_deliveries.claim_next("acme", "hook", "w1", NOW)
    await store.webhooks.change("acme", "hook", lambda each: each.bump(NOW, state=WebhookState.DISABLED))
    found = await listed(store)
    assert [each.state for each in found] == [DeliveryState.FAILED] * 2
    assert [each.error.message for each in found] == ["not sent: webhooks/hook is DISABLED"] * 2
    assert await finish(store, claimed, SUCCESS) is None


async def test_gone_endpoints(store):
    """410 suspends the webhook, and fails what was to be sent to it."""
    await store.webhooks.add(webhook())
    await record(store, event(1, subject=""), event(2, subject=""))
    _, claimed = await store.webhook_deliveries.claim_next("acme", "hook", "w1", NOW)
    done = await finish(store, claimed, replace(FAILURE, http_status=410))
    assert done is not None
    assert done.state is DeliveryState.FAILED
    assert (await store.webhooks.get("acme", "hook")).state is WebhookState.SUSPENDED
    assert [each.state for each in await listed(store)] == [DeliveryState.FAILED] * 2


async def test_pages_of_deliveries(store):
    """Deliveries are listed by time in both directions, page by page, without their events' data."""
    await store.webhooks.add(webhook())
    await record(store, *(event(n, type="job.failed" if n % 2 else "job.paused") for n in range(5)))
    newest = await listed(store)
    assert [each.event.sequence for each in newest] == [5, 4, 3, 2, 1]
    assert await listed(store, descending=False) == newest[::-1]
    page = await listed(store, limit=2)
    assert page == newest[:3]
    after = (page[1].event.time, page[1].id)
    assert await listed(store, after=after) == newest[2:]
    full = await store.webhook_deliveries.get_delivery("acme", "hook", newest[0].id)
    assert full == replace(newest[0], event=replace(newest[0].event, data=b"data"))


async def test_deletion(store):
    """Old events go with their deliveries, and so do those of a deleted webhook."""
    await store.webhooks.add(webhook())
    await record(store, event())
    await store.webhook_deliveries.delete_old_events(NOW, 10)
    assert len(await listed(store)) == 1
    await store.webhook_deliveries.delete_old_events(NOW + SECOND, 10)
    assert await listed(store) == []
    await record(store, event())
    await store.webhooks.delete("acme", "hook")
    assert await listed(store) == []
