"""Events of webhooks and their deliveries: when a delivery is tried again, and when it fails for good."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum

from google.rpc import status_pb2

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.schedule import Schedule
from reelhaul_jobs.model.states import State
from reelhaul_jobs.model.webhook import TEST

#: Seconds that one try may take in total, and how long a sender holds a delivery: a sender that went silent
#: loses it then.
TRY_SECONDS = 15.0
LEASE = timedelta(seconds=20)

#: The delays after failed tries; after the last try the delivery fails.
RETRY_DELAYS = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
_JITTER = 0.1
_MAX_RETRY_AFTER = timedelta(hours=24)

#: How long a delivery whose tries fail delays later events of the same job.
MAX_HOLD = timedelta(minutes=5)

#: How long events and deliveries are kept.
RETENTION = timedelta(days=7)

#: Returns a random number of 0 to 1.
Random = Callable[[], float]


class DeliveryState(IntEnum):
    """Result of a delivery; numbered as jobs.v1.Delivery.State."""

    PENDING = 1
    SUCCEEDED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedBatch:
    """A batch, or the jobs of an expansion, all of which have ended."""

    tenant: str
    batch_id: str
    #: Id of the expansion that created it; empty if none did.
    parent: str
    state_counts: Mapping[State, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """A change that was written together with the row of its subject, not yet turned into an event."""

    id: int
    tenant: str
    type: str
    time: datetime
    #: The job or the schedule after the change.
    subject: Job | Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happened; the subject of deliveries."""

    id: str
    tenant: str
    type: str
    time: datetime
    #: Resource name of what it is about: events of one subject are delivered in order. Empty: no order.
    subject: str
    #: A serialized jobs.v1.Event.Data.
    data: bytes
    #: Set by the store.
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event, and the ids of the tenant's webhooks that want it."""

    event: Event
    webhooks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event for one endpoint. Its event's fields but ``data`` are part of it."""

    id: str
    tenant: str
    webhook: str
    event: Event
    state: DeliveryState = DeliveryState.PENDING
    #: Tries made, also before a redelivery.
    attempts: int = 0
    #: Failed tries since it was created or redelivered.
    failures: int = 0
    http_status: int = 0
    error: status_pb2.Status | None = None
    #: Time of the next try; while it is sent, the end of the sender's lease. None if it has ended.
    due: datetime | None = None
    #: The replica that sends it now; empty: none.
    sender: str = ""
    #: Until then it delays later events of its subject; None: until it has been tried.
    hold_end: datetime | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return f"webhooks/{self.webhook}/deliveries/{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TryResult:
    """The result of one try."""

    #: 0: no response.
    http_status: int = 0
    #: None: success.
    error: status_pb2.Status | None = None
    #: What the endpoint asks for.
    retry_after: timedelta | None = None

    @property
    def gone(self) -> bool:
        """Whether the endpoint wants no more events."""
        return self.http_status == 410


def claim(delivery: Delivery, sender: str, now: datetime) -> Delivery:
    """Return *delivery* as *sender* holds it."""
    return replace(delivery, sender=sender, attempts=delivery.attempts + 1, due=now + LEASE)


def complete(delivery: Delivery, result: TryResult, now: datetime, random: Random) -> Delivery:
    """Return *delivery* after the try that its sender made."""
    tried = replace(delivery, sender="", http_status=result.http_status, error=result.error, due=None)
    if result.error is None:
        return replace(tried, state=DeliveryState.SUCCEEDED)
    failures = delivery.failures + 1
    if delivery.event.type == TEST or result.gone or failures > len(RETRY_DELAYS):
        return replace(tried, state=DeliveryState.FAILED, failures=failures)
    # The jitter only delays: the tries of many deliveries to an endpoint that was away are spread.
    delay = RETRY_DELAYS[failures - 1] * (1 + _JITTER * random())
    if result.retry_after is not None:
        delay = max(delay, min(result.retry_after, _MAX_RETRY_AFTER))
    hold_end = delivery.hold_end or now + MAX_HOLD
    return replace(tried, failures=failures, due=now + delay, hold_end=hold_end)


def redeliver(delivery: Delivery, now: datetime) -> Delivery:
    """Return *delivery* to be sent now, with all its tries; no change while it is sent anyway."""
    if delivery.state is DeliveryState.PENDING and delivery.sender:
        return delivery
    return replace(
        delivery,
        state=DeliveryState.PENDING,
        failures=0,
        due=now,
        sender="",
        # Later events of its job do not wait for it again.
        hold_end=delivery.hold_end or now,
    )
