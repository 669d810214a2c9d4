"""Webhooks: verifies that a request comes from Reelhaul, as Standard Webhooks describes.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Iterable
from typing import Protocol

from google.protobuf import json_format

from reelhaul.jobs.v1.webhook_pb2 import Event

#: Seconds by which the time of a request may differ from the clock of this machine.
TOLERANCE_SECONDS = 300

_SECRET_PREFIX = "whsec_"  # noqa: S105 - of secrets, not one


class SignatureInvalid(ValueError):
    """A request that is not from Reelhaul, or too old: respond with 400."""


class Headers(Protocol):
    """The headers of a request, of whichever HTTP library."""

    def items(self) -> Iterable[tuple[str, str]]: ...


def verify(secret: str, headers: Headers, body: bytes) -> Event:
    """Return the event of a request with *headers* and *body*, the bytes as they came.

    *secret* is what the creation of the webhook returned; names of headers may have any case. An event may
    arrive twice: deduplicate by the header ``webhook-id``. Raises SignatureInvalid, and ValueError if
    *secret* is none.
    """
    values = {name.lower(): value for name, value in headers.items()}
    event_id, sent = values.get("webhook-id", ""), values.get("webhook-timestamp", "")
    if not event_id or not (sent.isascii() and sent.isdigit() and len(sent) < 15):
        raise SignatureInvalid("the request has no webhook-id or webhook-timestamp")
    if abs(time.time() - int(sent)) > TOLERANCE_SECONDS:
        raise SignatureInvalid("the request is too old, or a clock is wrong")
    content = b".".join([event_id.encode(), sent.encode(), body])
    expected = base64.b64encode(hmac.digest(_decode(secret), content, hashlib.sha256)).decode()
    # During the grace period of an old secret there are two signatures.
    signatures = values.get("webhook-signature", "").split(" ")
    if not any(hmac.compare_digest(f"v1,{expected}".encode(), each.encode()) for each in signatures):
        raise SignatureInvalid("the signature does not fit")
    try:
        return json_format.Parse(body, Event(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise SignatureInvalid("the body is not an event") from error


def _decode(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.strip().removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("the secret is not that of a webhook: it begins with whsec_") from None
