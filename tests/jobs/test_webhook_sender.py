"""Events and their deliveries, to real HTTPS servers, with a clock and a resolver that the test sets."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import standardwebhooks
import trustme
from cryptography.fernet import Fernet
from google.protobuf import json_format
from tests.job_stores import SqlStore, job
from tests.metric_values import MetricChanges
from tests.webhook_receiver import Receiver, running_receiver

from reelhaul.jobs.v1 import webhook_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.api.webhooks import messages
from reelhaul_jobs.model import queue_transitions, user_actions
from reelhaul_jobs.model import webhook_delivery as model
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.model.webhook import Webhook, WebhookState
from reelhaul_jobs.model.webhook_delivery import Delivery, DeliveryState
from reelhaul_jobs.ports.webhooks import DeliveryQuery
from reelhaul_jobs.service.webhook_events import WebhookOutboxRelay
from reelhaul_jobs.service.webhook_secrets import WebhookSecrets
from reelhaul_jobs.service.webhook_sender import MAX_PER_WEBHOOK, WebhookSender, WebhookTries
from reelhaul_jobs.service.webhooks import Webhooks
from reelhaul_jobs.webhook_endpoints import HttpWebhookEndpoints
from reelhaul_runtime.errors import ReelhaulError, from_status

NAME = "receiver.test"
LOOPBACK = (ip_network("127.0.0.0/8"),)
TIMEOUT = 20
SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)


class Harness:
    """The use cases, the relay and the sender on one database; names resolve to what the test says."""

    def __init__(
        self, store: SqlStore, ca_file: Path, networks=LOOPBACK, try_seconds: float = TIMEOUT
    ) -> None:
        self.time = datetime.now(UTC)
        self.addresses = ["127.0.0.1"]
        self.store, deliveries = store, store.webhook_deliveries
        endpoints = HttpWebhookEndpoints(networks, self._resolve, ca_file, try_seconds)
        key = Fernet.generate_key().decode()
        self.secrets = WebhookSecrets(lambda: (key,))
        tries = WebhookTries(deliveries, endpoints, self.secrets, messages.event_to_json, self.now)
        self.webhooks = Webhooks(store.webhooks, deliveries, endpoints, self.secrets, tries, self.now)
        self.relay = WebhookOutboxRelay(deliveries, messages.encode_subject, self.now)
        self.sender = WebhookSender(deliveries, tries, self.now, "replica")

    def now(self) -> datetime:
        return self.time

    async def _resolve(self, host: str):
        return [ip_address(text) for text in self.addresses]

    async def add(self, url: str, name: str = "hook", **fields: object) -> str:
        """Create a webhook; return its secret."""
        await self.webhooks.check_url(url)
        webhook = Webhook(
            tenant="acme", id=name, url=url, sealed_secret=b"", create_time=self.time, update_time=self.time
        )
        _, secret = await self.webhooks.create(replace(webhook, **fields), None)  # type: ignore[arg-type]
        return secret

    async def change(self, job_id: str, rule: Callable[[Job], Transition]) -> None:
        await self.store.change(job_id, rule)

    async def cancel(self, number: int, **fields: object) -> Job:
        """Add a job and cancel it."""
        added = job(number, **fields)
        await self.store.add([added])
        return (await self.store.change(added.id, lambda each: queue_transitions.cancel(each, self.time))).job

    async def send(self) -> None:
        """Turn what happened into events, and send what is due."""
        await self.relay.step()
        await self.sender.step()
        await self.sender.wait()

    async def deliveries(self, name: str = "hook") -> list[Delivery]:
        """Return the deliveries, oldest first."""
        query = DeliveryQuery(tenant="acme", webhook=name, limit=100, descending=False)
        found = await self.store.webhook_deliveries.list_deliveries(query)
        return sorted(found, key=lambda each: each.event.sequence)

    async def state(self) -> WebhookState:
        return (await self.store.webhooks.get("acme", "hook")).state


def reason_of(delivery: Delivery) -> str:
    assert delivery.error is not None
    return ErrorReason.Name(from_status(delivery.error).reason)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def receiver(authority: trustme.CA) -> Iterator[Receiver]:
    with running_receiver(authority, NAME) as running:
        yield running


@pytest.fixture
async def harness(store: SqlStore, ca_file: Path) -> AsyncIterator[Harness]:
    harness = Harness(store, ca_file)
    yield harness
    await harness.sender.close()


async def test_signed_delivery(harness, receiver):
    """An endpoint receives the event as JSON, with headers that the reference library verifies."""
    secret = await harness.add(receiver.url)
    cancelled = await harness.cancel(1)
    await harness.send()
    (received,) = receiver.received
    received.verify(secret)
    assert received.headers["content-type"] == "application/json"
    assert received.headers["host"] == receiver.url.split("/")[2]
    event = json_format.Parse(received.body, webhook_pb2.Event())
    assert (event.type, event.sequence) == ("job.cancelled", 1)
    assert event.data.job.name == cancelled.name
    assert event.data.job.state == event.data.job.CANCELLED
    assert received.event["sequence"] == "1"
    (delivery,) = await harness.deliveries()
    assert (delivery.state, delivery.http_status, delivery.attempts) == (DeliveryState.SUCCEEDED, 204, 1)
    assert delivery.event.id == received.event_id


async def test_wrong_secrets_do_not_verify(harness, receiver):
    """Another secret, another body or another id is refused by the reference library."""
    secret = await harness.add(receiver.url)
    await harness.cancel(1)
    await harness.send()
    (received,) = receiver.received
    wrong = f"whsec_{base64.b64encode(b'x' * 32).decode()}"
    for other, key in (
        (received, wrong),
        (replace(received, body=received.body + b" "), secret),
        (replace(received, headers={**received.headers, "webhook-id": "x"}), secret),
    ):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            other.verify(key)


async def test_retry_schedule(harness, receiver):
    """A failing delivery is tried ten times, at the documented times with a little jitter, then it fails."""
    changes = MetricChanges()
    receiver.respond = lambda received: (500, {})
    await harness.add(receiver.url)
    await harness.cancel(1)
    delays = []
    await harness.send()
    for number in range(len(model.RETRY_DELAYS)):
        (delivery,) = await harness.deliveries()
        assert (delivery.state, delivery.attempts) == (DeliveryState.PENDING, number + 1)
        assert delivery.due is not None
        delays.append(delivery.due - harness.time)
        harness.time = delivery.due - timedelta(milliseconds=1)
        await harness.send()
        assert len(receiver.received) == number + 1
        harness.time = delivery.due
        await harness.send()
    for delay, planned in zip(delays, model.RETRY_DELAYS, strict=True):
        assert planned <= delay <= 1.1 * planned
    (delivery,) = await harness.deliveries()
    assert (delivery.state, delivery.attempts, delivery.http_status) == (DeliveryState.FAILED, 10, 500)
    assert reason_of(delivery) == "DESTINATION_UNAVAILABLE"
    assert len({received.event_id for received in receiver.received}) == 1
    assert changes.of("reelhaul_webhook_deliveries_total") == {("failed",): 9, ("given_up",): 1}
    assert changes.total("reelhaul_webhook_delivery_seconds_count") == 10


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("3600", 3600, 3600),
        ("1", 5, 5.5),
        ("999999999999999999", 86_400, 86_400),
        ("-7", 5, 5.5),
        ("soon", 5, 5.5),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400, 86_400),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 5, 5.5),
        ("Mon, 1 Jan 99999999999999999999 00:00:00 GMT", 5, 5.5),
    ],
)
async def test_retry_after(harness, receiver, value, low, high):
    """Retry-After puts the next try off, by a day at most."""
    receiver.respond = lambda received: (503, {"Retry-After": value})
    await harness.add(receiver.url)
    await harness.cancel(1)
    await harness.send()
    (delivery,) = await harness.deliveries()
    assert delivery.due is not None
    assert low <= (delivery.due - harness.time).total_seconds() <= high


async def test_order_of_one_job(harness, receiver):
    """Events of a job wait for an earlier one that fails; those of other jobs do not."""
    broken = {job(1).name}
    receiver.respond = lambda received: (500 if received.job in broken else 204, {})
    await harness.add(receiver.url)
    await harness.store.add([job(1)])
    await harness.change(job(1).id, lambda each: user_actions.pause(each, harness.time))
    await harness.change(job(1).id, lambda each: queue_transitions.cancel(each, harness.time))
    await harness.cancel(2)
    await harness.send()
    assert sorted(received.event["type"] for received in receiver.received) == ["job.cancelled", "job.paused"]
    broken.clear()
    receiver.received.clear()
    harness.time += 6 * SECOND
    await harness.send()
    assert [received.event["type"] for received in receiver.received] == ["job.paused", "job.cancelled"]
    assert [received.event["sequence"] for received in receiver.received] == ["1", "2"]


async def test_a_filter_that_is_not_valid_any_more(harness, receiver, caplog):
    """A stored filter over a field that is gone is logged; the events of other webhooks go on."""
    await harness.add(receiver.url + "/broken", "broken", filter="gone = 1")
    await harness.add(receiver.url + "/all", "all")
    await harness.cancel(1)
    await harness.send()
    assert [received.path for received in receiver.received] == ["/hook/all"]
    assert [record.webhook for record in caplog.records if "not valid" in record.message] == [
        "webhooks/broken"
    ]


async def test_event_types_and_filters(harness, receiver):
    """An endpoint receives the types and jobs that it asks for; the numbers count the others too."""
    await harness.add(receiver.url + "/all", "all")
    await harness.add(receiver.url + "/paused", "paused", event_types=("job.paused",))
    await harness.add(receiver.url + "/red", "red", event_types=("job.*",), filter='labels.team = "red"')
    await harness.add(receiver.url + "/batches", "batches", event_types=("batch.*",), filter='url = "x"')
    await harness.add(receiver.url + "/off", "off", state=WebhookState.DISABLED)
    await harness.cancel(1, batch_id="b1")
    await harness.cancel(2, labels={"team": "red"})
    await harness.send()
    seen: dict[str, list[tuple[str, str]]] = {}
    for received in receiver.received:
        seen.setdefault(received.path, []).append((received.event["type"], received.event["sequence"]))
        seen[received.path].sort()
    assert seen == {
        "/hook/all": [("batch.finished", "3"), ("job.cancelled", "1"), ("job.cancelled", "2")],
        "/hook/red": [("job.cancelled", "2")],
        "/hook/batches": [("batch.finished", "3")],
    }
    (batch,) = (each.event for each in receiver.received if each.path == "/hook/batches")
    assert batch["data"] == {"batch": {"batchId": "b1", "stateCounts": {"CANCELLED": 1}}}


async def test_secret_rotation(harness, receiver):
    """After a rotation both secrets verify until the grace ends, then the new one alone."""
    old = await harness.add(receiver.url)
    _, new = await harness.webhooks.rotate_secret("acme", "hook", timedelta(minutes=2))
    await harness.webhooks.test("acme", "hook")
    harness.time += 2 * MINUTE
    await harness.webhooks.test("acme", "hook")
    during, after = receiver.received
    during.verify(old)
    during.verify(new)
    after.verify(new)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        after.verify(old)


async def test_rotation_without_grace(harness, receiver):
    """Without grace the old secret is void at once."""
    old = await harness.add(receiver.url)
    _, new = await harness.webhooks.rotate_secret("acme", "hook", timedelta(0))
    await harness.webhooks.test("acme", "hook")
    receiver.received[0].verify(new)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        receiver.received[0].verify(old)


async def test_suspension(harness, receiver):
    """After five days without a success the webhook is suspended, and keeps nothing for later."""
    changes = MetricChanges()
    receiver.respond = lambda received: (500, {})
    await harness.add(receiver.url)
    await harness.cancel(1)
    await harness.send()
    harness.time += 5 * DAY - SECOND
    await harness.cancel(2)
    await harness.send()
    assert await harness.state() is WebhookState.ENABLED
    harness.time += 10 * MINUTE
    await harness.send()
    assert await harness.state() is WebhookState.SUSPENDED
    assert {each.state for each in await harness.deliveries()} == {DeliveryState.FAILED}
    assert changes.total("reelhaul_webhooks_disabled_total") == 1
    tries = len(receiver.received)
    assert changes.of("reelhaul_webhook_deliveries_total") == {("failed",): tries}
    await harness.cancel(3)
    harness.time += DAY
    await harness.send()
    assert len(receiver.received) == tries
    with pytest.raises(ReelhaulError) as refused:
        await harness.webhooks.redeliver("acme", "hook", (await harness.deliveries())[0].id)
    assert refused.value.reason == ErrorReason.STATE_CONFLICT


async def test_successes_avert_suspension(harness, receiver):
    """One success within the five days starts them anew."""
    await harness.add(receiver.url)
    for day, status in enumerate((500, 500, 204, 500, 500, 500, 500)):
        receiver.respond = lambda received, status=status: (status, {})
        await harness.cancel(day + 1)
        await harness.send()
        harness.time += DAY
    assert await harness.state() is WebhookState.ENABLED


async def test_gone_endpoint(harness, receiver):
    """410 suspends the webhook at once."""
    receiver.respond = lambda received: (410, {})
    await harness.add(receiver.url)
    await harness.cancel(1)
    await harness.send()
    assert await harness.state() is WebhookState.SUSPENDED
    (delivery,) = await harness.deliveries()
    assert (delivery.state, reason_of(delivery)) == (DeliveryState.FAILED, "DESTINATION_REFUSED")


async def test_redelivery(harness, receiver):
    """A delivery that has ended is sent again with the same event, and gets all its tries again."""
    await harness.add(receiver.url)
    await harness.cancel(1)
    await harness.send()
    (delivery,) = await harness.deliveries()
    receiver.respond = lambda received: (500, {})
    await harness.webhooks.redeliver("acme", "hook", delivery.id)
    await harness.send()
    first, second = receiver.received
    assert (first.event_id, first.body) == (second.event_id, second.body)
    (again,) = await harness.deliveries()
    assert (again.id, again.attempts, again.state) == (delivery.id, 2, DeliveryState.PENDING)
    assert again.due is not None
    assert 5 <= (again.due - harness.time).total_seconds() <= 5.5


async def test_changed_dns_answers(store, ca_file, receiver):
    """A name that leads to a private address at delivery, but did not at registration, gets nothing."""
    harness = Harness(store, ca_file, networks=())
    harness.addresses = ["93.184.215.14"]
    await harness.add(f"https://{NAME}/hook")
    await harness.cancel(1)
    await harness.relay.step()
    (delivery,) = await harness.deliveries()
    for addresses in (
        ["127.0.0.1"],
        ["93.184.215.14", "10.0.0.1"],
        ["::ffff:169.254.169.254"],
        ["64:ff9b::a00:1"],
    ):
        harness.addresses = addresses
        await harness.webhooks.redeliver("acme", "hook", delivery.id)
        await harness.send()
        (delivery,) = await harness.deliveries()
        assert (reason_of(delivery), delivery.http_status) == ("URL_FORBIDDEN", 0), addresses
    assert receiver.received == []


@pytest.mark.parametrize(
    ("url", "address", "reason"),
    [
        (f"https://{NAME}/", "127.0.0.1", "URL_FORBIDDEN"),
        (f"https://{NAME}/", "10.1.2.3", "URL_FORBIDDEN"),
        (f"https://{NAME}/", "::1", "URL_FORBIDDEN"),
        (f"https://{NAME}:8443/", "93.184.215.14", "URL_FORBIDDEN"),
        ("https://10.0.0.1/", "", "URL_FORBIDDEN"),
        ("https://[fd00::1]/", "", "URL_FORBIDDEN"),
        ("https://0x7f000001/", "", "URL_FORBIDDEN"),
        ("https://①②⑦.0.0.1/", "", "URL_INVALID"),
        (f"http://{NAME}/", "93.184.215.14", "URL_INVALID"),
        (f"https://{NAME}/", "", "URL_INVALID"),
        (f"https://{NAME}/", "93.184.215.14", ""),
        ("https://93.184.215.14/", "", ""),
    ],
)
async def test_addresses_at_registration(store, ca_file, url, address, reason):
    """Only https to a public address at a web port may be registered."""
    harness = Harness(store, ca_file, networks=())
    harness.addresses = [address] if address else []
    if not reason:
        await harness.webhooks.check_url(url)
        return
    with pytest.raises(ReelhaulError) as refused:
        await harness.webhooks.check_url(url)
    assert ErrorReason.Name(refused.value.reason) == reason
    assert [each.field for each in refused.value.violations] == ["webhook.url"]


async def test_other_certificates(store, ca_file, authority, tmp_path):
    """A certificate for another name, or of an unknown authority, gets no event."""
    with (
        running_receiver(authority, "other.test") as other_name,
        running_receiver(trustme.CA(), NAME) as other_authority,
    ):
        harness = Harness(store, ca_file)
        await harness.add(other_name.url.replace("other.test", NAME), "name")
        await harness.add(other_authority.url, "authority")
        await harness.cancel(1)
        await harness.send()
        for name in ("name", "authority"):
            (delivery,) = await harness.deliveries(name)
            assert (reason_of(delivery), delivery.http_status) == ("DESTINATION_UNAVAILABLE", 0)
        assert other_name.received == other_authority.received == []


async def test_http_in_allowed_networks(harness):
    """http is for networks that the operator allows."""
    with running_receiver() as plain:
        await harness.add(plain.url)
        await harness.cancel(1)
        await harness.send()
        assert [received.event["type"] for received in plain.received] == ["job.cancelled"]


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[str]:
    """Run a server with *handler*; yield its URL."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            await handler(reader, writer)
        except (ConnectionError, ssl.SSLError, TimeoutError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        server.close()


async def never_answer(reader, writer):
    await reader.read(-1)


async def drip_head(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-A: b\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless_head(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-A: b\r\n" * 1000)
        await writer.drain()


async def huge_body(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def drip_body(reader, writer):
    writer.write(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def close_at_once(reader, writer):
    pass


async def speak_another_protocol(reader, writer):
    writer.write(b"220 mail.example ESMTP\r\n")
    await writer.drain()
    await reader.read(-1)


async def redirect(reader, writer):
    writer.write(b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")


async def only_continue(reader, writer):
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


#: Handlers, the HTTP status that the delivery has then, and its error; empty: it succeeds.
HOSTILE: list[tuple[Handler, int, str]] = [
    (never_answer, 0, "DESTINATION_UNAVAILABLE"),
    (drip_head, 0, "DESTINATION_UNAVAILABLE"),
    (endless_head, 0, "DESTINATION_UNAVAILABLE"),
    (only_continue, 0, "DESTINATION_UNAVAILABLE"),
    (close_at_once, 0, "DESTINATION_UNAVAILABLE"),
    (speak_another_protocol, 0, "DESTINATION_UNAVAILABLE"),
    (redirect, 307, "DESTINATION_REFUSED"),
    (huge_body, 200, ""),
    (drip_body, 201, ""),
]


async def test_hostile_endpoints(store, ca_file):
    """No endpoint holds a delivery for long, or sends more than a little; the status alone decides."""
    harness = Harness(store, ca_file, try_seconds=2)
    async with AsyncExitStack() as stack, asyncio.timeout(TIMEOUT):
        for handler, _, _ in HOSTILE:
            url = await stack.enter_async_context(raw_server(handler))
            await harness.add(url, handler.__name__.replace("_", "-"))
        await harness.cancel(1)
        await harness.send()
        for handler, status, reason in HOSTILE:
            (delivery,) = await harness.deliveries(handler.__name__.replace("_", "-"))
            assert delivery.http_status == status, handler
            if reason:
                assert reason_of(delivery) == reason, handler
            else:
                assert delivery.state is DeliveryState.SUCCEEDED, handler


async def test_unexpected_error_is_a_failed_try(harness, receiver, monkeypatch):
    """Whatever an endpoint makes fail here, its delivery waits for its next try, not for its lease."""

    async def fail(*arguments: object) -> None:
        raise RuntimeError("not foreseen")

    await harness.add(receiver.url)
    await harness.cancel(1)
    monkeypatch.setattr(HttpWebhookEndpoints, "_post", fail)
    await harness.send()
    (delivery,) = await harness.deliveries()
    assert (delivery.failures, delivery.sender, reason_of(delivery)) == (1, "", "DESTINATION_UNAVAILABLE")
    assert (await harness.store.webhooks.get("acme", "hook")).failing_since == harness.time


async def test_slow_endpoints_delay_no_others(harness, receiver):
    """While one endpoint holds all the requests that it gets, another one gets all its events."""
    held, most, release = 0, 0, asyncio.Event()

    async def hold(reader, writer):
        nonlocal held, most
        held += 1
        most = max(most, held)
        await release.wait()
        held -= 1
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with raw_server(hold) as url, asyncio.timeout(TIMEOUT):
        await harness.add(url, "slow")
        await harness.add(receiver.url)
        for number in range(10):
            await harness.cancel(number)
        await harness.relay.step()
        while len(receiver.received) < 10 or held < MAX_PER_WEBHOOK:
            await harness.sender.step()
            await asyncio.sleep(0.02)
        assert not any(each.state is DeliveryState.SUCCEEDED for each in await harness.deliveries("slow"))
        release.set()
        await harness.sender.wait()
        assert most == MAX_PER_WEBHOOK
        assert {each.state for each in await harness.deliveries("slow")} == {DeliveryState.SUCCEEDED}


async def test_lost_seal_key(harness, receiver):
    """A delivery whose secret cannot be decrypted fails, and says which setting is wrong."""
    await harness.add(receiver.url)
    other = Fernet.generate_key().decode()
    harness.secrets._sealer = None
    harness.secrets._load_keys = lambda: (other,)
    await harness.cancel(1)
    await harness.send()
    (delivery,) = await harness.deliveries()
    assert delivery.error is not None
    assert "REELHAUL_JOBS_SEAL_KEYS" in delivery.error.message
    assert receiver.received == []


def test_body_is_compact_json():
    """The body has no white space, and 64-bit integers are strings."""
    event = model.Event(
        id="e",
        tenant="t",
        type="webhook.test",
        time=datetime(2030, 1, 1, tzinfo=UTC),
        subject="",
        data=b"",
        sequence=7,
    )
    assert messages.event_to_json(event) == (
        '{"type":"webhook.test","timestamp":"2030-01-01T00:00:00Z","data":{},"sequence":"7"}'
    )
    assert json.loads(messages.event_to_json(event))["sequence"] == "7"
