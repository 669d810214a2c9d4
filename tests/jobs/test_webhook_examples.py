"""The examples of docs/webhooks.md verify what the sender signs, and refuse everything else."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import deno
import pytest
from tests.webhook_receiver import Received, running_receiver

from reelhaul_jobs.model.webhook import Webhook, create_secret
from reelhaul_jobs.webhook_endpoints import HttpWebhookEndpoints, Resolver
from reelhaul_runtime.addresses import Rules

_PAGE = Path(__file__).parents[2] / "docs/webhooks.md"
_BODY = '{"type":"webhook.test","data":{"text":"Ünïcode"},"sequence":"7"}'
_RUN = """
const { receive } = await import(`data:text/javascript,${encodeURIComponent(Deno.args[0])}`);
for (const [secret, headers, body] of JSON.parse(Deno.args[1])) {
  console.log(JSON.stringify(await receive(secret, new Headers(headers), body)));
}
"""

#: Secret, headers and body of a request.
Request = tuple[str, dict[str, str], str]


def example(language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    return str(code)


async def receive_in_python(requests: list[Request]) -> list[Any]:
    namespace: dict[str, Any] = {}
    exec(example("python"), namespace)
    return [namespace["receive"](secret, headers, body.encode()) for secret, headers, body in requests]


async def receive_in_javascript(requests: list[Request]) -> list[Any]:
    process = await asyncio.create_subprocess_exec(
        deno.find_deno_bin(),
        "eval",
        _RUN,
        "--",
        example("javascript"),
        json.dumps(requests),
        stdout=asyncio.subprocess.PIPE,
        env={"NO_COLOR": "1"},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


async def send(secrets: list[str], time: datetime) -> Received:
    """Return what an endpoint receives of a request that is signed at *time*."""
    resolver = Resolver()
    with running_receiver() as receiver:
        webhook = Webhook(
            tenant="t", id="h", url=receiver.url, sealed_secret=b"", create_time=time, update_time=time
        )
        networks = Rules.parse(["127.0.0.0/8"]).allow_networks
        result = await HttpWebhookEndpoints(networks, resolver.resolve).send(
            webhook, secrets, "event-1", time, _BODY
        )
        assert result.error is None
        resolver.close()
        (received,) = receiver.received
        return received


@pytest.mark.parametrize("receive", [receive_in_python, receive_in_javascript])
async def test_examples(receive: Callable[[list[Request]], Awaitable[list[Any]]]) -> None:
    """Both examples return the events of valid requests, and nothing of others."""
    secret, other, now = create_secret(), create_secret(), datetime.now(UTC)
    good = await send([secret], now)
    rotating = await send([other, secret], now)
    old = await send([secret], now - timedelta(minutes=6))
    future = await send([secret], now + timedelta(minutes=6))
    renamed = replace(good, headers={**good.headers, "webhook-id": "event-2"})
    unsigned = replace(good, headers={**good.headers, "webhook-signature": "v2,x v1,?"})

    def request(received: Received, key: str = secret, body: str = _BODY) -> Request:
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        return key, {name: received.headers[name] for name in names}, body

    valid = [request(good), request(rotating), request(rotating, other)]
    invalid = [request(good, other), request(good, body=_BODY + " "), request(old), request(future)]
    results = await receive([*valid, *invalid, request(renamed), request(unsigned)])
    assert results == [json.loads(_BODY)] * len(valid) + [None] * 6
