"""A child of the warm parent: one order in, what is learnt and the end out, then death."""

from __future__ import annotations

import io
import os
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yt_dlp.version
from google.rpc import status_pb2
from yt_dlp.networking import Response

from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.type.v1.media_pb2 import MediaInfo, PlaylistEntry, Progress
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.media import ffmpeg, inspect, inspector_client, verify
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import (
    EngineRequest,
    ExpandRequest,
    ExtractorListRequest,
    FetchRequest,
    ProbeRequest,
    Product,
)
from reelhaul_fetcher.ytdlp import errors, extraction, fetch, playlist
from reelhaul_fetcher.ytdlp.downloader import (
    Downloader,
    ResponseLog,
    disable_ffmpeg_downloader,
    options,
    share_trust,
)
from reelhaul_fetcher.ytdlp.info import media_of
from reelhaul_fetcher.ytdlp.process import protocol, sandbox
from reelhaul_runtime.errors import ReelhaulError, from_status, to_status


class FetcherChannel:
    """Where a child tells the fetcher; from any thread."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._enough: Warned.Reason.ValueType = Warned.REASON_UNSPECIFIED

    def progress(self, progress: Progress) -> None:
        """Newest progress."""
        self.say({"type": "progress", "progress": protocol.packed(progress)})

    def media(self, media: MediaInfo) -> None:
        """Metadata, once it is read."""
        self.say({"type": "media", "media": protocol.packed(media)})

    def ready(self, product: Product) -> None:
        """The media's file is whole, though not tried yet."""
        self.say({"type": "ready", **protocol.product_frame(product)})

    def translated(self, texts: list[str], source: str, target: str) -> list[str]:
        """*texts* of the language *source* in *target*, by the fetcher's translator.

        Raises TRANSLATION_UNAVAILABLE.
        """
        self.say({"type": "translate", "texts": texts, "source": source, "target": target})
        answer = protocol.read(self._stream)
        if "status" in answer:
            raise from_status(protocol.unpacked(status_pb2.Status, answer["status"]))
        return [str(text) for text in answer["texts"]]

    def recording(self) -> None:
        """A recording begins. From now on the fetcher says one thing only: that it is enough."""
        self.say({"type": "recording"})

    def enough(self) -> Warned.Reason.ValueType:
        """Why the recording is to end; REASON_UNSPECIFIED while it is not."""
        with self._lock:
            if not self._enough and select.select([self._stream], [], [], 0)[0]:
                self._enough = protocol.read(self._stream)["enough"]
        return self._enough

    def entries(self, entries: Sequence[PlaylistEntry]) -> None:
        """The next entries of a list."""
        self.say({"type": "entries", "entries": [protocol.packed(entry) for entry in entries]})

    def say(self, frame: protocol.Frame) -> None:
        """Send *frame*. A fetcher that is gone ends this process."""
        with self._lock:
            try:
                self._stream.sendall(protocol.framed(frame))
            except OSError:
                os._exit(1)


def run(stream: socket.socket) -> None:
    """Do the order that comes over *stream*; does not return."""
    frame = protocol.read(stream)
    order, access = protocol.order_of(frame), protocol.access_of(frame)
    access = access.for_request(order.url, order.cookies)
    line, answers = FetcherChannel(stream), ResponseLog()
    place = FetchContext()
    try:
        folder = order.folder if isinstance(order, FetchRequest) else Path("/")
        limit = order.size_limit if isinstance(order, FetchRequest) else 0
        ways = [access.po_token_url] if access.po_token_url else []
        bounds = sandbox.ResourceLimits(limit, order.cpu_seconds, order.memory_bytes)
        inspector_client.limit_memory(order.memory_bytes)
        sandbox.enter(folder, order.proxy_url, *ways, bounds=bounds, within=inspector_client.channel())
        end = _done(order, access, line, answers, place)
    except BaseException as error:
        end = _failed(errors.classified(error, answers, order.url, place.extractor))
    line.say({**end, "statuses": answers.statuses})
    os._exit(0)


def _done(
    order: EngineRequest,
    access: EngineOptions,
    line: FetcherChannel,
    answers: ResponseLog,
    place: FetchContext,
) -> protocol.Frame:
    """*order*, carried out."""
    match order:
        case FetchRequest():
            ffmpeg.set_idle_timeout(order.idle_seconds)
            return protocol.report_frame(fetch.fetch(order, access, line, answers, place))
        case ProbeRequest():
            return {"type": "done", "media": protocol.packed(extraction.probe(order, access, answers))}
        case ExpandRequest():
            listed = playlist.expand(order, access, line, answers, place)
            return {"type": "done", "media": protocol.packed(listed.media), "truncated": listed.truncated}
        case ExtractorListRequest():
            return {"type": "done", "sites": [protocol.packed(site) for site in list_extractors()]}


class FetchContext:
    """How far a fetch came, for telling of its failure."""

    extractor = ""


def _failed(error: ReelhaulError) -> dict[str, Any]:
    return {"type": "failed", "status": protocol.packed(to_status(error))}


_PAGE = b"""<html><head><title>warm</title>
<script type="application/ld+json">{"@context": "https://schema.org", "@type": "VideoObject", "name": "warm",
"contentUrl": "http://warm.invalid/v.mp4", "duration": "PT1S"}</script></head>
<body><video src="http://warm.invalid/v.mp4"></video></body></html>"""

#: What children use; named so that importing this module loads them.
LOADED = (fetch, playlist, ffmpeg, verify)


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
        for extractor in Downloader.extractors.values():
            # An extractor compiles its URL pattern on the first call.
            extractor.suitable("")
        info = rehearsal.extract_info("http://warm.invalid/page", download=False, process=True)
    media_of(info)
    inspect.warm_decoders()
    return f"yt-dlp {yt_dlp.version.__version__}"


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
