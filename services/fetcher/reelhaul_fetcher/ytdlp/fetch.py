"""A fetch in the child: read metadata, plan, receive, finish. Each step may end it."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC
from typing import Protocol

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, DeliveredMedia, FormatSpec, MediaInfo, Progress
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import FetchRequest, FetchResult, Product
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.selection import choose_formats
from reelhaul_fetcher.ytdlp.captions import Translate
from reelhaul_fetcher.ytdlp.download import streams
from reelhaul_fetcher.ytdlp.downloader import Downloader, ResponseLog, options
from reelhaul_fetcher.ytdlp.edit_plan import edit
from reelhaul_fetcher.ytdlp.errors import not_yet
from reelhaul_fetcher.ytdlp.extraction import Source, check_streams
from reelhaul_fetcher.ytdlp.format_selector import select_formats
from reelhaul_fetcher.ytdlp.info import format_of, media_of
from reelhaul_fetcher.ytdlp.live import recorder
from reelhaul_fetcher.ytdlp.postprocess import Finished, Plan, postprocess
from reelhaul_fetcher.ytdlp.sidecars import fetch_sidecars
from reelhaul_runtime.errors import ReelhaulError

Stage = Progress.Stage


class Line(Protocol):
    """Where a fetch tells what it learns, and asks for what it cannot do itself."""

    def progress(self, progress: Progress) -> None:
        """Newest progress."""

    def media(self, media: MediaInfo) -> None:
        """Metadata, once it is read."""

    def ready(self, product: Product) -> None:
        """The media's file is whole, and is being tried: its bytes change no more."""

    def recording(self) -> None:
        """A recording begins."""

    def enough(self) -> Warned.Reason.ValueType:
        """Why it is to end, with what it has; REASON_UNSPECIFIED while it is not."""

    def translated(self, texts: list[str], source: str, target: str) -> list[str]:
        """*texts* of the language *source* in *target*. Raises TRANSLATION_UNAVAILABLE."""


class Place(Protocol):
    """Where a fetch notes how far it came."""

    extractor: str


def fetch(
    order: FetchRequest, access: EngineOptions, line: Line, answers: ResponseLog, place: Place
) -> FetchResult:
    """Do *order*. Raises whatever ends it; ``failures.classified`` tells what that means."""
    gauge = ProgressTracker(line.progress, time.monotonic)
    gauge.begin_stage(Stage.PROBING)
    meter = streams.Meter(gauge, order.size_limit)
    asked = options(
        order.proxy_url,
        access,
        hook=meter.hear,
        playlistend=1,
        writeautomaticsub=_wants_heard(order.format),
    )
    with Downloader(answers, asked) as downloader:
        source = Source(downloader, order.url)
        media = media_of(source.info)
        place.extractor = media.extractor
        line.media(media)
        _admit(media, order)
        if order.format.media_kind != FormatSpec.SUBTITLES_ONLY:
            check_streams(source.info, answers.warnings)
        made = edit(downloader, media, order, access)
        offered = [format_of(f) for f in source.streams.values()]
        if media.live_status == MediaInfo.LIVE:
            offered = [stream for stream in offered if stream.protocol == "hls"]
        chosen, warnings = choose_formats(offered, order.format, select_formats, made.barred)
        # Before the media: what is required and missing should not cost gigabytes first.
        beside = fetch_sidecars(source, media, order, made.cut, gauge, _translating(line, gauge))
        products: list[Product] = []
        got = DeliveredMedia(duration=media.duration)
        if chosen:
            plan = Plan(order, media, chosen, made.cut, tuple(beside.words), beside.picture, made.marks)
            done = _received(source, plan, gauge, meter, line)
            products, got = done.products, done.got
            warnings += done.warnings
    got.subtitle_language_codes.extend(
        sorted({p.info.language_code for p in beside.products if p.info.kind == ArtifactInfo.SUBTITLE})
    )
    return FetchResult(
        media, (*products, *beside.products), got, (*warnings, *made.warnings, *beside.warnings)
    )


def _received(
    source: Source, plan: Plan, gauge: ProgressTracker, meter: streams.Meter, line: Line
) -> Finished:
    """What *plan* chose, received or recorded, finished."""
    parts = [stream.format_id for stream in plan.chosen]
    if not recorder.wanted(plan.spec) or not _goes_on(source, plan, parts[0]):
        if plan.order.recording_stopped:
            raise recorder.lost()
        return postprocess(streams.receive(source, parts, plan.order, gauge, meter), plan, gauge, line.ready)
    gauge.begin_stage(Progress.RECORDING)
    line.recording()
    taken = recorder.record(source, parts, plan.order, gauge, line.enough)
    # A recording ends with a segment, which may be past the limit by as much.
    order = replace(plan.order, max_seconds=0.0)
    done = postprocess(taken.files, replace(plan, order=order, seconds=taken.seconds), gauge, line.ready)
    return replace(done, warnings=[*done.warnings, *taken.warnings])


def _goes_on(source: Source, plan: Plan, part: str) -> bool:
    status = plan.media.live_status
    unsaid = status == MediaInfo.LIVE_STATUS_UNSPECIFIED
    return status == MediaInfo.LIVE or (unsaid and recorder.on_air(source, part))


def _admit(media: MediaInfo, order: FetchRequest) -> None:
    """Refuse what must not be fetched at all."""
    if media.live_status == MediaInfo.UPCOMING:
        known = media.HasField("live_start_time")
        start = media.live_start_time.ToDatetime(UTC) if known else None
        raise not_yet(start, "the event has not begun")
    is_live = media.live_status in (MediaInfo.LIVE, MediaInfo.POST_LIVE)
    if is_live and not recorder.wanted(order.format):
        raise ReelhaulError(
            ErrorReason.MEDIA_IS_LIVE, "the media is live", metadata={"extractor": media.extractor}
        )


def _translating(line: Line, gauge: ProgressTracker) -> Translate:
    """The line's translator, told as waiting: no site is to be blamed for the time that it takes."""

    def translated(texts: list[str], source: str, target: str) -> list[str]:
        gauge.begin_stage(Progress.WAITING, f"translating to {target}")
        try:
            return line.translated(texts, source, target)
        finally:
            gauge.begin_stage(Progress.FETCHING_EXTRAS)

    return translated


def _wants_heard(spec: FormatSpec) -> bool:
    """Whether captions of speech recognition, or translations, are to be read: they cost time."""
    asked = spec.subtitles
    return spec.HasField("subtitles") and (asked.kinds != asked.MANUAL or bool(asked.translate_to))
