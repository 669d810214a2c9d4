"""The lag that KEDA's scaler computes, from a real broker with the streams that jobs creates."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.deploy.kubernetes.rendering import only, read_files
from tests.servers import free_port, running_nats_with

from reelhaul_jobs.nats.bus import NatsJobBus
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_runtime import nats_client

pytestmark = pytest.mark.deployment


def read_lag(monitor: str, metadata: dict[str, str]) -> int:
    """Return the lag as the scaler nats-jetstream reads it: what is pending, and what is not acknowledged.

    https://keda.sh/docs/latest/scalers/nats-jetstream/
    """
    parameters = {"acc": metadata["account"], "consumers": "true", "config": "true"}
    response = httpx.get(f"{monitor}/jsz", params=parameters, trust_env=False).raise_for_status()
    (account,) = [each for each in response.json()["account_details"] if each["name"] == metadata["account"]]
    (stream,) = [each for each in account["stream_detail"] if each["name"] == metadata["stream"]]
    # Without a consumer of the name the scaler returns the last number of the stream instead.
    (consumer,) = [each for each in stream["consumer_detail"] if each["name"] == metadata["consumer"]]
    return int(consumer["num_pending"]) + int(consumer["num_ack_pending"])


async def test_lag_is_what_waits_and_what_runs(tmp_path: Path):
    """Each trigger finds its stream and consumer, and counts items that wait and items that fetchers hold."""
    scaled = only(read_files("components/keda"), "ScaledObject", "fetcher")["spec"]
    triggers: dict[str, dict[str, Any]] = {each["name"]: each["metadata"] for each in scaled["triggers"]}
    port = free_port()
    config = f'http: "127.0.0.1:{port}"\njetstream {{ store_dir: "{tmp_path}" }}\n'
    with running_nats_with(tmp_path, config) as nats_port:
        async with (
            nats_client.connect(f"nats://127.0.0.1:{nats_port}", "jobs") as client,
            NatsJobBus.open(client, EventHub(), timedelta(seconds=30)) as bus,
        ):
            await bus.ensure_streams()
            jetstream = client.jetstream()
            for name, count in {"high": 1, "normal": 7, "bulk": 0}.items():
                for _ in range(count):
                    await jetstream.publish(f"work.{name}.default", b"")
            consumer = await jetstream.pull_subscribe_bind(triggers["normal"]["consumer"], "WORK")
            await consumer.fetch(2, timeout=10)
            monitor = f"http://127.0.0.1:{port}"
            lags = {name: read_lag(monitor, metadata) for name, metadata in triggers.items()}
            assert lags == {"high": 1, "normal": 7, "bulk": 0}
