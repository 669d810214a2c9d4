"""A fetch in the child: read metadata, plan, receive, finish. Each step may end it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import (
    ArtifactInfo,
    DeliveredMedia,
    FormatSpec,
    MediaInfo,
    Progress,
)
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.media import ffmpeg, muxing
from reelhaul_fetcher.model import cuts
from reelhaul_fetcher.model.access import Access
from reelhaul_fetcher.model.chapters import Mark
from reelhaul_fetcher.model.gauge import Gauge
from reelhaul_fetcher.model.orders import FetchOrder, FetchReport, Product
from reelhaul_fetcher.model.selection import choose
from reelhaul_fetcher.ytdlp import extras, receiving
from reelhaul_fetcher.ytdlp.captions import Translate, captions
from reelhaul_fetcher.ytdlp.downloader import Answers, Downloader, options
from reelhaul_fetcher.ytdlp.finishing import Plan, finished, too_long
from reelhaul_fetcher.ytdlp.info import format_of, formats_in, media_of
from reelhaul_fetcher.ytdlp.sponsors import stretches
from reelhaul_runtime.errors import ReelhaulError

Stage = Progress.Stage
Info = dict[str, Any]


class Line(Protocol):
    """Where a fetch tells what it learns, and asks for what it cannot do itself."""

    def progress(self, progress: Progress) -> None:
        """Newest progress."""

    def media(self, media: MediaInfo) -> None:
        """Metadata, once it is read."""

    def translated(self, texts: list[str], source: str, target: str) -> list[str]:
        """*texts* of the language *source* in *target*. Raises TRANSLATION_UNAVAILABLE."""


class Place(Protocol):
    """Where a fetch notes how far it came."""

    extractor: str


def fetch(order: FetchOrder, access: Access, line: Line, answers: Answers, place: Place) -> FetchReport:
    """Do *order*. Raises whatever ends it; ``failures.classified`` tells what that means."""
    gauge = Gauge(line.progress, time.monotonic)
    gauge.stage(Stage.PROBING)
    meter = receiving.Meter(gauge, order.size_limit)
    asked = options(
        order.proxy_url,
        access,
        hook=meter.hear,
        playlistend=1,
        writeautomaticsub=_wants_heard(order.format),
    )
    with Downloader(answers, asked) as downloader:
        info = _read(downloader, order)
        media = media_of(info)
        place.extractor = media.extractor
        line.media(media)
        _admit(media, order)
        edit = _edit(downloader, media, order, access)
        streams = {_text_id(f): f for f in formats_in(info)}
        chosen, warnings = choose([format_of(f) for f in streams.values()], order.format, edit.barred)
        # Before the media: what is required and missing should not cost gigabytes first.
        others = _extras(downloader, info, media, order, edit.cut, gauge, line)
        products, got = [], DeliveredMedia(duration=media.duration)
        if chosen:
            taken = [streams[c.format_id] for c in chosen]
            files = receiving.receive(downloader, info, taken, order, gauge, meter)
            plan = Plan(order, media, chosen, edit.cut, tuple(others.words), others.picture, edit.marks)
            made = finished(files, plan, gauge)
            products, got = made.products, made.got
            warnings += made.warnings
    got.subtitle_language_codes.extend(
        sorted({p.info.language_code for p in others.products if p.info.kind == ArtifactInfo.SUBTITLE})
    )
    return FetchReport(
        media, (*products, *others.products), got, (*warnings, *edit.warnings, *others.warnings)
    )


@dataclass(frozen=True, slots=True)
class _Edit:
    """What is cut away and marked, and the codecs in which that cannot be done."""

    cut: cuts.Cut
    marks: tuple[Mark, ...] = ()
    warnings: tuple[Warned, ...] = ()

    @property
    def barred(self) -> frozenset[str]:
        return frozenset({"av1"}) if self.cut.cuts and not ffmpeg.decodes("av1") else frozenset()


@dataclass(slots=True)
class _Extras:
    """What goes with the media, and what of it goes into its file."""

    products: list[Product] = field(default_factory=list)
    words: list[muxing.Words] = field(default_factory=list)
    picture: Any = None
    warnings: list[Warned] = field(default_factory=list)


def _edit(downloader: Downloader, media: MediaInfo, order: FetchOrder, access: Access) -> _Edit:
    """The cut that *order* asks for. Raises FORMAT_UNAVAILABLE, MEDIA_TOO_LONG."""
    seconds = media.duration.ToTimedelta().total_seconds()
    clip = cuts.clip_of(order.format)
    if clip and seconds and clip.start >= seconds:
        raise ReelhaulError(
            ErrorReason.FORMAT_UNAVAILABLE, f"the clip begins at {clip.start:g} s; the media ends before that"
        )
    edit = _Edit(cuts.cut(clip, ()))
    if order.format.HasField("sponsorblock"):
        found = stretches(downloader, media, order.format.sponsorblock, access.sponsorblock_url)
        if order.format.sponsorblock.mode == FormatSpec.SponsorBlock.REMOVE:
            edit = _Edit(cuts.cut(clip, [mark.span for mark in found.marks]), (), found.warnings)
        else:
            edit = _Edit(edit.cut, found.marks, found.warnings)
    length = edit.cut.within(seconds).length if seconds else 0.0
    length = seconds if math.isinf(length) else length
    if order.max_seconds and length > order.max_seconds:
        raise too_long(length, order.max_seconds)
    return edit


def _extras(
    downloader: Downloader,
    info: Info,
    media: MediaInfo,
    order: FetchOrder,
    cut: cuts.Cut,
    gauge: Gauge,
    line: Line,
) -> _Extras:
    """Subtitles, thumbnail and metadata as *order* asks, and a warning for each that is missing."""
    asked, told = order.format, _Extras()
    if asked.HasField("subtitles") or asked.thumbnail:
        gauge.stage(Progress.FETCHING_EXTRAS)
    if asked.HasField("subtitles"):
        found = captions(downloader, info, media, order, cut, _translating(line, gauge))
        told = _Extras(found.products, found.words, warnings=found.warnings)
    if asked.thumbnail:
        if picture := extras.thumbnail(downloader, media, order.folder):
            told.products.append(picture)
            told.picture = picture.path
        else:
            text = "the thumbnail could not be fetched"
            told.warnings.append(Warned(reason=Warned.THUMBNAIL_MISSING, message=text))
    if asked.info_json:
        told.products.append(extras.metadata(media, order.folder))
    return told


def _translating(line: Line, gauge: Gauge) -> Translate:
    """The line's translator, told as waiting: no site is to be blamed for the time that it takes."""

    def translated(texts: list[str], source: str, target: str) -> list[str]:
        gauge.stage(Progress.WAITING, f"translating to {target}")
        try:
            return line.translated(texts, source, target)
        finally:
            gauge.stage(Progress.FETCHING_EXTRAS)

    return translated


