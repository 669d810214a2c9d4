"""Balancer: selects a gateway that is ready, as a load balancer before several gateways does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

_PROBE_SECONDS = 0.25


class Balancer:
    """Addresses of gateways of which those that answer ``/readyz`` with 200 are selected in turn.

    Nothing is repeated: a call that fails has failed.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = list(addresses)
        self._ready = list(addresses)
        self._next = 0

    def select(self) -> str:
        """Return the address of the next gateway that is ready; of any if none is."""
        addresses = self._ready or self._addresses
        self._next += 1
        return addresses[self._next % len(addresses)]

    async def probe(self) -> None:
        """Probe all gateways four times a second, until cancelled."""
        async with httpx.AsyncClient(trust_env=False, timeout=2) as http:
            while True:
                ready = await asyncio.gather(*(_is_ready(http, address) for address in self._addresses))
                self._ready = [
                    address for address, is_ready in zip(self._addresses, ready, strict=True) if is_ready
                ]
                await asyncio.sleep(_PROBE_SECONDS)


@asynccontextmanager
async def running_balancer(addresses: Sequence[str]) -> AsyncIterator[Balancer]:
    """Probe the gateways at *addresses* until the block ends."""
    balancer = Balancer(addresses)
    task = asyncio.create_task(balancer.probe())
    try:
        yield balancer
    finally:
        task.cancel()


async def _is_ready(http: httpx.AsyncClient, address: str) -> bool:
    try:
        return (await http.get(f"http://{address}/readyz")).status_code == 200
    except httpx.HTTPError:
        return False
