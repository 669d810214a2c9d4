"""Servers that tests and benches start as processes: commands, free ports, nats-server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from reelhaul_runtime.up import suite_processes
from reelhaul_runtime.up.ports import ReservedPorts

#: For processes of services: they serve no metrics, whose default ports only one suite can have.
WITHOUT_METRICS = {
    f"REELHAUL_{name}_METRICS_ADDRESS": "" for name in ("GATEWAY", "JOBS", "FETCHER", "STORAGE")
}

_ports = ReservedPorts()


@contextmanager
def running_process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* in its own process group, which is killed at the end of the block."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill *process* and its process group, and wait for it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of *host* (loopback) that no other test, and no connection, gets until this process ends.

    Servers, which set SO_REUSEADDR, can listen at it; until one does, connections to it are refused.
    """
    return int(_ports.reserve(f"{host}:0", share_with_any=True).rpartition(":")[2])


async def wait_until_listening(port: int, seconds: float = 5.0) -> None:
    """Return when something accepts connections at *port*. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return


@contextmanager
def running_nats_with(folder: Path, config: str) -> Iterator[int]:
    """Run a nats-server with *config*, which is written into *folder*; yields its port."""
    port = free_port()
    (folder / "nats.conf").write_text(f"listen: 127.0.0.1:{port}\n{config}")
    command = [suite_processes.find_nats_server(), "-c", str(folder / "nats.conf")]
    with running_process(command, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                assert process.poll() is None, f"nats-server refuses {folder / 'nats.conf'}"
                assert time.monotonic() < end
                time.sleep(0.01)
            else:
                break
        yield port


class NatsServer:
    """A nats-server with JetStream in *folder*; it can be killed and started again."""

    process: subprocess.Popen[bytes]

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._config = suite_processes.write_nats_config(folder, self.port)

    async def start(self) -> None:
        """Start the process; return when it listens."""
        self.process = subprocess.Popen(  # noqa: ASYNC220 - starting is quick
            [suite_processes.find_nats_server(), "-c", str(self._config)],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            await wait_until_listening(self.port)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill the process if it runs."""
        kill_group(self.process)


@asynccontextmanager
async def running_nats_server(folder: Path, port: int = 0) -> AsyncIterator[NatsServer]:
    """Run a nats-server until the end of the block."""
    server = NatsServer(folder, port)
    await server.start()
    try:
        yield server
    finally:
        server.kill()
