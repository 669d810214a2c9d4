"""Child process of the zygote: carries out one request and exits. Also what the zygote loads for it."""

from __future__ import annotations

import importlib
import io
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yt_dlp.version
from yt_dlp.networking import Response
from yt_dlp.utils import YoutubeDLError

from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.work.v1.engine_pb2 import EngineCommand, EngineEvent, EngineResult
from reelhaul_fetcher.media import ffmpeg, inspector_client
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import (
    EngineRequest,
    ExpandRequest,
    ExtractorListRequest,
    FetchRequest,
    ProbeRequest,
)
from reelhaul_fetcher.ytdlp import errors, fetch
from reelhaul_fetcher.ytdlp.downloader import (
    Downloader,
    ResponseLog,
    confine_programs,
    disable_ffmpeg_downloader,
    downloader_options,
    patch_playlist_duration,
    share_ssl_contexts,
)
from reelhaul_fetcher.ytdlp.extract import dash_manifest, extraction, json_ld, playlist
from reelhaul_fetcher.ytdlp.extract.extractor_index import ExtractorIndex, url_patterns
from reelhaul_fetcher.ytdlp.extract.info import to_media_info
from reelhaul_fetcher.ytdlp.extract.manifest_tracks import patch_track_parsers
from reelhaul_fetcher.ytdlp.process import protocol, sandbox
from reelhaul_runtime.errors import ReelhaulError, to_status

_WARM_UP_EXTRACTORS = ("HTML5MediaEmbed", "Generic")
_WARM_UP_PAGE = b"""<html><head><title>warm</title>
<script type="application/ld+json">{"@context": "https://schema.org", "@type": "VideoObject", "name": "warm",
"contentUrl": "http://warm.invalid/v.mp4", "duration": "PT1S"}</script></head>
<body><video src="http://warm.invalid/v.mp4"></video></body></html>"""


def warm_up() -> str:
    """Load yt-dlp and what every request needs; return the engine's version.

    Called once, in the zygote: children share the memory.
    """
    disable_ffmpeg_downloader()
    confine_programs()
    patch_track_parsers()
    json_ld.patch_json_ld_parser()
    dash_manifest.patch_dash_parser()
    patch_playlist_duration()
    with Downloader(ResponseLog(), downloader_options("")) as downloader:
        extractors = dict(downloader._ies)
    # The generic extractor tries all others that it is given on a page.
    Downloader.extractors = {name: extractors[name] for name in _WARM_UP_EXTRACTORS}
    with _OfflineDownloader(ResponseLog(), downloader_options("")) as downloader:
        info = downloader.extract_info("http://warm.invalid/page", download=False, process=True)
    to_media_info(info)
    Downloader.extractors = extractors
    Downloader.index = ExtractorIndex(url_patterns(extractors))
    return f"yt-dlp {yt_dlp.version.__version__}"


def prepare() -> Iterator[None]:
    """Load what most downloads need besides, in short steps: certificates, languages, decoders, extractors.

    The zygote does so once it is used. A suite that downloads nothing does without it: half of the memory of
    the zygote, and of the time that it takes to start.
    """
    share_ssl_contexts()
    yield
    importlib.import_module("langcodes")
    yield
    from reelhaul_fetcher.media import inspect

    inspect.warm_decoders()
    yield
    for extractor in Downloader.extractors.values():
        # yt-dlp's list has placeholders, which import the module of the extractor when it is used.
        with suppress(ImportError):
            getattr(extractor, "real_class", None)
        if extractor._VALID_URL:
            # An extractor compiles its URL pattern on the first call.
            extractor.suitable("")
        yield


def run(stream: socket.socket) -> None:
    """Carry out the request that comes over *stream*, and exit. Does not return."""
    command = protocol.read_message(stream, EngineCommand)
    request, options = protocol.request_from_proto(command.request)
    proxy_secret = urlsplit(request.proxy_url).password or ""
    channel = protocol.FetcherChannel(stream)
    log = ResponseLog(proxy_secret, on_line=channel.log)
    try:
        folder, size_limit = Path("/"), 0
        if isinstance(request, FetchRequest):
            folder, size_limit = request.folder, request.size_limit
        limits = sandbox.ResourceLimits(size_limit, request.cpu_seconds, request.memory_bytes)
        inspector_client.limit_memory(request.memory_bytes)
        sandbox.enter(
            folder,
            request.proxy_url,
            limits,
            allowed_urls=[options.po_token_url] if options.po_token_url else [],
            inspector=inspector_client.channel(),
        )
        event = EngineEvent(result=_execute(request, options, channel, log))
    except BaseException as error:
        # What neither we nor yt-dlp expect is a bug of one of us.
        is_expected = isinstance(error, ReelhaulError | YoutubeDLError | OSError)
        channel.log(logging.DEBUG if is_expected else logging.INFO, "the engine's request failed", error)
        event = EngineEvent(failure=to_status(errors.classify(error, log, request.url)))
    event.http_statuses.update(log.statuses)
    channel.send(event)
    os._exit(0)


def list_extractors() -> Iterator[Extractor]:
    """Yield each extractor that takes http URLs.

    Extractors without a description are left out: other extractors call them, or they only refuse.
    """
    for extractor in Downloader.extractors.values():
        patterns = extractor._VALID_URL or ()
        patterns = [patterns] if isinstance(patterns, str) else patterns
        takes_http = extractor.IE_NAME == "generic" or any("http" in pattern for pattern in patterns)
        if takes_http and extractor.IE_DESC is not False:
            yield Extractor(
                name=f"extractors/{extractor.IE_NAME}",
                display_name=extractor.IE_DESC or extractor.IE_NAME,
                broken=not extractor.working(),
            )


def _execute(
    request: EngineRequest, options: EngineOptions, channel: protocol.FetcherChannel, log: ResponseLog
) -> EngineResult:
    match request:
        case FetchRequest():
            ffmpeg.set_idle_timeout(request.idle_seconds)
            return protocol.fetch_result_to_proto(fetch.fetch(request, options, channel, log))
        case ProbeRequest():
            return EngineResult(media=extraction.probe(request, options, log))
        case ExpandRequest():
            expanded = playlist.expand(request, options, channel, log)
            return EngineResult(
                media=expanded.media, truncated=expanded.truncated, warnings=expanded.warnings
            )
        case ExtractorListRequest():
            return EngineResult(extractors=list_extractors())


class _OfflineDownloader(Downloader):
    """Answers every request with one page, from memory."""

    def urlopen(self, req: Any) -> Response:
        url = req if isinstance(req, str) else req.url
        return Response(
            io.BytesIO(_WARM_UP_PAGE), url, {"Content-Type": "text/html; charset=utf-8"}, status=200
        )
