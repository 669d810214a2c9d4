"""Fixtures of the end-to-end tests: the suite as processes, observed only from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.sites.youtube.site import YouTube
from tests.suite.suite import Suite, running_suite


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """One suite for all tests that do not disturb it."""
    with running_suite(tmp_path_factory.mktemp("suite") / "data") as suite:
        yield suite


@pytest.fixture(scope="session")
def youtube_settings(youtube: YouTube) -> dict[str, str]:
    """Settings with which a suite reaches the stand-in for YouTube: a proxy and a CA certificate."""
    return {"fetcher_upstream_proxy": youtube.proxy_url, "fetcher_ca_file": str(youtube.ca_file)}


@pytest.fixture(scope="session")
def youtube_suite(
    youtube_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Suite]:
    """One suite that reaches the stand-in for YouTube, for all tests that do not disturb it."""
    with running_suite(tmp_path_factory.mktemp("youtube") / "data", **youtube_settings) as suite:
        yield suite
