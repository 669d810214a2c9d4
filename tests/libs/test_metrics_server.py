"""GET /metrics: who may scrape it, what it answers, and that no client keeps it from others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from random import Random

import pytest
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from pydantic import ValidationError

from reelhaul_runtime.listeners import AddressUnavailable
from reelhaul_runtime.metrics.collectors import collecting
from reelhaul_runtime.metrics.http_server import serving_metrics
from reelhaul_runtime.metrics.labels import OTHER, BoundedLabel
from reelhaul_runtime.settings import SuiteSettings, describe_errors

GET = "GET /metrics HTTP/1.1"


@asynccontextmanager
async def running_server(token: str = "") -> AsyncIterator[int]:
    async with serving_metrics("127.0.0.1:0", token) as port:
        yield port


async def scrape(port: int, request: str = GET, *headers: str) -> tuple[str, str]:
    """Return head and body of the response to *request*; empty if the connection is closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([request, "Host: localhost", *headers, "", ""]).encode())
    try:
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    except ConnectionResetError:
        return "", ""
    finally:
        writer.close()
    return head, body


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (GET, "200 OK"),
        ("GET /metrics?x=1 HTTP/1.0", "200 OK"),
        ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
        ("GET / HTTP/1.1", "404 Not Found"),
        ("GET /metrics/../metrics HTTP/1.1", "404 Not Found"),
        ("GET /metrics", "400 Bad Request"),
        ("\0\0\0", "400 Bad Request"),
        (f"GET /metrics{'x' * 9000} HTTP/1.1", "431 Request Header Fields Too Large"),
    ],
)
async def test_answers(request_line: str, status: str):
    """GET /metrics is answered with metrics, and anything else with the status for it."""
    async with running_server() as port:
        head, body = await scrape(port, request_line)
    assert head.startswith(f"HTTP/1.1 {status}\r\n")
    assert ("process_cpu_seconds_total" in body) == (status == "200 OK")


async def test_formats():
    """The text format is the default; Prometheus gets OpenMetrics, for which its Accept asks."""
    accept = (
        "Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;q=0.3,*/*"
    )
    async with running_server() as port:
        plain_head, plain = await scrape(port)
        head, body = await scrape(port, GET, accept)
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in plain_head
    assert "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8" in head
    assert {family.name for family in parse_text(plain)} == {
        family.name for family in parse_open_metrics(body)
    }
    assert not any(
        sample.name.endswith("_created") for family in parse_text(plain) for sample in family.samples
    )


async def test_token():
    """With a token a scrape without it, or with another one, is answered 401 and nothing else."""
    async with running_server("a token") as port:
        for headers in ([], ["Authorization: Bearer other"], ["Authorization: a token"]):
            head, body = await scrape(port, GET, *headers)
            assert head.startswith("HTTP/1.1 401 Unauthorized\r\n")
            assert "WWW-Authenticate: Bearer" in head
            assert body == "Unauthorized\n"
        head, body = await scrape(port, GET, "authorization: Bearer a token")
        assert head.startswith("HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9180", 200),
        ("LOCALHOST", 200),
        ("[::1]:9180", 200),
        ("192.0.2.7", 200),
        ("evil.example:9180", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("[evil", 421),
        ("", 421),
    ],
)
async def test_pages_do_not_read_metrics_by_dns_rebinding(host: str, status: int):
    """Without a token the Host of a request must be this machine's: pages of others send their own name."""
    async with running_server() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{GET}\r\nHost: {host}\r\n\r\n".encode())
        assert (await reader.read()).startswith(f"HTTP/1.1 {status} ".encode())
        writer.close()
    async with running_server("a token") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{GET}\r\nHost: {host}\r\nAuthorization: Bearer a token\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_silent_clients_keep_no_others_out():
    """Of too many connections that send no whole request the oldest are closed: a scrape is answered."""
    async with running_server("a token") as port, AsyncExitStack() as stack:
        silent = []
        for number in range(40):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            writer.write(f"{GET}\r\n".encode() * (number % 2))
            silent.append(reader)
        head, _ = await scrape(port, GET, "Authorization: Bearer a token")
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        # They are reset.
        for reader in silent[:20]:
            with suppress(ConnectionResetError):
                assert await reader.read() == b""


async def test_clients_that_take_no_response_are_limited():
    """Scrapes beyond sixteen at a time are refused with 503."""
    reading, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def read() -> Collector:
        reading.release()
        await go_on.wait()
        return REGISTRY

    async with serving_metrics("127.0.0.1:0", source=read) as port, asyncio.TaskGroup() as group:
        scrapes = [group.create_task(scrape(port)) for _ in range(16)]
        for _ in scrapes:
            await reading.acquire()
        assert (await scrape(port))[0].startswith("HTTP/1.1 503 Service Unavailable\r\n")
        go_on.set()
        heads = [(await each)[0] for each in scrapes]
    assert all(head.startswith("HTTP/1.1 200 OK\r\n") for head in heads)


async def test_random_requests():
    """Whatever a client sends, it is refused or disconnected, and the next scrape is answered."""
    random = Random(1)
    async with running_server("a token") as port:
        for _ in range(200):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(bytes(random.choices(b"GET /metrics HTTP/1.1:\r\n\0\xff", k=random.randrange(2000))))
            writer.write(random.choice([b"", b"\r\n\r\n"]))
            writer.write_eof()
            with suppress(ConnectionResetError):
                assert b" 200 " not in await reader.read()
            writer.close()
        head, _ = await scrape(port, GET, "Authorization: Bearer a token")
    assert head.startswith("HTTP/1.1 200 OK")


