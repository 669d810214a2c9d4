"""Accessibility of every page, by axe-core, from a phone to a wide screen, in light and dark."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from tests.console.console import Console
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import Suite

_RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
_PAGES = {
    "jobs": "Downloads",
    "schedules": "Schedules",
    "webhooks": "Webhooks",
    "statistics": "Statistics",
    "keys": "Keys",
    "health": "Health",
}


@pytest.fixture(scope="module")
def job(suite: Suite, site: Site) -> str:
    """A finished job with subtitles, and another that has failed."""
    wait_for_end(suite, create_download(suite, site.url("/watch/nothing?v=axe")))
    job = create_download(suite, site.url("/watch/demo?v=axe"), quality="360p", subtitles=True)
    wait_for_end(suite, job)
    return job


@pytest.mark.parametrize(("width", "dark"), [(360, False), (768, True), (1600, False)])
def test_axe_finds_nothing(console: Console, key: str, job: str, width: int, dark: bool) -> None:
    """No page breaks a rule of WCAG 2.2 AA, and none is wider than the screen."""
    faults: list[str] = []
    for path, heading in {**_PAGES, f"jobs/{job}": "Facts"}.items():
        page = console.open(path, key=key, width=width, dark=dark)
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
        expect(page.get_by_text("Loading…")).to_have_count(0)
        result = Axe().run(page, options=_RULES).response
        assert len(result["passes"]) > 20
        for violation in result["violations"]:
            nodes = [node["html"][:200] for node in violation["nodes"][:3]]
            faults.append(f"{path} at {width}: {violation['id']}: {violation['help']}: {nodes}")
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            faults.append(f"{path} is wider than {width} pixels")
    assert faults == []


def test_sign_in_is_accessible(console: Console) -> None:
    """Nor does the page that asks for the key."""
    page = console.open(width=360)
    expect(page.get_by_label("API key")).to_be_visible()
    assert Axe().run(page, options=_RULES).response["violations"] == []
