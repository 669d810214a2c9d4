"""The guard as the fetcher holds it: passes are opened and closed here, and outlive the guard's process."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from reelhaul_fetcher.guard.addresses import Rules
from reelhaul_fetcher.guard.channel import Channel, GuardAway
from reelhaul_fetcher.guard.dial import Upstream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GuardConfig:
    """What the guard lets through. Raises ValueError that says what is wrong."""

    #: Networks (CIDR) besides global addresses, on any port.
    allow_networks: tuple[str, ...] = ()
    #: Ports besides 80 and 443.
    extra_ports: tuple[int, ...] = ()
    #: ``http://[user:password@]host:port``, behind the guard; empty: none.
    upstream_proxy: str = field(default="", repr=False)
    connections_per_pass: int = 64
    #: Seconds without a byte after which a connection is cut.
    idle_seconds: float = 60.0
    #: Seconds for a name to be resolved, and for an address to answer.
    connect_seconds: float = 10.0

    def __post_init__(self) -> None:
        Rules.of(self.allow_networks, self.extra_ports)
        if self.upstream_proxy:
            Upstream.of(self.upstream_proxy)


@dataclass(frozen=True)
class Pass:
    """The way out for one fetch."""

    #: ``http://<name>:<secret>@host:port``
    proxy_url: str = field(repr=False)
    host: str
    port: int


class Refusal(NamedTuple):
    """Something that the guard did not carry."""

    #: Empty where it was no host but a budget.
    host: str
    #: One word: loopback, private, metadata, port, byte-budget …; docs/security.md lists them.
    why: str


@dataclass(frozen=True)
class Usage:
    """What a pass has used so far."""

    ingress_bytes: int = 0
    egress_bytes: int = 0
    #: The latest 64.
    refusals: tuple[Refusal, ...] = ()
    refusal_count: int = 0


@dataclass
class _OpenPass:
    secret: str
    byte_limit: int
    #: In the loop's time; 0: none.
    deadline: float
    usage: Usage = Usage()


@asynccontextmanager
async def running_guard(config: GuardConfig) -> AsyncIterator[Guard]:
    """A guard on a loopback port of its own; ends with the block.

    Raises ``GuardAway`` if it does not start.
    """
    # Held here, so that the port stays ours, and connections wait, while a dead guard is replaced.
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        guard = Guard(config, listener)
        await guard._start()
        keeping = asyncio.create_task(guard._keep())
        try:
            yield guard
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping
            await guard._stop()


class Guard:
    """A guard that is kept running. Its address never changes. Made by ``running_guard``."""

    def __init__(self, config: GuardConfig, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener
        self._passes: dict[str, _OpenPass] = {}
        self._channel: Channel | None = None

    @property
    def pid(self) -> int:
        """The present process; 0 while there is none."""
        return self._channel.pid if self._channel else 0

    async def open(self, name: str, byte_limit: int = 0, seconds: float = 0) -> Pass:
        """A way out for *name*, until it is closed, *seconds* are over or *byte_limit* bytes have passed.

        Bytes count in both directions together; 0 is no limit. Raises ValueError for a name that is open
        already, or is not made of up to 128 letters, digits and ``-._~``.
        """
        if not _NAME.fullmatch(name) or name in self._passes:
            raise ValueError(f"{name!r} is open already, or is no name for a pass")
        deadline = asyncio.get_running_loop().time() + seconds if seconds else 0
        opened = self._passes[name] = _OpenPass(secrets.token_urlsafe(32), byte_limit, deadline)
        await self._open_in_process(name)
        host, port = self._listener.getsockname()
        return Pass(f"http://{name}:{opened.secret}@{host}:{port}", host, port)

    async def close(self, name: str) -> Usage:
        """Cut what *name* still has open; what it used. Raises KeyError when it is not open."""
        opened = self._passes.pop(name)
        return await self._asked("close", name) or opened.usage

    async def usage(self, name: str) -> Usage:
        """What *name* has used so far. Raises KeyError when it is not open."""
        opened = self._passes[name]
        opened.usage = await self._asked("usage", name) or opened.usage
        return opened.usage

    async def _asked(self, do: str, name: str) -> Usage | None:
        """The guard's answer about *name*; None while it is away: what it last reported holds then."""
        with suppress(GuardAway):
            if self._channel and (used := (await self._channel.order(do, {"name": name}))["used"]):
                return _usage(used)
        return None

    async def _open_in_process(self, name: str) -> None:
        opened = self._passes[name]
        left = opened.deadline - asyncio.get_running_loop().time() if opened.deadline else 0
        details = {
            "name": name,
            "secret": opened.secret,
            "byte_limit": opened.byte_limit,
            "seconds": max(left, 0.001) if opened.deadline else 0,
            "used": asdict(opened.usage),
        }
        # While the guard is away this is no failure: its successor opens all passes that are listed.
        with suppress(GuardAway):
            if self._channel:
                await self._channel.order("open", details)

    async def _start(self) -> None:
        self._channel = await Channel.start(asdict(self._config), self._listener, self._reported)
        for name in list(self._passes):
            if name in self._passes:
                await self._open_in_process(name)

    async def _keep(self) -> None:
        """Start the guard again whenever it ends."""
        loop = asyncio.get_running_loop()
        pause = 0.0
        while True:
            began = loop.time()
            if self._channel:
                code = await self._channel.ended()
                log.error("the guard died and is started again", extra={"exit_code": code})
                self._channel = None
            pause = 0.0 if loop.time() - began > 5 else min(pause * 2 + 0.05, 5.0)
            await asyncio.sleep(pause)
            with suppress(OSError):
                await self._start()

    async def _stop(self) -> None:
        if self._channel:
            await self._channel.stop()

    def _reported(self, name: str, used: Mapping[str, Any]) -> None:
        if not (opened := self._passes.get(name)):
            return
        usage = _usage(used)
        fresh = min(usage.refusal_count - opened.usage.refusal_count, len(usage.refusals))
        for refusal in usage.refusals[len(usage.refusals) - fresh :]:
            log.warning("the guard refused", extra={"pass": name, "host": refusal.host, "why": refusal.why})
        opened.usage = usage


def _usage(used: Mapping[str, Any]) -> Usage:
    refusals = tuple(Refusal(host, why) for host, why in used["refusals"])
    return Usage(used["ingress_bytes"], used["egress_bytes"], refusals, used["refusal_count"])


_NAME = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)
