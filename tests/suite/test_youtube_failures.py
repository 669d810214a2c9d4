"""Failures of YouTube: their reasons, their codes, and whether the job is retried or its site parked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.sites.youtube.site import YouTube
from tests.suite.downloads import wait_for_end
from tests.suite.suite import Suite, running_suite

#: Two attempts with a second between them.
_POLICY = {"maxAttempts": 2, "minBackoff": "1s", "maxBackoff": "1s"}

_LOGIN = ("MEDIA_LOGIN_REQUIRED", "FAILED_PRECONDITION")
_DRM = ("MEDIA_DRM_PROTECTED", "FAILED_PRECONDITION")
_GONE = ("MEDIA_NOT_FOUND", "NOT_FOUND")
_FORBIDDEN = ("MEDIA_FORBIDDEN", "PERMISSION_DENIED")
_BROKEN = ("EXTRACTOR_FAILED", "INTERNAL")
_DOWN = ("UPSTREAM_UNAVAILABLE", "UNAVAILABLE")
_STALLED = ("UPSTREAM_STALLED", "UNAVAILABLE")
_BLOCKED = ("UPSTREAM_BLOCKED", "UNAVAILABLE")
_THROTTLED = ("UPSTREAM_THROTTLED", "UNAVAILABLE")

# Permanent failures: there is one attempt.
_PERMANENT = {
    "private": _LOGIN,
    "members": _LOGIN,
    "premium": _LOGIN,
    "agegate": _LOGIN,
    "geo": ("MEDIA_GEO_BLOCKED", "FAILED_PRECONDITION"),
    "removed": _GONE,
    "unavailable": _GONE,
    "terminated": _GONE,
    "copyright": _FORBIDDEN,
    "player403": _FORBIDDEN,
    "media403": _FORBIDDEN,
    "drm": _DRM,
    "drm-images": _DRM,
    "livelong": ("MEDIA_IS_LIVE", "FAILED_PRECONDITION"),
    "sabr": _BROKEN,
    "sabr-bare": _BROKEN,
    "unsolved": _BROKEN,
}
# Temporary failures: the job is retried.
_TEMPORARY = {"player500": _DOWN, "player503": _DOWN, "stall": _STALLED, "drip": _STALLED}
# Failures that concern the client and not the video: the site is parked, and no attempt is charged.
_PARKED = {
    "botcheck": _BLOCKED,
    "captcha": _BLOCKED,
    "wrongid": _BLOCKED,
    "player429": _THROTTLED,
    "guestquota": _THROTTLED,
}
# Failures that the engine recovers from within an attempt.
_RECOVERED = ("flaky-api", "flaky503", "reset", "expired", "expiring")
# Failures of lists.
_LISTS = {
    "https://www.youtube.com/playlist?list=PLnowhere000000": _GONE,
    "https://www.youtube.com/@nobody": _GONE,
}


@dataclass(frozen=True)
class RunningJobs:
    """A suite with fast retries and short timeouts, and its jobs by video name or URL."""

    suite: Suite
    jobs: dict[str, str]


@pytest.fixture(scope="module")
def suite(youtube_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A separate suite, because its site gets parked."""
    settings = {"fetcher_slots": "8", "fetcher_stall_seconds": "5", "jobs_park_seconds": "3"}
    with running_suite(tmp_path_factory.mktemp("failures") / "data", **youtube_settings, **settings) as suite:
        yield suite


@pytest.fixture(scope="module")
def running(suite: Suite, youtube: YouTube) -> RunningJobs:
    """Jobs for all videos and lists whose failures do not park the site."""
    urls = {name: youtube.watch_url(name) for name in (*_PERMANENT, *_TEMPORARY, "upcoming")}
    # Copies, because their faults end after some requests.
    urls |= {name: youtube.watch_url(name, copy=7) for name in _RECOVERED}
    jobs = {name: _job_body(url) for name, url in urls.items()}
    jobs |= {url: _job_body(url, kind="EXPANSION") for url in _LISTS}
    return RunningJobs(suite, {name: _create_job(suite, job) for name, job in jobs.items()})


def _job_body(url: str, **fields: Any) -> dict[str, Any]:
    return {"url": url, "format": {"maxHeight": 1080}, "retryPolicy": _POLICY, **fields}


