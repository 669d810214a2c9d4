"""Conversion between the messages of WebhookService and the model."""

from __future__ import annotations

import json
import re
import uuid
from datetime import datetime, timedelta
from typing import cast

from google.protobuf import json_format

from reelhaul.jobs.v1 import job_service_pb2, webhook_pb2, webhook_service_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.jobs.messages import job_to_proto
from reelhaul_jobs.api.schedules.messages import schedule_to_proto
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.results import JobView
from reelhaul_jobs.model.schedule import Schedule
from reelhaul_jobs.model.webhook import DEFAULT_GRACE, MAX_GRACE, Webhook, WebhookState
from reelhaul_jobs.model.webhook_delivery import Delivery, DeliveryState, Event, FinishedBatch
from reelhaul_runtime.errors import FieldInvalid

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DELIVERY = re.compile(r"(?P<webhook>webhooks/[^/]{1,63})/deliveries/(?P<id>[^/]{1,63})")


def parse_webhook_id(name: str, field: str = "name") -> str:
    """Return the id of ``webhooks/{webhook}``."""
    webhook_id = name.removeprefix("webhooks/")
    if webhook_id == name or not (_ID.fullmatch(webhook_id) or _UUID.fullmatch(webhook_id)):
        raise FieldInvalid(field, "must have the form webhooks/{webhook}")
    return webhook_id


def parse_delivery_name(name: str) -> tuple[str, str]:
    """Return the ids of ``webhooks/{webhook}/deliveries/{delivery}``."""
    match = _DELIVERY.fullmatch(name)
    if match is None or not _UUID.fullmatch(match["id"]):
        raise FieldInvalid("name", "must have the form webhooks/{webhook}/deliveries/{delivery}")
    return parse_webhook_id(match["webhook"]), match["id"]


def new_webhook_id(requested: str) -> str:
    """Return the requested id if it is valid, or a new one if none is requested."""
    if requested and not _ID.fullmatch(requested):
        raise FieldInvalid("webhook_id", "must match ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")
    return requested or str(uuid.uuid4())


def webhook_from_proto(message: webhook_pb2.Webhook, webhook_id: str, tenant: str, now: datetime) -> Webhook:
    """Return the new webhook, without its secret, that the validated *message* describes."""
    return Webhook(
        tenant=tenant,
        id=webhook_id,
        url=message.url,
        event_types=tuple(message.event_types),
        filter=message.filter,
        state=WebhookState.DISABLED if message.disabled else WebhookState.ENABLED,
        sealed_secret=b"",
        create_time=now,
        update_time=now,
    )


def webhook_to_proto(webhook: Webhook, secret: str = "") -> webhook_pb2.Webhook:
    """Return the webhook that callers see, with its *secret* if it is new."""
    return webhook_pb2.Webhook(
        name=webhook.name,
        url=webhook.url,
        event_types=webhook.event_types,
        filter=webhook.filter,
        secret=secret,
        disabled=webhook.state is WebhookState.DISABLED,
        state=cast("webhook_pb2.Webhook.State.ValueType", webhook.state),
        create_time=fields.to_timestamp(webhook.create_time),
        update_time=fields.to_timestamp(webhook.update_time),
        etag=webhook.etag,
    )


def merge_update(
    webhook: Webhook, request: webhook_service_pb2.UpdateWebhookRequest
) -> tuple[webhook_pb2.Webhook, WebhookState]:
    """Return *webhook* with the fields that the mask of *request* names, and its state then.

    Without a mask, all set fields are merged.
    """
    update = request.webhook
    mask = fields.resolve_update_mask(request.update_mask, update)
    merged = webhook_to_proto(webhook)
    mask.MergeMessage(update, merged, True, True)
    if "disabled" not in mask.paths:
        return merged, webhook.state
    return merged, WebhookState.DISABLED if merged.disabled else WebhookState.ENABLED


def parse_grace(request: webhook_service_pb2.RotateWebhookSecretRequest) -> timedelta:
    """Return how long the old secret signs too."""
    if not request.HasField("grace"):
        return DEFAULT_GRACE
    seconds = fields.to_seconds(request.grace)
    if not 0 <= seconds <= MAX_GRACE.total_seconds():
        raise FieldInvalid("grace", "must be 0 s to 7 days")
    return timedelta(seconds=seconds)


def delivery_to_proto(delivery: Delivery, *, with_event: bool) -> webhook_pb2.Delivery:
    """Return the delivery that callers see; in lists without its event."""
    waits = delivery.state is DeliveryState.PENDING and not delivery.sender
    return webhook_pb2.Delivery(
        name=delivery.name,
        event_id=delivery.event.id,
        event_type=delivery.event.type,
        state=cast("webhook_pb2.Delivery.State.ValueType", delivery.state),
        attempt_count=delivery.attempts,
        http_status=delivery.http_status,
        error=delivery.error,
        next_attempt_time=fields.to_timestamp(delivery.due) if waits else None,
        event=event_to_proto(delivery.event) if with_event else None,
        create_time=fields.to_timestamp(delivery.event.time),
    )


def event_to_proto(event: Event) -> webhook_pb2.Event:
    """Return the event that endpoints receive."""
    return webhook_pb2.Event(
        type=event.type,
        timestamp=fields.to_timestamp(event.time),
        data=webhook_pb2.Event.Data.FromString(event.data),
        sequence=event.sequence,
    )


def event_to_json(event: Event) -> str:
    """Return the body of a delivery: proto3 JSON without white space."""
    return json.dumps(json_format.MessageToDict(event_to_proto(event)), separators=(",", ":"))


def encode_subject(subject: Job | Schedule | FinishedBatch) -> bytes:
    """Return the serialized Event.Data of the subject of an event."""
    data = webhook_pb2.Event.Data()
    match subject:
        case Job():
            data.job.CopyFrom(job_to_proto(JobView.from_row(subject), job_service_pb2.JOB_VIEW_BASIC))
        case Schedule():
            data.schedule.CopyFrom(schedule_to_proto(subject))
        case FinishedBatch():
            data.batch.batch_id = subject.batch_id
            data.batch.parent_job = f"jobs/{subject.parent}" if subject.parent else ""
            data.batch.state_counts.update(
                {state.name: number for state, number in subject.state_counts.items()}
            )
    return data.SerializeToString()
