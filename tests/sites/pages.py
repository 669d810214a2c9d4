"""Pages and manifests of the site: each shows the same video in another of the ways that sites do."""

from __future__ import annotations

import json
import re
from html import escape

from tests.sites.faults import for_media, for_playlist
from tests.sites.media import HEIGHTS, LANGUAGES, SECONDS

TITLE = "A moving picture"
DESCRIPTION = "Eight seconds of test picture and tone, made for Reelhaul."
CHAPTERS = (("Beginning", 0, 3), ("Middle", 3, 6), ("End", 6, SECONDS))


def page(name: str, origin: str, query: dict[str, str]) -> str | None:
    """The page ``/watch/<name>``, its links absolute at *origin*; None where there is no such page."""
    build = _PAGES.get(name)
    return build(origin, for_media(query), for_playlist(query)) if build else None


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
    host = query.get("segment_host", "")
    return f"{host.rstrip('/')}{path.rpartition('/')[0]}/" if host else ""


def _json_ld(origin: str, media: str, _: str) -> str:
    thing = {
        "@context": "https://schema.org",
        "@type": "VideoObject",
        "name": TITLE,
        "description": DESCRIPTION,
        "thumbnailUrl": [f"{origin}/media/thumbnail.jpg"],
        "uploadDate": "2026-01-02T03:04:05Z",
        "duration": f"PT{SECONDS}S",
        "contentUrl": f"{origin}/media/1080.mp4{media}",
        "encodingFormat": "video/mp4",
        "height": 1080,
        "width": 1920,
        "hasPart": [
            {
                "@type": "Clip",
                "name": name,
                "startOffset": start,
                "endOffset": end,
                "url": f"{origin}/#t={start}",
            }
            for name, start, end in CHAPTERS
        ],
    }
    return _html(f'<script type="application/ld+json">{json.dumps(thing)}</script>')


def _open_graph(origin: str, media: str, _: str) -> str:
    properties = {
        "og:type": "video.other",
        "og:title": TITLE,
        "og:description": DESCRIPTION,
        "og:image": f"{origin}/media/thumbnail.jpg",
        "og:video": f"{origin}/media/1080.mp4{media}",
        "og:video:type": "video/mp4",
    }
    return _html("".join(f'<meta property="{k}" content="{escape(v)}">' for k, v in properties.items()))


def _video(origin: str, media: str, _: str) -> str:
    """Plain files in three heights, with subtitles: what the demo downloads."""
    sources = "".join(
        f'<source src="{origin}/media/{height}.mp4{escape(media)}"'
        f' type="video/mp4" label="{height}p" res="{height}">'
        for height in HEIGHTS
    )
    tracks = "".join(
        f'<track kind="subtitles" srclang="{language}" src="{origin}/media/subtitles-{language}.vtt">'
        for language in LANGUAGES
    )
    return _html("", f'<video controls poster="{origin}/media/thumbnail.jpg">{sources}{tracks}</video>')


def _hls(origin: str, _: str, playlist_query: str) -> str:
    source = f'<source src="{origin}/hls/master.m3u8{escape(playlist_query)}" type="application/x-mpegURL">'
    track = f'<track kind="subtitles" srclang="en" src="{origin}/media/subtitles-en.vtt">'
    return _html("", f"<video controls>{source}{track}</video>")


def _no_video(_origin: str, _media: str, _playlist: str) -> str:
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
    "nothing": _no_video,
}
