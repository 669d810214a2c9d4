"""Metrics of what a process uses: its event loop, disks, certificates, databases, broker and log."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.samples import Sample
from sqlalchemy import text
from tests.metric_values import MetricChanges
from tests.postgresql import fresh_database
from tests.scrapes import parse, total
from tests.servers import free_port, running_nats_server
from tests.tls_files import Authority

from reelhaul_runtime import nats_client
from reelhaul_runtime.certificate import read_expiry
from reelhaul_runtime.metrics.collectors import collecting
from reelhaul_runtime.metrics.http_server import serving_metrics
from reelhaul_runtime.metrics.process import serving_process_metrics
from reelhaul_runtime.settings import InvalidSetting, SuiteSettings
from reelhaul_runtime.sql.database import Database

SECONDS = 20


async def scrape(port: int) -> list[Sample]:
    """Return the samples of the server at *port*."""
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        return parse((await client.get(f"http://127.0.0.1:{port}/metrics")).text)


@asynccontextmanager
async def process_metrics(names: Sequence[str], folder: Path, **settings: object) -> AsyncIterator[int]:
    """Serve the metrics of a process with the services *names*; yields the port."""
    port = free_port()
    addresses = {f"{name}_metrics_address": f"127.0.0.1:{port}" for name in names}
    own = SuiteSettings(_env_file=None, data_dir=folder, **addresses, **settings)
    async with serving_process_metrics(names, own):
        yield port


async def test_process(tmp_path: Path):
    """A scrape says which services and which version run, how late the event loop is, and what is free."""
    async with process_metrics(["jobs", "storage"], tmp_path) as port:
        samples = await scrape(port)
    assert {s.labels["service"] for s in samples if s.name == "reelhaul_build_info"} >= {"jobs", "storage"}
    assert 0 <= total(samples, "reelhaul_event_loop_lag_seconds") < SECONDS
    free = total(samples, "reelhaul_disk_bytes", folder="data", state="free")
    assert 0 < free < total(samples, "reelhaul_disk_bytes", folder="data", state="total")


async def test_late_event_loop(tmp_path: Path):
    """What blocks the event loop during a scrape is seen."""
    blocked = asyncio.Event()

    async def block() -> None:
        await blocked.wait()
        threading.Event().wait(0.2)

    async def read() -> list[Sample]:
        blocked.set()
        return []

    async with process_metrics(["jobs"], tmp_path) as port:
        task = asyncio.create_task(block())
        with collecting("blocking", read):  # type: ignore[arg-type]
            samples = await scrape(port)
        await task
    assert total(samples, "reelhaul_event_loop_lag_seconds") > 0.1


async def test_certificates(tmp_path: Path):
    """The expiry of each certificate that the settings name is exposed, for the services that use it."""
    files = Authority().issue(tmp_path / "tls", "gateway.example")
    assert files.certificate is not None
    settings = {"gateway_tls_certificate": files.certificate, "gateway_tls_key": files.key}
    async with process_metrics(["gateway"], tmp_path, **settings) as port:
        samples = await scrape(port)
    name = "reelhaul_certificate_expiry_timestamp_seconds"
    assert total(samples, name, file=str(files.certificate)) == read_expiry(files.certificate).timestamp()
    async with process_metrics(["jobs"], tmp_path, **settings) as port:
        assert not [sample for sample in await scrape(port) if sample.name == name]


async def test_log_messages(tmp_path: Path):
    """Lines are counted by their level, from WARNING on."""
    handler = logging.StreamHandler(io.StringIO())
    logging.getLogger().handlers.insert(0, handler)
    changes = MetricChanges()
    try:
        async with process_metrics(["jobs"], tmp_path):
            for level in (logging.INFO, logging.WARNING, logging.WARNING, logging.ERROR):
                logging.getLogger("reelhaul_test").log(level, "a line")
    finally:
        logging.getLogger().removeHandler(handler)
    name = "reelhaul_log_messages_total"
    assert changes.total(name, level="WARNING") == 2
    assert changes.total(name, level="ERROR") == 1
    assert changes.total(name, level="INFO") == 0


async def test_address_in_use_is_refused_by_the_name_of_its_setting(tmp_path: Path):
    """A service whose metrics cannot be served does not start, and says which setting to change."""
    async with process_metrics(["jobs"], tmp_path) as port:
        address = f"127.0.0.1:{port}"
        settings = SuiteSettings(_env_file=None, data_dir=tmp_path, storage_metrics_address=address)
        with pytest.raises(InvalidSetting, match=rf"^REELHAUL_STORAGE_METRICS_ADDRESS: {address} is used"):
            async with serving_process_metrics(["storage"], settings):
                pass


@pytest.mark.parametrize(("backend", "limit"), [("sqlite", 7), ("postgresql", 8)])
async def test_database(tmp_path: Path, backend: str, limit: int):
    """Connections of the pools are counted by their use, and waits for them by operation."""
    with ExitStack() as stack:
        is_sqlite = backend == "sqlite"
        url = f"sqlite:///{tmp_path}/rows.db" if is_sqlite else stack.enter_context(fresh_database())
        await _check_database(url, limit)


async def _check_database(url: str, limit: int) -> None:
    changes = MetricChanges()
    release = threading.Event()

    def hold(connection) -> None:
        connection.execute(text("SELECT 1"))
        release.wait(SECONDS)

    async with (
        Database.open(url, name="test.database") as database,
        serving_metrics("127.0.0.1:0") as port,
    ):
        await database.write(lambda connection: connection.execute(text("CREATE TABLE rows (id INTEGER)")))
        reads = [asyncio.create_task(database.read(hold)) for _ in range(3)]
        labels = {"database": "test.database"}
        async with asyncio.timeout(SECONDS):
            while total(await scrape(port), "reelhaul_database_connections", **labels, state="in_use") < 3:
                pass
        release.set()
        await asyncio.gather(*reads)
        samples = await scrape(port)
        assert total(samples, "reelhaul_database_connections", **labels, state="in_use") == 0
        assert total(samples, "reelhaul_database_connections", **labels, state="max") == limit
    assert changes.total("reelhaul_database_wait_seconds_count", operation="read") == 3
    assert changes.total("reelhaul_database_wait_seconds_count", operation="write") == 1
    async with serving_metrics("127.0.0.1:0") as port:
        assert total(await scrape(port), "reelhaul_database_connections", **labels) == 0


async def test_broker(tmp_path: Path):
    """The connection to the broker is exposed while there is one to have, and so is each reconnection."""
    name, changes = "reelhaul_broker_connected", MetricChanges()
    async with running_nats_server(tmp_path, free_port()) as server, serving_metrics("127.0.0.1:0") as port:
        async with nats_client.connect(server.url, "test"), asyncio.timeout(SECONDS):
            assert total(await scrape(port), name) == 1
            server.kill()
            while total(await scrape(port), name):
                pass
            await server.start()
            while not total(await scrape(port), name):
                pass
        assert changes.total("reelhaul_broker_reconnects_total") == 1
        assert not [sample for sample in await scrape(port) if sample.name == name]
