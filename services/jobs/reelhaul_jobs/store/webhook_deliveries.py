"""The WebhookDeliveryStore in SQL: the outbox becomes events, and senders claim deliveries by a lease."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from google.rpc import status_pb2
from sqlalchemy import (
    ColumnElement,
    Connection,
    asc,
    bindparam,
    desc,
    exists,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from reelhaul_jobs import metrics
from reelhaul_jobs.model import ids, webhook_delivery
from reelhaul_jobs.model.webhook import Webhook, WebhookState
from reelhaul_jobs.model.webhook_delivery import (
    Delivery,
    DeliveryState,
    Event,
    NewEvent,
    OutboxEntry,
    TryResult,
)
from reelhaul_jobs.ports.webhooks import BatchRule, DeliveryQuery, DeliveryRule, WebhookRule
from reelhaul_jobs.store import retention, rows, webhook_outbox_reader, webhooks
from reelhaul_jobs.store.tables import jobs
from reelhaul_jobs.store.webhook_tables import IS_ENABLED, IS_PENDING, webhook_deliveries, webhook_events
from reelhaul_jobs.store.webhook_tables import webhooks as webhooks_table
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.filter_conditions import ToColumn, condition
from reelhaul_runtime.sql.writer import after_commit

_deliveries, _events = webhook_deliveries.c, webhook_events.c
_earlier = webhook_deliveries.alias("earlier")

_OF_WEBHOOK = (_deliveries.tenant == bindparam("of_tenant")) & (
    _deliveries.webhook == bindparam("of_webhook")
)
# Another delivery of the subject comes first: it was not tried, or not long enough ago.
_IS_HELD = exists().where(
    _earlier.c.state == int(DeliveryState.PENDING),
    _earlier.c.tenant == _deliveries.tenant,
    _earlier.c.webhook == _deliveries.webhook,
    _earlier.c.subject == _deliveries.subject,
    _earlier.c.sequence < _deliveries.sequence,
    or_(_earlier.c.hold_end.is_(None), _earlier.c.hold_end > bindparam("now")),
)
_MAY_BE_SENT = (IS_PENDING, _deliveries.due <= bindparam("now"), or_(_deliveries.subject == "", ~_IS_HELD))
_TRACEPARENT = select(jobs.c.traceparent).where(jobs.c.id == bindparam("job"))
_NEXT = (
    select(_deliveries.id)
    .where(_OF_WEBHOOK, *_MAY_BE_SENT)
    .order_by(_deliveries.due, _deliveries.sequence)
    .limit(bindparam("most"))
)
_WEBHOOKS_DUE = (
    select(webhooks_table.c.tenant, webhooks_table.c.id)
    .where(
        IS_ENABLED,
        exists().where(
            IS_PENDING,
            _deliveries.tenant == webhooks_table.c.tenant,
            _deliveries.webhook == webhooks_table.c.id,
            _deliveries.due <= bindparam("now"),
        ),
    )
    # Whoever comes first gets the last places.
    .order_by(func.random())
    .limit(bindparam("most"))
)
_ENABLED = select(webhooks_table).where(
    IS_ENABLED, webhooks_table.c.tenant.in_(bindparam("tenants", expanding=True))
)
_EVENT_COLUMNS = (
    _events.tenant.label("event_tenant"),
    _events.type.label("event_type"),
    _events.time.label("event_time"),
)
_WITH_EVENT = select(webhook_deliveries, *_EVENT_COLUMNS, _events.data.label("event_data")).join(
    webhook_events, _events.id == _deliveries.event
)
_LISTED = select(webhook_deliveries, *_EVENT_COLUMNS).join(webhook_events, _events.id == _deliveries.event)
_BY_ID = _WITH_EVENT.where(_OF_WEBHOOK, _deliveries.id == bindparam("of_id"))
_RELEASE = (
    update(webhook_deliveries)
    .where(IS_PENDING, _deliveries.sender == bindparam("of_sender"))
    .values(sender="", due=bindparam("now"))
)
_UPDATE = update(webhook_deliveries).where(_deliveries.id == bindparam("of_id"))


def _unchanged(value: Any) -> Any:
    return value


_FILTER_COLUMNS: Mapping[str, tuple[ColumnElement[Any], ToColumn]] = {
    "state": (_deliveries.state, _unchanged),
    "event_type": (_events.type, _unchanged),
    "event_id": (_deliveries.event, _unchanged),
    "create_time": (_deliveries.time, rows.to_micros),
}


class SqlWebhookDeliveryStore:
    """The WebhookDeliveryStore of one database, which also has the jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_outbox(self, limit: int) -> Sequence[OutboxEntry]:
        return await self._database.read(
            lambda connection: webhook_outbox_reader.list_entries(connection, limit)
        )

    async def list_enabled(self, tenants: Collection[str]) -> Sequence[Webhook]:
        found = await self._database.read(
            lambda connection: list(connection.execute(_ENABLED, {"tenants": list(tenants)}).mappings())
        )
        return [webhooks.webhook_from_row(row) for row in found]

    async def record_events(
        self, entries: Sequence[OutboxEntry], events: Sequence[NewEvent], rule: BatchRule, now: datetime
    ) -> bool:
        def op(connection: Connection) -> bool:
            if not webhook_outbox_reader.delete_entries(connection, entries):
                return False
            finished = webhook_outbox_reader.find_finished_batches(connection, entries)
            _insert_events(connection, [*events, *rule(finished)], now)
            return True

        return await self._database.write(op)

    async def add_delivery(self, delivery: Delivery, now: datetime) -> Delivery:
        def op(connection: Connection) -> Delivery:
            webhooks.get(connection, delivery.tenant, delivery.webhook, lock=True)
            (event,) = webhook_outbox_reader.number(connection, [delivery.event])
            numbered = replace(delivery, event=event)
            connection.execute(insert(webhook_events), _row_from_event(event, now))
            connection.execute(insert(webhook_deliveries), _row_from_delivery(numbered))
            return numbered

        return await self._database.write(op)

    async def list_due(self, now: datetime, per_webhook: int, limit: int) -> Sequence[tuple[str, str, int]]:
        def op(connection: Connection) -> list[tuple[str, str, int]]:
            values: dict[str, Any] = {"now": rows.to_micros(now)}
            due = connection.execute(_WEBHOOKS_DUE, {**values, "most": limit}).all()
            counted = []
            for tenant, webhook in due:
                values |= {"of_tenant": tenant, "of_webhook": webhook, "most": per_webhook}
                counted.append((tenant, webhook, len(connection.execute(_NEXT, values).all())))
            return [each for each in counted if each[2]]

        return await self._database.read(op)

    async def claim_next(
        self, tenant: str, webhook_id: str, sender: str, now: datetime
    ) -> tuple[Webhook, Delivery] | None:
        return await self._database.write(
            partial(_claim_next, tenant=tenant, webhook_id=webhook_id, sender=sender, now=now)
        )

    async def release_claims(self, sender: str, now: datetime) -> None:
        values = {"of_sender": sender, "now": rows.to_micros(now)}
        await self._database.write(lambda connection: connection.execute(_RELEASE, values) and None)

    async def complete(
        self, claimed: Delivery, result: TryResult, rule: DeliveryRule, webhook_rule: WebhookRule
    ) -> Delivery | None:
        def op(connection: Connection) -> Delivery | None:
            try:
                # First the webhook: whoever disables it fails its deliveries in this order, too.
                webhook = webhooks.get(connection, claimed.tenant, claimed.webhook, lock=True)
                present = _get(connection, claimed.tenant, claimed.webhook, claimed.id, lock=True)
            except NotFound:
                return None
            if (present.sender, present.attempts) != (claimed.sender, claimed.attempts):
                return None
            after = _update(connection, present, rule(present))
            changed = webhooks.change(connection, claimed.tenant, claimed.webhook, webhook_rule)
            if webhook.state is WebhookState.ENABLED is not changed.state:
                after_commit(connection, metrics.WEBHOOKS_DISABLED.inc)
            return after

        return await self._database.write(op)

    async def get_delivery(self, tenant: str, webhook_id: str, delivery_id: str) -> Delivery:
        return await self._database.read(lambda connection: _get(connection, tenant, webhook_id, delivery_id))

    async def change_delivery(
        self, tenant: str, webhook_id: str, delivery_id: str, rule: DeliveryRule
    ) -> Delivery:
        def op(connection: Connection) -> Delivery:
            before = _get(connection, tenant, webhook_id, delivery_id, lock=True)
            return _update(connection, before, rule(before))

        return await self._database.write(op)

    async def list_deliveries(self, query: DeliveryQuery) -> Sequence[Delivery]:
        found = await self._database.read(
            lambda connection: list(
                connection.execute(
                    _list_statement(query), {"of_tenant": query.tenant, "of_webhook": query.webhook}
                ).mappings()
            )
        )
        return [_delivery_from_row(row) for row in found]

    async def get_traceparent(self, job: str) -> str:
        values = {"job": job.removeprefix("jobs/")}
        row = await self._database.read(lambda connection: connection.execute(_TRACEPARENT, values).first())
        return "" if row is None else str(row.traceparent)

    async def delete_old_events(self, before: datetime, limit: int) -> int:
        return await self._database.write(
            partial(retention.delete_oldest, time=_events.create_time, before=before, limit=limit)
        )


