"""Pages and manifests of the site: each presents the same video in one of the ways that sites use."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html import escape

from tests.sites.faults import media_query, playlist_query
from tests.sites.media import HEIGHTS, LANGUAGES, SECONDS

TITLE = "A moving picture"
DESCRIPTION = "Eight seconds of test picture and tone, made for Reelhaul."
CHAPTERS = (("Beginning", 0, 3), ("Middle", 3, 6), ("End", 6, SECONDS))


@dataclass(frozen=True)
class Links:
    """Origins and queries of the links in a page."""

    origin: str
    #: Origin of the media files; another one with the fault ``media_host``.
    media_origin: str
    #: Queries of media files and of playlists, with ``?``.
    media_query: str
    playlist_query: str

    def media(self, name: str) -> str:
        """Return the URL of a media file, e.g. ``1080.mp4``."""
        return f"{self.media_origin}/media/{name}{self.media_query}"

    def extra(self, name: str) -> str:
        """Return the URL of a side file, e.g. ``thumbnail.jpg``, which has no faults."""
        return f"{self.origin}/media/{name}"


def render_page(name: str, origin: str, query: dict[str, str]) -> str | None:
    """Return the page ``/watch/<name>`` with absolute links; None if there is no such page."""
    build = _PAGES.get(name)
    if build is None:
        return None
    media_host = query.get("media_host", "").rstrip("/")
    return build(Links(origin, media_host or origin, media_query(query), playlist_query(query)))


def rewrite_playlist(path: str, text: str, query: dict[str, str]) -> str:
    """Add the faults in *query* to the URIs in *text*, the HLS playlist at *path*."""
    is_master = "#EXT-X-STREAM-INF" in text
    suffix, base = (playlist_query(query), "") if is_master else (media_query(query), _base_url(path, query))

    def link(uri: str) -> str:
        return f"{base}{uri}{suffix}"

    text = re.sub(r'URI="([^"]+)"', lambda match: f'URI="{link(match[1])}"', text)
    return re.sub(r"^(?!#)(\S+)$", lambda match: link(match[1]), text, flags=re.MULTILINE)


def rewrite_manifest(path: str, text: str, query: dict[str, str]) -> str:
    """Add the faults in *query* to the segment URIs in *text*, the DASH manifest at *path*."""
    suffix, base = escape(media_query(query)), escape(_base_url(path, query))
    return re.sub(r'\b(initialization|media)="([^"]+)"', rf'\1="{base}\2{suffix}"', text)


def _base_url(path: str, query: dict[str, str]) -> str:
    """Return the prefix of segment names: empty, or the same folder at the media host."""
    host = query.get("media_host", "")
    return f"{host.rstrip('/')}{path.rpartition('/')[0]}/" if host else ""


def _json_ld(links: Links) -> str:
    metadata = {
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
    return _html(f'<script type="application/ld+json">{json.dumps(metadata)}</script>')


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
    """Return a page with files in three heights and subtitles; the demo downloads it."""
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
    """Return a page with two videos, which yt-dlp takes for a playlist."""
    files = (links.media("720.mp4"), links.media("360.mp4"))
    return _html("", "".join(f'<video controls><source src="{escape(file)}"></video>' for file in files))


def _feed(links: Links) -> str:
    """Return the RSS feed of a podcast: two episodes, the first of them again, and one that is gone."""
    episodes = [
        ("One & only", "720.mp4"),
        ("Two", "360.mp4"),
        ("One & only", "720.mp4"),
        ("Away", "none.mp4"),
    ]
    items = "".join(
        f"<item><title>{escape(title)}</title><guid isPermaLink='false'>episode-{number}</guid>"
        f"<link>{links.origin}/watch/nothing</link><itunes:duration>0:08</itunes:duration>"
        f'<enclosure url="{escape(links.media(name))}" type="video/mp4" length="1"/></item>'
        for number, (title, name) in enumerate(episodes)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0"'
        ' xmlns:itunes="http://www.itunes.com/dtds/podcast-1.0.dtd">'
        f"<channel><title>{TITLE}</title>{items}</channel></rss>"
    )


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
    "feed": _feed,
    "nothing": _no_video,
}
