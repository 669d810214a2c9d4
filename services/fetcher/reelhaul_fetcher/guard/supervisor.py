"""Guard supervisor: runs the guard's process, restarts it when it dies, and keeps its sessions open."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from reelhaul.backoff import Backoff
from reelhaul_fetcher import metrics
from reelhaul_fetcher.guard.dialer import Upstream
from reelhaul_fetcher.guard.rpc_client import GuardClient, GuardUnavailable
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_runtime.addresses import Rules
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

_OPEN_TIMEOUT_SECONDS = 15.0
_NAME = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)
# Of one session: a site or a compromised child can cause hundreds a second.
_MAX_LOGGED_REFUSALS = 100


@dataclass(frozen=True)
class GuardConfig:
    """What the guard allows. Raises ValueError that says what is invalid."""

    #: Networks (CIDR) besides global addresses, on any port.
    allow_networks: tuple[str, ...] = ()
    #: Host names that are refused, with their subdomains and the other domains of their operators.
    denied_sites: tuple[str, ...] = ()
    #: Ports besides 80 and 443.
    extra_ports: tuple[int, ...] = ()
    #: Egresses by name: ``http://[user:password@]host:port`` of an upstream proxy; empty: direct.
    egresses: Mapping[str, str] = field(default_factory=lambda: {"": ""}, repr=False)
    connections_per_session: int = 64
    #: Seconds without a byte after which a connection is cut.
    idle_seconds: float = 60.0
    #: Seconds for resolving a name, and for connecting to an address.
    connect_seconds: float = 10.0

    def __post_init__(self) -> None:
        Rules.parse(self.allow_networks, self.extra_ports)
        for url in filter(None, self.egresses.values()):
            Upstream.parse(url)


@asynccontextmanager
async def running_guard(
    config: GuardConfig, listener: socket.socket | None = None
) -> AsyncIterator[GuardSupervisor]:
    """Run a guard on *listener*, or on a loopback port of its own, until the block exits.

    Raises ``GuardUnavailable`` if it does not start.
    """
    # Held here: while a dead guard is replaced the port stays ours, and connections wait.
    with listener.dup() if listener else socket.create_server(("127.0.0.1", 0), backlog=512) as held:
        guard = GuardSupervisor(config, held)
        await guard._start()
        supervising = asyncio.create_task(guard._restart_when_dead())
        try:
            yield guard
        finally:
            await cancel_and_wait(supervising)
            await guard._stop()


class GuardSupervisor:
    """``ports.Guard`` on a supervised process, whose address never changes. Created by ``running_guard``."""

    def __init__(self, config: GuardConfig, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener
        self._sessions: dict[str, _Session] = {}
        self._client: GuardClient | None = None
        self._started = asyncio.Event()

    @property
    def pid(self) -> int:
        """The id of the current process; 0 while there is none."""
        return self._client.pid if self._client else 0

    @property
    def open_connections(self) -> Mapping[str, int]:
        """Open connections by egress, as the guard last reported."""
        connections = dict.fromkeys(self._config.egresses, 0)
        for session in self._sessions.values():
            connections[session.egress] += session.usage.connections
        return connections

    async def open(self, name: str, byte_limit: int = 0, egress: str = "", seconds: float = 0) -> str:
        """Open a session and return its proxy URL, ``http://<name>:<secret>@host:port``.

        Raises ValueError for a name that is already open, or not made of up to 128 letters, digits and
        ``-._~``, and for an unknown egress; GuardUnavailable if no guard comes up.
        """
        if egress not in self._config.egresses:
            raise ValueError(f"there is no egress {egress!r}")
        if not _NAME.fullmatch(name) or name in self._sessions:
            raise ValueError(f"{name!r} is already open, or not a valid session name")
        deadline = _now() + seconds if seconds else 0.0
        session = self._sessions[name] = _Session(name, byte_limit, egress, deadline)
        try:
            await self._open_in_guard(session)
        except BaseException:
            self._sessions.pop(name, None)
            raise
        host, port = self._listener.getsockname()
        return f"http://{name}:{session.secret}@{host}:{port}"

    async def close(self, name: str) -> Usage:
        """Close the session, cut its connections, and return its usage; none if it is not open."""
        session = self._sessions.pop(name, None)
        return await self._call("close", session) if session else Usage()

    async def usage(self, name: str) -> Usage:
        """Return what the session has used so far. Raises KeyError if it is not open."""
        return await self._call("usage", self._sessions[name])

    async def _call(self, method: str, session: _Session) -> Usage:
        """Return the usage from the guard's response; while it is away, what it last reported."""
        with suppress(GuardUnavailable):
            if self._client and (usage := await self._client.call(method, {"name": session.name})):
                session.update_usage(usage)
        return session.usage

    async def _open_in_guard(self, session: _Session) -> None:
        """Open *session* in the current guard, or in the next one if that dies."""
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_SECONDS):
                while True:
                    await self._started.wait()
                    with suppress(GuardUnavailable):
                        if self._client:
                            await self._client.call("open", session.open_params())
                            return
                    # It died during the call; the supervising task is about to notice.
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise GuardUnavailable("the guard does not come up") from None

    async def _start(self) -> None:
        # Sessions are part of the configuration: their connections are already waiting.
        sessions = [session.open_params() for session in self._sessions.values()]
        config: dict[str, Any] = {**asdict(self._config), "sessions": sessions}
        self._client = await GuardClient.start(config, self._listener, self._on_usage)
        for session in sessions:
            if session["name"] not in self._sessions:
                await self._client.call("close", {"name": session["name"]})
        self._started.set()

    async def _restart_when_dead(self) -> None:
        loop = asyncio.get_running_loop()
        backoff, started_at = Backoff(first=0.05), loop.time()
        while True:
            if self._client:
                code = await self._client.wait()
                log.error("the guard died; starting it again", extra={"exit_code": code})
                metrics.ENGINE_RESTARTS.labels("guard").inc()
                self._client = None
                self._started.clear()
            if loop.time() - started_at > 5:
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_delay())
            started_at = loop.time()
            # It may also end, or not answer, before it is configured.
            with suppress(OSError, GuardUnavailable):
                await self._start()

    async def _stop(self) -> None:
        if self._client:
            await self._client.stop()

    def _on_usage(self, name: str, usage: Usage) -> None:
        if session := self._sessions.get(name):
            session.update_usage(usage)


