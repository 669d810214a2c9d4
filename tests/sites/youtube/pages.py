"""HTML pages with the data that yt-dlp extracts from them."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from tests.sites.youtube import javascript
from tests.sites.youtube.catalogue import Video
from tests.sites.youtube.player import CHANNEL, CHANNEL_ID, HANDLE

_VERSION = "2.20260708.00.00"


def render_page(
    title: str,
    data: dict[str, Any],
    player_response: dict[str, Any] | None = None,
    *,
    player: str = javascript.SOLVABLE,
    signed_in: bool = False,
) -> str:
    """Return a page of www.youtube.com with the initial data *data*; a watch page has a player response."""
    config = _config("WEB", player, signed_in=signed_in)
    scripts = [f"ytcfg.set({_json(config)});", f"var ytInitialData = {_json(data)};"]
    if player_response is not None:
        scripts.append(f"var ytInitialPlayerResponse = {_json(player_response)};")
    body = "".join(f"<script>{script}</script>" for script in scripts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)} - YouTube</title></head><body>{body}</body></html>"
    )


def embed() -> str:
    """Return the page of the embedded player, which has only its configuration."""
    script = f"ytcfg.set({_json(_config('WEB_EMBEDDED_PLAYER', javascript.SOLVABLE, signed_in=False))});"
    return f"<!doctype html><html><body><script>{script}</script></body></html>"


def iframe_api() -> str:
    """Return the script that names the current player."""
    address = f"https://www.youtube.com/s/player/{javascript.SOLVABLE}/www-widgetapi.vflset/www-widgetapi.js"
    return f"var scriptUrl = '{address.replace('/', chr(92) + '/')}';"


def watch_data(video: Video, playlist: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the initial data of a watch page, which ``/youtubei/v1/next`` returns too."""
    results = [
        {"videoPrimaryInfoRenderer": _primary(video)},
        {"videoSecondaryInfoRenderer": {"owner": {"videoOwnerRenderer": _owner()}}},
    ]
    columns: dict[str, Any] = {"results": {"results": {"contents": results}}}
    if playlist is not None:
        columns["playlist"] = {"playlist": playlist}
    return {
        "contents": {"twoColumnWatchNextResults": columns},
        "currentVideoEndpoint": {"watchEndpoint": {"videoId": video.id}},
        "playerOverlays": {"playerOverlayRenderer": _overlay(video)},
    }


def _player_path(player_id: str) -> str:
    """Return the path of ``base.js`` of *player_id*."""
    return f"/s/player/{player_id}/player_ias.vflset/en_US/base.js"


def _config(client: str, player: str, *, signed_in: bool) -> dict[str, Any]:
    client_context = {
        "clientName": client,
        "clientVersion": _VERSION,
        "hl": "en",
        "gl": "US",
        "visitorData": "standin",
    }
    return {
        "INNERTUBE_API_KEY": "AIzaSyReelhaulStandIn",
        "INNERTUBE_API_VERSION": "v1",
        "INNERTUBE_CLIENT_NAME": client,
        "INNERTUBE_CLIENT_VERSION": _VERSION,
        "INNERTUBE_CONTEXT": {"client": client_context},
        "INNERTUBE_CONTEXT_CLIENT_NAME": 1 if client == "WEB" else 56,
        "VISITOR_DATA": "standin",
        "STS": 20455,
        "LOGGED_IN": signed_in,
        "PLAYER_JS_URL": _player_path(player),
    }


def _primary(video: Video) -> dict[str, Any]:
    count = {"videoViewCountRenderer": {"viewCount": {"simpleText": "1,234,567 views"}}}
    return {
        "title": {"runs": [{"text": video.title}]},
        "viewCount": count,
        "dateText": {"simpleText": "Jan 2, 2026"},
    }


def _owner() -> dict[str, Any]:
    endpoint = {"browseEndpoint": {"browseId": CHANNEL_ID, "canonicalBaseUrl": f"/{HANDLE}"}}
    return {
        "title": {"runs": [{"text": CHANNEL, "navigationEndpoint": endpoint}]},
        "subscriberCountText": {"simpleText": "12.3K subscribers"},
        "navigationEndpoint": endpoint,
    }


def _overlay(video: Video) -> dict[str, Any]:
    chapters = [
        {"chapterRenderer": {"title": {"simpleText": title}, "timeRangeStartMillis": start * 1000}}
        for title, start in video.chapters
    ]
    bar = {"playerBar": {"chapteredPlayerBarRenderer": {"chapters": chapters}}}
    return {"decoratedPlayerBarRenderer": {"decoratedPlayerBarRenderer": bar}}


def _json(value: object) -> str:
    # A title must not end the script element that contains it.
    return json.dumps(value).replace("</", "<\\/")