def _list_statement(query: DeliveryQuery) -> Any:
    direction, columns = (desc if query.descending else asc), (_deliveries.time, _deliveries.id)
    statement = _LISTED.where(_OF_WEBHOOK).order_by(*map(direction, columns)).limit(query.limit + 1)
    if query.where is not None:
        statement = statement.where(condition(query.where, _FILTER_COLUMNS))
    if query.after is not None:
        after = tuple_(rows.to_micros(query.after[0]), query.after[1])
        statement = statement.where(
            tuple_(*columns) < after if query.descending else tuple_(*columns) > after
        )
    return statement


def _claim_next(
    connection: Connection, tenant: str, webhook_id: str, sender: str, now: datetime
) -> tuple[Webhook, Delivery] | None:
    try:
        # The lock keeps the order: two senders do not claim deliveries of one job at once.
        webhook = webhooks.get(connection, tenant, webhook_id, lock=True)
    except NotFound:
        return None
    values = {"of_tenant": tenant, "of_webhook": webhook_id, "now": rows.to_micros(now), "most": 1}
    delivery_id = connection.execute(_NEXT, values).scalar()
    if delivery_id is None:
        return None
    before = _get(connection, tenant, webhook_id, delivery_id, lock=True)
    return webhook, _update(connection, before, webhook_delivery.claim(before, sender, now))