@dataclass
class _Session:
    """An open session: what is needed to open it again in the next guard process."""

    name: str
    byte_limit: int
    egress: str
    #: In loop time; 0: none.
    deadline: float
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    usage: Usage = field(default_factory=Usage)
    #: How many refusals were logged.
    logged_refusals: int = 0

    def open_params(self) -> dict[str, Any]:
        """Return the parameters that open it, with its remaining time and its usage so far."""
        return {
            "name": self.name,
            "secret": self.secret,
            "byte_limit": self.byte_limit,
            "seconds": max(self.deadline - _now(), 0.001) if self.deadline else 0,
            "egress": self.egress,
            "usage": asdict(self.usage),
        }

    def update_usage(self, usage: Usage) -> None:
        """Replace the usage; count the traffic that is new, and log the refusals that are."""
        metrics.record_egress(
            self.egress,
            usage.ingress_bytes - self.usage.ingress_bytes,
            usage.egress_bytes - self.usage.egress_bytes,
        )
        new = usage.refusal_count - self.usage.refusal_count
        kept = min(new, len(usage.refusals))
        for host, reason in usage.refusals[len(usage.refusals) - kept :]:
            self.logged_refusals += 1
            if self.logged_refusals <= _MAX_LOGGED_REFUSALS:
                log.info("the guard refused", extra={"session": self.name, "host": host, "cause": reason})
            metrics.record_refusal(reason)
        if new > kept:
            # The guard keeps only the latest.
            metrics.record_refusal("unknown", new - kept)
        self.usage = usage


def _now() -> float:
    return asyncio.get_running_loop().time()
