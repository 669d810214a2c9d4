"""Which request is for what: the hosts of YouTube, and the paths that a player or a browser asks for."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from tests.sites.http import Answer, Request
from tests.sites.youtube import captions, javascript, lists, media, pages, player, sponsors
from tests.sites.youtube.catalogue import Video, find
from tests.sites.youtube.library import Library
from tests.sites.youtube.player import CHANNEL_ID, HANDLE
from tests.sites.youtube.visits import Visits

_API = "/youtubei/v1/"
_PICTURES = re.compile(r"/vi/[\w-]{11}/(hqdefault|mqdefault|default|sddefault|maxresdefault|0)\.jpg")
_NOT_FOUND = Answer(404)


class Routes:
    """Answers requests to YouTube's hosts, from the catalogue."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._visits = Visits()

    async def respond(self, host: str, request: Request) -> Answer:
        """What *host* answers to *request*. Makes the media that are not there yet."""
        # Encoding takes its time, and other connections must not wait for it.
        return await asyncio.to_thread(self._answer, host, request)

    def _answer(self, host: str, request: Request) -> Answer:
        if host.endswith(".googlevideo.com"):
            served = media.playback if request.path == "/videoplayback" else media.broadcast
            return served(request, self._visits, self._library)
        if host == "i.ytimg.com" or host == "yt3.ggpht.com":
            return self._picture(host, request.path)
        if host == sponsors.HOST:
            return sponsors.answer(request)
        if request.path.startswith(_API):
            return self._api(request)
        return self._page(request)

    def _page(self, request: Request) -> Answer:
        path = request.path
        if path == "/watch" or path.startswith("/shorts/"):
            return self._watch(request)
        if path == "/playlist":
            return _playlist(request.query.get("list", ""))
        if path == "/api/timedtext":
            return self._timedtext(request)
        if found := re.fullmatch(r"/s/player/(\w+)/.*\.js", path):
            return _text(javascript.player(found[1]), "text/javascript")
        if path.startswith("/embed/"):
            return _html(pages.embed())
        if path == "/iframe_api":
            return _text(pages.iframe_api(), "text/javascript")
        if found := re.fullmatch(rf"/(?:{HANDLE}|channel/{CHANNEL_ID})(?:/(\w+))?", path):
            tab = found[1] or "videos"
            return _html(pages.page("Reelhaul", lists.channel(tab))) if tab in lists.TABS else _NOT_FOUND
        # The pages that clients take their configuration from.
        return _html(pages.page("YouTube", {})) if path in ("/", "/tv") else _NOT_FOUND

    def _api(self, request: Request) -> Answer:
        call, body = request.path.removeprefix(_API), _json_body(request)
        if call == "browse" and "continuation" in body:
            return _json(lists.continuation(body["continuation"]))
        if call == "browse":
            return _browse(str(body.get("browseId", "")))
        video = find(video_asked(request))
        if video is None or call not in ("player", "next"):
            return _failed(404, "Requested entity was not found.")
        if call == "next":
            return _json(pages.watch_data(video))
        return self._player(request, video, body)

    def _player(self, request: Request, video: Video, body: dict[str, Any]) -> Answer:
        faults = self._visits.faults("player", video, video.player)
        if faults.fail:
            return _json(
                {"error": {"code": faults.fail, "message": "The stand-in was asked to fail."}}, faults.fail
            )
        client = str(body.get("context", {}).get("client", {}).get("clientName", "WEB"))
        return _json(self._response(request, video, client))

    def _response(self, request: Request, video: Video, client: str) -> dict[str, Any]:
        showing = self._visits.showing(video, client, signed_in=_signed_in(request))
        return player.response(showing, self._library)

    def _watch(self, request: Request) -> Answer:
        video = find(video_asked(request))
        if video is None:
            return _NOT_FOUND
        faults = self._visits.faults("page", video, video.page)
        if faults.fail:
            return Answer(faults.fail)
        listed = request.query.get("list", "")
        count = lists.size(listed)
        data = pages.watch_data(video, lists.panel(listed, count) if count else None)
        script = javascript.SOLVABLE if video.solvable else javascript.UNSOLVABLE
        told = self._response(request, video, "WEB")
        page = pages.page(video.title, data, told, player=script, signed_in=_signed_in(request))
        return _html(page, _goodbye(request))

    def _timedtext(self, request: Request) -> Answer:
        video = find(request.query.get("v", ""))
        found = captions.timedtext(video, request.query) if video else None
        if video is None or found is None:
            return _NOT_FOUND
        faults = self._visits.faults("captions", video, video.captions)
        return Answer(faults.fail) if faults.fail else _text(*found)

    def _picture(self, host: str, path: str) -> Answer:
        shown = host != "i.ytimg.com" or path.startswith("/sb/") or _PICTURES.fullmatch(path)
        if not shown:
            return _NOT_FOUND
        return Answer(200, self._library.picture().read_bytes(), {"Content-Type": "image/jpeg"})


def video_asked(request: Request) -> str:
    """The id of the video that *request* is about; empty where it is about none."""
    if request.path.startswith(_API):
        return str(_json_body(request).get("videoId", ""))
    if found := re.match(r"/(?:shorts|embed|vi|vi_webp)/([\w-]{11})|.*/id/([\w-]{11})/", request.path):
        return found[1] or found[2]
    return request.query.get("v", "") or request.query.get("id", "")


def _playlist(list_id: str) -> Answer:
    count = lists.size(list_id)
    data = lists.playlist(list_id, count) if count is not None else lists.no_playlist()
    return _html(pages.page("A list", data))


def _browse(browse_id: str) -> Answer:
    """What a playlist's page shows, again, by the API."""
    list_id = browse_id.removeprefix("VL")
    count = lists.size(list_id)
    return _json(lists.playlist(list_id, count) if count is not None else lists.no_playlist())


def _signed_in(request: Request) -> bool:
    cookie = request.headers.get("cookie", "")
    return "LOGIN_INFO=" in cookie and not _is_expired(request)


def _is_expired(request: Request) -> bool:
    return "LOGIN_INFO=expired" in request.headers.get("cookie", "")


def _goodbye(request: Request) -> dict[str, str]:
    """YouTube takes back the cookie of a session that it no longer knows."""
    if not _is_expired(request):
        return {}
    return {"Set-Cookie": "LOGIN_INFO=; Domain=.youtube.com; Path=/; Max-Age=0; Secure"}


def _json_body(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.body or b"{}")
    return body


def _html(text: str, headers: dict[str, str] | None = None) -> Answer:
    return Answer(200, text.encode(), {"Content-Type": "text/html; charset=utf-8", **(headers or {})})


def _text(text: str, mime: str) -> Answer:
    return Answer(200, text.encode(), {"Content-Type": mime})


def _json(value: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _failed(status: int, message: str) -> Answer:
    return _json({"error": {"code": status, "message": message, "errors": []}}, status)
