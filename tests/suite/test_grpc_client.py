"""A download by the client that gRPC programs import."""

from __future__ import annotations

import hashlib
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
