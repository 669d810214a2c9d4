"""A gateway before small real services, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.gateway.small_suite import SmallSuite, small_suite


@pytest.fixture
async def suite() -> AsyncIterator[SmallSuite]:
    """The small suite."""
    async with small_suite() as running:
        yield running


@pytest.fixture
async def client(suite: SmallSuite) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the small suite's gateway."""
    async with httpx.AsyncClient(base_url=suite.url, timeout=10, trust_env=False) as opened:
        yield opened
