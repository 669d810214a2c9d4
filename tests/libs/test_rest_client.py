"""The REST client against a gateway that fails: what is repeated, resumed, and ended with the program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.libs.fake_gateway import (
    CONTENT,
    FILE,
    JOB,
    RUNNING,
    FakeGateway,
    progress,
    running_gateway,
    status,
)

from reelhaul.rest import AsyncClient, Client, Download, Exhausted, File, Unavailable

AWAY = (503, status(14, "SERVICE_UNAVAILABLE", "jobs does not answer"))


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with running_gateway() as running:
        yield running


@pytest.fixture
def client(gateway: FakeGateway) -> Iterator[Client]:
    with Client(gateway.url) as opened:
        yield opened


def test_a_create_is_repeated_under_one_key(gateway, client):
    """A create is repeated while the server is away, as the same request."""
    gateway.responses["POST /api/v1/download"] = [AWAY, AWAY]
    assert client.create("https://a.example/").job_id == JOB
    keys = [headers["idempotency-key"] for _, headers, _ in gateway.requests]
    assert (len(keys), len(set(keys))) == (3, 1)
    client.create("https://a.example/", request_id="6f1f1c0e-6d0b-4f57-9a3e-3f1f2f8c9a11")
    assert gateway.requests[-1][1]["idempotency-key"] == "6f1f1c0e-6d0b-4f57-9a3e-3f1f2f8c9a11"
    assert gateway.requests[-1][2] == {"url": "https://a.example/"}


def test_what_is_not_idempotent_is_sent_once(gateway, client):
    """A call that would do something twice is not repeated."""
    path = "POST /v1/webhooks/hook:rotateSecret"
    gateway.responses[path] = [AWAY]
    with pytest.raises(Unavailable):
        client.webhooks.rotate_secret("hook")
    assert [request for request, _, _ in gateway.requests] == [path]


def test_a_rate_limit_is_waited_for(gateway, client):
    """The time that the server states is waited for; when the retries are used up, the error has it."""
    limited = status(8, "RATE_LIMIT_EXCEEDED", "slow down")
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.4s"}
    limited["details"].append(retry)
    gateway.responses[f"GET /api/v1/status/{JOB}"] = [(429, limited)]
    assert client.get(JOB).status == Download.SUCCEEDED
    gateway.responses[f"GET /api/v1/status/{JOB}"] = [(429, limited)] * 9
    with Client(gateway.url, retry_timeout=0) as impatient, pytest.raises(Exhausted) as failure:
        impatient.get(JOB)
    assert failure.value.retry_delay is not None
    assert failure.value.retry_delay.total_seconds() == 0.4
    assert "retry_delay" in failure.value.remedy


def test_text_of_sites_in_a_stream(gateway, client):
    """Characters that some take for the end of a line do not end an event."""
    title = "one\u2028two\x85three\x0bfour"
    gateway.connections = [[{"snapshot": {**RUNNING, "title": title}}, progress(1), {"completed": RUNNING}]]
    assert [event.kind for event in client.watch(JOB)] == ["snapshot", "progress", "completed"]
    gateway.connections = [[{"completed": {**RUNNING, "title": title}}]]
    assert client.wait(JOB).title == title


def test_a_server_without_ranges(gateway, client, tmp_path):
    """A transfer is resumed also from a server that sends the whole file again."""
    gateway.truncate_after, gateway.has_ranges = [300_000], False
    sizes: list[int] = []
    file = File(name=FILE["name"], size_bytes=FILE["size_bytes"], sha256=FILE["sha256"], url=FILE["url"])
    (saved,) = client.save_files([file], tmp_path, on_progress=lambda _, size: sizes.append(size))
    assert saved.path.read_bytes() == CONTENT
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("if_abandoned", ["leave", "cancel"])
def test_a_callback_that_fails(gateway, client, if_abandoned):
    """An exception of on_event ends the wait, and the job if that was asked for."""
    gateway.connections = [[{"snapshot": RUNNING}, {"hang": True}]]

    def fail(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.wait(JOB, if_abandoned=if_abandoned, on_event=fail)
    assert gateway.cancelled.is_set() == (if_abandoned == "cancel")


async def test_stop_in_the_middle_of_a_watch(gateway):
    """A watch that is left ends its connection: closing the client does not wait for the job."""
    gateway.connections = [[{"snapshot": RUNNING}, {"hang": True}]]
    async with AsyncClient(gateway.url) as client:
        async for event in client.watch(JOB):
            assert event.kind == "snapshot"
            break


_PROGRAM = """
import sys
from reelhaul.rest import Client
client = Client(sys.argv[1])
events = client.watch(sys.argv[2])
print(next(events).kind)
"""


def test_a_program_that_closes_nothing(gateway: FakeGateway, tmp_path: Path) -> None:
    """A program ends though it has closed neither its client nor its watch."""
    gateway.connections = [[{"snapshot": RUNNING}, {"hang": True}]]
    command = [sys.executable, "-c", _PROGRAM, gateway.url, JOB]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "snapshot\n", "")
