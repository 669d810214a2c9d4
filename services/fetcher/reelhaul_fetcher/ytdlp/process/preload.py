"""Everything that the first fetch would load, loaded before it: once for all children."""

from __future__ import annotations

import io
from typing import Any

import yt_dlp.version
from yt_dlp.networking import Response

from reelhaul_fetcher.media import ffmpeg, verify, warm_decoders
from reelhaul_fetcher.ytdlp import fetch, playlist
from reelhaul_fetcher.ytdlp.downloader import (
    Downloader,
    ResponseLog,
    disable_ffmpeg_downloader,
    options,
    share_trust,
)
from reelhaul_fetcher.ytdlp.extractor_index import ExtractorIndex, patterns
from reelhaul_fetcher.ytdlp.info import media_of
from reelhaul_fetcher.ytdlp.process import child

_PAGE = b"""<html><head><title>warm</title>
<script type="application/ld+json">{"@context": "https://schema.org", "@type": "VideoObject", "name": "warm",
"contentUrl": "http://warm.invalid/v.mp4", "duration": "PT1S"}</script></head>
<body><video src="http://warm.invalid/v.mp4"></video></body></html>"""

#: What children use; named so that importing this module loads them.
LOADED = (child, fetch, playlist, ffmpeg, verify)


class _Rehearsal(Downloader):
    """Answers every request from memory."""

    def urlopen(self, req: Any) -> Response:
        """The one page there is."""
        url = req if isinstance(req, str) else req.url
        return Response(io.BytesIO(_PAGE), url, {"Content-Type": "text/html; charset=utf-8"}, status=200)


def warm_up() -> str:
    """Load yt-dlp, all extractors and what a first extraction loads late; returns the engine's version."""
    disable_ffmpeg_downloader()
    share_trust()
    with _Rehearsal(ResponseLog(), options("")) as rehearsal:
        Downloader.extractors = dict(rehearsal._ies)
        known = patterns(Downloader.extractors)
        Downloader.likely = ExtractorIndex(known)
        for name in filter(known.get, known):
            # Its expressions are compiled when it is first asked.
            Downloader.extractors[name].suitable("")
        info = rehearsal.extract_info("http://warm.invalid/page", download=False, process=True)
    media_of(info)
    warm_decoders.prepare()
    return f"yt-dlp {yt_dlp.version.__version__}"
