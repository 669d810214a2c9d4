"""The guard's process as the port that services know."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reelhaul_fetcher.guard import session_state
from reelhaul_fetcher.guard.supervisor import GuardConfig, GuardSupervisor, running_guard
from reelhaul_fetcher.ports import Usage


class GuardProcess:
    """Passes of a guard that runs beside the fetcher."""

    def __init__(self, guard: GuardSupervisor) -> None:
        self._guard = guard

    @classmethod
    @asynccontextmanager
    async def open_guard(
        cls, config: GuardConfig, door: socket.socket | None = None
    ) -> AsyncIterator[GuardProcess]:
        """A guard that runs as long as the block, and listens on *door* where there is one."""
        async with running_guard(config, door) as guard:
            yield cls(guard)

    async def open(self, name: str, byte_limit: int, egress: str = "", seconds: float = 0) -> str:
        """As ``ports.Guard.open``."""
        return (await self._guard.open(name, byte_limit, seconds, egress)).proxy_url

    async def close(self, name: str) -> Usage:
        """As ``ports.Guard.close``."""
        try:
            return _usage(await self._guard.close(name))
        except KeyError:
            return Usage()

    async def usage(self, name: str) -> Usage:
        """As ``ports.Guard.usage``."""
        return _usage(await self._guard.usage(name))


def _usage(used: session_state.Usage) -> Usage:
    refusals = tuple((refusal.host, refusal.why) for refusal in used.refusals)
    return Usage(used.ingress_bytes, refusals, used.egress_bytes)
