"""Health: how the suite is, from what its services say and from trying."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from reelhaul_gateway import model
from reelhaul_gateway.model import Finding, Part
from reelhaul_gateway.ports import Canary, Checkup
from reelhaul_runtime.errors import ReelhaulError

# Whoever polls every tenth of a second gets fresh news without a storm of checks.
_GLANCE_SECONDS = 0.5


class Health:
    """What one may ask about the health of the suite."""

    def __init__(self, checkup: Checkup, canary: Canary, clock: Callable[[], float] = time.monotonic) -> None:
        self._checkup, self._canary, self._clock = checkup, canary, clock
        self._begun = clock()
        self._glance: list[Finding] = []
        self._glanced = float("-inf")
        self._looking = asyncio.Lock()
        #: Whether this gateway is about to leave.
        self.draining = False

    @property
    def uptime(self) -> float:
        """Seconds since the gateway started."""
        return self._clock() - self._begun

    async def cached_status(self) -> list[Finding]:
        """How the services are, at most half a second ago."""
        async with self._looking:
            if self._clock() - self._glanced > _GLANCE_SECONDS:
                self._glance = list(await asyncio.gather(*(self._found(part) for part in model.SERVICES)))
                self._glanced = self._clock()
        return self._glance

    async def ready(self) -> bool:
        """Whether requests should come here."""
        findings = await self.cached_status()
        return not self.draining and all(finding.status == model.SERVING for finding in findings)

    async def full_check(self) -> list[Finding]:
        """How everything is, now, storage by a real write, read and delete."""
        asked = [self._found(part) for part in (*model.SERVICES, *model.PARTS)]
        return list(await asyncio.gather(*asked, self._tried("storage.write", self._canary.probe)))

    async def _found(self, part: Part) -> Finding:
        begun = self._clock()
        try:
            status = await self._checkup.status(part.owner, part.health_name)
        except ReelhaulError as error:
            return Finding(part.name, model.NOT_SERVING, part.critical, error.text)
        message = "not reported by its service" if status == model.UNKNOWN else ""
        return Finding(part.name, status, part.critical, message, self._clock() - begun)

    async def _tried(self, name: str, attempt: Callable[[], Awaitable[None]]) -> Finding:
        begun = self._clock()
        try:
            await attempt()
        except ReelhaulError as error:
            return Finding(name, model.NOT_SERVING, critical=True, message=error.text)
        return Finding(name, model.SERVING, critical=True, seconds=self._clock() - begun)
