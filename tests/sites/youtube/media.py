"""``googlevideo.com``: bytes of the streams, and playlists and segments of broadcasts."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

from tests.sites.http import Request, Response
from tests.sites.youtube import javascript
from tests.sites.youtube.catalogue import Video, find_video
from tests.sites.youtube.formats import MANIFEST_HOST, MEDIA_HOST
from tests.sites.youtube.library import SEGMENT_SECONDS, SEGMENTS, Library
from tests.sites.youtube.state import ServerState
from tests.sites.youtube.streams import STREAMS

_LAST_MODIFIED = "Fri, 02 Jan 2026 03:04:05 GMT"
_BROADCAST_ITAG = 93
# Segments that exist when a broadcast starts, and segments in its playlist.
_HEAD_START, _WINDOW = 3, 6
_PLAYLIST = {"Content-Type": "application/vnd.apple.mpegurl"}


def playback(request: Request, state: ServerState, library: Library) -> Response:
    """Answer ``/videoplayback``: a stream or a part of it, by Range or by ``&range=``."""
    query = request.query
    video, stream = find_video(query.get("id", "")), STREAMS.get(int(query.get("itag", 0)))
    if video is None or stream is None or stream.itag not in video.itags:
        return Response(404)
    serial = int(query.get("ei", 0))
    faults = state.next_faults("media", video, video.media)
    start, end = _requested_range(request)
    if not _is_signature_valid(video, serial, query) or state.is_expired(video, serial, start):
        return Response(403)
    if faults.fail:
        return Response(faults.fail)
    language = query.get("xtags", "lang=en").removeprefix("lang=")
    body = _content(library.file(stream, video.content, language))
    headers = {"Content-Type": query.get("mime", "video/mp4"), "Last-Modified": _LAST_MODIFIED}
    if "range" in query:
        return Response(200, body[start : end + 1], headers, faults)
    return Response(200, body, {**headers, "Accept-Ranges": "bytes"}, faults)


def broadcast(request: Request, state: ServerState, library: Library) -> Response:
    """Answer with a manifest or a segment of a broadcast, whose end moves with the clock."""
    parts = request.path.strip("/").split("/")
    values = dict(pairwise(parts))
    video = find_video(values.get("id", ""))
    if video is None or not video.live:
        return Response(404)
    if "hls_variant" in parts:
        return Response(200, _master_playlist(video).encode(), _PLAYLIST)
    if "hls_playlist" in parts:
        if state.is_in_range("playlist", video, *video.playlist_outage):
            return Response(503)
        return Response(200, _media_playlist(video, state.age(video)).encode(), _PLAYLIST)
    if int(values.get("sq", 0)) == video.missing_segment:
        return Response(404)
    segment = _content(library.segment(int(values.get("sq", 0))))
    faults = state.next_faults("media", video, video.media)
    return Response(200, segment, {"Content-Type": "video/mp2t"}, faults)


def _requested_range(request: Request) -> tuple[int, int]:
    """Return the first and last requested byte; the last is 1 << 62 if the request has no end."""
    text = request.query.get("range") or request.headers.get("range", "").removeprefix("bytes=")
    match = re.fullmatch(r"(\d+)-(\d*)", text)
    return (int(match[1]), int(match[2] or 1 << 62)) if match else (0, 1 << 62)


def _is_signature_valid(video: Video, serial: int, query: dict[str, str]) -> bool:
    if not video.signed:
        return True
    n_valid = javascript.n_parameter(video.id, serial) == query.get("n")
    return n_valid and javascript.signature(video.id, serial) == query.get("sig")


def _master_playlist(video: Video) -> str:
    path = f"api/manifest/hls_playlist/id/{video.id}/itag/{_BROADCAST_ITAG}/playlist/index.m3u8"
    variant = 'BANDWIDTH=500000,CODECS="avc1.42c01e,mp4a.40.2",RESOLUTION=640x360,FRAME-RATE=10'
    return f"#EXTM3U\n#EXT-X-STREAM-INF:{variant}\nhttps://{MANIFEST_HOST}/{path}\n"


def _media_playlist(video: Video, seconds: float) -> str:
    """Return the playlist of the newest segments, with the end marker when the broadcast is over."""
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