def _create_job(suite: Suite, job: dict[str, Any]) -> str:
    response = suite.http.post("/v1/jobs", json=job)
    assert response.status_code == 200, response.text
    return str(response.json()["name"]).removeprefix("jobs/")


def _attempts(suite: Suite, job: str) -> list[dict[str, Any]]:
    attempts: list[dict[str, Any]] = suite.http.get(f"/v1/jobs/{job}/attempts").json()["attempts"]
    return sorted(attempts, key=lambda attempt: int(attempt["epoch"]))


def _reason(status: dict[str, Any]) -> str:
    return str(status["details"][0]["reason"])


@pytest.mark.parametrize("name", [*_PERMANENT, *_LISTS])
def test_permanent_failure(running: RunningJobs, name: str) -> None:
    """A permanent failure ends the job in its first attempt, with reason and code."""
    failed = wait_for_end(running.suite, running.jobs[name])["failed"]
    error = failed["error"]
    assert (error["reason"], error["code"]) == {**_PERMANENT, **_LISTS}[name], error
    assert (failed["status"], failed["attempts"], error.get("retryable", False)) == ("FAILED", 1, False)


@pytest.mark.parametrize("name", _TEMPORARY)
def test_temporary_failure(running: RunningJobs, name: str) -> None:
    """After a temporary failure the job is retried up to its limit; each attempt is listed."""
    failed = wait_for_end(running.suite, running.jobs[name])["failed"]
    error, expected = failed["error"], _TEMPORARY[name]
    assert (error["reason"], error["code"], error["retryable"]) == (*expected, True), error
    assert (failed["status"], failed["attempts"]) == ("FAILED", 2)
    attempts = _attempts(running.suite, running.jobs[name])
    assert [(attempt["state"], _reason(attempt["error"])) for attempt in attempts] == [
        ("FAILED", expected[0])
    ] * 2


@pytest.mark.parametrize("name", _RECOVERED)
def test_recovered_failure(running: RunningJobs, name: str) -> None:
    """Temporary errors, broken connections and expired URLs do not cost an attempt."""
    completed = wait_for_end(running.suite, running.jobs[name]).get("completed")
    assert completed, name
    assert (completed["status"], completed["attempts"]) == ("SUCCEEDED", 1)


def test_upcoming_event(running: RunningJobs) -> None:
    """A job for an event that has not begun fails at once, with the announced start, unless it waits."""
    failed = wait_for_end(running.suite, running.jobs["upcoming"])["failed"]
    error = failed["error"]
    assert (failed["attempts"], error["retryable"]) == (1, True)
    assert (error["reason"], error["code"]) == ("MEDIA_NOT_LIVE_YET", "FAILED_PRECONDITION")
    job = running.suite.http.get(f"/v1/jobs/{running.jobs['upcoming']}").json()
    start = job["error"]["details"][0]["metadata"]["startTime"]
    assert start.startswith("20")
    assert start in error["message"]


def test_site_is_parked(running: RunningJobs, youtube: YouTube) -> None:
    """When YouTube blocks or throttles the client, jobs wait for the site without a charged attempt.

    This test is the last one, because the site stays parked.
    """
    requests = [{"job": _job_body(youtube.watch_url(name))} for name in _PARKED]
    created = running.suite.http.post("/v1/jobs:batchCreate", json={"requests": requests}).json()["jobs"]
    for name, job in zip(_PARKED, (item["name"].removeprefix("jobs/") for item in created), strict=True):
        status = _wait_for_reason(running.suite, job, "SITE_PARKED")
        assert (status["status"], status["attempts"]) == ("QUEUED", 0), status
        attempt = _attempts(running.suite, job)[0]
        assert (attempt["state"], _reason(attempt["error"])) == ("RELEASED", _PARKED[name][0])


def _wait_for_reason(suite: Suite, job: str, reason: str) -> dict[str, Any]:
    """Wait until *job* waits for *reason*; return its status."""

    def waiting() -> dict[str, Any] | None:
        status: dict[str, Any] = suite.http.get(f"/api/v1/status/{job}").json()
        return status if status["wait_reason"] == reason else None

    return suite.wait_for(f"wait for {reason}", waiting)
