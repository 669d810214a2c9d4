"""Sites without media and unreachable sites."""

from __future__ import annotations

import pytest
from tests.sites.site import Site
from tests.suite.downloads import wait_for_end
from tests.suite.suite import Suite

_POLICY = {"maxAttempts": 2, "minBackoff": "1s", "maxBackoff": "1s"}
_UNSUPPORTED = ("SITE_UNSUPPORTED", "INVALID_ARGUMENT", 1)
_GONE = ("MEDIA_NOT_FOUND", "NOT_FOUND", 1)
_NO_FORMAT = ("FORMAT_UNAVAILABLE", "FAILED_PRECONDITION", 1)
_DOWN = ("UPSTREAM_UNAVAILABLE", "UNAVAILABLE", 2)

_AUDIO = {"mediaKind": "AUDIO"}

_CASES = {
    "page without media": ("{site}/watch/nothing", {}, _UNSUPPORTED),
    "missing page": ("{site}/watch/elsewhere", {}, _GONE),
    # The playlist does not state that its segments are silent.
    "audio of a silent video": ("{site}/hls/360.m3u8", _AUDIO, _NO_FORMAT),
    "connection refused": ("http://127.0.0.2:1/v", {}, _DOWN),
    "unknown host name": ("http://no-such-host.invalid/v", {}, _DOWN),
    "site responds with 503": ("{site}/watch/demo?fail=503&token=suite", {}, _DOWN),
}


@pytest.mark.parametrize("case", _CASES)
def test_failures(suite: Suite, site: Site, case: str) -> None:
    """The job fails with its reason and code; only temporary failures are retried."""
    url, format_spec, (reason, code, attempts) = _CASES[case]
    job = {"url": url.format(site=site.origin), "format": format_spec, "retryPolicy": _POLICY}
    created = suite.http.post("/v1/jobs", json=job).json()
    failed = wait_for_end(suite, created["name"].removeprefix("jobs/"))["failed"]
    error = failed["error"]
    assert (error["reason"], error["code"], failed["attempts"]) == (reason, code, attempts), error
    assert error.get("retryable", False) == (attempts > 1)
