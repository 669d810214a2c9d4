"""What a job may spend, in time and in bytes, ends it when it is spent; nothing is left of it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sites.site import Site
from tests.suite.resources import DownloadResources
from tests.suite.suite import Suite


def _created(suite: Suite, job: dict[str, Any]) -> str:
    answer = suite.http.post("/v1/jobs", json=job)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["name"])


def _first_error(suite: Suite, job: str) -> dict[str, Any]:
    def failed() -> dict[str, Any] | None:
        attempts = suite.http.get(f"/v1/{job}/attempts").raise_for_status().json().get("attempts", [])
        return next((attempt["error"]["details"][0] for attempt in attempts if attempt.get("error")), None)

    return suite.wait_for("failure", failed)


def test_time(suite: Suite, site: Site) -> None:
    """An attempt that moves, but not in the time that its job gives it, is over."""
    traces = DownloadResources(suite, site)
    job = _created(suite, {"url": site.url("/watch/video?media.rate=90000"), "attemptDeadline": "3s"})
    error = _first_error(suite, job)
    assert (error["reason"], error["metadata"]) == ("ATTEMPT_TIMED_OUT", {"deadline": "3s"})
    suite.http.post(f"/v1/{job}:cancel", json={}).raise_for_status()
    suite.wait_for("end of all traces", lambda: not traces.all())


@pytest.mark.parametrize(
    "path",
    ["/media/1080.mp4?chunked=1", "/hls/master.m3u8", "/watch/jsonld", "/watch/video?media.rate=2000000"],
)
def test_bytes(suite: Suite, site: Site, path: str) -> None:
    """Media past the bytes that their job gives them are refused or cut off, however they come."""
    traces, before = DownloadResources(suite, site), site.count("/media/1080.mp4")
    job = _created(suite, {"url": site.url(path), "format": {"maxSizeBytes": "1000000"}})
    error = _first_error(suite, job)
    assert (error["reason"], error["metadata"]["limitBytes"]) == ("MEDIA_TOO_LARGE", "1000000")
    assert suite.http.get(f"/v1/{job}").json()["state"] == "FAILED"
    assert site.count("/media/1080.mp4") - before <= 3
    suite.wait_for("end of all traces", lambda: not traces.all())
