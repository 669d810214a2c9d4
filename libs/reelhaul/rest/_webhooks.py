"""Webhooks: the calls that manage webhooks and their deliveries."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from google.protobuf import empty_pb2

from reelhaul.jobs.v1 import webhook_pb2, webhook_service_pb2

_PAGE_SIZE = 100


class Webhooks:
    """Manages webhooks; every method raises CallFailed.

    Webhooks are named by ``webhooks/{id}`` or by the id alone, deliveries by their name. ``secret`` is set
    only in what ``create`` and ``rotate_secret`` return.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def create(self, webhook: Mapping[str, Any], webhook_id: str = "") -> webhook_pb2.Webhook:
        """Create a webhook; *webhook* is a Webhook in JSON, e.g. ``{"url": "https://hooks.example.org/"}``."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        query = {"webhookId": webhook_id}
        return self._webhook("POST", "/v1/webhooks", body=dict(webhook), query=query, headers=headers)

    def get(self, name: str) -> webhook_pb2.Webhook:
        """Return a webhook."""
        return self._webhook("GET", _path(name))

    def list(self) -> Iterator[webhook_pb2.Webhook]:
        """Yield the webhooks, newest first."""
        token = ""
        while True:
            response = webhook_service_pb2.ListWebhooksResponse()
            query = {"pageSize": _PAGE_SIZE, "pageToken": token}
            page = self._call(response, "GET", "/v1/webhooks", query=query)
            yield from page.webhooks
            if not (token := page.next_page_token):
                return

    def update(self, name: str, webhook: Mapping[str, Any], fields: Sequence[str]) -> webhook_pb2.Webhook:
        """Change *fields* of a webhook, in lowerCamelCase, to what *webhook* has, or to their defaults."""
        return self._webhook("PATCH", _path(name), body=dict(webhook), query={"updateMask": ",".join(fields)})

    def delete(self, name: str) -> None:
        """Delete a webhook and its deliveries."""
        self._call(empty_pb2.Empty(), "DELETE", _path(name))

    def test(self, name: str) -> webhook_pb2.Delivery:
        """Send a test event; return its delivery once the endpoint has responded."""
        return self._delivery("POST", _path(name) + ":test", body={})

    def rotate_secret(self, name: str, grace_seconds: float | None = None) -> webhook_pb2.Webhook:
        """Give a webhook a new secret; the old one signs too for *grace_seconds* more, by default a day."""
        body = {} if grace_seconds is None else {"grace": f"{grace_seconds:.3f}s"}
        return self._webhook("POST", _path(name) + ":rotateSecret", body=body)

    def list_deliveries(
        self,
        name: str,
        filter: str = "",  # noqa: A002 - the field's name in the API
    ) -> Iterator[webhook_pb2.Delivery]:
        """Yield the deliveries of a webhook that match *filter* (ListDeliveriesRequest), newest first."""
        token = ""
        while True:
            response = webhook_service_pb2.ListDeliveriesResponse()
            query = {"filter": filter, "pageSize": _PAGE_SIZE, "pageToken": token}
            page = self._call(response, "GET", _path(name) + "/deliveries", query=query)
            yield from page.deliveries
            if not (token := page.next_page_token):
                return

    def redeliver(self, delivery: str) -> webhook_pb2.Delivery:
        """Send a delivery, by name, again."""
        return self._delivery("POST", f"/v1/{quote(delivery.strip(), safe='/')}:redeliver", body={})

    def _webhook(self, method: str, path: str, **arguments: Any) -> webhook_pb2.Webhook:
        webhook: webhook_pb2.Webhook = self._call(webhook_pb2.Webhook(), method, path, **arguments)
        return webhook

    def _delivery(self, method: str, path: str, **arguments: Any) -> webhook_pb2.Delivery:
        delivery: webhook_pb2.Delivery = self._call(webhook_pb2.Delivery(), method, path, **arguments)
        return delivery


def _path(name: str) -> str:
    return "/v1/webhooks/" + quote(name.strip().removeprefix("webhooks/"), safe="")