def _wants_heard(spec: FormatSpec) -> bool:
    """Whether captions of speech recognition, or translations, are to be read: they cost time."""
    asked = spec.subtitles
    return spec.HasField("subtitles") and (asked.kinds != asked.MANUAL or bool(asked.translate_to))


def _read(downloader: Downloader, order: FetchOrder) -> Info:
    """yt-dlp's info of the one video at the URL."""
    info: Info = downloader.extract_info(order.url, download=False, process=True)
    if "entries" not in info:
        # yt-dlp numbers the videos of a page in their titles, a single one too.
        if info.get("extractor") == "html5":
            info["title"] = str(info.get("title") or "").removesuffix(" (1)")
        return info
    entries = [entry for entry in info["entries"] if entry]
    # A page may embed several videos: the first is the page's own. A list is not media.
    if entries and info.get("extractor") == "generic":
        # yt-dlp numbers the titles of a page's videos.
        return {**entries[0], "title": info.get("title") or entries[0].get("title")}
    raise ReelhaulError(
        ErrorReason.SITE_UNSUPPORTED,
        "this URL is a list, not one video" if entries else "the page holds no media",
        metadata={"host": ""},
    )


def _admit(media: MediaInfo, order: FetchOrder) -> None:
    """Refuse what must not be fetched at all."""
    if media.live_status == MediaInfo.UPCOMING:
        start = media.live_start_time.ToJsonString() if media.HasField("live_start_time") else ""
        raise ReelhaulError(
            ErrorReason.MEDIA_NOT_LIVE_YET, "the event has not begun", metadata={"startTime": start}
        )
    if media.live_status in (MediaInfo.LIVE, MediaInfo.POST_LIVE):
        raise ReelhaulError(
            ErrorReason.MEDIA_IS_LIVE, "the media is live", metadata={"extractor": media.extractor}
        )


def _text_id(stream: Info) -> str:
    return str(stream.get("format_id") or "")
