"""yt-dlp's YoutubeDL with options of our choice, and a log of the responses that explain a failure."""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

import yt_dlp
from yt_dlp.downloader.external import FFmpegFD
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.networking import Request, common
from yt_dlp.networking.exceptions import HTTPError, RequestError
from yt_dlp.networking.impersonate import ImpersonateTarget
from yt_dlp.utils import unsmuggle_url

from reelhaul.backoff import FIRST_SECONDS, LONGEST_SECONDS, exponential_delay
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.guard.http.error_responses import VERDICT_FIELD
from reelhaul_fetcher.guard.verdicts import Verdict, find_verdict
from reelhaul_fetcher.media import confinement, seccomp
from reelhaul_fetcher.model import hls_playlist
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.tracks.subtitle_tracks import add_manifest_subtitles, without_broken_forms
from reelhaul_fetcher.ytdlp.download.safe_resume import FileVersion, ResumeChecker
from reelhaul_fetcher.ytdlp.extract.extractor_index import ExtractorIndex
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.sites import hostname

#: What yt-dlp tells of media, a stream or an entry.
Info = dict[str, Any]

_NATIVE_PROTOCOLS = frozenset({"http", "https", "m3u8", "m3u8_native", "http_dash_segments"})

_MAX_WARNINGS, _MAX_WARNING_LENGTH = 50, 500
# Characters of a line for the log.
_MAX_LINE = 2000
# The cookies of a whole browser are a fraction of this.
_MAX_COOKIES_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class ResponseLog:
    """Failed responses and other facts of one request that explain its failure. Also yt-dlp's logger."""

    #: Secret of the guard's session, by which its verdicts are told from imitations by sites.
    proxy_secret: str = field(default="", repr=False)
    #: Extractor that read the media; empty until it has.
    extractor: str = ""
    #: How often each status other than 2xx was received.
    statuses: dict[int, int] = field(default_factory=dict)
    #: Of the last error response of a site.
    last_status: int = 0
    last_host: str = ""
    retry_after: str = ""
    #: Why the guard did not forward the last failed request; None if it did.
    guard_verdict: Verdict | None = None
    #: Some causes yt-dlp tells as warnings only.
    warnings: list[str] = field(default_factory=list)
    #: Logs a message of yt-dlp, at a level.
    on_line: Callable[[int, str], None] = field(default=lambda level, text: None, repr=False)

    def record(self, url: str, error: RequestError) -> None:
        """Record that the request for *url* failed with *error*."""
        self.last_host = hostname(url)
        headers = error.response.headers if isinstance(error, HTTPError) else None
        # Over CONNECT, urllib passes on the status line alone: the verdict is in it.
        text = str(error) if headers is None else headers.get(VERDICT_FIELD, "")
        self.guard_verdict = find_verdict(text, self.proxy_secret)
        if isinstance(error, HTTPError) and headers is not None and self.guard_verdict is None:
            self.last_status = error.status
            self.statuses[error.status] = self.statuses.get(error.status, 0) + 1
            self.retry_after = headers.get("Retry-After", "")

    def debug(self, text: str) -> None:
        """Log *text*: what yt-dlp would print at a terminal."""
        self.on_line(logging.DEBUG, self._without_secret(text))

    def info(self, text: str) -> None:
        """Log *text*."""
        self.on_line(logging.DEBUG, self._without_secret(text))

    def warning(self, text: str) -> None:
        """Keep *text* for the classification, within bounds."""
        self.on_line(logging.INFO, self._without_secret(text))
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(text[:_MAX_WARNING_LENGTH])

    def error(self, text: str) -> None:
        """Log *text*, which is raised as an exception too."""
        self.on_line(logging.DEBUG, self._without_secret(text))

    def _without_secret(self, text: str) -> str:
        # Not the other way round: a secret that is cut is not found.
        return (text.replace(self.proxy_secret, "…") if self.proxy_secret else text)[:_MAX_LINE]


