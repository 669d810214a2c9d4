"""The WebhookStore in SQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, update

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import webhook as model
from reelhaul_jobs.model.webhook import Webhook, WebhookState
from reelhaul_jobs.model.webhook_delivery import DeliveryState
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.ports.webhooks import WebhookRule
from reelhaul_jobs.store import idempotency, rows
from reelhaul_jobs.store.access_tables import tenants
from reelhaul_jobs.store.idempotency import RecordedResponse
from reelhaul_jobs.store.webhook_tables import (
    IS_PENDING,
    webhook_deliveries,
    webhooks,
)
from reelhaul_runtime.errors import NotFound, ReelhaulError, to_status
from reelhaul_runtime.sql.database import Database

_BY_ID = (webhooks.c.tenant == bindparam("of_tenant")) & (webhooks.c.id == bindparam("of_id"))
_WEBHOOK = select(webhooks).where(_BY_ID)
_WEBHOOKS = select(webhooks).where(webhooks.c.tenant == bindparam("of_tenant"))
_TENANT = select(tenants.c.id).where(tenants.c.id == bindparam("of_tenant"))
_COUNT = select(func.count()).select_from(webhooks).where(webhooks.c.tenant == bindparam("of_tenant"))
_UPDATE = update(webhooks).where(_BY_ID)
_DELETE = delete(webhooks).where(_BY_ID)
_FAIL_PENDING = (
    update(webhook_deliveries)
    .where(
        IS_PENDING,
        webhook_deliveries.c.tenant == bindparam("of_tenant"),
        webhook_deliveries.c.webhook == bindparam("of_id"),
    )
    .values(state=int(DeliveryState.FAILED), due=None, sender="", error=bindparam("why"))
)


class SqlWebhookStore:
    """The WebhookStore of one database, which also has the jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, webhook: Webhook, request: IdempotencyKey | None = None) -> Webhook:
        return await idempotency.write(self._database, partial(_add, webhook=webhook, request=request))

    async def get(self, tenant: str, webhook_id: str) -> Webhook:
        return await self._database.read(lambda connection: get(connection, tenant, webhook_id))

    async def list_all(self, tenant: str) -> Sequence[Webhook]:
        found = await self._database.read(
            lambda connection: list(connection.execute(_WEBHOOKS, {"of_tenant": tenant}).mappings())
        )
        return [webhook_from_row(row) for row in found]

    async def change(self, tenant: str, webhook_id: str, rule: WebhookRule) -> Webhook:
        return await self._database.write(lambda connection: change(connection, tenant, webhook_id, rule))

    async def delete(self, tenant: str, webhook_id: str) -> None:
        def op(connection: Connection) -> None:
            get(connection, tenant, webhook_id, lock=True)
            connection.execute(_DELETE, {"of_tenant": tenant, "of_id": webhook_id})

        await self._database.write(op)


def get(connection: Connection, tenant: str, webhook_id: str, *, lock: bool = False) -> Webhook:
    """Return the webhook, locked until the transaction ends if *lock*. Raises ``NotFound``."""
    statement: Any = _WEBHOOK.with_for_update() if lock else _WEBHOOK
    row = connection.execute(statement, {"of_tenant": tenant, "of_id": webhook_id}).mappings().first()
    if row is None:
        raise NotFound(f"webhooks/{webhook_id}")
    return webhook_from_row(row)


def change(connection: Connection, tenant: str, webhook_id: str, rule: WebhookRule) -> Webhook:
    """Store what *rule* returns; fail the pending deliveries of a webhook that is enabled no more."""
    before = get(connection, tenant, webhook_id, lock=True)
    after = rule(before)
    key = {"of_tenant": tenant, "of_id": webhook_id}
    if after is not before:
        connection.execute(_UPDATE, key | _row_from_webhook(after))
    if before.state is WebhookState.ENABLED is not after.state:
        connection.execute(_FAIL_PENDING, key | {"why": _not_sent(after)})
    return after


def webhook_from_row(row: rows.Row) -> Webhook:
    """Return the webhook of a row with all columns."""
    return Webhook(
        tenant=row["tenant"],
        id=row["id"],
        url=row["url"],
        event_types=tuple(json.loads(row["event_types"])),
        filter=row["filter"],
        state=WebhookState(row["state"]),
        sealed_secret=bytes(row["sealed_secret"]),
        sealed_old_secret=bytes(row["sealed_old_secret"]),
        old_secret_end=rows.from_micros_or_none(row["old_secret_end"]),
        failing_since=rows.from_micros_or_none(row["failing_since"]),
        revision=row["revision"],
        create_time=rows.from_micros(row["create_time"]),
        update_time=rows.from_micros(row["update_time"]),
    )


def _add(connection: Connection, webhook: Webhook, request: IdempotencyKey | None) -> Webhook:
    if (response := idempotency.find_response(connection, request)) is not None:
        return get(connection, webhook.tenant, response.ids[0])
    key = {"of_tenant": webhook.tenant}
    # Locked, so that another webhook at the limit waits.
    connection.execute(_TENANT.with_for_update(), key)
    if connection.execute(_COUNT, key).scalar_one() >= model.MAX_PER_TENANT:
        raise model.quota_exceeded(webhook)
    inserted = connection.execute(
        idempotency.insert_or_ignore(connection, webhooks).returning(webhooks.c.id),
        _row_from_webhook(webhook),
    )
    if inserted.first() is None:
        raise model.already_exists(webhook)
    idempotency.record_response(connection, request, RecordedResponse([webhook.id]))
    return webhook


def _row_from_webhook(webhook: Webhook) -> dict[str, Any]:
    return {
        "tenant": webhook.tenant,
        "id": webhook.id,
        "url": webhook.url,
        "event_types": json.dumps(webhook.event_types),
        "filter": webhook.filter,
        "state": int(webhook.state),
        "sealed_secret": webhook.sealed_secret,
        "sealed_old_secret": webhook.sealed_old_secret,
        "old_secret_end": rows.to_micros_or_none(webhook.old_secret_end),
        "failing_since": rows.to_micros_or_none(webhook.failing_since),
        "revision": webhook.revision,
        "create_time": rows.to_micros(webhook.create_time),
        "update_time": rows.to_micros(webhook.update_time),
    }


def _not_sent(webhook: Webhook) -> bytes:
    text = f"not sent: {webhook.name} is {webhook.state.name}"
    metadata = {"resource": webhook.name, "state": webhook.state.name}
    error = ReelhaulError(ErrorReason.STATE_CONFLICT, text, metadata=metadata)
    status: bytes = to_status(error).SerializeToString()
    return status
