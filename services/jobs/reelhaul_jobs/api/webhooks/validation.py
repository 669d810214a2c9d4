"""Validation of a webhook before it is stored, except what its host name resolves to."""

from __future__ import annotations

from reelhaul.jobs.v1 import webhook_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.filters import JOB_FIELDS
from reelhaul_jobs.model.webhook import EVENT_TYPES, is_event_pattern
from reelhaul_runtime.filters.parser import parse
from reelhaul_runtime.validation import urls
from reelhaul_runtime.validation.violations import FieldViolations

_MAX_FILTER = 2048


def validate(webhook: webhook_pb2.Webhook) -> None:
    """Raise URL_INVALID, URL_FORBIDDEN, FILTER_INVALID or FIELD_INVALID if *webhook* may not be stored."""
    violations = FieldViolations()
    urls.check_url(webhook.url, "webhook.url", violations)
    for event_type in webhook.event_types[: len(EVENT_TYPES) + 1]:
        if not is_event_pattern(event_type):
            text = f"{event_type[:40]!r} is no type of events, such as job.succeeded or job.*"
            violations.add("webhook.event_types", text)
    if len(set(webhook.event_types)) < len(webhook.event_types):
        violations.add("webhook.event_types", "has a type twice")
    violations.raise_if_any()
    fields.check_text(webhook.filter, "webhook.filter", _MAX_FILTER)
    parse(webhook.filter, JOB_FIELDS)
