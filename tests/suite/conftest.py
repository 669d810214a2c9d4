"""The suite as processes, for tests that see it only from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.sites.youtube.site import YouTube
from tests.suite.suite import Suite, running_suite


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """One suite for all tests that leave it as it was."""
    with running_suite(tmp_path_factory.mktemp("suite") / "data") as suite:
        yield suite


@pytest.fixture(scope="session")
def way_to_youtube(youtube: YouTube) -> dict[str, str]:
    """The settings by which a suite reaches the stand-in: nothing but a proxy, and a certificate to trust."""
    return {"fetcher_upstream_proxy": youtube.proxy_url, "fetcher_ca_file": str(youtube.ca_file)}


@pytest.fixture(scope="session")
def tube(way_to_youtube: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """One suite that reaches the stand-in for YouTube, for all tests that leave it as it was."""
    with running_suite(tmp_path_factory.mktemp("tube") / "data", **way_to_youtube) as suite:
        yield suite
