"""A job ends at its limits of time and bytes, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sites.site import Site
from tests.suite.resources import DownloadResources
from tests.suite.suite import Suite


def _create_job(suite: Suite, job: dict[str, Any]) -> str:
    response = suite.http.post("/v1/jobs", json=job)
    assert response.status_code == 200, response.text
    return str(response.json()["name"])


def _first_error(suite: Suite, job: str) -> dict[str, Any]:
    """Wait for the first failed attempt of *job*; return the details of its error."""

    def error() -> dict[str, Any] | None:
        attempts = suite.http.get(f"/v1/{job}/attempts").raise_for_status().json().get("attempts", [])
        return next((attempt["error"]["details"][0] for attempt in attempts if attempt.get("error")), None)

    return suite.wait_for("failed attempt", error)


def test_attempt_deadline(suite: Suite, site: Site) -> None:
    """An attempt that makes progress ends at its deadline all the same."""
    resources = DownloadResources(suite, site)
    job = _create_job(suite, {"url": site.url("/watch/video?media.rate=90000"), "attemptDeadline": "3s"})
    error = _first_error(suite, job)
    assert (error["reason"], error["metadata"]) == ("ATTEMPT_TIMED_OUT", {"deadline": "3s"})
    suite.http.post(f"/v1/{job}:cancel", json={}).raise_for_status()
    suite.wait_for("release of all resources", lambda: not resources.all())


@pytest.mark.parametrize(
    "path",
    ["/media/1080.mp4?chunked=1", "/hls/master.m3u8", "/watch/jsonld", "/watch/video?media.rate=2000000"],
)
def test_max_size(suite: Suite, site: Site, path: str) -> None:
    """Media above maxSizeBytes are refused or cut off, whether their size is known or not."""
    resources, before = DownloadResources(suite, site), site.count("/media/1080.mp4")
    job = _create_job(suite, {"url": site.url(path), "format": {"maxSizeBytes": "1000000"}})
    error = _first_error(suite, job)
    assert (error["reason"], error["metadata"]["limitBytes"]) == ("MEDIA_TOO_LARGE", "1000000")
    assert suite.http.get(f"/v1/{job}").json()["state"] == "FAILED"
    assert site.count("/media/1080.mp4") - before <= 3
    suite.wait_for("release of all resources", lambda: not resources.all())
