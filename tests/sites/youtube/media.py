"""``googlevideo.com``: the bytes of the streams, and the playlists and segments of broadcasts."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

from tests.sites.http import Answer, Request
from tests.sites.youtube import javascript
from tests.sites.youtube.catalogue import Video, find
from tests.sites.youtube.formats import MANIFEST_HOST, MEDIA_HOST
from tests.sites.youtube.library import SEGMENT_SECONDS, SEGMENTS, Library
from tests.sites.youtube.streams import STREAMS
from tests.sites.youtube.visits import Visits

_LAST_MODIFIED = "Fri, 02 Jan 2026 03:04:05 GMT"
_BROADCAST_ITAG = 93
# A player that joins finds so many segments already there, and never more.
_HEAD_START, _WINDOW = 3, 6
_PLAYLIST = {"Content-Type": "application/vnd.apple.mpegurl"}


def playback(request: Request, visits: Visits, library: Library) -> Answer:
    """``/videoplayback``: a stream or a part of it, by Range or by ``&range=``."""
    query = request.query
    video, stream = find(query.get("id", "")), STREAMS.get(int(query.get("itag", 0)))
    if video is None or stream is None or stream.itag not in video.itags:
        return Answer(404)
    serial = int(query.get("ei", 0))
    faults = visits.faults("media", video, video.media)
    start, end = _wanted(request)
    if not _solved(video, serial, query) or visits.expired(video, serial, start) or faults.fail == 403:
        return Answer(403)
    if faults.fail:
        return Answer(faults.fail)
    language = query.get("xtags", "lang=en").removeprefix("lang=")
    body = _content(library.file(stream, video.programme, language))
    headers = {"Content-Type": query.get("mime", "video/mp4"), "Last-Modified": _LAST_MODIFIED}
    if "range" in query:
        return Answer(200, body[start : end + 1], headers, faults)
    return Answer(200, body, {**headers, "Accept-Ranges": "bytes"}, faults)


def broadcast(request: Request, visits: Visits, library: Library) -> Answer:
    """The manifests and segments of a broadcast, whose edge moves with the clock."""
    words = request.path.strip("/").split("/")
    named = dict(pairwise(words))
    video = find(named.get("id", ""))
    if video is None or not video.live:
        return Answer(404)
    if "hls_variant" in words:
        return Answer(200, _master(video).encode(), _PLAYLIST)
    if "hls_playlist" in words:
        if visits.within("playlist", video, *video.away):
            return Answer(503)
        return Answer(200, _edge(video, visits.seconds(video)).encode(), _PLAYLIST)
    if int(named.get("sq", 0)) == video.gap:
        return Answer(404)
    segment = _content(library.segment(int(named.get("sq", 0))))
    faults = visits.faults("media", video, video.media)
    return replace(Answer(200, segment, {"Content-Type": "video/mp2t"}), faults=faults)


def _wanted(request: Request) -> tuple[int, int]:
    """First and last byte that *request* asks for; the last is far away where it does not say."""
    asked = request.query.get("range") or request.headers.get("range", "").removeprefix("bytes=")
    found = re.fullmatch(r"(\d+)-(\d*)", asked)
    return (int(found[1]), int(found[2] or 1 << 62)) if found else (0, 1 << 62)


def _solved(video: Video, serial: int, query: dict[str, str]) -> bool:
    if not video.signed:
        return True
    solved = javascript.challenge(video.id, serial) == query.get("n")
    return solved and javascript.signature(video.id, serial) == query.get("sig")


def _master(video: Video) -> str:
    path = f"api/manifest/hls_playlist/id/{video.id}/itag/{_BROADCAST_ITAG}/playlist/index.m3u8"
    variant = 'BANDWIDTH=500000,CODECS="avc1.42c01e,mp4a.40.2",RESOLUTION=640x360,FRAME-RATE=10'
    return f"#EXTM3U\n#EXT-X-STREAM-INF:{variant}\nhttps://{MANIFEST_HOST}/{path}\n"


def _edge(video: Video, seconds: float) -> str:
    """The segments at the moving edge; the last of them, and the end, once it is over."""
    edge = _HEAD_START + int(min(seconds, video.live) / SEGMENT_SECONDS)
    first = max(0, edge - _WINDOW)
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:3",
        f"#EXT-X-TARGETDURATION:{SEGMENT_SECONDS}",
        f"#EXT-X-MEDIA-SEQUENCE:{first}",
        f"#EXT-X-DISCONTINUITY-SEQUENCE:{first // SEGMENTS}",
    ]
    for number in range(first, edge):
        if number % SEGMENTS == 0 and number > first:
            lines.append("#EXT-X-DISCONTINUITY")
        path = f"videoplayback/id/{video.id}/itag/{_BROADCAST_ITAG}/sq/{number}/file/seg.ts"
        lines += [f"#EXTINF:{SEGMENT_SECONDS:.3f},", f"https://{MEDIA_HOST}/{path}"]
    return "\n".join([*lines, *(["#EXT-X-ENDLIST"] if seconds >= video.live else []), ""])


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()
