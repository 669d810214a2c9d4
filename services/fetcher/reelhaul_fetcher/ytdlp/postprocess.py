"""Post-processing: makes the requested file of the streams received. Cuts, muxes, verifies, splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from reelhaul import file_names
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, DeliveredMedia, Format, FormatSpec, MediaInfo, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media import inspector_client, muxer, verify
from reelhaul_fetcher.media.ffmpeg import Input
from reelhaul_fetcher.media.inspect import Inspection, NotMedia
from reelhaul_fetcher.model import chapters
from reelhaul_fetcher.model.chapters import Chapter
from reelhaul_fetcher.model.clocks import Timeline, plan_recorded_timeline, plan_timeline
from reelhaul_fetcher.model.cuts import Cut
from reelhaul_fetcher.model.engine_requests import FetchRequest, Product
from reelhaul_fetcher.model.packaging import Package, plan_cut_package, plan_package
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.ytdlp.edit_plan import media_too_long
from reelhaul_fetcher.ytdlp.live.recorder import Recording
from reelhaul_runtime.errors import ReelhaulError

# libav's name of the container, by extension, for files that are usable as received.
_CONTAINERS = {"mp4": "mp4", "m4a": "m4a", "webm": "webm", "mkv": "matroska", "mp3": "mp3"}
# Seconds by which a cut file may be longer: the last video frame and the last audio packet have a duration.
_CUT_TOLERANCE = 0.5
# Seconds by which a chapter's file may be longer: a copied range starts at the key frame before it.
_KEY_FRAME_TOLERANCE = 12.0
_MAX_CHAPTERS = 300
# Seconds by which video and audio may begin or end apart without a warning.
_MAX_APART_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """What to make of the streams received."""

    request: FetchRequest
    media: MediaInfo
    formats: list[Format]
    cut: Cut = field(default_factory=Cut)
    subtitles: tuple[muxer.SubtitleFile, ...] = ()
    thumbnail: Path | None = None
    #: Sponsored segments to mark.
    sponsor_chapters: tuple[Chapter, ...] = ()
    #: When the presentation begins by the timestamps of each stream, in seconds; 0 where nothing is told.
    presentation_starts: tuple[float, ...] = ()
    #: Of a live stream.
    recording: Recording | None = None

    @property
    def spec(self) -> FormatSpec:
        """The format requested."""
        return self.request.format


@dataclass(frozen=True, slots=True)
class Output:
    """The media file and the files of its chapters, what was delivered, and what differs from the request."""

    products: list[Product]
    delivered: DeliveredMedia
    warnings: list[MediaWarning]


def postprocess(
    files: list[Path],
    plan: OutputPlan,
    tracker: ProgressTracker,
    on_media_file: Callable[[Product], None],
) -> Output:
    """Make of *files*, one per stream and video first, what *plan* asks for, and verify it.

    *on_media_file* is called with the media file before it is verified.

    Raises VERIFICATION_FAILED, FORMAT_UNAVAILABLE, MEDIA_TOO_LONG, FfmpegFailed.
    """
    tracker.begin_stage(Progress.POSTPROCESSING)
    inspections = [_inspect(path) for path in files]
    timeline = _plan_timeline(inspections, plan)
    duration = timeline.length
    uncut_package = package = plan_package(inspections[0].video_codec, inspections[-1].audio_codec, plan.spec)
    cut = plan.cut.limited_to(duration)
    if cut.removes_something:
        package = plan_cut_package(uncut_package, inspections[0].transfer, joined=len(cut.ranges) > 1)
    length = cut.length if cut.removes_something else duration
    embedded_chapters, warnings = _plan_chapters(plan, cut, length)
    path = _mux(files, inspections, timeline, package, plan, cut, embedded_chapters, tracker)
    tracker.begin_stage(Progress.VERIFYING)
    kind = ArtifactInfo.AUDIO if plan.spec.media_kind == FormatSpec.AUDIO else ArtifactInfo.VIDEO
    name = file_names.from_title(plan.media.title, package.extension)
    media_file = Product.from_file(path, kind, name)
    on_media_file(media_file)
    inspection = inspections[0] if path == files[0] else _inspect(path)
    audio_delay = _expected_audio_delay(inspections, timeline, cut)
    delivered = _verify(path, inspection, package, plan, duration, audio_delay)
    warnings += _find_unequal_streams(inspection)
    if uncut_package.transcodes and plan.spec.media_kind != FormatSpec.AUDIO:
        text = f"the streams do not fit into {uncut_package.extension} and were transcoded"
        warnings.append(MediaWarning(reason=MediaWarning.TRANSCODED, message=text))
    return Output([media_file, *_split(path, package, plan, cut, length, tracker)], delivered, warnings)


def _inspect(path: Path) -> Inspection:
    try:
        return inspector_client.inspect(path)
    except NotMedia as error:
        raise ReelhaulError(
            ErrorReason.VERIFICATION_FAILED,
            f"the file received is not media: {error}",
            metadata={"check": "container"},
        ) from error


def _plan_timeline(inspections: list[Inspection], plan: OutputPlan) -> Timeline:
    """Return when the streams play by the clock that they share."""
    starts = plan.presentation_starts or (0.0,) * len(inspections)
    clocks = [read.clock.shifted(start) for read, start in zip(inspections, starts, strict=True)]
    if plan.recording:
        timeline = plan_recorded_timeline(clocks, plan.recording.starts, plan.recording.end)
        return replace(timeline, longest_gap=plan.recording.longest_gap)
    return plan_timeline(clocks)


def _expected_audio_delay(inspections: list[Inspection], timeline: Timeline, cut: Cut) -> float | None:
    """Return how long after the video the audio begins in the file; None if they were delivered together."""
    if len(inspections) == 1:
        return None
    video_start = max(0.0, timeline.delays[0] + inspections[0].video_start)
    if cut.removes_something:
        # The audio of a cut is filled with silence from its start.
        return -cut.map_time(video_start)
    return max(0.0, timeline.delays[-1] + inspections[-1].audio_start) - video_start


def _find_unequal_streams(inspection: Inspection) -> list[MediaWarning]:
    """Return a warning if video and audio of the file do not begin and end together."""
    if not (inspection.video_end and inspection.audio_end):
        return []
    differences = {
        "begins": inspection.audio_start - inspection.video_start,
        "ends": inspection.audio_end - inspection.video_end,
    }
    texts = [
        f"{verb} {abs(seconds):.1f} s {'after' if seconds > 0 else 'before'} the video"
        for verb, seconds in differences.items()
        if abs(seconds) > _MAX_APART_SECONDS
    ]
    text = f"the audio {' and '.join(texts)}"
    return [MediaWarning(reason=MediaWarning.STREAMS_UNEQUAL, message=text)] if texts else []


def _plan_chapters(plan: OutputPlan, cut: Cut, length: float) -> tuple[list[Chapter], list[MediaWarning]]:
    """Return the chapters to embed, and a warning if the media should have chapters and has none."""
    warnings = []
    result: list[Chapter] = []
    if plan.spec.chapters in (FormatSpec.EMBED, FormatSpec.SPLIT):
        result = chapters.from_media(plan.media)
        if not result:
            text = "this media has no chapters"
            warnings.append(MediaWarning(reason=MediaWarning.CHAPTERS_MISSING, message=text))
    if plan.sponsor_chapters:
        result = chapters.overlay(result or [chapters.whole(plan.media.title)], plan.sponsor_chapters)
    return chapters.apply_cut(result, cut, length), warnings


def _mux(
    files: list[Path],
    inspections: list[Inspection],
    timeline: Timeline,
    package: Package,
    plan: OutputPlan,
    cut: Cut,
    embedded_chapters: list[Chapter],
    tracker: ProgressTracker,
) -> Path:
    """Return the file in its container. A file that is what is wanted already stays untouched."""
    folder = plan.request.folder
    chapters_file = _write_chapters(folder, embedded_chapters) if embedded_chapters else None
    extras = muxer.EmbeddedExtras(plan.subtitles, plan.thumbnail, chapters_file)
    extras = extras.supported_by(package.extension)
    is_usable = (
        len(files) == 1
        and not package.transcodes
        and files[0].suffix == f".{package.extension}"
        and _CONTAINERS.get(package.extension) in inspections[0].containers
        and bool(inspections[0].video_codec) == bool(package.video)
    )
    if is_usable and not extras.has_content and not cut.removes_something:
        return files[0]
    output = folder / f"result.{package.extension}"
    length = cut.length if cut.removes_something else timeline.length
    inputs = [Input(file, read.demuxer) for file, read in zip(files, inspections, strict=True)]
    muxer.mux(
        inputs, package, output, length, tracker.update_stage, cut=cut, extras=extras, timeline=timeline
    )
    for path in files:
        path.unlink()
    return output


def _write_chapters(folder: Path, embedded_chapters: list[Chapter]) -> Path:
    path = folder / "chapters.txt"
    path.write_text(chapters.to_ffmetadata(embedded_chapters), encoding="utf-8")
    return path


def _verify(
    path: Path,
    inspection: Inspection,
    package: Package,
    plan: OutputPlan,
    received_seconds: float,
    audio_delay: float | None,
) -> DeliveredMedia:
    told_seconds = plan.media.duration.ToTimedelta().total_seconds()
    if plan.recording:
        # Playlists tell play times inexactly; where the clock starts again, a file does.
        told_seconds = min(
            plan.recording.seconds, received_seconds, key=lambda s: abs(s - inspection.duration)
        )
    expected_seconds = told_seconds or received_seconds
    # The cut of what the site promised: a download that is too short must not pass because it is cut.
    cut, tolerance = plan.cut.limited_to(expected_seconds), 0.0
    if cut.removes_something:
        tolerance = _CUT_TOLERANCE if plan.cut.ranges[-1].end <= expected_seconds else 0.0
        expected_seconds = cut.length
    expected = verify.Expected(
        expected_seconds,
        bool(package.video),
        bool(package.audio),
        plan.spec.min_height,
        tolerance,
        audio_delay if package.video and package.audio else None,
    )
    delivered = verify.verify(path, expected, inspection)
    audio = plan.formats[-1]
    delivered.format_ids.extend(stream.format_id for stream in plan.formats)
    delivered.transcoded = package.transcodes
    delivered.audio_language_code = audio.language_code
    if audio.HasField("original_audio"):
        delivered.original_audio = audio.original_audio
    seconds, limit = delivered.duration.ToTimedelta().total_seconds(), plan.request.max_seconds
    if limit and seconds > limit + 1:
        raise media_too_long(seconds, limit)
    return delivered


def _split(
    path: Path, package: Package, plan: OutputPlan, cut: Cut, length: float, tracker: ProgressTracker
) -> list[Product]:
    """Return one file per chapter, if that is requested."""
    if plan.spec.chapters != FormatSpec.SPLIT:
        return []
    products = []
    all_chapters = chapters.apply_cut(chapters.from_media(plan.media), cut, length)
    for number, chapter in enumerate(all_chapters[:_MAX_CHAPTERS], 1):
        tracker.begin_stage(Progress.POSTPROCESSING, f"chapter {number}")
        output = plan.request.folder / f"chapter{number}.{package.extension}"
        has_video, has_audio = bool(package.video), bool(package.audio)
        muxer.cut_range(path, chapter.time_range, output, video=has_video, audio=has_audio)
        seconds = chapter.time_range.end - chapter.time_range.start
        verify.verify(output, verify.Expected(seconds, has_video, has_audio, tolerance=_KEY_FRAME_TOLERANCE))
        title = f"{number:02} {chapter.title} - {plan.media.title}"
        name = file_names.from_title(title, package.extension)
        products.append(Product.from_file(output, ArtifactInfo.CHAPTER, name))
    return products