def _get(
    connection: Connection, tenant: str, webhook_id: str, delivery_id: str, *, lock: bool = False
) -> Delivery:
    statement: Any = _BY_ID.with_for_update(of=webhook_deliveries) if lock else _BY_ID
    values = {"of_tenant": tenant, "of_webhook": webhook_id, "of_id": delivery_id}
    row = connection.execute(statement, values).mappings().first()
    if row is None:
        raise NotFound(f"webhooks/{webhook_id}/deliveries/{delivery_id}")
    return _delivery_from_row(row)


def _update(connection: Connection, before: Delivery, after: Delivery) -> Delivery:
    if after is not before:
        connection.execute(_UPDATE, {"of_id": after.id, **_row_from_delivery(after)})
    return after


def _insert_events(connection: Connection, new: Sequence[NewEvent], now: datetime) -> None:
    """Number the events of *new*, and insert those that a webhook wants, with their deliveries."""
    numbered = webhook_outbox_reader.number(connection, [each.event for each in new])
    wanted = [(event, each.webhooks) for event, each in zip(numbered, new, strict=True) if each.webhooks]
    if not wanted:
        return
    deliveries = [
        Delivery(id=ids.new_id(now), tenant=event.tenant, webhook=webhook, event=event, due=now)
        for event, webhook_ids in wanted
        for webhook in webhook_ids
    ]
    connection.execute(insert(webhook_events), [_row_from_event(event, now) for event, _ in wanted])
    connection.execute(insert(webhook_deliveries), [_row_from_delivery(each) for each in deliveries])


def _row_from_event(event: Event, now: datetime) -> dict[str, Any]:
    return {
        "id": event.id,
        "tenant": event.tenant,
        "type": event.type,
        "time": rows.to_micros(event.time),
        "sequence": event.sequence,
        "subject": event.subject,
        "data": event.data,
        "create_time": rows.to_micros(now),
    }


def _row_from_delivery(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "tenant": delivery.tenant,
        "webhook": delivery.webhook,
        "event": delivery.event.id,
        "subject": delivery.event.subject,
        "sequence": delivery.event.sequence,
        "time": rows.to_micros(delivery.event.time),
        "state": int(delivery.state),
        "attempts": delivery.attempts,
        "failures": delivery.failures,
        "http_status": delivery.http_status,
        "error": delivery.error.SerializeToString() if delivery.error else None,
        "due": rows.to_micros_or_none(delivery.due),
        "sender": delivery.sender,
        "hold_end": rows.to_micros_or_none(delivery.hold_end),
    }


def _delivery_from_row(row: rows.Row) -> Delivery:
    event = Event(
        id=row["event"],
        tenant=row["event_tenant"],
        type=row["event_type"],
        time=rows.from_micros(row["event_time"]),
        subject=row["subject"],
        data=bytes(row.get("event_data", b"")),
        sequence=row["sequence"],
    )
    return Delivery(
        id=row["id"],
        tenant=row["tenant"],
        webhook=row["webhook"],
        event=event,
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        failures=row["failures"],
        http_status=row["http_status"],
        error=None if row["error"] is None else status_pb2.Status.FromString(row["error"]),
        due=rows.from_micros_or_none(row["due"]),
        sender=row["sender"],
        hold_end=rows.from_micros_or_none(row["hold_end"]),
    )
