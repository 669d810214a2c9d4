"""The guard as the fetcher holds it: passes are opened and closed here, and outlive the guard's process."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from reelhaul.backoff import Backoff
from reelhaul_fetcher.guard.addresses import Rules
from reelhaul_fetcher.guard.dialer import Upstream
from reelhaul_fetcher.guard.rpc_client import Channel, GuardAway
from reelhaul_fetcher.guard.session_state import Pass, SessionState, Usage
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GuardConfig:
    """What the guard lets through. Raises ValueError that says what is wrong."""

    #: Networks (CIDR) besides global addresses, on any port.
    allow_networks: tuple[str, ...] = ()
    #: Ports besides 80 and 443.
    extra_ports: tuple[int, ...] = ()
    #: The ways out by name: ``http://[user:password@]host:port`` behind the guard; empty: straight out.
    egresses: Mapping[str, str] = field(default_factory=lambda: {"": ""}, repr=False)
    connections_per_pass: int = 64
    #: Seconds without a byte after which a connection is cut.
    idle_seconds: float = 60.0
    #: Seconds for a name to be resolved, and for an address to answer.
    connect_seconds: float = 10.0

    def __post_init__(self) -> None:
        Rules.of(self.allow_networks, self.extra_ports)
        for url in filter(None, self.egresses.values()):
            Upstream.of(url)


@asynccontextmanager
async def running_guard(
    config: GuardConfig, door: socket.socket | None = None
) -> AsyncIterator[GuardSupervisor]:
    """A guard that listens on *door*, or on a loopback port of its own; ends with the block.

    Raises ``GuardAway`` if it does not start.
    """
    # Held here, so that the port stays ours, and connections wait, while a dead guard is replaced.
    with door.dup() if door else socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        guard = GuardSupervisor(config, listener)
        await guard._start()
        keeping = asyncio.create_task(guard._keep())
        try:
            yield guard
        finally:
            await cancel_and_wait(keeping)
            await guard._stop()


class GuardSupervisor:
    """A guard that is kept running. Its address never changes. Made by ``running_guard``."""

    def __init__(self, config: GuardConfig, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener
        self._passes: dict[str, SessionState] = {}
        self._channel: Channel | None = None
        self._present = asyncio.Event()

    @property
    def pid(self) -> int:
        """The present process; 0 while there is none."""
        return self._channel.pid if self._channel else 0

    async def open(self, name: str, byte_limit: int = 0, seconds: float = 0, egress: str = "") -> Pass:
        """A way out for *name*, until it is closed, *seconds* are over or *byte_limit* bytes have passed.

        Bytes count in both directions together; 0 is no limit. Raises ValueError for a name that is open
        already, or is not made of up to 128 letters, digits and ``-._~``, and for an egress that there is
        not; GuardAway if no guard comes up.
        """
        if egress not in self._config.egresses:
            raise ValueError(f"there is no egress {egress!r}")
        if not _NAME.fullmatch(name) or name in self._passes:
            raise ValueError(f"{name!r} is open already, or is no name for a pass")
        opened = self._passes[name] = SessionState(name, byte_limit, seconds, egress)
        try:
            await self._let_through(opened)
        except BaseException:
            self._passes.pop(name, None)
            raise
        host, port = self._listener.getsockname()
        return Pass(f"http://{name}:{opened.secret}@{host}:{port}", host, port)

    async def close(self, name: str) -> Usage:
        """Cut what *name* still has open; what it used. Raises KeyError when it is not open."""
        return await self._asked("close", self._passes.pop(name))

    async def usage(self, name: str) -> Usage:
        """What *name* has used so far. Raises KeyError when it is not open."""
        return await self._asked("usage", self._passes[name])

    async def _asked(self, do: str, opened: SessionState) -> Usage:
        """The guard's answer; while it is away, what it last reported."""
        with suppress(GuardAway):
            if self._channel and (used := (await self._channel.order(do, {"name": opened.name}))["used"]):
                opened.note(used)
        return opened.usage

    async def _let_through(self, opened: SessionState) -> None:
        """Return when the present guard, or the next one, knows *opened*."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while True:
                    await self._present.wait()
                    with suppress(GuardAway):
                        if self._channel:
                            await self._channel.order("open", opened.opening())
                            return
                    # It died under the order; its end is about to be noticed.
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise GuardAway("the guard does not come up") from None

    async def _start(self) -> None:
        # With its passes from the first moment: connections are waiting already.
        passes = [opened.opening() for opened in self._passes.values()]
        config: dict[str, Any] = {**asdict(self._config), "passes": passes}
        self._channel = await Channel.start(config, self._listener, self._reported)
        for order in passes:
            if order["name"] not in self._passes:
                await self._channel.order("close", {"name": order["name"]})
        self._present.set()

    async def _keep(self) -> None:
        """Start the guard again whenever it ends."""
        loop = asyncio.get_running_loop()
        backoff, began = Backoff(first=0.05), loop.time()
        while True:
            if self._channel:
                code = await self._channel.ended()
                log.error("the guard died and is started again", extra={"exit_code": code})
                self._channel = None
                self._present.clear()
            if loop.time() - began > 5:
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_delay())
            began = loop.time()
            with suppress(OSError):
                await self._start()

    async def _stop(self) -> None:
        if self._channel:
            await self._channel.stop()

    def _reported(self, name: str, used: Mapping[str, Any]) -> None:
        if opened := self._passes.get(name):
            opened.note(used)


_PATIENCE_SECONDS = 15.0
_NAME = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)
