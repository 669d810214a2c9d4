"""A media site that is hostile in the later stages of a download: recording, post-processing, uploading."""

from __future__ import annotations

import json
import struct
import time

from tests.sites.http import Request, Response
from tests.sites.site import Site

_PLAYLIST, _PAGE = {"Content-Type": "application/vnd.apple.mpegurl"}, {"Content-Type": "text/html"}
_CHAPTERS = 300
_PADDING_BYTES = 64 << 20


class HostileSite(Site):
    """The media site with more paths, below ``/hostile/``."""

    async def respond(self, request: Request) -> Response:
        """Return the response to *request*."""
        match request.path:
            case "/hostile/chapters":
                return Response(200, self._page_with_chapters(), _PAGE)
            case "/hostile/padded.mp4":
                return Response(200, self._padded_file(), {"Content-Type": "video/mp4"})
            case "/hostile/stands.m3u8":
                return Response(200, _live_playlist(0, ""), _PLAYLIST)
            case "/hostile/grows.m3u8":
                return Response(200, _live_playlist(int(time.monotonic()), ""), _PLAYLIST)
            case "/hostile/drips.m3u8":
                return Response(200, _live_playlist(int(time.monotonic()), "rate=1&"), _PLAYLIST)
        return await super().respond(request)

    def _page_with_chapters(self) -> bytes:
        """Return a page whose video has hundreds of chapters, each of which becomes a file."""
        clips = [
            {
                "@type": "Clip",
                "name": f"Part {number}",
                "startOffset": number * 8 / _CHAPTERS,
                "endOffset": (number + 1) * 8 / _CHAPTERS,
                "url": self.url(f"/#{number}"),
            }
            for number in range(_CHAPTERS)
        ]
        video = {
            "@context": "https://schema.org",
            "@type": "VideoObject",
            "name": "Chapters",
            "duration": "PT8S",
            "contentUrl": self.url("/media/360.mp4"),
            "encodingFormat": "video/mp4",
            "hasPart": clips,
        }
        script = f'<script type="application/ld+json">{json.dumps(video)}</script>'
        return f"<!DOCTYPE html><html><head>{script}</head></html>".encode()

    def _padded_file(self) -> bytes:
        """Return a video of seconds with megabytes that no player reads, which are verified and stored."""
        video = self.media.file("/media/360.mp4").read_bytes()
        return video + struct.pack(">I4s", _PADDING_BYTES, b"free") + bytes(_PADDING_BYTES - 8)


def _live_playlist(first: int, query: str) -> bytes:
    """Return a live playlist of four segments that begins with the segment *first*."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2", f"#EXT-X-MEDIA-SEQUENCE:{first}"]
    for number in range(first, first + 4):
        lines += ["#EXTINF:2.0,", f"/hls-ts/360-{number % 4}.ts?{query}token={number}"]
    return "\n".join([*lines, ""]).encode()
