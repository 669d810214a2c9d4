"""Routes of the stand-in: the hosts of YouTube and SponsorBlock with their paths."""

from __future__ import annotations

import asyncio
import json
import re
from hashlib import sha256
from typing import Any

from tests.sites.http import Request, Response
from tests.sites.youtube import captions, javascript, lists, media, pages
from tests.sites.youtube.catalogue import Video, all_videos, find_video
from tests.sites.youtube.library import Library
from tests.sites.youtube.player import CHANNEL_ID, HANDLE, player_response
from tests.sites.youtube.state import ServerState

_API = "/youtubei/v1/"
_PICTURES = re.compile(r"/vi/[\w-]{11}/(hqdefault|mqdefault|default|sddefault|maxresdefault|0)\.jpg")
_NOT_FOUND = Response(404)


class Routes:
    """Answers requests to YouTube's hosts about the videos of the catalogue."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._state = ServerState()

    async def respond(self, host: str, request: Request) -> Response:
        """Return the response of *host* to *request*; create missing media."""
        # In a thread, because encoding media takes long and must not block other connections.
        return await asyncio.to_thread(self._route, host, request)

    def _route(self, host: str, request: Request) -> Response:
        if host.endswith(".googlevideo.com"):
            handle = media.playback if request.path == "/videoplayback" else media.broadcast
            return handle(request, self._state, self._library)
        if host == "i.ytimg.com" or host == "yt3.ggpht.com":
            return self._image(host, request.path)
        if host == "sponsor.ajay.app":
            return _sponsorblock(request)
        if request.path.startswith(_API):
            return self._api(request)
        return self._page(request)

    def _page(self, request: Request) -> Response:
        path = request.path
        if path == "/watch" or path.startswith("/shorts/"):
            return self._watch(request)
        if path == "/playlist":
            return _playlist(request.query.get("list", ""))
        if path == "/api/timedtext":
            return self._timedtext(request)
        if match := re.fullmatch(r"/s/player/(\w+)/.*\.js", path):
            return _text(javascript.player(match[1]), "text/javascript")
        if path.startswith("/embed/"):
            return _html(pages.embed())
        if path == "/iframe_api":
            return _text(pages.iframe_api(), "text/javascript")
        if match := re.fullmatch(rf"/(?:{HANDLE}|channel/{CHANNEL_ID})(?:/(\w+))?", path):
            tab = match[1] or "videos"
            return (
                _html(pages.render_page("Reelhaul", lists.channel(tab))) if tab in lists.TABS else _NOT_FOUND
            )
        # Clients read their configuration from these pages.
        return _html(pages.render_page("YouTube", {})) if path in ("/", "/tv") else _NOT_FOUND

    def _api(self, request: Request) -> Response:
        method, body = request.path.removeprefix(_API), _json_body(request)
        if method == "browse" and "continuation" in body:
            return _json(lists.continuation(body["continuation"]))
        if method == "browse":
            return _browse(str(body.get("browseId", "")))
        video = find_video(requested_video_id(request))
        if video is None or method not in ("player", "next"):
            return _error(404, "Requested entity was not found.")
        if method == "next":
            return _json(pages.watch_data(video))
        return self._player(request, video, body)

    def _player(self, request: Request, video: Video, body: dict[str, Any]) -> Response:
        faults = self._state.next_faults("player", video, video.player)
        if faults.fail:
            return _error(faults.fail, "The stand-in fails as configured.")
        client = str(body.get("context", {}).get("client", {}).get("clientName", "WEB"))
        return _json(self._player_response(request, video, client))

    def _player_response(self, request: Request, video: Video, client: str) -> dict[str, Any]:
        view = self._state.view(video, client, signed_in=_signed_in(request))
        return player_response(view, self._library)

    def _watch(self, request: Request) -> Response:
        video = find_video(requested_video_id(request))
        if video is None:
            return _NOT_FOUND
        faults = self._state.next_faults("page", video, video.page)
        if faults.fail:
            return Response(faults.fail)
        list_id = request.query.get("list", "")
        count = lists.size(list_id)
        data = pages.watch_data(video, lists.panel(list_id, count) if count else None)
        player = javascript.SOLVABLE if video.solvable else javascript.UNSOLVABLE
        response = self._player_response(request, video, "WEB")
        page = pages.render_page(video.title, data, response, player=player, signed_in=_signed_in(request))
        return _html(page, _revoke_cookie(request))

    def _timedtext(self, request: Request) -> Response:
        video = find_video(request.query.get("v", ""))
        track = captions.timedtext(video, request.query) if video else None
        if video is None or track is None:
            return _NOT_FOUND
        faults = self._state.next_faults("captions", video, video.captions)
        return Response(faults.fail) if faults.fail else _text(*track)

    def _image(self, host: str, path: str) -> Response:
        exists = host != "i.ytimg.com" or path.startswith("/sb/") or _PICTURES.fullmatch(path)
        if not exists:
            return _NOT_FOUND
        return Response(200, self._library.thumbnail().read_bytes(), {"Content-Type": "image/jpeg"})


def requested_video_id(request: Request) -> str:
    """Return the id of the video that *request* is about; empty if it is about none."""
    if request.path.startswith(_API):
        return str(_json_body(request).get("videoId", ""))
    if match := re.match(r"/(?:shorts|embed|vi|vi_webp)/([\w-]{11})|.*/id/([\w-]{11})/", request.path):
        return match[1] or match[2]
    return request.query.get("v", "") or request.query.get("id", "")


def _playlist(list_id: str) -> Response:
    count = lists.size(list_id)
    data = lists.playlist(list_id, count) if count is not None else lists.missing_playlist()
    return _html(pages.render_page("A list", data))


def _browse(browse_id: str) -> Response:
    """Return the data of a playlist page as the API does."""
    list_id = browse_id.removeprefix("VL")
    count = lists.size(list_id)
    return _json(lists.playlist(list_id, count) if count is not None else lists.missing_playlist())


def _sponsorblock(request: Request) -> Response:
    """Answer ``/api/skipSegments/<prefix>`` with the segments of all videos whose digest has the prefix."""
    prefix = request.path.removeprefix("/api/skipSegments/")
    videos = [video for video in all_videos() if sha256(video.id.encode()).hexdigest().startswith(prefix)]
    if any(video.sponsors_fail for video in videos):
        return Response(503)
    categories = json.loads(request.query.get("categories", "[]"))
    items = [item for item in (_sponsor_segments(video, categories) for video in videos) if item["segments"]]
    return _json(items) if len(prefix) >= 4 and items else _NOT_FOUND


def _sponsor_segments(video: Video, categories: list[str]) -> dict[str, object]:
    segments = [
        {
            "segment": [start, end],
            "category": category,
            "actionType": "skip",
            "videoDuration": video.content.seconds,
        }
        for category, start, end in video.sponsors
        if category in categories
    ]
    return {"videoID": video.id, "segments": segments}


def _signed_in(request: Request) -> bool:
    cookie = request.headers.get("cookie", "")
    return "LOGIN_INFO=" in cookie and not _is_expired(request)


def _is_expired(request: Request) -> bool:
    return "LOGIN_INFO=expired" in request.headers.get("cookie", "")


def _revoke_cookie(request: Request) -> dict[str, str]:
    """Return the header with which YouTube deletes the cookie of an expired session."""
    if not _is_expired(request):
        return {}
    return {"Set-Cookie": "LOGIN_INFO=; Domain=.youtube.com; Path=/; Max-Age=0; Secure"}


def _json_body(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.body or b"{}")
    return body


def _html(text: str, headers: dict[str, str] | None = None) -> Response:
    return Response(200, text.encode(), {"Content-Type": "text/html; charset=utf-8", **(headers or {})})


def _text(text: str, mime: str) -> Response:
    return Response(200, text.encode(), {"Content-Type": mime})


def _json(value: object, status: int = 200) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _error(status: int, message: str) -> Response:
    return _json({"error": {"code": status, "message": message, "errors": []}}, status)
