"""SponsorBlock beside YouTube: the stretches that its users marked, by a prefix of the video's digest."""

from __future__ import annotations

import json
from hashlib import sha256

from tests.sites.http import Answer, Request
from tests.sites.youtube.catalogue import Video, everything

HOST = "sponsor.ajay.app"


def answer(request: Request) -> Answer:
    """What ``/api/skipSegments/<prefix>`` tells of every video whose digest begins so."""
    prefix = request.path.removeprefix("/api/skipSegments/")
    found = [video for video in everything() if sha256(video.id.encode()).hexdigest().startswith(prefix)]
    if any(video.sponsors_fail for video in found):
        return Answer(503)
    wanted = json.loads(request.query.get("categories", "[]"))
    told = [video for video in (_told(video, wanted) for video in found) if video["segments"]]
    if len(prefix) < 4 or not told:
        return Answer(404)
    return Answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})


def _told(video: Video, wanted: list[str]) -> dict[str, object]:
    segments = [
        {
            "segment": [start, end],
            "category": category,
            "actionType": "skip",
            "videoDuration": video.programme.seconds,
        }
        for category, start, end in video.sponsors
        if category in wanted
    ]
    return {"videoID": video.id, "segments": segments}
