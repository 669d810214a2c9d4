"""Format selection: which of the formats that a site offers meet a request best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reelhaul import qualities
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import DeliveredMedia, Format, FormatSpec
from reelhaul_fetcher.model import codecs
from reelhaul_fetcher.model.tracks import audio_selection
from reelhaul_runtime.errors import ReelhaulError

#: Reasons of ``picture_warnings``.
PICTURE_REASONS = frozenset(
    {
        media_pb2.Warning.HEIGHT_BELOW_ASKED,
        media_pb2.Warning.LIMIT_EXCEEDED,
        media_pb2.Warning.CODEC_NOT_OFFERED,
    }
)

Choice = tuple[list[Format], list[media_pb2.Warning]]
#: ``ports.Engine.select_formats``.
SelectFormats = Callable[[str, Sequence[Format]], list[Format]]

# Stands for an unknown height where the smallest video is wanted: an unknown one is not taken for small.
_UNKNOWN_HEIGHT = 10_000
# A limit of 30 frames per second includes 30.3, which files with uneven timestamps have.
_FRAME_RATE_TOLERANCE = 0.5

# From worst to best: a plain file is resumed and checked by its length.
_PROTOCOLS = ("hls", "dash", "https")


def choose_formats(
    offered: Sequence[Format],
    spec: FormatSpec,
    select_formats: SelectFormats,
    excluded_codecs: frozenset[str] = frozenset(),
) -> Choice:
    """Return the formats to download, video first, and a warning for each preference they do not meet.

    *offered* is sorted from worst to best; of equals the last is taken. Video in *excluded_codecs*
    (ffmpeg's names) is not taken. *select_formats* evaluates the selector of *spec*.

    Raises FORMAT_UNAVAILABLE if nothing offered meets *spec*, MEDIA_DRM_PROTECTED if everything
    is protected.
    """
    playable = [stream for stream in offered if not stream.drm]
    if offered and not playable:
        raise ReelhaulError(ErrorReason.MEDIA_DRM_PROTECTED, "every stream of this media is DRM protected")
    if spec.media_kind == FormatSpec.SUBTITLES_ONLY:
        return [], []
    if spec.selector:
        usable = [s for s in playable if codecs.family(s.video_codec) not in excluded_codecs]
        return _choose_by_selector(usable, spec, select_formats), []
    if spec.media_kind == FormatSpec.AUDIO:
        return _choose_audio_only(playable, spec)
    usable = [s for s in playable if codecs.family(s.video_codec) not in excluded_codecs]
    if any(s.video_codec for s in playable) and not any(s.video_codec for s in usable):
        raise _unavailable(f"video in {', '.join(sorted(excluded_codecs))} can be downloaded, but not cut")
    return _choose_video(usable, spec)


def with_measured(stream: Format, measured: DeliveredMedia) -> Format:
    """Return *stream* with properties that the site did not state taken from *measured*.

    Video or audio that is stated but not in the file is removed as well.
    """
    result = Format()
    result.CopyFrom(stream)
    if not measured.video_codec or stream.video_codec == codecs.UNKNOWN:
        result.video_codec = measured.video_codec
        result.dynamic_range = measured.dynamic_range
    if not measured.audio_codec or stream.audio_codec == codecs.UNKNOWN:
        result.audio_codec = measured.audio_codec
    if not stream.height:
        result.width, result.height = measured.width, measured.height
    result.frame_rate = stream.frame_rate or measured.frame_rate
    return result


def picture_warnings(picture: Format | DeliveredMedia, spec: FormatSpec) -> list[media_pb2.Warning]:
    """Return a warning, with both values, for each request of *spec* that *picture* does not meet.

    Unknown properties of *picture* meet every request.
    """
    found: list[tuple[media_pb2.Warning.Reason.ValueType, str]] = []
    width, height = picture.width, picture.height
    if spec.max_height and height:
        size, limit = qualities.describe(width, height), qualities.describe_limit(spec.max_height)
        if not qualities.is_within(width, height, spec.max_height):
            text = f"the picture has {size}; at most {limit} was requested"
            found.append((media_pb2.Warning.LIMIT_EXCEEDED, text))
        elif not qualities.reaches(width, height, spec.max_height):
            text = f"the picture has {size}; up to {limit} was requested"
            found.append((media_pb2.Warning.HEIGHT_BELOW_ASKED, text))
    if spec.max_frame_rate and picture.frame_rate > spec.max_frame_rate + _FRAME_RATE_TOLERANCE:
        rate = f"{picture.frame_rate:.4g} frames per second"
        text = f"the video has {rate}; at most {spec.max_frame_rate} was requested"
        found.append((media_pb2.Warning.LIMIT_EXCEEDED, text))
    preferred = [codecs.VIDEO_FAMILY[codec] for codec in spec.video_codecs if codec in codecs.VIDEO_FAMILY]
    codec = codecs.family(picture.video_codec)
    if preferred and codec not in (*preferred, codecs.UNKNOWN, ""):
        text = f"the video codec is {codec}; {' or '.join(preferred)} was requested"
        found.append((media_pb2.Warning.CODEC_NOT_OFFERED, text))
    return [media_pb2.Warning(reason=reason, message=text) for reason, text in found]


def _lines(stream: Format) -> float:
    return qualities.count_lines(stream.width, stream.height)


def _choose_by_selector(
    offered: list[Format], spec: FormatSpec, select_formats: SelectFormats
) -> list[Format]:
    """Return the formats that the selector of *spec* takes; only the media kind still applies."""
    try:
        chosen = select_formats(spec.selector, offered)
    except ValueError as error:
        raise _selector_failure(spec, f"the selector is not supported: {error}") from None
    if not chosen:
        raise _selector_failure(spec, "the selector matches none of the formats offered")
    if spec.media_kind == FormatSpec.AUDIO:
        chosen = [stream for stream in chosen if stream.audio_codec]
        if not chosen:
            raise _selector_failure(spec, "the selector matches no audio")
    elif not any(stream.video_codec for stream in chosen):
        raise _selector_failure(spec, "the selector matches no video")
    return chosen


def _selector_failure(spec: FormatSpec, text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, text, metadata={"selector": spec.selector})


def _choose_audio_only(offered: list[Format], spec: FormatSpec) -> Choice:
    with_audio = [stream for stream in offered if stream.audio_codec]
    if not with_audio:
        raise _unavailable("no stream of this media has audio")
    best_fitness = max(audio_selection.fitness(stream, spec) for stream in with_audio)
    fitting = [stream for stream in with_audio if audio_selection.fitness(stream, spec) == best_fitness]
    if audio_only := [stream for stream in fitting if not stream.video_codec]:
        best = audio_selection.choose_best(audio_only, spec, codecs.Container.CONTAINER_UNSPECIFIED)
    else:
        # The video is discarded, so the smallest one is chosen.
        best = min(fitting, key=lambda s: (_lines(s) or _UNKNOWN_HEIGHT, s.bitrate_bps))
    return [best], audio_selection.check_language(best, spec)


def _choose_video(offered: list[Format], spec: FormatSpec) -> Choice:
    with_video = [stream for stream in offered if stream.video_codec]
    if not with_video:
        raise _unavailable("no stream of this media has video; request AUDIO")
    audio_only = [stream for stream in offered if stream.audio_codec and not stream.video_codec]
    audio = None
    if audio_only:
        audio = audio_selection.choose_best(audio_only, spec, spec.container or codecs.Container.MP4)
    separate_fitness = audio_selection.fitness(audio, spec) if audio else ()
    rank = _video_rank(spec, separate_fitness, _silent_fitness(with_video, spec))
    video = max(reversed(_within_limits(with_video, spec)), key=rank)
    warnings = picture_warnings(video, spec)
    if video.audio_codec and audio_selection.fitness(video, spec) >= separate_fitness:
        return [video], warnings + audio_selection.check_language(video, spec)
    streams = [video, audio] if audio else [video]
    return streams, warnings + audio_selection.check_language(audio, spec)


def _within_limits(streams: list[Format], spec: FormatSpec) -> list[Format]:
    """Return the streams within the hard limits: height, frame rate, dynamic range.

    Raises FORMAT_UNAVAILABLE, which names the first limit that none meets.
    """
    max_rate = spec.max_frame_rate + _FRAME_RATE_TOLERANCE
    # Unknown properties pass here and are checked in the downloaded file.
    rules: list[tuple[bool, str, Callable[[Format], bool]]] = [
        (
            spec.max_height > 0,
            f"at most {qualities.describe_limit(spec.max_height)}",
            lambda s: qualities.is_within(s.width, s.height, spec.max_height),
        ),
        (
            spec.min_height > 0,
            f"at least {qualities.describe_limit(spec.min_height)}",
            lambda s: not s.height or qualities.reaches(s.width, s.height, spec.min_height),
        ),
        (
            spec.max_frame_rate > 0,
            f"at most {spec.max_frame_rate} frames per second",
            lambda s: s.frame_rate <= max_rate,
        ),
        (
            spec.dynamic_range == FormatSpec.REQUIRE_HDR,
            "in high dynamic range",
            lambda s: bool(s.dynamic_range) or s.video_codec == codecs.UNKNOWN,
        ),
    ]
    for active, text, is_met in rules:
        if active:
            streams = [stream for stream in streams if is_met(stream)]
            if not streams:
                raise _unavailable(f"no offered stream is {text}")
    return streams


def _silent_fitness(with_video: list[Format], spec: FormatSpec) -> tuple[int, ...]:
    """Return the fitness of video without audio: that of video with unknown audio, if there is no other."""
    with_audio = [stream for stream in with_video if stream.audio_codec]
    if any(stream.audio_codec != codecs.UNKNOWN for stream in with_audio):
        return ()
    return max((audio_selection.fitness(stream, spec) for stream in with_audio), default=())


def _video_rank(
    spec: FormatSpec, separate_fitness: tuple[int, ...], silent_fitness: tuple[int, ...]
) -> Callable[[Format], Any]:
    """Return the sort key of video streams.

    *separate_fitness* is that of the best audio-only stream, *silent_fitness* that of video without audio.
    """
    preferred = [codecs.VIDEO_FAMILY[codec] for codec in spec.video_codecs if codec in codecs.VIDEO_FAMILY]
    container = spec.container or codecs.Container.MP4
    wants_hdr = spec.dynamic_range in (FormatSpec.PREFER_HDR, FormatSpec.REQUIRE_HDR)
    sign = -1 if spec.smallest else 1

    def rank(stream: Format) -> tuple[Any, ...]:
        codec = codecs.family(stream.video_codec)
        own_fitness = audio_selection.fitness(stream, spec) if stream.audio_codec else silent_fitness
        return (
            max(own_fitness, separate_fitness),
            -(_lines(stream) or _UNKNOWN_HEIGHT) if spec.smallest else _lines(stream),
            sign * round(stream.frame_rate),
            bool(stream.dynamic_range) == wants_hdr,
            _preference(codec, preferred),
            codecs.is_playable(codec, container) + codecs.can_contain(codec, container),
            _preference(codec, codecs.EFFICIENCY),
            bool(stream.audio_codec) != bool(separate_fitness),
            sign * stream.bitrate_bps,
            _PROTOCOLS.index(stream.protocol) if stream.protocol in _PROTOCOLS else -1,
        )

    return rank


def _preference(name: str, preferred: Sequence[str]) -> int:
    """Return the rank of *name* in *preferred*: higher is better, 0 if it is not in it."""
    return len(preferred) - preferred.index(name) if name in preferred else 0


def _unavailable(text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, text)
