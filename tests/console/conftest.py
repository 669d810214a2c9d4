"""Fixtures: one suite with keys, one browser, and the console in it.

They end with their module: while Playwright runs, its event loop is that of the thread, so that no other test
could run one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser
from tests import debian_packages
from tests.chromium import running_chromium
from tests.console.console import Console
from tests.suite.suite import Suite, running_suite


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a module; each has a profile of its own in it."""
    try:
        with running_chromium() as running:
            yield running
    except debian_packages.Missing as error:
        pytest.skip(f"SKIP: the console is not tested, there is no Chromium: {error}")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Suite]:
    """One suite with keys; its client has the first one."""
    with running_suite(tmp_path_factory.mktemp("console") / "data", auth="keys") as running:
        first_key = (running.data_dir / "run" / "api-key").read_text().strip()
        running.http.headers["Authorization"] = f"Bearer {first_key}"
        yield running


@pytest.fixture(scope="module")
def key(suite: Suite) -> str:
    """The key with full access."""
    return suite.http.headers["Authorization"].removeprefix("Bearer ")


@pytest.fixture(scope="module")
def read_only_key(suite: Suite) -> str:
    """A key that may only read."""
    body = {"displayName": "reader", "permission": "READ_ONLY"}
    return str(suite.http.post("/v1/apiKeys", json=body).raise_for_status().json()["keyString"])


@pytest.fixture
def console(browser: Browser, suite: Suite, key: str, read_only_key: str) -> Iterator[Console]:
    """The console of the suite in a new profile, at its end without errors and secrets in URLs."""
    opened = Console(browser, suite.address("gateway"))
    yield opened
    opened.close()
    assert opened.errors == []
    assert [url for url in opened.urls if key in url or read_only_key in url] == []