class Downloader(yt_dlp.YoutubeDL):  # type: ignore[misc,name-defined,unused-ignore]
    """A YoutubeDL that records failed responses in *log* and shares extractors with the zygote."""

    #: Extractors by key, set once in the zygote.
    extractors: dict[str, Any] = {}  # noqa: RUF012 - shared on purpose
    #: Their index, set likewise.
    index: ExtractorIndex | None = None

    def __init__(self, log: ResponseLog, params: dict[str, Any]) -> None:
        self._log = log
        self._logging_paused = False
        self._resume_checker = ResumeChecker(super().urlopen)
        super().__init__({**params, "logger": log})

    def add_default_info_extractors(self) -> None:
        """Use the zygote's extractors, whose patterns are compiled."""
        if self.extractors:
            # Not copied: touching each extractor would copy all their memory into the child.
            self._ies = self.extractors
        else:
            super().add_default_info_extractors()

    def extract_info(
        self, url: str, download: bool = True, ie_key: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Extract as yt-dlp does, but try only the extractors that the index names."""
        if not ie_key and self.index is not None:
            suitable = (name for name in self.index.candidates(url) if self.extractors[name].suitable(url))
            ie_key = next(suitable, None)
        return super().extract_info(url, download, ie_key, *args, **kwargs)

    def build_request_director(self, handlers: Iterable[Any], preferences: Any = None) -> Any:
        """Build it without requests, which yt-dlp would prefer wherever another package has installed it.

        Its limits and errors differ from those of urllib.
        """
        handlers = [handler for handler in handlers if handler.RH_KEY != "Requests"]
        return super().build_request_director(handlers, preferences)

    def urlopen(self, req: Any) -> Any:
        """Open *req* as yt-dlp does; record its failure."""
        request = Request(req) if isinstance(req, str) else req
        # Extractors pass data to each other in the fragment; urllib would send it to a proxy.
        request.url, data = unsmuggle_url(request.url, {})
        request.url = urldefrag(request.url).url
        if data.get("referer"):
            request.headers.setdefault("Referer", data["referer"])
        try:
            return self._resume_checker.urlopen(request)
        except RequestError as error:
            if not self._logging_paused:
                self._log.record(request.url, error)
            raise

    def process_video_result(self, info_dict: Info, download: bool = True) -> Any:
        """Process *info_dict* as yt-dlp does, with the subtitles of its manifests, without broken ones."""
        add_manifest_subtitles(info_dict)
        for name in ("subtitles", "automatic_captions"):
            info_dict[name] = without_broken_forms(info_dict.get(name))
        return super().process_video_result(info_dict, download)

    def process_subtitles(self, video_id: str, normal_subtitles: Any, automatic_captions: Any) -> None:
        """Select no subtitles: they are selected later from all of them."""

    def _forceprint(self, key: str, info_dict: Info | None) -> None:
        """Print nothing; yt-dlp would draw tables of all formats and subtitles for it."""

    def known_version(self, url: str) -> FileVersion | None:
        """Return the version of the file at *url* in the latest response; None if there was none."""
        return self._resume_checker.known_version(Request(url).url)

    def remember_version(self, url: str, version: FileVersion) -> None:
        """Allow to continue the file at *url*, of which an earlier process received bytes of *version*."""
        self._resume_checker.remember_version(Request(url).url, version)

    @contextmanager
    def logging_paused(self) -> Iterator[None]:
        """For the block, do not record failures: its requests may fail without meaning anything."""
        self._logging_paused = True
        try:
            yield
        finally:
            self._logging_paused = False


def downloader_options(
    proxy_url: str,
    options: EngineOptions | None = None,
    *,
    progress_hook: Callable[[Info], None] | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Return yt-dlp's parameters. None of them comes from a caller of the API."""
    return {
        **(access_options(options) if options else {}),
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
        "format": _any_format,
        "check_formats": False,
        "fixup": "never",
        "socket_timeout": 20,
        "retries": 5,
        "fragment_retries": 5,
        "retry_sleep_functions": {"http": _retry_delay, "fragment": _retry_delay},
        "skip_unavailable_fragments": False,
        "concurrent_fragment_downloads": options.connections if options else 1,
        "hls_prefer_native": True,
        "external_downloader": {"default": "native", "m3u8": "native", "dash": "native"},
        "overwrites": True,
        "updatetime": False,
        "writesubtitles": True,
        "writeautomaticsub": False,
        "progress_hooks": [progress_hook] if progress_hook else [],
        **overrides,
    }


def access_options(options: EngineOptions) -> dict[str, Any]:
    """Return yt-dlp's parameters for *options*. Raises OSError if the cookie file cannot be read."""
    params: dict[str, Any] = {}
    arguments: dict[str, dict[str, list[str]]] = {}
    if options.player_clients:
        arguments["youtube"] = {"player_client": list(options.player_clients)}
    if options.po_token_url:
        arguments["youtubepot-bgutilhttp"] = {"base_url": [options.po_token_url]}
    if arguments:
        params["extractor_args"] = arguments
    if options.js_runtime:
        params["js_runtimes"] = {"deno": {"path": options.js_runtime}}
    if options.impersonate_target:
        params["impersonate"] = ImpersonateTarget.from_str(options.impersonate_target)
    # In memory alone: yt-dlp writes back what the site changes, and a crash leaves no copy on the disk.
    if options.cookies:
        params["cookiefile"] = io.StringIO(options.cookies)
    elif options.cookies_file:
        with Path(options.cookies_file).open(encoding="utf-8") as file:
            params["cookiefile"] = io.StringIO(file.read(_MAX_COOKIES_BYTES))
    return params


def read_body(downloader: Downloader, request: Request, limit: int) -> bytes:
    """Return the body of the response to *request*. Raises ValueError if it has more than *limit* bytes."""
    return read_response(downloader, request, limit)[0]


def read_response(downloader: Downloader, request: Request, limit: int) -> tuple[bytes, str]:
    """Return body and Content-Type of the response to *request*.

    Raises ValueError if the body has more than *limit* bytes.
    """
    response = downloader.urlopen(request)
    try:
        content: bytes = response.read(limit + 1)
    finally:
        response.close()
    if len(content) > limit:
        raise ValueError(f"the response to {request.url} has more than {limit} bytes")
    return content, str(response.headers.get("Content-Type") or "")


def is_native(protocol: str) -> bool:
    """Return whether Python alone can download streams of yt-dlp's *protocol*, through the guard."""
    return all(part in _NATIVE_PROTOCOLS for part in protocol.split("+"))


def share_ssl_contexts() -> None:
    """Load the CA certificates once for all children: it takes as long as a small download."""
    common.make_ssl_context = functools.cache(common.make_ssl_context)
    with Downloader(ResponseLog(), downloader_options("")) as downloader:
        for handler in downloader._request_director.handlers.values():
            handler._make_sslcontext()


def disable_ffmpeg_downloader() -> None:
    """Keep yt-dlp from passing URLs to ffmpeg, which it does for protocols that it cannot read itself."""

    @functools.wraps(FFmpegFD.real_download)
    def refuse(self: Any, filename: str, info_dict: Info) -> bool:
        text = "only ffmpeg could download this stream, and it has no network"
        raise ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, text)

    FFmpegFD.real_download = refuse


