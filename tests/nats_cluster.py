"""A real cluster of three nats-servers on loopback, whose servers can be killed and started again."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import nats
import nats.errors
from tests.servers import free_port, kill_group, wait_until_listening

from reelhaul_runtime.up import suite_processes

_CONFIG = """\
server_name: {name}
listen: 127.0.0.1:{port}
http: 127.0.0.1:{monitoring}
cluster {{ name: reelhaul, listen: "127.0.0.1:{route}", routes: [{routes}] }}
jetstream {{ store_dir: "{store}", sync_interval: always }}
"""
_READY_SECONDS = 30.0


class NatsCluster:
    """Servers by name, ``n1`` to ``n3``, each with JetStream in a folder of its own."""

    def __init__(self, folder: Path, size: int = 3) -> None:
        names = [f"n{number}" for number in range(1, size + 1)]
        self.ports: Mapping[str, int] = {name: free_port() for name in names}
        #: Ports of the monitoring endpoints: /healthz, /varz …
        self.monitoring: Mapping[str, int] = {name: free_port() for name in names}
        self._configs = {name: folder / f"{name}.conf" for name in names}
        routes = {name: free_port() for name in names}
        urls = ", ".join(f'"nats://127.0.0.1:{route}"' for route in routes.values())
        for name, config in self._configs.items():
            text = _CONFIG.format(
                name=name,
                port=self.ports[name],
                monitoring=self.monitoring[name],
                route=routes[name],
                routes=urls,
                store=folder / name,
            )
            folder.mkdir(parents=True, exist_ok=True)
            config.write_text(text)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """The value of REELHAUL_NATS_URL: all servers."""
        return ",".join(f"nats://127.0.0.1:{port}" for port in self.ports.values())

    async def start(self, *names: str) -> None:
        """Start the servers *names*, or all; return when they serve JetStream with a leader."""
        for name in names or self.ports:
            with self._configs[name].with_suffix(".log").open("ab") as log:
                self._processes[name] = subprocess.Popen(  # noqa: ASYNC220 - starting is quick
                    [suite_processes.find_nats_server(), "-c", str(self._configs[name])],
                    stderr=log,
                    start_new_session=True,
                )
        for name in names or self.ports:
            await wait_until_listening(self.ports[name], _READY_SECONDS)
            await self._wait_for_jetstream(name)

    @property
    def pids(self) -> dict[str, int]:
        """The pids of the servers that run, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    async def stop(self, name: str) -> int:
        """Stop the server *name* with SIGTERM and return its exit code."""
        process = self._processes.pop(name)
        process.terminate()
        return await asyncio.to_thread(process.wait, _READY_SECONDS)

    def kill(self, name: str) -> None:
        """Kill the server *name* if it runs."""
        if process := self._processes.pop(name, None):
            kill_group(process)

    def kill_all(self) -> None:
        """Kill all servers that run."""
        for name in list(self._processes):
            self.kill(name)

    async def find_leader(self, stream: str = "WORK") -> str:
        """Return the name of the server that leads *stream*, once there is one."""
        async with asyncio.timeout(_READY_SECONDS):
            client = await nats.connect(self.url.split(","), max_reconnect_attempts=-1)
            try:
                while True:
                    with suppress(nats.errors.Error, TimeoutError):
                        cluster = (await client.jetstream(timeout=1).stream_info(stream)).cluster
                        if cluster is not None and cluster.leader in self._processes:
                            return str(cluster.leader)
                    await asyncio.sleep(0.05)
            finally:
                await client.close()

    async def _wait_for_jetstream(self, name: str) -> None:
        async with asyncio.timeout(_READY_SECONDS):
            client = await nats.connect(f"nats://127.0.0.1:{self.ports[name]}")
            try:
                while True:
                    with suppress(nats.errors.Error, TimeoutError):
                        await client.jetstream(timeout=1).account_info()
                        return
                    await asyncio.sleep(0.05)
            finally:
                await client.close()


@asynccontextmanager
async def running_nats_cluster(folder: Path, size: int = 3) -> AsyncIterator[NatsCluster]:
    """Run a cluster of *size* servers on *folder* until the end of the block."""
    cluster = NatsCluster(folder, size)
    try:
        await cluster.start()
        yield cluster
    finally:
        cluster.kill_all()
