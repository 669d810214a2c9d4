"""Our YoutubeDL: every option chosen here, and each answer of the network noted."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urlsplit

import yt_dlp
from yt_dlp.downloader.external import FFmpegFD
from yt_dlp.networking import Request, common
from yt_dlp.networking.exceptions import HTTPError, RequestError
from yt_dlp.networking.impersonate import ImpersonateTarget
from yt_dlp.utils import unsmuggle_url

from reelhaul.backoff import FIRST_SECONDS, LONGEST_SECONDS, exponential_delay
from reelhaul_fetcher.guard.http.error_responses import FAILURE_FIELD, REFUSAL_FIELD
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.ytdlp.download.safe_resume import Resuming

# Over CONNECT, urllib hands on the status line alone: the guard's word is in it.
_TUNNEL = re.compile(r"Tunnel connection failed: \d+ (Refused by the guard|Site not reached): ([\w-]+)")

_SUPPORTED = frozenset({"http", "https", "m3u8", "m3u8_native", "http_dash_segments"})


@dataclass(slots=True)
class ResponseLog:
    """What the network said to the requests of one run, where it was not yes."""

    statuses: dict[int, int] = field(default_factory=dict)
    #: Status, host and Retry-After of the last refusal of a site.
    last_status: int = 0
    last_host: str = ""
    retry_after: str = ""
    #: Why the guard refused the last request that failed; empty if it was not the guard.
    guard_refused: str = ""
    #: Why the guard did not reach the site with it; empty if that was not the matter.
    guard_failed: str = ""
    #: yt-dlp tells some causes as warnings only.
    warnings: list[str] = field(default_factory=list)

    def note(self, url: str, error: RequestError) -> None:
        """Remember how the request for *url* failed."""
        self.last_host = urlsplit(url).hostname or ""
        self.guard_refused = self.guard_failed = ""
        if isinstance(error, HTTPError):
            headers = error.response.headers
            self.guard_refused = headers.get(REFUSAL_FIELD, "")
            self.guard_failed = headers.get(FAILURE_FIELD, "")
            if not self.guard_refused and not self.guard_failed:
                self.last_status = error.status
                self.statuses[error.status] = self.statuses.get(error.status, 0) + 1
                self.retry_after = headers.get("Retry-After", "")
        elif told := _TUNNEL.search(str(error)):
            refused = told[1].startswith("Refused")
            self.guard_refused, self.guard_failed = (told[2], "") if refused else ("", told[2])

    # yt-dlp's logger.
    def debug(self, text: str) -> None:
        """Not kept."""

    def info(self, text: str) -> None:
        """Not kept."""

    def warning(self, text: str) -> None:
        """Kept for the classification, within bounds."""
        if len(self.warnings) < 50:
            self.warnings.append(text[:500])

    def error(self, text: str) -> None:
        """Not kept: it comes as an exception as well."""


class Downloader(yt_dlp.YoutubeDL):  # type: ignore[misc,name-defined,unused-ignore]
    """A YoutubeDL that notes refusals in *answers* and finds its extractors loaded."""

    #: Extractor classes by key, filled once in the warm parent.
    extractors: dict[str, Any] = {}  # noqa: RUF012 - shared on purpose

    def __init__(self, answers: ResponseLog, params: dict[str, Any]) -> None:
        self._answers = answers
        self._unnoted = False
        self._resuming = Resuming(super().urlopen)
        super().__init__({**params, "logger": answers})

    def add_default_info_extractors(self) -> None:
        """All extractors: instances and expressions are made once, in the parent."""
        if self.extractors:
            # Not copied: to touch them all would cost the child a copy of all their memory.
            self._ies = self.extractors
        else:
            super().add_default_info_extractors()

    def urlopen(self, req: Any) -> Any:
        """As yt-dlp's, with failures noted."""
        request = Request(req) if isinstance(req, str) else req
        # Extractors leave notes for each other in the fragment; urllib would send it to a proxy.
        request.url, notes = unsmuggle_url(request.url, {})
        request.url = urldefrag(request.url).url
        if notes.get("referer"):
            request.headers.setdefault("Referer", notes["referer"])
        try:
            return self._resuming.urlopen(request)
        except RequestError as error:
            if not self._unnoted:
                self._answers.note(request.url, error)
            raise

    def _forceprint(self, key: str, info_dict: dict[str, Any] | None) -> None:
        """Nothing is printed here; yt-dlp would draw tables of all formats and captions for it."""

    @contextmanager
    def unnoted(self) -> Iterator[None]:
        """A block whose requests may fail without meaning anything."""
        self._unnoted = True
        try:
            yield
        finally:
            self._unnoted = False