def patch_playlist_duration() -> None:
    """Make yt-dlp treat a playlist of type VOD as complete, also if its end is not marked."""

    def sum_play_times(self: Any, playlist: str, video_id: Any) -> float | None:
        try:
            parsed = hls_playlist.parse(playlist, "")
        except hls_playlist.PlaylistUnsupported:
            return None
        return sum(segment.seconds for segment in parsed.segments) or None if parsed.is_complete else None

    InfoExtractor._parse_m3u8_vod_duration = sum_play_times


def confine_programs() -> None:
    """Confine every program that yt-dlp starts: deno, which runs the JavaScript of players."""
    start = yt_dlp.utils.Popen.__init__

    @functools.wraps(start)
    def start_confined(self: Any, args: Sequence[str], *remaining: Any, **options: Any) -> None:
        with confinement.open_confinement(args[0], calls=seccomp.Calls.EVENT_LOOP) as enter:
            options |= {"env": confinement.environment(), "preexec_fn": enter}
            start(self, args, *remaining, **options)

    yt_dlp.utils.Popen.__init__ = start_confined


def _any_format(context: dict[str, Any]) -> list[Info]:
    """Select any format: we choose from all formats afterwards."""
    return list(context["formats"][-1:])


def _retry_delay(n: int) -> float:
    """Return the seconds to wait before the *n*-th retry of one request."""
    return exponential_delay(n, FIRST_SECONDS, LONGEST_SECONDS)
