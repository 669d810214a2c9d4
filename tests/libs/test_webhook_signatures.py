"""reelhaul.webhooks verifies what the sender signs, and refuses everything else."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime

import pytest
import standardwebhooks

from reelhaul.webhooks import TOLERANCE_SECONDS, SignatureInvalid, verify

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
BODY = (
    b'{"type":"job.succeeded","data":{"job":{"name":"jobs/1","state":"SUCCEEDED"}},"sequence":"42","new":1}'
)


def sign(body: bytes = BODY, secret: str = SECRET, age: float = 0) -> dict[str, str]:
    """Return the headers of a delivery, signed by the library of Standard Webhooks."""
    sent = datetime.fromtimestamp(int(time.time() - age), UTC)
    signature = standardwebhooks.Webhook(secret).sign("event-1", sent, body.decode())
    return {
        "Webhook-Id": "event-1",
        "Webhook-Timestamp": str(int(sent.timestamp())),
        "Webhook-Signature": signature,
    }


def test_a_signed_event():
    """The event of a signed request is returned; fields of newer servers are left out."""
    event = verify(SECRET, sign(), BODY)
    assert (event.type, event.data.job.name, event.sequence) == ("job.succeeded", "jobs/1", 42)


def test_two_signatures_during_a_rotation():
    """Of two signatures, one that fits is enough."""
    headers = sign(secret=OTHER)
    headers["Webhook-Signature"] += " " + sign()["Webhook-Signature"]
    assert verify(SECRET, headers, BODY).type == "job.succeeded"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (sign(), BODY.replace(b"1", b"2")),
        (sign(secret=OTHER), BODY),
        (sign() | {"Webhook-Id": "event-2"}, BODY),
        (sign() | {"Webhook-Timestamp": str(int(time.time()) + 7)}, BODY),
        (sign() | {"Webhook-Timestamp": "²"}, BODY),
        (sign() | {"Webhook-Timestamp": "9" * 5000}, BODY),
        (sign() | {"Webhook-Signature": ""}, BODY),
        (sign() | {"Webhook-Signature": sign()["Webhook-Signature"].removeprefix("v1,")}, BODY),
        (sign() | {"Webhook-Signature": "v1,ü"}, BODY),
        (sign(age=TOLERANCE_SECONDS + 60), BODY),
        (sign(age=-TOLERANCE_SECONDS - 60), BODY),
        ({}, BODY),
        (sign(b"[1]"), b"[1]"),
        (sign(b"no JSON"), b"no JSON"),
    ],
)
def test_other_requests_are_refused(headers, body):
    """A request that was changed, is too old, or was signed by another is refused."""
    with pytest.raises(SignatureInvalid):
        verify(SECRET, headers, body)


def test_a_wrong_secret_is_an_error_of_the_program():
    """Text that is no secret is an error that says how one looks, not a refused request."""
    with pytest.raises(ValueError, match="whsec_") as error:
        verify("whsec_?", sign(), BODY)
    assert not isinstance(error.value, SignatureInvalid)
