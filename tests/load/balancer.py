"""Balancer: selects a gateway that is ready, as a load balancer before several gateways does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

_PROBE_SECONDS, _PROBE_TIMEOUT = 0.25, 10.0


class Balancer:
    """Addresses of gateways of which those that answer ``/readyz`` with 200 are selected in turn.

    Nothing is repeated: a call that fails has failed.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._ready = dict.fromkeys(addresses, True)
        self._next = 0

    def select(self) -> str:
        """Return the address of the next gateway that is ready; of any if none is."""
        addresses = [address for address, ready in self._ready.items() if ready] or list(self._ready)
        self._next += 1
        return addresses[self._next % len(addresses)]

    async def probe(self) -> None:
        """Probe all gateways four times a second, until cancelled."""
        async with httpx.AsyncClient(trust_env=False, timeout=_PROBE_TIMEOUT) as http:
            # A gateway that is slow to answer must not delay that another one is noticed.
            await asyncio.gather(*(self._probe(http, address) for address in self._ready))

    async def _probe(self, http: httpx.AsyncClient, address: str) -> None:
        while True:
            try:
                self._ready[address] = (await http.get(f"http://{address}/readyz")).status_code == 200
            except httpx.HTTPError:
                self._ready[address] = False
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
