"""Download of media in a child process: extract, choose formats, receive or record, post-process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import (
    ArtifactInfo,
    DeliveredMedia,
    Format,
    FormatSpec,
    MediaInfo,
    Progress,
)
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import FetchRequest, FetchResult, Product
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.selection import PICTURE_REASONS, Choice, choose_formats
from reelhaul_fetcher.model.site_limits import MAX_PRODUCTS, SiteValues
from reelhaul_fetcher.model.timing.play_time import ReceivedStream
from reelhaul_fetcher.ytdlp.download import streams
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info, ResponseLog, downloader_options
from reelhaul_fetcher.ytdlp.edit_plan import plan_edit
from reelhaul_fetcher.ytdlp.errors import not_live_yet
from reelhaul_fetcher.ytdlp.extract.dash_manifest import REFUSAL
from reelhaul_fetcher.ytdlp.extract.extraction import Source, check_streams
from reelhaul_fetcher.ytdlp.extract.info import to_format, to_media_info
from reelhaul_fetcher.ytdlp.extras.captions import Translate, write_subtitles
from reelhaul_fetcher.ytdlp.extras.sidecars import fetch_sidecars
from reelhaul_fetcher.ytdlp.format_choice import Choose, download_choice
from reelhaul_fetcher.ytdlp.format_selector import select_formats
from reelhaul_fetcher.ytdlp.live import recorder
from reelhaul_fetcher.ytdlp.postprocess.pipeline import postprocess
from reelhaul_fetcher.ytdlp.postprocess.plan import Output, OutputPlan
from reelhaul_fetcher.ytdlp.process.protocol import FetcherChannel
from reelhaul_runtime.errors import ReelhaulError


def fetch(
    request: FetchRequest, options: EngineOptions, channel: FetcherChannel, log: ResponseLog
) -> FetchResult:
    """Carry out *request*. Raises whatever ends it; ``errors.classify`` converts it to a ReelhaulError."""
    tracker = ProgressTracker(channel.on_progress, time.monotonic)
    tracker.begin_stage(Progress.PROBING)
    meter = streams.ByteMeter(tracker, request.size_limit, channel.on_resumed)
    params = downloader_options(
        request.proxy_url,
        options,
        progress_hook=meter.on_hook,
        playlistend=1,
        writeautomaticsub=_needs_automatic_captions(request.format),
    )
    with Downloader(log, params) as downloader:
        source = Source(downloader, request.url, request.title)
        values = SiteValues()
        media = to_media_info(source.info, values)
        log.extractor = media.extractor
        channel.on_media(media)
        _check_live_status(media, request)
        if request.format.media_kind != FormatSpec.SUBTITLES_ONLY:
            check_streams(source.info, log.warnings)
        edit = plan_edit(downloader, media, request, options)
        offered = [to_format(stream) for stream in _usable_streams(source, request.format)]
        if media.live_status == MediaInfo.LIVE:
            offered = [stream for stream in offered if stream.protocol == "hls"]
        choose = _chooser(edit.excluded_codecs)
        formats, warnings = choose(offered, request.format)
        # Before the media: a required sidecar that is missing must not cost gigabytes first.
        translate = _translate_while_waiting(channel, tracker)
        sidecars = fetch_sidecars(source, media, request, tracker, translate)
        products: list[Product] = []
        delivered = DeliveredMedia(duration=media.duration)
        if formats:
            plan = OutputPlan(
                request,
                media,
                formats,
                warnings,
                edit.cut,
                tuple(sidecars.tracks),
                sidecars.thumbnail,
                edit.sponsor_chapters,
            )
            output = _receive(source, plan, offered, choose, tracker, meter, channel)
            products, delivered, warnings = output.products, output.delivered, output.warnings
            sidecars.tracks = list(output.subtitles)
    # Limited by the length of the file: that of the site may be wrong.
    seconds = delivered.duration.ToTimedelta().total_seconds() if formats else 0.0
    texts, text_warnings = write_subtitles(sidecars.tracks, media, request, edit.cut, seconds)
    sidecars.products[:0] = texts
    sidecars.warnings += text_warnings
    languages = {
        product.info.language_code
        for product in sidecars.products
        if product.info.kind == ArtifactInfo.SUBTITLE
    }
    delivered.subtitle_language_codes.extend(sorted(languages))
    all_products, excess = limit_products([*products, *sidecars.products])
    return FetchResult(
        media,
        tuple(all_products),
        delivered,
        (*warnings, *edit.warnings, *sidecars.warnings, *excess, *values.warnings),
    )


def limit_products(products: list[Product]) -> tuple[list[Product], list[MediaWarning]]:
    """Return the first of *products* that a job may have, and a warning if there are more."""
    kept, excess = products[:MAX_PRODUCTS], products[MAX_PRODUCTS:]
    if not excess:
        return kept, []
    for product in excess:
        product.path.unlink(missing_ok=True)
    text = f"a job delivers at most {MAX_PRODUCTS} files: the last {len(excess)} are left out"
    return kept, [MediaWarning(reason=MediaWarning.SUBTITLES_MISSING, message=text)]


def _chooser(excluded_codecs: frozenset[str]) -> Choose:
    """Return a function that chooses formats, without picture warnings: those are based on the file."""

    def choose(offered: Sequence[Format], spec: FormatSpec) -> Choice:
        formats, warnings = choose_formats(offered, spec, select_formats, excluded_codecs)
        return formats, [warning for warning in warnings if warning.reason not in PICTURE_REASONS]

    return choose


def _usable_streams(source: Source, spec: FormatSpec) -> list[Info]:
    """Return the streams that can be received completely. Raises FORMAT_UNAVAILABLE if none fits *spec*."""
    streams = list(source.streams.values())
    usable = [stream for stream in streams if not stream.get(REFUSAL)]
    kind = "acodec" if spec.media_kind == FormatSpec.AUDIO else "vcodec"
    if not any(stream.get(kind) != "none" for stream in usable):
        refusals = [stream[REFUSAL] for stream in streams if stream.get(REFUSAL)]
        if refusals:
            raise ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, str(refusals[-1]))
    return usable


def _receive(
    source: Source,
    plan: OutputPlan,
    offered: Sequence[Format],
    choose: Choose,
    tracker: ProgressTracker,
    meter: streams.ByteMeter,
    channel: FetcherChannel,
) -> Output:
    """Download or record the formats of *plan*, chosen from *offered* by *choose*, and post-process them."""
    request, format_ids = plan.request, [stream.format_id for stream in plan.formats]
    if not recorder.is_requested(plan.spec) or not _is_live(source, plan.media, format_ids[0]):
        if request.recording_stopped:
            raise recorder.recording_lost()
        choice = plan.formats, plan.warnings
        measured, warnings = download_choice(source, offered, choice, choose, request, tracker, meter)
        plan = replace(
            plan,
            formats=[each.format for each in measured],
            warnings=warnings,
            inspections={each.path: each.inspection for each in measured},
        )
        return postprocess([each.stream for each in measured], plan, tracker, channel.on_media_file)
    tracker.begin_stage(Progress.RECORDING)
    channel.on_recording()
    recording = recorder.record(source, format_ids, request, tracker, channel.stop_reason)
    # A recording ends with a whole segment, which may exceed the limit.
    plan = replace(plan, request=replace(request, max_seconds=0.0))
    warnings = recording.warnings
    if recording.is_without_audio:
        recording, plan = recording.without_audio(), replace(plan, formats=plan.formats[:1])
        text = "nothing of the audio was received"
        warnings.insert(0, MediaWarning(reason=MediaWarning.STREAMS_UNEQUAL, message=text))
    plan = replace(plan, recording=recording)
    received = [ReceivedStream((file,)) for file in recording.files]
    output = postprocess(received, plan, tracker, channel.on_media_file)
    return replace(output, warnings=[*output.warnings, *warnings])


def _is_live(source: Source, media: MediaInfo, format_id: str) -> bool:
    if media.live_status == MediaInfo.LIVE_STATUS_UNSPECIFIED:
        return recorder.is_live_playlist(source, format_id)
    return media.live_status == MediaInfo.LIVE


def _check_live_status(media: MediaInfo, request: FetchRequest) -> None:
    """Raise MEDIA_NOT_LIVE_YET for an upcoming event, MEDIA_IS_LIVE for unrequested live media."""
    if media.live_status == MediaInfo.UPCOMING:
        has_start = media.HasField("live_start_time")
        start = media.live_start_time.ToDatetime(UTC) if has_start else None
        raise not_live_yet(start, "the event has not begun")
    is_live = media.live_status in (MediaInfo.LIVE, MediaInfo.POST_LIVE)
    if is_live and not recorder.is_requested(request.format):
        raise ReelhaulError(
            ErrorReason.MEDIA_IS_LIVE, "the media is live", metadata={"extractor": media.extractor}
        )


def _translate_while_waiting(channel: FetcherChannel, tracker: ProgressTracker) -> Translate:
    """Return the fetcher's translator, which reports the stage WAITING: no site is to blame for its time."""

    def translate(texts: list[str], source: str, target: str) -> list[str]:
        tracker.begin_stage(Progress.WAITING, f"translating to {target}")
        try:
            return channel.translate(texts, source, target)
        finally:
            tracker.begin_stage(Progress.FETCHING_EXTRAS)

    return translate


def _needs_automatic_captions(spec: FormatSpec) -> bool:
    """Return whether automatic captions or translations must be extracted, which takes time."""
    subtitles = spec.subtitles
    return spec.HasField("subtitles") and (
        subtitles.kinds != subtitles.MANUAL or bool(subtitles.translate_to)
    )
