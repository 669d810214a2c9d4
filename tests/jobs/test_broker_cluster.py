"""Replicas of the streams that jobs keeps in a cluster of brokers, on real nats-servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.nats_cluster import NatsCluster, running_nats_cluster
from tests.servers import NatsServer

from reelhaul_jobs import doctor
from reelhaul_jobs.nats.bus import PROGRESS, WORK, NatsJobBus
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_runtime import nats_client
from reelhaul_runtime.doctor.check import run_checks
from reelhaul_runtime.errors import Unavailable

LEASE = timedelta(seconds=30)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[NatsCluster]:
    """Three servers for this test alone."""
    async with running_nats_cluster(tmp_path / "cluster") as running:
        yield running


async def test_replicas_of_existing_streams_are_changed(
    cluster: NatsCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams get the replicas of the setting and keep their items; the doctor says how many they have."""
    monkeypatch.setenv("REELHAUL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REELHAUL_NATS_URL", cluster.url)
    monkeypatch.setenv("REELHAUL_JOBS_STREAM_REPLICAS", "3")
    checks = [check for check in doctor.checks() if check.name == "jobs.streams"]

    async def find_streams() -> tuple[str, str]:
        (result,) = await asyncio.to_thread(run_checks, checks)
        return result.finding.level, result.finding.fact

    async with nats_client.connect(cluster.url, "jobs") as client:
        jetstream = client.jetstream()
        assert (await find_streams())[0] == "ok", "they are created at the start"
        async with NatsJobBus.open(client, EventHub(), LEASE) as single:
            assert await single.ensure_streams()
            await jetstream.publish("work.normal.default", b"")
        assert await find_streams() == ("problem", "REELHAUL_JOBS_STREAM_REPLICAS=3: the work stream has 1")
        async with NatsJobBus.open(client, EventHub(), LEASE, replicas=3) as replicated:
            assert not await replicated.ensure_streams()
        for stream in (WORK, PROGRESS):
            assert (await jetstream.stream_info(stream)).config.num_replicas == 3
        assert (await jetstream.stream_info(WORK)).state.messages == 1
        assert (await find_streams())[0] == "ok"


async def test_more_replicas_than_servers(nats_server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    """A stream that is to be created needs the servers; one that exists goes on, and the log says so."""
    caplog.set_level("INFO")
    async with nats_client.connect(nats_server.url, "jobs") as client:
        async with NatsJobBus.open(client, EventHub(), LEASE, replicas=3) as replicated:
            with pytest.raises(Unavailable, match="REELHAUL_JOBS_STREAM_REPLICAS=3: the broker has fewer"):
                await replicated.ensure_streams()
        async with NatsJobBus.open(client, EventHub(), LEASE) as single:
            assert await single.ensure_streams()
        async with NatsJobBus.open(client, EventHub(), LEASE, replicas=3) as replicated:
            assert not await replicated.ensure_streams()
    (logged,) = [record for record in caplog.records if hasattr(record, "stream")]
    assert logged.cause.startswith("REELHAUL_JOBS_STREAM_REPLICAS=3: the broker has fewer servers")