async def test_address_in_use():
    """A second server at an address is refused, with what to do."""
    async with running_server() as port:
        with pytest.raises(AddressUnavailable, match="is used by another process"):
            async with serving_metrics(f"127.0.0.1:{port}"):
                pass


# --- collectors


def values(name: str, body: str) -> dict[str, float]:
    """Return the values of the metric *name* in *body*, by its labels' values."""
    return {
        ",".join(sample.labels.values()): sample.value
        for family in parse_text(body)
        for sample in family.samples
        if sample.name == name
    }


class Rows:
    """Something that a scrape reads, with a count of how often."""

    def __init__(self) -> None:
        self.reads, self.error = 0, False
        self.started, self.release = asyncio.Event(), asyncio.Event()
        self.release.set()

    async def read(self) -> list[Metric]:
        """Return how often this was called."""
        self.reads += 1
        self.started.set()
        await self.release.wait()
        if self.error:
            raise ConnectionError("no database")
        family = GaugeMetricFamily("test_rows", "of a test", labels=["state"])
        family.add_metric(["read"], self.reads)
        return [family]


async def test_collector_is_read_at_each_scrape_until_its_block_ends():
    """A value of a collector is that of the scrape; it is gone with what registered it."""
    rows = Rows()
    async with running_server() as port:
        with collecting("rows", rows.read):
            assert values("test_rows", (await scrape(port))[1]) == {"read": 1}
            assert values("test_rows", (await scrape(port))[1]) == {"read": 2}
        assert values("test_rows", (await scrape(port))[1]) == {}


async def test_costly_collector_is_read_once_for_many_scrapes():
    """Scrapes within the age of a value, and those that wait for it, cost one query together."""
    rows = Rows()
    rows.release.clear()
    async with running_server() as port:
        with collecting("rows", rows.read, max_age_seconds=60):
            scrapes = [asyncio.create_task(scrape(port)) for _ in range(8)]
            await rows.started.wait()
            rows.release.set()
            for _, body in await asyncio.gather(*scrapes):
                assert values("test_rows", body) == {"read": 1}
            await scrape(port)
    assert rows.reads == 1


async def test_failed_collector_leaves_the_others():
    """Values that cannot be read are missing instead of old ones, are counted, and come back."""
    rows, failing = Rows(), Rows()
    failing.error = True
    async with running_server() as port:
        with collecting("failing", failing.read), collecting("rows", rows.read):
            _, body = await scrape(port)
            assert values("test_rows", body) == {"read": 1}
            assert values("reelhaul_collector_failures_total", body)["failing"] == 1
            failing.error = False
            rows.error = True
            _, body = await scrape(port)
            assert values("test_rows", body) == {"read": 2}
            assert values("reelhaul_collector_failures_total", body)["rows"] == 1


async def test_hanging_collector_delays_no_scrape_beyond_its_time():
    """A scrape does not wait longer than a collector may take."""
    rows = Rows()
    rows.release.clear()
    async with running_server() as port:
        with collecting("hanging", rows.read, timeout_seconds=0.05):
            head, body = await scrape(port)
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert values("test_rows", body) == {}
    assert values("reelhaul_collector_failures_total", body)["hanging"] == 1


def test_default_registry_is_the_one():
    """Metrics of modules are registered where the server finds them."""
    assert REGISTRY.get_sample_value("process_max_fds") is not None


def test_bounded_labels():
    """The first values of a label keep their names, also later; all further ones share one."""
    label = BoundedLabel(100)
    for number in range(1000):
        assert label.bound(f"{number}.example") == (f"{number}.example" if number < 100 else OTHER)
    assert label.bound("0.example") == "0.example"


# --- settings


@pytest.mark.parametrize("service", ["GATEWAY", "JOBS", "FETCHER", "STORAGE"])
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.168.1.5", "example.com", ""])
def test_address_beyond_loopback_needs_a_token(monkeypatch: pytest.MonkeyPatch, service: str, host: str):
    """Metrics that other machines can read need a token: the settings are refused otherwise, by name."""
    name = f"REELHAUL_{service}_METRICS_ADDRESS"
    monkeypatch.setenv(name, f"{host}:9000")
    with pytest.raises(ValidationError) as refused:
        SuiteSettings()
    (line,) = describe_errors(refused.value)
    assert line.startswith(f"{name}={host}:9000 is not a loopback address: set REELHAUL_METRICS_TOKEN")
    monkeypatch.setenv("REELHAUL_METRICS_TOKEN", "hunter2")
    assert "hunter2" not in repr(SuiteSettings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REELHAUL_JOBS_METRICS_ADDRESS", "9181"),
        ("REELHAUL_JOBS_METRICS_ADDRESS", "127.0.0.1:99999"),
        ("REELHAUL_METRICS_TOKEN", "hunter2\r\nX: y"),
        ("REELHAUL_METRICS_TOKEN", " hunter2"),
    ],
)
def test_wrong_settings_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    """A wrong address or token is refused by the name of its setting, without a secret."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        SuiteSettings()
    (line,) = describe_errors(refused.value)
    assert line.startswith(f"{name}: must be ")
    assert "hunter2" not in line


def test_no_metrics(monkeypatch: pytest.MonkeyPatch):
    """An empty address is allowed: the service serves no metrics."""
    monkeypatch.setenv("REELHAUL_JOBS_METRICS_ADDRESS", "")
    assert SuiteSettings().jobs_metrics_address == ""
