"""WatchJobs over HTTP, through the whole suite."""

from __future__ import annotations

import json

from tests.sites.site import Site
from tests.suite.suite import Suite


def test_watch_jobs_over_http(suite: Suite, site: Site) -> None:
    """WatchJobs is a stream of JSON lines over HTTP: the changes of matching jobs, from a heartbeat on."""
    params = {"filter": "labels.board = lobby"}
    with suite.http.stream("GET", "/v1/jobs:watch", params=params, timeout=60) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["result"]["resumeToken"]
        job = {"url": site.url("/watch/demo"), "labels": {"board": "lobby"}, "format": {"maxHeight": 360}}
        name = suite.http.post("/v1/jobs", json=job).json()["name"]
        states = list[str]()
        for line in lines:
            changed = json.loads(line)["result"].get("job", {})
            if changed:
                assert changed["name"] == name
                states.append(changed["state"])
            if states and states[-1] == "SUCCEEDED":
                break
    assert states[-1] == "SUCCEEDED"
