"""The configuration of the broker on ECS, in a real nats-server."""

from __future__ import annotations

import socket
from pathlib import Path

import nats
import pytest
from tests.deploy.terraform.terraform import SOURCE
from tests.servers import running_nats_with

pytestmark = [pytest.mark.deployment, pytest.mark.processes]


async def test_broker_asks_for_the_token_of_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """nats-server takes the token from a variable, has JetStream, and refuses clients without the token."""
    monkeypatch.setenv("NATS_TOKEN", "0123456789abcdef0123456789abcdef")
    config = (SOURCE / "modules/ecs/nats.conf").read_text()
    config = config.replace("port: 4222\n", "").replace('http: "127.0.0.1:8222"\n', "")
    config = config.replace("/data/jetstream", str(tmp_path / "jetstream"))
    with running_nats_with(tmp_path, config) as port:
        client = await nats.connect(f"nats://0123456789abcdef0123456789abcdef@127.0.0.1:{port}")
        try:
            assert (await client.jetstream().account_info()).streams == 0
        finally:
            await client.close()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"CONNECT {}\r\nPING\r\n")
            assert b"Authorization Violation" in b"".join(iter(lambda: connection.recv(4096), b""))
