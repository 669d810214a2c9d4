"""Webhooks: endpoints of a tenant, which events they want, and when one is suspended."""

from __future__ import annotations

import secrets
from base64 import b64encode
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model.states import State
from reelhaul_runtime.errors import QuotaExceeded, ReelhaulError, StateConflict

#: Webhooks per tenant.
MAX_PER_TENANT = 100

#: A webhook is suspended if every try of this time failed.
SUSPENSION_PERIOD = timedelta(days=5)

#: How long the old secret signs too after a rotation, unless the caller says.
DEFAULT_GRACE, MAX_GRACE = timedelta(hours=24), timedelta(days=7)

#: The events of jobs, by the state that a job enters.
JOB_EVENT_TYPES = {
    State.SUCCEEDED: "job.succeeded",
    State.FAILED: "job.failed",
    State.CANCELLED: "job.cancelled",
    State.RETRYING: "job.retrying",
    State.PAUSED: "job.paused",
}
BATCH_FINISHED, SCHEDULE_FAILED, TEST = "batch.finished", "schedule.failed", "webhook.test"
EVENT_TYPES = frozenset({*JOB_EVENT_TYPES.values(), BATCH_FINISHED, SCHEDULE_FAILED, TEST})

_SECRET_BYTES = 32


class WebhookState(IntEnum):
    """Whether events are sent; numbered as Webhook.State."""

    ENABLED = 1
    #: Disabled by a user.
    DISABLED = 2
    #: Disabled by the service: the endpoint fails, or responded 410.
    SUSPENDED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """An endpoint of a tenant that receives events."""

    tenant: str
    id: str
    url: str
    #: Types or patterns such as "job.*"; empty: all.
    event_types: tuple[str, ...] = ()
    #: Filter on the jobs whose events are sent.
    filter: str = ""
    state: WebhookState = WebhookState.ENABLED
    sealed_secret: bytes = field(repr=False)
    #: The secret before the last rotation, which signs too until ``old_secret_end``.
    sealed_old_secret: bytes = field(default=b"", repr=False)
    old_secret_end: datetime | None = None
    #: Time of the first failed try since the last success; None if the last try succeeded.
    failing_since: datetime | None = None
    revision: int = 1
    create_time: datetime
    update_time: datetime

    @property
    def name(self) -> str:
        """The resource name."""
        return f"webhooks/{self.id}"

    @property
    def etag(self) -> str:
        """The strong entity tag, quoted: the revision."""
        return f'"{self.revision}"'

    def bump(self, now: datetime, **fields: Any) -> Webhook:
        """Return this webhook with other *fields* and the next revision."""
        return replace(self, revision=self.revision + 1, update_time=now, **fields)

    def wants_type(self, event_type: str) -> bool:
        """Return whether events of this type are sent."""
        patterns = (event_type, f"{event_type.partition('.')[0]}.*")
        return not self.event_types or any(pattern in self.event_types for pattern in patterns)

    def sealed_secrets(self, now: datetime) -> tuple[bytes, ...]:
        """Return the sealed secrets that sign at *now*, the new one first."""
        in_grace = self.old_secret_end is not None and now < self.old_secret_end
        return (self.sealed_secret, self.sealed_old_secret) if in_grace else (self.sealed_secret,)


def create_secret() -> str:
    """Return a new random secret in the form of Standard Webhooks."""
    return f"whsec_{b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"


def is_event_pattern(text: str) -> bool:
    """Return whether *text* is a type of events, or a group of them such as "job.*"."""
    return text in EVENT_TYPES or any(f"{each.partition('.')[0]}.*" == text for each in EVENT_TYPES)


def rotate(webhook: Webhook, sealed_secret: bytes, grace: timedelta, now: datetime) -> Webhook:
    """Return *webhook* with a new secret; the present one signs too until *grace* ends."""
    return webhook.bump(
        now,
        sealed_secret=sealed_secret,
        sealed_old_secret=webhook.sealed_secret if grace else b"",
        old_secret_end=now + grace if grace else None,
    )


def record_success(webhook: Webhook) -> Webhook:
    """Return *webhook* after a successful try."""
    return webhook if webhook.failing_since is None else replace(webhook, failing_since=None)


def record_failure(webhook: Webhook, now: datetime, *, gone: bool) -> Webhook:
    """Return *webhook* after a failed try: suspended after too many, or at once if the endpoint is *gone*."""
    since = webhook.failing_since or now
    if webhook.state is WebhookState.ENABLED and (gone or now - since >= SUSPENSION_PERIOD):
        return webhook.bump(now, state=WebhookState.SUSPENDED, failing_since=since)
    return webhook if webhook.failing_since else replace(webhook, failing_since=since)


def check_enabled(webhook: Webhook) -> None:
    """Raise STATE_CONFLICT unless events are sent to *webhook*."""
    if webhook.state is not WebhookState.ENABLED:
        name = webhook.state.name
        text = f"{webhook.name} is {name}: set disabled to false first"
        raise StateConflict(webhook.name, name, text)


def check_etag(webhook: Webhook, etag: str) -> None:
    """Raise ETAG_MISMATCH unless *etag* is empty or that of *webhook*."""
    if etag and etag != webhook.etag:
        raise ReelhaulError(
            ErrorReason.ETAG_MISMATCH,
            f"{webhook.name} has changed since: read it again",
            metadata={"resource": webhook.name, "etag": webhook.etag},
        )


def already_exists(webhook: Webhook) -> ReelhaulError:
    """Return the error for an id that is taken."""
    text = f"{webhook.name} exists"
    return ReelhaulError(ErrorReason.RESOURCE_EXISTS, text, metadata={"resource": webhook.name})


def quota_exceeded(webhook: Webhook) -> ReelhaulError:
    """Return the error for a tenant at its limit."""
    text = f"a tenant has at most {MAX_PER_TENANT} webhooks"
    return QuotaExceeded("webhooks", text, subject=f"tenants/{webhook.tenant}", limit=MAX_PER_TENANT)
