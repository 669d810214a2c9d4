"""Verification: checks the streams received and the media file against what was expected."""

from __future__ import annotations

import functools

from reelhaul.type.v1.media_pb2 import ArtifactInfo, DeliveredMedia, FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media import inspector_client, verify
from reelhaul_fetcher.media.inspection import Inspection
from reelhaul_fetcher.model.timing import play_time
from reelhaul_fetcher.ytdlp.edit_plan import media_too_long
from reelhaul_fetcher.ytdlp.postprocess.joined_media import JoinedMedia
from reelhaul_fetcher.ytdlp.postprocess.media_file import MediaFile
from reelhaul_fetcher.ytdlp.postprocess.mux_plan import MuxPlan
from reelhaul_fetcher.ytdlp.postprocess.plan import OutputPlan

# Seconds by which a cut file may be longer: the last video frame and the last audio packet have a duration.
_CUT_TOLERANCE = 0.5
# Seconds by which video and audio may begin or end apart without a warning.
_MAX_STREAM_OFFSET_SECONDS = 2.0


def check_play_time(media: JoinedMedia, plan: OutputPlan) -> list[MediaWarning]:
    """Return a warning if complete media has another duration than the site states.

    Raises VERIFICATION_FAILED or FORMAT_UNAVAILABLE if media may be missing.
    """
    if plan.recorded_seconds:
        return []
    for number, stream in enumerate(media.streams):
        # One file may have all streams.
        index = min(number, len(media.files) - 1)
        path, read = media.files[index], media.inspections[index]
        measure = functools.partial(inspector_client.measure_play_time, path, read.demuxer)
        if warnings := play_time.check_declared_duration(stream, read.duration, measure):
            return warnings
    # A duration in the header defines the end, and the decoder checks it.
    is_whole = all(stream.is_complete for stream in media.streams) or all(
        read.has_duration for read in media.inspections
    )
    duration = max(read.duration for read in media.inspections)
    return play_time.compare(duration, plan.stated_seconds, is_whole=is_whole)


def inspect_media_file(media_file: MediaFile) -> Inspection:
    """Inspect *media_file*, unless it was inspected as received. Raises VERIFICATION_FAILED."""
    if media_file.is_as_received:
        return media_file.plan.media.video
    return verify.inspect_written(media_file.path)


def verify_media_file(media_file: MediaFile, inspection: Inspection, plan: OutputPlan) -> DeliveredMedia:
    """Check *media_file*, and return its properties.

    Raises VERIFICATION_FAILED, FORMAT_UNAVAILABLE, MEDIA_TOO_LONG.
    """
    mux_plan = media_file.plan
    seconds, tolerance = _expected_duration(mux_plan.media, inspection, plan)
    expected = verify.Expected(
        seconds,
        bool(mux_plan.package.video),
        bool(mux_plan.package.audio),
        plan.spec.min_height,
        tolerance,
        _expected_audio_delay(mux_plan),
    )
    delivered = verify.verify(media_file.path, expected, inspection)
    audio = plan.formats[-1]
    delivered.format_ids.extend(stream.format_id for stream in plan.formats)
    delivered.transcoded = mux_plan.package.transcodes
    delivered.audio_language_code = audio.language_code
    if audio.HasField("original_audio"):
        delivered.original_audio = audio.original_audio
    seconds, limit = delivered.duration.ToTimedelta().total_seconds(), plan.request.max_seconds
    if limit and seconds > limit + 1:
        raise media_too_long(seconds, limit)
    return delivered


def find_differences(media_file: MediaFile, inspection: Inspection, plan: OutputPlan) -> list[MediaWarning]:
    """Return a warning for each difference between *media_file* and what was received or requested."""
    mux_plan = media_file.plan
    extension = mux_plan.package.extension
    is_audio_requested = plan.spec.media_kind == FormatSpec.AUDIO
    warnings = _find_unequal_streams(inspection)
    if mux_plan.media.transcoded:
        text = "parts of the media differ in size or sample rate and were transcoded"
        warnings.append(MediaWarning(reason=MediaWarning.TRANSCODED, message=text))
    if mux_plan.encodes_to_fit and not is_audio_requested:
        text = f"the streams do not fit into {extension} and were transcoded"
        warnings.append(MediaWarning(reason=MediaWarning.TRANSCODED, message=text))
    if mux_plan.kind == ArtifactInfo.AUDIO and not is_audio_requested:
        text = f"the media has no picture: it is delivered as audio ({extension})"
        warnings.append(MediaWarning(reason=MediaWarning.PICTURE_MISSING, message=text))
    return warnings


def _expected_duration(media: JoinedMedia, inspection: Inspection, plan: OutputPlan) -> tuple[float, float]:
    """Return the expected play time, and by how much the file may be longer (0: the usual), in seconds."""
    expected = media.duration
    if plan.recording:
        # Play times of playlists are inexact; those of a file are wrong if its clock restarts.
        candidates = plan.recorded_seconds, media.duration
        expected = min(candidates, key=lambda seconds: abs(seconds - inspection.duration))
    cut = plan.cut.limited_to(expected)
    if not cut.removes_something:
        return expected, 0.0
    return cut.length, _CUT_TOLERANCE if plan.cut.ranges[-1].end <= expected else 0.0


def _expected_audio_delay(plan: MuxPlan) -> float | None:
    """Return the start of the audio in seconds after that of the video; None if unknown."""
    media = plan.media
    if len(media.files) == 1 or not (plan.package.video and plan.package.audio):
        return None
    video_start = max(0.0, media.timeline.delays[0] + media.video.video_start)
    if plan.cut.removes_something:
        # The audio of a cut is padded with silence at the start.
        return -plan.cut.map_time(video_start)
    return max(0.0, media.timeline.delays[-1] + media.audio.audio_start) - video_start


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
        if abs(seconds) > _MAX_STREAM_OFFSET_SECONDS
    ]
    text = f"the audio {' and '.join(texts)}"
    return [MediaWarning(reason=MediaWarning.STREAMS_UNEQUAL, message=text)] if texts else []
