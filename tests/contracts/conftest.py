"""The stores that the contract tests of jobs run against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.job_stores import SqlStore, postgresql_store, sqlite_store


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """All stores of a new database."""
    async with sqlite_store(tmp_path) if request.param == "sqlite" else postgresql_store() as opened:
        yield opened
