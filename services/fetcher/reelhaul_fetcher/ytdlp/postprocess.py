"""Post-processing: makes the requested file of the streams received. Cuts, muxes, verifies, splits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

from reelhaul import file_names
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import (
    ArtifactInfo,
    DeliveredMedia,
    Format,
    FormatSpec,
    MediaInfo,
    Progress,
    TrackRole,
)
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media import inspector_client, joiner, muxer, verify
from reelhaul_fetcher.media.ffmpeg import FfmpegFailed, Input
from reelhaul_fetcher.media.inspect import Inspection, NotMedia
from reelhaul_fetcher.model.engine_requests import FetchRequest, Product
from reelhaul_fetcher.model.packaging import Package, plan_cut_package, plan_encoded_package, plan_package
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.selection import picture_warnings
from reelhaul_fetcher.model.timing import chapters, cues, play_time
from reelhaul_fetcher.model.timing.chapters import Chapter
from reelhaul_fetcher.model.timing.clocks import Clock, Timeline, plan_recorded_timeline, plan_timeline
from reelhaul_fetcher.model.timing.cuts import Cut, clip_range
from reelhaul_fetcher.model.timing.play_time import ReceivedStream
from reelhaul_fetcher.model.tracks import audio_selection, audio_tracks, languages
from reelhaul_fetcher.ytdlp.edit_plan import clip_out_of_range, media_too_long
from reelhaul_fetcher.ytdlp.extras.captions import CaptionTrack
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
    #: How the choice of the formats differs from the request.
    warnings: list[MediaWarning] = field(default_factory=list)
    cut: Cut = field(default_factory=Cut)
    #: Before the cut.
    subtitles: tuple[CaptionTrack, ...] = ()
    thumbnail: Path | None = None
    #: Sponsored segments to mark.
    sponsor_chapters: tuple[Chapter, ...] = ()
    #: What was read of files received, as far as they were read.
    inspections: Mapping[Path, Inspection] = field(default_factory=dict)
    #: Of a live stream.
    recording: Recording | None = None

    @property
    def recorded_seconds(self) -> float:
        """The play time of the recording by its playlists; 0 if this is none."""
        return self.recording.seconds if self.recording else 0.0

    @property
    def spec(self) -> FormatSpec:
        """The format requested."""
        return self.request.format

    @property
    def embedded_subtitles(self) -> tuple[CaptionTrack, ...]:
        """The subtitles to embed, before the cut."""
        return self.subtitles if self.spec.subtitles.embed else ()


@dataclass(frozen=True, slots=True)
class Output:
    """The media file and the files of its chapters, what was delivered, and what differs from the request."""

    products: list[Product]
    delivered: DeliveredMedia
    warnings: list[MediaWarning]
    #: On the clock of the media, before the cut.
    subtitles: tuple[CaptionTrack, ...] = ()


def postprocess(
    streams: list[ReceivedStream],
    plan: OutputPlan,
    tracker: ProgressTracker,
    on_media_file: Callable[[Product], None],
) -> Output:
    """Make of *streams*, video first, what *plan* asks for, and verify it.

    *on_media_file* is called with the media file before it is verified.

    Raises CLIP_OUT_OF_RANGE, VERIFICATION_FAILED, FORMAT_UNAVAILABLE, MEDIA_TOO_LONG, FfmpegFailed.
    """
    tracker.begin_stage(Progress.POSTPROCESSING)
    stated = plan.recorded_seconds or plan.media.duration.ToTimedelta().total_seconds()

    @functools.cache
    def inspect(path: Path) -> Inspection:
        return plan.inspections.get(path) or inspect_received(path)

    clocks = _Clocks(streams, inspect)
    joined = joiner.join(
        [stream.files for stream in streams],
        plan.request.folder,
        inspect,
        clocks.read,
        tracker.update_stage,
        expected=[stream.promised_seconds or stated for stream in streams],
    )
    files = joined.files
    inspections = [inspect(path) for path in files]
    timeline = _plan_timeline([clocks.read(path) for path in files], plan.recording)
    duration = timeline.length
    video, audio = inspections[0], inspections[-1]
    if not audio.audio_codec and (plan.spec.media_kind == FormatSpec.AUDIO or not video.video_codec):
        raise ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, "this media has no sound")
    plan, uncut_package = _plan_package(plan, video, audio)
    package = uncut_package
    cut = plan.cut.limited_to(duration)
    if not cut.ranges:
        if clip := clip_range(plan.spec):
            raise clip_out_of_range(clip.start, duration)
        cut = Cut()
    if cut.removes_something:
        package = plan_cut_package(uncut_package, inspections[0].transfer, joined=len(cut.ranges) > 1)
    elif package.extension == "flac" and not audio.has_duration:
        package = plan_encoded_package(package, audio.transfer)
    length = cut.length if cut.removes_something else duration
    plan = _with_subtitles_on_clock(plan, [inspect(stream.files[0]) for stream in streams], duration)
    media_chapters, embedded_chapters, warnings = _plan_chapters(plan, cut, duration, length)
    warnings += _compare_play_time(streams, files, inspections, plan)
    planned_package = package
    path, package, extras_warnings = _mux_tolerantly(
        files, inspections, timeline, package, plan, cut, embedded_chapters, tracker
    )
    warnings += extras_warnings
    if package != planned_package:
        uncut_package = package
    tracker.begin_stage(Progress.VERIFYING)
    kind = ArtifactInfo.VIDEO if package.video else ArtifactInfo.AUDIO
    name = file_names.from_title(plan.media.title, package.extension)
    media_file = Product.from_file(path, kind, name)
    on_media_file(media_file)
    inspection = inspections[0] if path == files[0] else verify.inspect_written(path)
    audio_delay = _expected_audio_delay(inspections, timeline, package, cut)
    delivered = _verify(path, inspection, package, plan, duration, audio_delay)
    warnings += _find_unequal_streams(inspection)
    if joined.transcoded:
        text = "parts of the media differ in size or sample rate and were transcoded"
        warnings.append(MediaWarning(reason=MediaWarning.TRANSCODED, message=text))
    if uncut_package.transcodes and plan.spec.media_kind != FormatSpec.AUDIO:
        text = f"the streams do not fit into {uncut_package.extension} and were transcoded"
        warnings.append(MediaWarning(reason=MediaWarning.TRANSCODED, message=text))
    if kind == ArtifactInfo.AUDIO and plan.spec.media_kind != FormatSpec.AUDIO:
        text = f"the media has no picture: it is delivered as audio ({package.extension})"
        warnings.append(MediaWarning(reason=MediaWarning.PICTURE_MISSING, message=text))
    warnings += [*plan.warnings, *picture_warnings(delivered, plan.spec)]
    # A file that was made has one track.
    audio_track = package.audio_track if path == files[0] else 0
    parts, split_warnings = _split(path, package, audio_track, plan, media_chapters, tracker)
    return Output([media_file, *parts], delivered, [*warnings, *split_warnings], plan.subtitles)


def _with_subtitles_on_clock(
    plan: OutputPlan, inspections: Sequence[Inspection], duration: float
) -> OutputPlan:
    """Return *plan* with subtitles that are shown by the clock of the media, the streams of *inspections*."""
    start = min(inspection.start for inspection in inspections)
    return replace(plan, subtitles=tuple(track.on_clock(start, duration) for track in plan.subtitles))


def _plan_package(plan: OutputPlan, video: Inspection, audio: Inspection) -> tuple[OutputPlan, Package]:
    """Return *plan* with what the file tells of its audio, and the package of the track that is taken."""
    stated = plan.formats[-1]
    number, stream = audio_tracks.choose(audio.audio_tracks, stated, plan.spec)
    is_as_stated = _language_and_role(stream) == _language_and_role(stated) and bool(audio.audio_codec)
    if not is_as_stated and not plan.spec.selector:
        kept = [each for each in plan.warnings if each.reason not in audio_selection.REASONS]
        delivered = stream if audio.audio_codec else None
        warnings = [*kept, *audio_selection.check_language(delivered, plan.spec)]
        plan = replace(plan, formats=[*plan.formats[:-1], stream], warnings=warnings)
    if not audio.audio_tracks:
        return plan, plan_package(video.video_codec, audio.audio_codec, plan.spec, audio.audio_channels)
    track = audio.audio_tracks[number]
    package = plan_package(video.video_codec, track.codec, plan.spec, track.channels)
    language = languages.to_iso_639_2(stream.language_code) if stream.language_code else ""
    return plan, replace(package, audio_track=number, audio_language=language)


def _language_and_role(stream: Format) -> tuple[str, TrackRole.ValueType]:
    return stream.language_code, stream.role


def inspect_received(path: Path) -> Inspection:
    """Inspect *path*, a file that a site sent. Raises VERIFICATION_FAILED."""
    try:
        return inspector_client.inspect(path)
    except NotMedia as error:
        raise ReelhaulError(
            ErrorReason.VERIFICATION_FAILED,
            f"the file received is not media: {error}",
            metadata={"check": "container"},
        ) from error


class _Clocks:
    """Reads the clocks of files; those that we joined begin when they play."""

    def __init__(self, streams: Sequence[ReceivedStream], inspect: Callable[[Path], Inspection]) -> None:
        self._inspect = inspect
        self._starts = {
            path: start
            for stream in streams
            for path, start in zip_longest(stream.files, stream.presentation_starts, fillvalue=0.0)
        }

    def read(self, path: Path) -> Clock:
        """Return the clock of *path*, from the start of its presentation."""
        clock = self._inspect(path).clock
        if path not in self._starts:
            return replace(clock, start=None)
        return clock.shifted(self._starts[path])


def _plan_timeline(clocks: list[Clock], recording: Recording | None) -> Timeline:
    """Return when the streams play by the clock that they share."""
    if recording and len(recording.files) == len(clocks):
        timeline = plan_recorded_timeline(clocks, recording.starts, recording.end)
        return replace(timeline, longest_gap=recording.longest_gap)
    return plan_timeline(clocks)


def _expected_audio_delay(
    inspections: list[Inspection], timeline: Timeline, package: Package, cut: Cut
) -> float | None:
    """Return how long after the video the audio begins in the file; None if that is not known."""
    if len(inspections) == 1 or not (package.video and package.audio):
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


def _compare_play_time(
    streams: list[ReceivedStream], files: list[Path], inspections: list[Inspection], plan: OutputPlan
) -> list[MediaWarning]:
    """Return a warning if the site is wrong about the duration.

    Raises VERIFICATION_FAILED or FORMAT_UNAVAILABLE if it may be right.
    """
    if plan.recorded_seconds:
        return []
    # One file may have all streams.
    files, inspections = files * (len(streams) // len(files)), inspections * (len(streams) // len(files))
    for stream, path, read in zip(streams, files, inspections, strict=True):
        measure = functools.partial(inspector_client.measure_play_time, path)
        if warnings := play_time.check_promise(stream, read.duration, measure):
            return warnings
    stated = plan.media.duration.ToTimedelta().total_seconds()
    # A header with a duration makes the end known, and the decoder checks it.
    is_whole = all(stream.is_complete for stream in streams) or all(read.has_duration for read in inspections)
    duration = max(inspection.duration for inspection in inspections)
    return play_time.compare(duration, stated, is_whole=is_whole)


def _plan_chapters(
    plan: OutputPlan, cut: Cut, duration: float, length: float
) -> tuple[list[Chapter], list[Chapter], list[MediaWarning]]:
    """Return the chapters of the media and those to embed, both after *cut*, and what is wrong with them.

    *duration* is that of the media, *length* what the cut leaves of it.
    """
    warnings = []
    result: list[Chapter] = []
    if plan.spec.chapters in (FormatSpec.EMBED, FormatSpec.SPLIT):
        result, misfits = chapters.from_media(plan.media, duration)
        if misfits:
            text = f"chapters that overlap or are beyond the end were shortened or left out: {misfits}"
            warnings.append(MediaWarning(reason=MediaWarning.TIMES_CORRECTED, message=text))
        if not result:
            text = "this media has no chapters"
            warnings.append(MediaWarning(reason=MediaWarning.CHAPTERS_MISSING, message=text))
    embedded = result
    if plan.sponsor_chapters:
        base = result or [chapters.whole(plan.media.title)]
        embedded = chapters.overlay(base, plan.sponsor_chapters)
    return chapters.apply_cut(result, cut, length), chapters.apply_cut(embedded, cut, length), warnings


def _mux_tolerantly(
    files: list[Path],
    inspections: Sequence[Inspection],
    timeline: Timeline,
    package: Package,
    plan: OutputPlan,
    cut: Cut,
    embedded_chapters: list[Chapter],
    tracker: ProgressTracker,
) -> tuple[Path, Package, list[MediaWarning]]:
    """Return the file in its container, how it was packaged, and a warning for what is not embedded.

    If ffmpeg fails, the extras are left out; if that does not help, copied streams are encoded: a container
    takes so what it refuses as it is, e.g. for want of timestamps. Raises FfmpegFailed.
    """
    variants = [(package, plan, embedded_chapters)]
    if plan.embedded_subtitles or plan.thumbnail or embedded_chapters:
        variants.append((package, replace(plan, subtitles=(), thumbnail=None), []))
    if package.copies:
        encoded = plan_encoded_package(package, inspections[0].transfer)
        variants += [(encoded, extras, chapters_) for _, extras, chapters_ in variants]
    for number, (tried, extras, chapters_) in enumerate(variants, 1):
        try:
            path = _mux(files, inspections, timeline, tried, extras, cut, chapters_, tracker)
        except FfmpegFailed:
            if number == len(variants):
                raise
        else:
            return path, tried, [] if extras is plan else _not_embedded(plan, embedded_chapters)
    raise RuntimeError("there is nothing to mux")


def _not_embedded(plan: OutputPlan, embedded_chapters: list[Chapter]) -> list[MediaWarning]:
    """Return a warning for each extra of *plan* that ffmpeg could not embed together."""
    lost = [
        (
            bool(plan.embedded_subtitles),
            MediaWarning.SUBTITLES_MISSING,
            "the subtitles could not be embedded",
        ),
        (plan.thumbnail is not None, MediaWarning.THUMBNAIL_MISSING, "the thumbnail could not be embedded"),
        (bool(embedded_chapters), MediaWarning.CHAPTERS_MISSING, "the chapters could not be embedded"),
    ]
    return [MediaWarning(reason=reason, message=text) for is_lost, reason, text in lost if is_lost]


def _mux(
    files: list[Path],
    inspections: Sequence[Inspection],
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
    length = cut.length if cut.removes_something else timeline.length
    extras = muxer.EmbeddedExtras(_write_subtitles(plan, package, cut, length), plan.thumbnail, chapters_file)
    extras = extras.supported_by(package.extension)
    is_usable = (
        len(files) == 1
        and not package.transcodes
        and files[0].suffix == f".{package.extension}"
        and inspections[0].has_duration
        and _CONTAINERS.get(package.extension) in inspections[0].containers
        and bool(inspections[0].video_codec) == bool(package.video)
        and package.audio_track == audio_tracks.played_by_default(inspections[0].audio_tracks)
    )
    if is_usable and not extras.has_content and not cut.removes_something:
        return files[0]
    output = folder / f"result.{package.extension}"
    inputs = [Input(file, read.demuxer) for file, read in zip(files, inspections, strict=True)]
    muxer.mux(
        inputs, package, output, length, tracker.update_stage, cut=cut, extras=extras, timeline=timeline
    )
    for path in files:
        path.unlink()
    return output


def _write_subtitles(
    plan: OutputPlan, package: Package, cut: Cut, length: float
) -> tuple[muxer.SubtitleFile, ...]:
    """Write the subtitles to embed, within the *length* that *cut* leaves: the file gets no longer."""
    files: list[muxer.SubtitleFile] = []
    if not muxer.EmbeddedExtras.supports_subtitles(package.extension):
        return ()
    for number, track in enumerate(plan.embedded_subtitles):
        shown, _ = cues.limit(cues.apply_cut(track.cues, cut), length)
        if shown:
            path = plan.request.folder / f"embedded{number}.txt"
            muxer.write_subtitles(path, shown, package.extension)
            files.append(muxer.SubtitleFile(path, track.iso_639_2, track.title, track.source.role))
    return tuple(files)


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
    expected_seconds = received_seconds
    if plan.recording:
        # Playlists tell play times inexactly; where the clock starts again, a file does.
        told = plan.recorded_seconds, received_seconds
        expected_seconds = min(told, key=lambda seconds: abs(seconds - inspection.duration))
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
        audio_delay,
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
    path: Path,
    package: Package,
    audio_track: int,
    plan: OutputPlan,
    media_chapters: list[Chapter],
    tracker: ProgressTracker,
) -> tuple[list[Product], list[MediaWarning]]:
    """Return one file per chapter if that is requested, and a warning for each that cannot be made."""
    products: list[Product] = []
    warnings: list[MediaWarning] = []
    if plan.spec.chapters != FormatSpec.SPLIT:
        if media_chapters and not muxer.EmbeddedExtras.supports_chapters(package.extension):
            text = f"{package.extension} files have no chapters"
            warnings.append(MediaWarning(reason=MediaWarning.CHAPTERS_MISSING, message=text))
        return products, warnings
    if len(media_chapters) > _MAX_CHAPTERS:
        text = f"the first {_MAX_CHAPTERS} of {len(media_chapters)} chapters are split off"
        warnings.append(MediaWarning(reason=MediaWarning.CHAPTERS_MISSING, message=text))
    has_video, has_audio = bool(package.video), bool(package.audio)
    for number, chapter in enumerate(media_chapters[:_MAX_CHAPTERS], 1):
        tracker.begin_stage(Progress.POSTPROCESSING, f"chapter {number}")
        output = plan.request.folder / f"chapter{number}.{package.extension}"
        seconds = chapter.time_range.end - chapter.time_range.start
        try:
            muxer.cut_range(
                path, chapter.time_range, output, video=has_video, audio=has_audio, audio_track=audio_track
            )
            expected = verify.Expected(seconds, has_video, has_audio, tolerance=_KEY_FRAME_TOLERANCE)
            verify.verify(output, expected)
        except (FfmpegFailed, ReelhaulError):
            output.unlink(missing_ok=True)
            text = f"chapter {number} could not be split off"
            warnings.append(MediaWarning(reason=MediaWarning.CHAPTERS_MISSING, message=text))
            continue
        title = f"{number:02} {chapter.title} - {plan.media.title}"
        name = file_names.from_title(title, package.extension)
        products.append(Product.from_file(output, ArtifactInfo.CHAPTER, name))
    return products, warnings
