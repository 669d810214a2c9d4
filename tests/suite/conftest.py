"""The suite as processes, for tests that see it only from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.suite.suite import Suite, running_suite


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """One suite for all tests that leave it as it was."""
    with running_suite(tmp_path_factory.mktemp("suite") / "data") as suite:
        yield suite
