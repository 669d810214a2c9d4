"""Fixtures: a gateway in front of fake services, and an HTTP client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.gateway.fake_services import GatewayHarness, running_gateway


@pytest.fixture
async def harness() -> AsyncIterator[GatewayHarness]:
    """A running gateway and its fake services."""
    async with running_gateway() as running:
        yield running


@pytest.fixture
async def client(harness: GatewayHarness) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the gateway."""
    async with httpx.AsyncClient(base_url=harness.url, timeout=10, trust_env=False) as opened:
        yield opened
