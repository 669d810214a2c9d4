"""Downloads with the gRPC client, through the whole suite."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.sites.site import Site
from tests.suite.suite import Suite

from reelhaul.client import Client


async def test_download(suite: Suite, site: Site, tmp_path: Path) -> None:
    """One call creates the job, waits for it and saves its verified media."""
    sizes: list[int] = []
    async with Client(suite.address("jobs"), storage=suite.address("storage")) as client:
        format_ = {"max_height": 360, "container": "MP4"}
        saved = await client.download(
            site.url("/watch/demo"), tmp_path, format=format_, on_progress=sizes.append
        )
    assert saved.parent == tmp_path
    assert sizes[-1] == saved.stat().st_size
    assert hashlib.sha256(saved.read_bytes()).hexdigest() == site.digest("/media/360.mp4")


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
