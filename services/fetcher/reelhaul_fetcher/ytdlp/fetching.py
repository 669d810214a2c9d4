"""A fetch in the child: read metadata, plan, receive, pack, check. Each step may end it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import (
    ArtifactInfo,
    Checksums,
    DeliveredMedia,
    Format,
    FormatSpec,
    MediaInfo,
    Progress,
)
from reelhaul_fetcher.media import ffmpeg, ffprobe, verify
from reelhaul_fetcher.model import names
from reelhaul_fetcher.model.gauge import Gauge
from reelhaul_fetcher.model.orders import FetchOrder, FetchReport, Product
from reelhaul_fetcher.model.packaging import Package, package
from reelhaul_fetcher.model.selection import choose
from reelhaul_fetcher.ytdlp import extras, receiving
from reelhaul_fetcher.ytdlp.downloader import Answers, Downloader, options
from reelhaul_fetcher.ytdlp.info import format_of, media_of
from reelhaul_fetcher.ytdlp.source import Source, check_streams
from reelhaul_runtime.errors import ReelhaulError

Stage = Progress.Stage


class Line(Protocol):
    """Where a fetch tells what it learns."""

    def progress(self, progress: Progress) -> None:
        """Newest progress."""

    def media(self, media: MediaInfo) -> None:
        """Metadata, once it is read."""


class Place(Protocol):
    """Where a fetch notes how far it came."""

    extractor: str


def fetch(order: FetchOrder, line: Line, answers: Answers, place: Place) -> FetchReport:
    """Do *order*. Raises whatever ends it; ``failures.classified`` tells what that means."""
    gauge = Gauge(line.progress, time.monotonic)
    gauge.stage(Stage.PROBING)
    meter = receiving.Meter(gauge, order.size_limit)
    wants_auto = order.format.subtitles.kinds != FormatSpec.Subtitles.MANUAL
    asked = options(
        order.proxy_url,
        hook=meter.hear,
        playlistend=1,
        writeautomaticsub=order.format.HasField("subtitles") and wants_auto,
    )
    with Downloader(answers, asked) as downloader:
        source = Source(downloader, order.url)
        media = media_of(source.info)
        place.extractor = media.extractor
        line.media(media)
        _admit(media, order)
        if order.format.media_kind != FormatSpec.SUBTITLES_ONLY:
            check_streams(source.info, answers.warnings)
        chosen, warnings = choose([format_of(f) for f in source.streams.values()], order.format)
        # Before the media: what is required and missing should not cost gigabytes first.
        others, missed = extras.fetched(downloader, source.info, media, order, gauge)
        products: list[Product] = []
        got = DeliveredMedia(duration=media.duration)
        if chosen:
            files = receiving.receive(source, [c.format_id for c in chosen], order, gauge, meter)
            product, got, more = _finished(files, chosen, media, order, gauge)
            products.append(product)
            warnings += more
    got.subtitle_language_codes.extend(
        sorted({p.info.language_code for p in others if p.info.kind == ArtifactInfo.SUBTITLE})
    )
    return FetchReport(media, (*products, *others), got, (*warnings, *missed))


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
    seconds = media.duration.ToTimedelta().total_seconds()
    if order.max_seconds and seconds > order.max_seconds:
        raise too_long(seconds, order.max_seconds)


def too_long(seconds: float, limit: float) -> ReelhaulError:
    """The play time passes the job's limit."""
    return ReelhaulError(
        ErrorReason.MEDIA_TOO_LONG,
        f"the media plays {seconds:.0f} s; at most {limit:.0f} s are allowed",
        metadata={"durationSeconds": f"{seconds:.0f}", "limitSeconds": f"{limit:.0f}"},
    )


def _finished(
    files: list[Path], chosen: list[Format], media: MediaInfo, order: FetchOrder, gauge: Gauge
) -> tuple[Product, DeliveredMedia, list[media_pb2.Warning]]:
    """The one file made of *files*, checked."""
    gauge.stage(Stage.POSTPROCESSING)
    seen = [_inspected(path) for path in files]
    sound = seen[-1]
    how = package(seen[0].video_codec, sound.audio_codec, order.format)
    path = _packed(files, seen, how, order, gauge)
    gauge.stage(Stage.VERIFYING)
    duration = media.duration.ToTimedelta().total_seconds() or max(s.duration for s in seen)
    promise = verify.Promise(duration, bool(how.video), bool(how.audio), order.format.min_height)
    got = verify.verified(path, promise, seen[0] if path == files[0] else None)
    got.format_ids.extend(stream.format_id for stream in chosen)
    got.transcoded = how.encodes
    got.audio_language_code = chosen[-1].language_code
    if chosen[-1].HasField("original_audio"):
        got.original_audio = chosen[-1].original_audio
    if order.max_seconds and got.duration.ToTimedelta().total_seconds() > order.max_seconds + 1:
        raise too_long(got.duration.ToTimedelta().total_seconds(), order.max_seconds)
    kind = ArtifactInfo.AUDIO if order.format.media_kind == FormatSpec.AUDIO else ArtifactInfo.VIDEO
    warnings = _transcoded(how, order.format)
    return product(path, kind, names.file_name(media.title, how.extension)), got, warnings


def product(path: Path, kind: ArtifactInfo.Kind.ValueType, file_name: str, language: str = "") -> Product:
    """*path* as a product: measured and hashed."""
    info = ArtifactInfo(
        kind=kind,
        file_name=file_name,
        media_type=names.MEDIA_TYPES[path.suffix.lstrip(".")],
        size_bytes=path.stat().st_size,
        checksums=Checksums(sha256=verify.digest(path)),
        language_code=language,
    )
    return Product(path, info)


def _inspected(path: Path) -> ffprobe.Inspection:
    try:
        return ffprobe.inspect(path)
    except ffprobe.NotMedia as error:
        raise ReelhaulError(
            ErrorReason.VERIFICATION_FAILED,
            f"what was received is not media: {error}",
            metadata={"check": "container"},
        ) from error


def _packed(
    files: list[Path], seen: list[ffprobe.Inspection], how: Package, order: FetchOrder, gauge: Gauge
) -> Path:
    """The file in its container; the one received where it is that already, untouched."""
    as_it_is = {"mp4": "mp4", "m4a": "m4a", "webm": "webm", "mkv": "matroska", "mp3": "mp3"}
    name = as_it_is.get(how.extension)
    alone = len(files) == 1 and not how.encodes and files[0].suffix == f".{how.extension}"
    if alone and name in seen[0].containers and bool(seen[0].video) == bool(how.video):
        return files[0]
    output = order.folder / f"result.{how.extension}"
    duration = max(s.duration for s in seen)
    ffmpeg.pack(files, how, output, duration, gauge.advance)
    for path in files:
        path.unlink()
    return output


def _transcoded(how: Package, spec: FormatSpec) -> list[media_pb2.Warning]:
    if not how.encodes or spec.media_kind == FormatSpec.AUDIO:
        return []
    text = f"the streams do not fit {how.extension} and were encoded anew"
    return [media_pb2.Warning(reason=media_pb2.Warning.TRANSCODED, message=text)]
