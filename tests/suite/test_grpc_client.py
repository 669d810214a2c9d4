"""A download by the client that gRPC programs import."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.sites.site import Site
from tests.suite.suite import Suite

from reelhaul.client import Client


async def test_download(suite: Suite, site: Site, tmp_path: Path) -> None:
    """One call makes the job, waits for it and saves its verified media."""
    told: list[int] = []
    async with Client(suite.address("jobs"), storage=suite.address("storage")) as client:
        wishes = {"max_height": 360, "container": "MP4"}
        saved = await client.download(site.url("/watch/demo"), tmp_path, format=wishes, received=told.append)
    assert saved.parent == tmp_path
    assert told[-1] == saved.stat().st_size
    assert hashlib.sha256(saved.read_bytes()).hexdigest() == site.digest("/media/360.mp4")


def test_following_over_http(suite: Suite, site: Site) -> None:
    """WatchJobs is a stream of lines over HTTP too: what changes under a filter, from a heartbeat on."""
    asked = {"filter": "labels.board = lobby"}
    with suite.http.stream("GET", "/v1/jobs:watch", params=asked, timeout=60) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines))["result"]["resumeToken"]
        job = {"url": site.url("/watch/demo"), "labels": {"board": "lobby"}, "format": {"maxHeight": 360}}
        name = suite.http.post("/v1/jobs", json=job).json()["name"]
        states = list[str]()
        for line in lines:
            told = json.loads(line)["result"].get("job", {})
            if told:
                assert told["name"] == name
                states.append(told["state"])
            if states and states[-1] == "SUCCEEDED":
                break
    assert states[-1] == "SUCCEEDED"
