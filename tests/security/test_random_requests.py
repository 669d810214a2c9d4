"""Random requests from malformed parts: none makes the gateway fail.

    REELHAUL_ATTACK_SECONDS=600 pytest tests/security/test_random_requests.py -s

runs it for longer; the seed and the counts of statuses are printed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections import Counter

from tests.gateway.fake_services import GatewayHarness, running_gateway

SECONDS = float(os.environ.get("REELHAUL_ATTACK_SECONDS", "3"))
CONCURRENCY = 20

METHODS = [b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"PATCH", b"DELETE", b"TRACE", b"FOO"]
TARGETS = [
    *(
        b"*",
        b"/",
        b"",
        b"//",
        b"a:80",
        b"http://[",
        b"http://x/v1/jobs",
        b"/%",
        b"/%zz",
        b"/\xff",
        b"/healthz?x",
    ),
    *(b"/v1/jobs", b"/v1/jobs/018f", b"/v1/jobs/018f:watch", b"/v1/jobs:watch?", b"/v1/jobs/%2e%2e/x"),
    *(b"/v1/jobs?pageSize=\xff", b"/v1/jobs?page_size=1e400", b"/v1/artifacts/video:download"),
    *(b"/v1/artifacts/%00:download?disposition=%ff", b"/ws/progress/a", b"/v1/jobs?filter[]=a&[=]"),
    *(b"/v1/jobs/a?view=basic?x", b"/api/v1/jobs?status=running&status[0]=x", b"/health?probe[]=%41"),
]
HOST = b"Host: localhost"
WEBSOCKET = [
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
]
HEADERS = [
    *WEBSOCKET,
    *(HOST, b"Host: [", b"Host: \xff", b"Origin: http://[", b"Origin: \xff", b"Sec-Fetch-Site: \xff"),
    *(b"Upgrade: h2c", b"Connection: close", b"Sec-WebSocket-Protocol: \xff,,"),
    *(b"Sec-WebSocket-Extensions: permessage-deflate; x=\xff", b"Transfer-Encoding: chunked"),
    *(b"Content-Length: 2", b"Content-Length: -1", b"Expect: 100-continue", b"Content-Encoding: gzip"),
    *(b"Content-Type: \xff", b"Content-Type: application/json", b"Accept-Encoding: \xff;q=\xff"),
    *(b"Range: bytes=0-", b"Range: bytes=\xff", b"If-None-Match: \xff", b"Last-Event-ID: \xff"),
    *(b"Grpc-Timeout: 1S", b"Grpc-Timeout: \xff", b"X-Server-Timeout: 1e-400", b"X-Server-Timeout: 1"),
    *(b"Traceparent: \xff", b"Tracestate: \xff", b"X-Request-Id: \xff", b"Idempotency-Key: \xff"),
    *(b"Idempotency-Key: " + b"k" * 300, b"TE: trailers", b"Accept: ,,;q"),
    *(b"Grpc-Metadata-X-Bin: \xff", b"Grpc-Metadata-\xc3: a", b"Authorization: \xff"),
]
BODIES = [
    *(b"", b"{}", b"{}" * 20, b"2\r\n{}\r\n0\r\n\r\n", b"\xff\xff", b"["),
    *(b'{"url":"\\ud800"}', b'{"priority":1e999}'),
]


class RandomRequests:
    """Requests of a seed, and what the gateway answers."""

    def __init__(self, seed: int) -> None:
        self.statuses: Counter[str] = Counter()
        self.failures: list[bytes] = []
        self._random = random.Random(seed)

    async def send(self, harness: GatewayHarness) -> None:
        """Send one request on a connection of its own; a failure is recorded."""
        request = self._build()
        reader, writer = await asyncio.open_connection(*harness.address)
        try:
            writer.write(request)
            async with asyncio.timeout(0.3):
                response = await reader.read(300)
        except TimeoutError:
            self.statuses["open"] += 1
        except ConnectionError:
            self.statuses["reset"] += 1
        else:
            self.statuses[response[9:12].decode("latin-1") or "closed"] += 1
            if response[9:12] == b"500":
                self.failures.append(request)
        finally:
            writer.close()

    def _build(self) -> bytes:
        choice, chance = self._random.choice, self._random.random
        version = choice([b"1.1", b"1.1", b"1.1", b"1.0", b"2.0"])
        headers = [choice(HEADERS) for _ in range(self._random.randint(0, 7))]
        headers += [HOST] if chance() < 0.8 else []
        headers += WEBSOCKET if chance() < 0.2 else []
        head = b"%s %s HTTP/%s\r\n" % (choice(METHODS), choice(TARGETS), version)
        request = head + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + choice(BODIES)
        if chance() < 0.1:
            request *= 3
        if chance() < 0.05:
            position = self._random.randrange(len(request))
            request = request[:position] + bytes([self._random.randrange(256)]) + request[position + 1 :]
        return request


async def test_no_request_makes_the_gateway_fail(caplog) -> None:
    """No response is 500 and nothing is logged as an error; an ordinary request is served afterwards."""
    seed = random.randrange(1 << 32)
    requests = RandomRequests(seed)
    async with running_gateway(gateway_head_seconds=1, gateway_body_seconds=2) as harness:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            await asyncio.gather(*(requests.send(harness) for _ in range(CONCURRENCY)))
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        print(f"seed {seed}: {sum(requests.statuses.values())} requests, {dict(requests.statuses)}")
        assert not requests.failures, seed
        assert not errors, seed
        reader, writer = await asyncio.open_connection(*harness.address)
        writer.write(b"GET /v1/jobs/018f HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(10):
            assert (await reader.read(12)) == b"HTTP/1.1 200"
        writer.close()
    assert requests.statuses["400"]
