"""Pages and manifests of the site: each shows the same video in another of the ways that sites do."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html import escape

from tests.sites.faults import for_media, for_playlist
from tests.sites.media import HEIGHTS, LANGUAGES, SECONDS

TITLE = "A moving picture"
DESCRIPTION = "Eight seconds of test picture and tone, made for Reelhaul."
CHAPTERS = (("Beginning", 0, 3), ("Middle", 3, 6), ("End", 6, SECONDS))


@dataclass(frozen=True)
class Links:
    """What a page makes its links of."""

    origin: str
    #: Of the media files: the site's own, unless asked to be another.
    media_origin: str
    #: The query of media files, and of playlists, with its ``?``.
    media_query: str
    playlist_query: str

    def media(self, name: str) -> str:
        """The URL of a media file, e.g. ``1080.mp4``."""
        return f"{self.media_origin}/media/{name}{self.media_query}"

    def extra(self, name: str) -> str:
        """The URL of what goes with the media, e.g. ``thumbnail.jpg``: always well."""
        return f"{self.origin}/media/{name}"


def page(name: str, origin: str, query: dict[str, str]) -> str | None:
    """The page ``/watch/<name>``, its links absolute at *origin*; None where there is no such page."""
    build = _PAGES.get(name)
    if build is None:
        return None
    elsewhere = query.get("media_host", "").rstrip("/")
    return build(Links(origin, elsewhere or origin, for_media(query), for_playlist(query)))


def playlist(path: str, text: str, query: dict[str, str]) -> str:
    """The HLS playlist of *path* with the faults of *query* passed on to what it names."""
    master = "#EXT-X-STREAM-INF" in text
    suffix, origin = (for_playlist(query), "") if master else (for_media(query), _folder(path, query))

    def linked(uri: str) -> str:
        return f"{origin}{uri}{suffix}"

    text = re.sub(r'URI="([^"]+)"', lambda found: f'URI="{linked(found[1])}"', text)
    return re.sub(r"^(?!#)(\S+)$", lambda found: linked(found[1]), text, flags=re.MULTILINE)


def manifest(path: str, text: str, query: dict[str, str]) -> str:
    """The DASH manifest of *path* with the faults of *query* passed on to its segments."""
    suffix, origin = escape(for_media(query)), escape(_folder(path, query))
    return re.sub(r'\b(initialization|media)="([^"]+)"', rf'\1="{origin}\2{suffix}"', text)


def _folder(path: str, query: dict[str, str]) -> str:
    """What goes before a segment's name: nothing, or the same folder at another host."""
    host = query.get("media_host", "")
    return f"{host.rstrip('/')}{path.rpartition('/')[0]}/" if host else ""


def _json_ld(links: Links) -> str:
    thing = {
        "@context": "https://schema.org",
        "@type": "VideoObject",
        "name": TITLE,
        "description": DESCRIPTION,
        "thumbnailUrl": [links.extra("thumbnail.jpg")],
        "uploadDate": "2026-01-02T03:04:05Z",
        "duration": f"PT{SECONDS}S",
        "contentUrl": links.media("1080.mp4"),
        "encodingFormat": "video/mp4",
        "height": 1080,
        "width": 1920,
        "hasPart": [
            {
                "@type": "Clip",
                "name": name,
                "startOffset": start,
                "endOffset": end,
                "url": f"{links.origin}/#{start}",
            }
            for name, start, end in CHAPTERS
        ],
    }
    return _html(f'<script type="application/ld+json">{json.dumps(thing)}</script>')


def _open_graph(links: Links) -> str:
    properties = {
        "og:type": "video.other",
        "og:title": TITLE,
        "og:description": DESCRIPTION,
        "og:image": links.extra("thumbnail.jpg"),
        "og:video": links.media("1080.mp4"),
        "og:video:type": "video/mp4",
    }
    return _html("".join(f'<meta property="{k}" content="{escape(v)}">' for k, v in properties.items()))


def _video(links: Links) -> str:
    """Plain files in three heights, with subtitles: what the demo downloads."""
    sources = "".join(
        f'<source src="{escape(links.media(f"{height}.mp4"))}"'
        f' type="video/mp4" label="{height}p" res="{height}">'
        for height in HEIGHTS
    )
    tracks = "".join(
        f'<track kind="subtitles" srclang="{language}" src="{links.extra(f"subtitles-{language}.vtt")}">'
        for language in LANGUAGES
    )
    return _html("", f'<video controls poster="{links.extra("thumbnail.jpg")}">{sources}{tracks}</video>')


def _several(links: Links) -> str:
    """Two videos on one page, which yt-dlp takes for a list."""
    files = (links.media("720.mp4"), links.media("360.mp4"))
    return _html("", "".join(f'<video controls><source src="{escape(file)}"></video>' for file in files))


def _hls(links: Links) -> str:
    master = escape(f"{links.origin}/hls/master.m3u8{links.playlist_query}")
    source = f'<source src="{master}" type="application/x-mpegURL">'
    track = f'<track kind="subtitles" srclang="en" src="{links.extra("subtitles-en.vtt")}">'
    return _html("", f"<video controls>{source}{track}</video>")


def _no_video(_: Links) -> str:
    return _html("", "<p>Nothing to see here.</p>")


def _html(head: str, body: str = "") -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title>'
        f'<meta name="description" content="{DESCRIPTION}">{head}</head>'
        f"<body><h1>{TITLE}</h1>{body}</body></html>"
    )


_PAGES = {
    "demo": _video,
    "video": _video,
    "jsonld": _json_ld,
    "og": _open_graph,
    "hls": _hls,
    "several": _several,
    "nothing": _no_video,
}
