"""What YouTube refuses or breaks, through the whole suite: its reason, its code, and what follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.sites.youtube.site import YouTube
from tests.suite.downloads import wait_for_end
from tests.suite.suite import Suite, running_suite

#: Two attempts and a second between them: a retry is seen, and soon.
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

# No time changes these: the first attempt is the last.
_AT_ONCE = {
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
# Time may change these: they are tried again, as often as was asked.
_TRIED_AGAIN = {"player500": _DOWN, "player503": _DOWN, "stall": _STALLED, "drip": _STALLED}
# These are about us, not about the video: its site is left alone, and no attempt is charged.
_PARKED = {
    "botcheck": _BLOCKED,
    "captcha": _BLOCKED,
    "wrongid": _BLOCKED,
    "player429": _THROTTLED,
    "guestquota": _THROTTLED,
}
# Mishaps in which the file comes whole all the same.
_SURVIVED = ("flaky-api", "flaky503", "reset", "expired", "expiring")
# Of a list, not of a video.
_LISTS = {
    "https://www.youtube.com/playlist?list=PLnowhere000000": _GONE,
    "https://www.youtube.com/@nobody": _GONE,
}


@dataclass(frozen=True)
class Asked:
    """A suite with fast retries and a short patience, and what was asked of it, by name or URL."""

    suite: Suite
    jobs: dict[str, str]


@pytest.fixture(scope="module")
def suite(youtube_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite of its own: its site gets parked."""
    settings = {"fetcher_slots": "8", "fetcher_stall_seconds": "5", "jobs_park_seconds": "3"}
    with running_suite(tmp_path_factory.mktemp("failures") / "data", **youtube_settings, **settings) as suite:
        yield suite


@pytest.fixture(scope="module")
def asked(suite: Suite, youtube: YouTube) -> Asked:
    """All that parks nothing, asked for at once."""
    urls = {name: youtube.watch_url(name) for name in (*_AT_ONCE, *_TRIED_AGAIN, "upcoming")}
    # Of their faults some pass, and may have passed for others.
    urls |= {name: youtube.watch_url(name, copy=7) for name in _SURVIVED}
    wanted = {name: _job(url) for name, url in urls.items()}
    wanted |= {url: _job(url, kind="EXPANSION") for url in _LISTS}
    return Asked(suite, {name: _created(suite, job) for name, job in wanted.items()})


def _job(url: str, **fields: Any) -> dict[str, Any]:
    return {"url": url, "format": {"maxHeight": 1080}, "retryPolicy": _POLICY, **fields}


def _created(suite: Suite, job: dict[str, Any]) -> str:
    answer = suite.http.post("/v1/jobs", json=job)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["name"]).removeprefix("jobs/")


def _attempts(suite: Suite, job: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = suite.http.get(f"/v1/jobs/{job}/attempts").json()["attempts"]
    return sorted(told, key=lambda attempt: int(attempt["epoch"]))


def _reason(status: dict[str, Any]) -> str:
    return str(status["details"][0]["reason"])


@pytest.mark.parametrize("name", [*_AT_ONCE, *_LISTS])
def test_what_time_does_not_change(asked: Asked, name: str) -> None:
    """What YouTube refuses for good fails at its first attempt, with its reason and its code."""
    failed = wait_for_end(asked.suite, asked.jobs[name])["failed"]
    error = failed["error"]
    assert (error["reason"], error["code"]) == {**_AT_ONCE, **_LISTS}[name], error
    assert (failed["status"], failed["attempts"], error.get("retryable", False)) == ("FAILED", 1, False)


@pytest.mark.parametrize("name", _TRIED_AGAIN)
def test_what_time_may_change(asked: Asked, name: str) -> None:
    """What may pass is tried again, and each attempt is told; then it is the end."""
    failed = wait_for_end(asked.suite, asked.jobs[name])["failed"]
    error, reason = failed["error"], _TRIED_AGAIN[name]
    assert (error["reason"], error["code"], error["retryable"]) == (*reason, True), error
    assert (failed["status"], failed["attempts"]) == ("FAILED", 2)
    attempts = _attempts(asked.suite, asked.jobs[name])
    assert [(one["state"], _reason(one["error"])) for one in attempts] == [("FAILED", reason[0])] * 2


@pytest.mark.parametrize("name", _SURVIVED)
def test_what_is_survived(asked: Asked, name: str) -> None:
    """Errors that pass, broken connections, and URLs refused at once or in mid-file cost no attempt."""
    done = wait_for_end(asked.suite, asked.jobs[name]).get("completed")
    assert done, name
    assert (done["status"], done["attempts"]) == ("SUCCEEDED", 1)


def test_what_has_not_begun(asked: Asked) -> None:
    """An announced event is tried again when it begins, not before."""
    told = _waiting(asked.suite, asked.jobs["upcoming"], "BACKOFF")
    assert (told["status"], told["attempts"], told["error"]["retryable"]) == ("RETRYING", 1, True)
    assert (told["error"]["reason"], told["error"]["code"]) == ("MEDIA_NOT_LIVE_YET", "FAILED_PRECONDITION")
    assert "2 hours" in told["error"]["message"]


def test_what_parks_the_site(asked: Asked, youtube: YouTube) -> None:
    """Where YouTube blocks or throttles us, its downloads wait for the site, and no attempt is charged.

    It comes last: the site stays parked.
    """
    requests = [{"job": _job(youtube.watch_url(name))} for name in _PARKED]
    made = asked.suite.http.post("/v1/jobs:batchCreate", json={"requests": requests}).json()["jobs"]
    for name, job in zip(_PARKED, (one["name"].removeprefix("jobs/") for one in made), strict=True):
        told = _waiting(asked.suite, job, "SITE_PARKED")
        assert (told["status"], told["attempts"]) == ("QUEUED", 0), told
        attempt = _attempts(asked.suite, job)[0]
        assert (attempt["state"], _reason(attempt["error"])) == ("RELEASED", _PARKED[name][0])


def _waiting(suite: Suite, job: str, reason: str) -> dict[str, Any]:
    """The download, once it waits for *reason*."""

    def waits() -> dict[str, Any] | None:
        told: dict[str, Any] = suite.http.get(f"/api/v1/status/{job}").json()
        return told if told["wait_reason"] == reason else None

    return suite.wait_for(f"wait for {reason}", waits)