def options(
    proxy_url: str,
    access: EngineOptions | None = None,
    *,
    hook: Callable[[dict[str, Any]], None] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """yt-dlp's parameters. None of them comes from a caller."""
    return {
        **(access_options(access) if access else {}),
        "quiet": True,
        "noprogress": True,
        "color": "never",
        "proxy": proxy_url,
        "cachedir": False,
        "compat_opts": ["no-certifi", "prefer-legacy-http-handler"],
        "default_search": "error",
        "enable_file_urls": False,
        "noplaylist": True,
        "ignoreerrors": False,
        "format": _first,
        "check_formats": False,
        "fixup": "never",
        "socket_timeout": 20,
        "retries": 5,
        "fragment_retries": 5,
        "retry_sleep_functions": {"http": _pause, "fragment": _pause},
        "skip_unavailable_fragments": False,
        "concurrent_fragment_downloads": access.connections if access else 1,
        "hls_prefer_native": True,
        "external_downloader": {"default": "native", "m3u8": "native", "dash": "native"},
        "overwrites": True,
        "updatetime": False,
        "writesubtitles": True,
        "writeautomaticsub": False,
        "progress_hooks": [hook] if hook else [],
        **more,
    }


def body(downloader: Downloader, request: Request, limit: int) -> bytes:
    """What *request* is answered with. Raises ValueError above *limit* bytes."""
    answer = downloader.urlopen(request)
    try:
        content: bytes = answer.read(limit + 1)
    finally:
        answer.close()
    if len(content) > limit:
        raise ValueError(f"{request.url} answers with more than {limit} bytes")
    return content


def supported(protocol: str) -> bool:
    """Whether streams of yt-dlp's *protocol* are fetched by Python alone, through the guard."""
    return all(part in _SUPPORTED for part in protocol.split("+"))


def share_trust() -> None:
    """Read the certificates to trust once for all children: it takes as long as a small download."""
    common.make_ssl_context = functools.cache(common.make_ssl_context)
    with Downloader(ResponseLog(), options("")) as downloader:
        for handler in downloader._request_director.handlers.values():
            handler._make_sslcontext()


def disable_ffmpeg_downloader() -> None:
    """Keep yt-dlp from handing a URL to ffmpeg, as it does for what it cannot read itself."""

    @functools.wraps(FFmpegFD.real_download)
    def refused(self: Any, filename: str, info_dict: dict[str, Any]) -> bool:
        raise yt_dlp.utils.DownloadError("this stream can only be fetched by ffmpeg, which has no way out")

    FFmpegFD.real_download = refused


def _first(context: dict[str, Any]) -> list[dict[str, Any]]:
    """Any format: ours are chosen from the whole list, afterwards."""
    return list(context["formats"][-1:])


def _pause(n: int) -> float:
    """Seconds before the *n*-th retry of one request."""
    return exponential_delay(n, FIRST_SECONDS, LONGEST_SECONDS)


# A browser's whole jar is a fraction of it.
_MAX_COOKIES = 4 * 1024 * 1024


def access_options(access: EngineOptions) -> dict[str, Any]:
    """yt-dlp's parameters for *access*. Raises OSError where the cookies cannot be read."""
    told: dict[str, Any] = {}
    arguments: dict[str, dict[str, list[str]]] = {}
    if access.player_clients:
        arguments["youtube"] = {"player_client": list(access.player_clients)}
    if access.po_token_url:
        arguments["youtubepot-bgutilhttp"] = {"base_url": [access.po_token_url]}
    if arguments:
        told["extractor_args"] = arguments
    if access.js_runtime:
        told["js_runtimes"] = {"deno": {"path": access.js_runtime}}
    if access.impersonate_target:
        told["impersonate"] = ImpersonateTarget.from_str(access.impersonate_target)
    if access.cookies:
        # In memory alone: no copy for a crash to leave on disk, and what the site changes ends with us.
        told["cookiefile"] = io.StringIO(access.cookies)
    elif access.cookies_file:
        with Path(access.cookies_file).open(encoding="utf-8") as file:
            # yt-dlp writes the jar back as sites change it: a copy in memory is nobody else's.
            told["cookiefile"] = io.StringIO(file.read(_MAX_COOKIES))
    return told
