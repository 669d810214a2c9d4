"""WebhookService over real gRPC, with a real endpoint."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
import trustme
from google.protobuf import field_mask_pb2
from tests.jobs.calls import URL, error_of
from tests.jobs.conftest import JobsService, eventually, run_service
from tests.webhook_receiver import Receiver, running_receiver

from reelhaul.jobs.v1 import webhook_service_pb2, webhook_service_pb2_grpc
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import CancelJobRequest, CreateJobRequest, PauseJobRequest
from reelhaul.jobs.v1.webhook_pb2 import Delivery, Webhook
from reelhaul.jobs.v1.webhook_service_pb2 import (
    CreateWebhookRequest,
    DeleteWebhookRequest,
    GetDeliveryRequest,
    GetWebhookRequest,
    ListDeliveriesRequest,
    ListWebhooksRequest,
    RedeliverDeliveryRequest,
    RotateWebhookSecretRequest,
    UpdateWebhookRequest,
)
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.rpc.channels import open_channel

SERVICES = [webhook_service_pb2.DESCRIPTOR.services_by_name["WebhookService"]]
HOOK = "webhooks/hook"


@dataclass
class Setup:
    """A running jobs service with an endpoint that it may reach."""

    service: JobsService
    stub: webhook_service_pb2_grpc.WebhookServiceStub
    receiver: Receiver

    async def create(self, **fields: object) -> Webhook:
        webhook = Webhook(**{"url": self.receiver.url, **fields})  # type: ignore[arg-type]
        return await self.stub.CreateWebhook(CreateWebhookRequest(webhook=webhook, webhook_id="hook"))

    async def deliveries(self, **fields: object) -> list[Delivery]:
        request = ListDeliveriesRequest(parent=HOOK, **fields)  # type: ignore[arg-type]
        return list((await self.stub.ListDeliveries(request)).deliveries)


@pytest.fixture
async def setup(settings, tmp_path) -> AsyncIterator[Setup]:
    authority, ca_file = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    allowed = {"jobs_webhook_networks": (ip_network("127.0.0.0/8"),), "jobs_webhook_ca_file": ca_file}
    with running_receiver(authority, "127.0.0.1") as receiver:
        async with (
            run_service(settings.model_copy(update=allowed)) as service,
            open_channel(f"127.0.0.1:{service.port}", SERVICES) as channel,
        ):
            yield Setup(service, webhook_service_pb2_grpc.WebhookServiceStub(channel), receiver)


async def reason(call) -> str:
    return ErrorReason.Name((await error_of(call)).reason)


async def test_life_of_a_webhook(setup):
    """A webhook is created, read, changed, listed and deleted; only its creation shows the secret."""
    created = await setup.create(event_types=["job.*"], filter="labels.team = red")
    assert (created.name, created.state, created.url) == (HOOK, Webhook.ENABLED, setup.receiver.url)
    assert created.secret.startswith("whsec_")
    read = await setup.stub.GetWebhook(GetWebhookRequest(name=HOOK))
    created.secret = ""
    assert read == created
    assert list((await setup.stub.ListWebhooks(ListWebhooksRequest())).webhooks) == [read]

    update = UpdateWebhookRequest(webhook=Webhook(name=HOOK, event_types=["batch.finished"], etag=read.etag))
    changed = await setup.stub.UpdateWebhook(update)
    assert (list(changed.event_types), changed.filter) == (["batch.finished"], "labels.team = red")
    assert await reason(setup.stub.UpdateWebhook(update)) == "ETAG_MISMATCH"
    for disabled, state in ((True, Webhook.DISABLED), (False, Webhook.ENABLED)):
        mask = field_mask_pb2.FieldMask(paths=["disabled"])
        update = UpdateWebhookRequest(webhook=Webhook(name=HOOK, disabled=disabled), update_mask=mask)
        assert (await setup.stub.UpdateWebhook(update)).state == state

    await setup.stub.DeleteWebhook(DeleteWebhookRequest(name=HOOK))
    assert await reason(setup.stub.GetWebhook(GetWebhookRequest(name=HOOK))) == "RESOURCE_NOT_FOUND"
    assert await reason(setup.stub.DeleteWebhook(DeleteWebhookRequest(name=HOOK))) == "RESOURCE_NOT_FOUND"


async def test_repeated_creation(setup):
    """A repeated request returns the same webhook without its secret; validate_only creates nothing."""
    webhook, request_id = Webhook(url=setup.receiver.url), str(uuid.uuid4())
    checked = CreateWebhookRequest(webhook=webhook, webhook_id="hook", validate_only=True)
    assert (await setup.stub.CreateWebhook(checked)).secret == ""
    assert await reason(setup.stub.GetWebhook(GetWebhookRequest(name=HOOK))) == "RESOURCE_NOT_FOUND"
    request = CreateWebhookRequest(webhook=webhook, request_id=request_id)
    first = await setup.stub.CreateWebhook(request)
    second = await setup.stub.CreateWebhook(request)
    assert first.secret
    assert (second.name, second.secret) == (first.name, "")
    request.webhook.filter = "state = FAILED"
    assert await reason(setup.stub.CreateWebhook(request)) == "REQUEST_ID_REUSED"
    await setup.create()
    assert await reason(setup.create()) == "RESOURCE_EXISTS"


#: Fields of a webhook, and the reason why it is refused; empty if it is not.
WEBHOOKS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"url": ""}, "FIELD_INVALID"),
    ({"url": "ftp://hooks.example/"}, "URL_INVALID"),
    ({"url": "https://user:secret@hooks.example/"}, "URL_INVALID"),
    ({"url": "https://hooks.example/" + "a" * 2048}, "URL_INVALID"),
    ({"url": "https://does-not-exist.invalid/"}, "URL_INVALID"),
    ({"url": "http://10.0.0.1/"}, "URL_INVALID"),
    ({"url": "https://10.0.0.1/"}, "URL_FORBIDDEN"),
    ({"url": "https://169.254.169.254/"}, "URL_FORBIDDEN"),
    ({"url": "https://[::1]/"}, "URL_FORBIDDEN"),
    ({"url": "https://metadata.google.internal/"}, "URL_FORBIDDEN"),
    ({"event_types": ["job.succeeded", "batch.*", "webhook.test"]}, ""),
    ({"event_types": ["job"]}, "FIELD_INVALID"),
    ({"event_types": ["*"]}, "FIELD_INVALID"),
    ({"event_types": ["job.failed", "job.failed"]}, "FIELD_INVALID"),
    ({"event_types": ["job.failed"] * 5000}, "FIELD_INVALID"),
    ({"filter": 'labels.team = "a" AND state = FAILED'}, ""),
    ({"filter": "nonsense = 1"}, "FILTER_INVALID"),
    ({"filter": "state = "}, "FILTER_INVALID"),
    ({"filter": 'url = "' + "a" * 3000 + '"'}, "FIELD_INVALID"),
]


async def test_validation(setup):
    """Invalid webhooks are refused with the reason of the field."""
    for fields, expected in WEBHOOKS:
        webhook = Webhook(**{"url": setup.receiver.url, **fields})
        request = CreateWebhookRequest(webhook=webhook, validate_only=True)
        if expected:
            assert await reason(setup.stub.CreateWebhook(request)) == expected, fields
        else:
            await setup.stub.CreateWebhook(request)


async def test_events_of_jobs(setup):
    """What happens to jobs reaches the endpoint by itself, and is in the log of deliveries."""
    webhook = await setup.create()
    job = await setup.service.jobs.CreateJob(CreateJobRequest(job=Job(url=URL)))
    await setup.service.jobs.PauseJob(PauseJobRequest(name=job.name))
    await setup.service.jobs.CancelJob(CancelJobRequest(name=job.name))
    await eventually(lambda: len(setup.receiver.received) == 2)
    for received in setup.receiver.received:
        received.verify(webhook.secret)
    assert [(each.event["type"], each.job) for each in setup.receiver.received] == [
        ("job.paused", job.name),
        ("job.cancelled", job.name),
    ]

    async def all_succeeded() -> bool:
        return [each.state for each in await setup.deliveries()] == [Delivery.SUCCEEDED] * 2

    await eventually(all_succeeded)
    newest, oldest = await setup.deliveries()
    assert (newest.event_type, newest.http_status, newest.attempt_count) == ("job.cancelled", 204, 1)
    assert newest.event_id == setup.receiver.received[1].event_id
    assert await setup.deliveries(order_by="create_time") == [oldest, newest]
    assert await setup.deliveries(filter='event_type = "job.paused" AND state = SUCCEEDED') == [oldest]
    assert await setup.deliveries(filter=f'event_id = "{newest.event_id}"') == [newest]
    first = await setup.stub.ListDeliveries(ListDeliveriesRequest(parent=HOOK, page_size=1))
    request = ListDeliveriesRequest(parent=HOOK, page_size=1, page_token=first.next_page_token)
    second = await setup.stub.ListDeliveries(request)
    assert [*first.deliveries, *second.deliveries] == [newest, oldest]
    assert second.next_page_token == ""
    full = await setup.stub.GetDelivery(GetDeliveryRequest(name=newest.name))
    assert full.event.data.job.state == Job.CANCELLED
    await setup.stub.RedeliverDelivery(RedeliverDeliveryRequest(name=newest.name))
    await eventually(lambda: len(setup.receiver.received) == 3)
    assert setup.receiver.received[2].event_id == newest.event_id


async def test_test_events(setup):
    """A test event is sent at once, and its delivery says how the endpoint responded."""
    webhook = await setup.create(event_types=["batch.finished"], disabled=True)
    delivery = await setup.stub.TestWebhook(webhook_service_pb2.TestWebhookRequest(name=HOOK))
    assert (delivery.state, delivery.http_status, delivery.event.type) == (
        Delivery.SUCCEEDED,
        204,
        "webhook.test",
    )
    setup.receiver.received[0].verify(webhook.secret)
    setup.receiver.respond = lambda received: (404, {})
    failed = await setup.stub.TestWebhook(webhook_service_pb2.TestWebhookRequest(name=HOOK))
    assert (failed.state, failed.http_status) == (Delivery.FAILED, 404)
    assert "404" in failed.error.message
    assert failed.event.sequence > delivery.event.sequence


async def test_rotation_over_grpc(setup):
    """A new secret is shown once; the grace is limited."""
    first = await setup.create()
    rotated = await setup.stub.RotateWebhookSecret(RotateWebhookSecretRequest(name=HOOK))
    assert rotated.secret not in ("", first.secret)
    await setup.stub.TestWebhook(webhook_service_pb2.TestWebhookRequest(name=HOOK))
    for secret in (first.secret, rotated.secret):
        setup.receiver.received[0].verify(secret)
    for seconds in (-1, 7 * 86_400 + 1):
        request = RotateWebhookSecretRequest(name=HOOK)
        request.grace.FromTimedelta(timedelta(seconds=seconds))
        assert await reason(setup.stub.RotateWebhookSecret(request)) == "FIELD_INVALID"


async def test_names(setup):
    """A name of another form is a fault of the request, a missing webhook is not found."""
    for name in ("", "hook", "webhooks/", "webhooks/A", "webhooks/a/b", "webhooks/-a"):
        assert await reason(setup.stub.GetWebhook(GetWebhookRequest(name=name))) == "FIELD_INVALID"
        assert await reason(setup.stub.ListDeliveries(ListDeliveriesRequest(parent=name))) == "FIELD_INVALID"
        request = GetDeliveryRequest(name=f"{name}/deliveries/x")
        assert await reason(setup.stub.GetDelivery(request)) == "FIELD_INVALID"
    missing = "webhooks/missing"
    assert await reason(setup.stub.GetWebhook(GetWebhookRequest(name=missing))) == "RESOURCE_NOT_FOUND"
    request = ListDeliveriesRequest(parent=missing)
    assert await reason(setup.stub.ListDeliveries(request)) == "RESOURCE_NOT_FOUND"
