"""Muxer: joins streams into one file with ffmpeg, cuts them, and embeds subtitles, chapters and a cover."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from reelhaul.type.v1.media_pb2 import FormatSpec, TrackRole
from reelhaul_fetcher.media import ffmpeg
from reelhaul_fetcher.media.ffmpeg import Input
from reelhaul_fetcher.model.packaging import Package
from reelhaul_fetcher.model.timing import cues
from reelhaul_fetcher.model.timing.clocks import Timeline
from reelhaul_fetcher.model.timing.cues import Cue
from reelhaul_fetcher.model.timing.cuts import Cut, TimeRange

# The demuxer that reads the subtitles for each container, and the codec to write; the others support none.
# Only MP4 has no text format that can be copied: decoders lose what looks like markup.
_SUBTITLE_CODECS = {"mp4": ("webvtt", "mov_text"), "mkv": ("srt", "copy"), "webm": ("webvtt", "copy")}
# A decoder of ffmpeg puts escapes of ASS before a brace, which MP4 would show.
_BRACES = str.maketrans("{}", "\N{FULLWIDTH LEFT CURLY BRACKET}\N{FULLWIDTH RIGHT CURLY BRACKET}")
# ffmpeg's names.
_DISPOSITIONS = {
    TrackRole.TRACK_ROLE_HEARING_IMPAIRED: "hearing_impaired",
    TrackRole.TRACK_ROLE_FORCED: "forced",
    TrackRole.TRACK_ROLE_COMMENTARY: "comment",
    TrackRole.TRACK_ROLE_DESCRIPTION: "descriptions",
}
_WITH_COVER = frozenset({"mp4", "mkv", "m4a", "mp3", "flac"})
_LANGUAGE_CONTAINERS = frozenset({"mp4", "mkv", "webm", "m4a"})
_WITH_CHAPTERS = frozenset({"mp4", "mkv", "webm", "m4a", "mp3", "opus", "ogg"})
# The demuxer of each container that is written here.
_DEMUXERS = {
    **dict.fromkeys(("mp4", "m4a"), "mov"),
    **dict.fromkeys(("mkv", "webm"), "matroska"),
    **dict.fromkeys(("opus", "ogg"), "ogg"),
    **{name: name for name in ("mp3", "flac", "wav")},
}
# Demuxers without an index often seek to a key frame too late: the seek goes this many seconds further back.
_UNINDEXED_DEMUXERS = frozenset({"mpegts", "mpeg"})
_MAX_KEY_FRAME_DISTANCE = 15.0
# ffmpeg's default.
_DTS_STEP_SECONDS = 10.0
# ffmpeg's default for .m4a, "ipod", rejects codecs that MPEG-4 supports.
_MUXER_OPTIONS = {"mp4": ("-movflags", "+faststart"), "m4a": ("-movflags", "+faststart", "-f", "mp4")}


def demuxer_of(path: Path) -> str:
    """Return the demuxer for *path*, a file written by the muxer; empty for any other extension."""
    return _DEMUXERS.get(path.suffix.removeprefix("."), "")


@dataclass(frozen=True, slots=True)
class SubtitleFile:
    """Subtitles to embed: a file of ``write_subtitles``, their language in ISO 639-2, name and role."""

    path: Path
    language: str
    title: str = ""
    role: TrackRole.ValueType = TrackRole.TRACK_ROLE_UNSPECIFIED


@dataclass(frozen=True, slots=True)
class EmbeddedExtras:
    """What is embedded in a container beside the streams, if it supports that."""

    subtitles: tuple[SubtitleFile, ...] = ()
    #: A JPEG file.
    cover: Path | None = None
    #: A file in ffmpeg's metadata format.
    chapters: Path | None = None

    @staticmethod
    def supports_subtitles(extension: str) -> bool:
        """Return whether the container of *extension* supports subtitles."""
        return extension in _SUBTITLE_CODECS

    @staticmethod
    def supports_chapters(extension: str) -> bool:
        """Return whether the container of *extension* supports chapters."""
        return extension in _WITH_CHAPTERS

    def supported_by(self, extension: str) -> EmbeddedExtras:
        """Return the extras that the container of *extension* supports."""
        return EmbeddedExtras(
            self.subtitles if extension in _SUBTITLE_CODECS else (),
            self.cover if extension in _WITH_COVER else None,
            self.chapters if extension in _WITH_CHAPTERS else None,
        )

    @property
    def has_content(self) -> bool:
        """Whether there is anything to embed."""
        return bool(self.subtitles or self.cover or self.chapters)


def mux(
    inputs: Sequence[Input],
    package: Package,
    output: Path,
    duration: float,
    on_progress: Callable[[float], None],
    *,
    cut: Cut | None = None,
    extras: EmbeddedExtras | None = None,
    timeline: Timeline | None = None,
) -> None:
    """Mux *inputs* (video first) into *output*, only the ranges that *cut* keeps.

    By default all inputs begin together. *on_progress* receives the done share (0..1) of *duration*, if that
    is known. Raises FfmpegFailed.
    """
    ranges = cut.ranges if cut and cut.removes_something else ()
    extension = output.suffix.lstrip(".")
    supported = (extras or EmbeddedExtras()).supported_by(extension)
    # Copied audio is cut on output: cut on input, it would begin wherever its file can be sought to.
    output_range = ranges[0] if len(ranges) == 1 and not package.transcodes else None
    input_ranges = [None] if output_range or not ranges else ranges
    timeline = timeline or Timeline((0.0,) * len(inputs), duration)
    if not ranges and not math.isinf(timeline.end):
        output_range = TimeRange(0.0, timeline.end)
    delayed_inputs = list(zip(inputs, timeline.delays, strict=True))
    sources = [
        _with_range(source, time_range, delay)
        for time_range, (source, delay) in product(input_ranges, delayed_inputs)
    ]
    extra_sources, options = _extras_options(
        supported, extension, len(sources), has_video=bool(package.video)
    )
    # Chapter metadata is kept: it has the titles.
    arguments = ["-map_metadata:g", "-1", "-map_metadata:s", "-1", "-dn"]
    if ranges and not output_range:
        arguments += _cut_options(len(inputs), ranges, package)
    else:
        arguments += _map_options(len(inputs), package)
    if timeline.longest_gap:
        # ffmpeg takes a longer step of the timestamps for a new clock, and removes it from that stream only.
        arguments += ["-dts_delta_threshold", f"{2 * timeline.longest_gap + _DTS_STEP_SECONDS:.0f}"]
    if min(timeline.delays) < 0:
        # Copied audio begins at the seek point: packets before the start are dropped.
        arguments += ["-copypriorss:a", "0"]
    if package.audio_language and extension in _LANGUAGE_CONTAINERS:
        arguments += ["-metadata:s:a:0", f"language={package.audio_language}"]
    if package.audio_track:
        arguments += ["-disposition:a:0", "default"]
    arguments += [*options, *_range_options(output_range), *_MUXER_OPTIONS.get(extension, ())]
    attachments = [supported.cover] if supported.cover and extension == "mkv" else []
    ffmpeg.run([*sources, *extra_sources], arguments, output, duration, on_progress, attachments=attachments)


def write_subtitles(path: Path, shown: Iterable[Cue], extension: str) -> None:
    """Write the cues *shown* to *path*, in the format that is embedded in containers of *extension*."""
    demuxer, codec = _SUBTITLE_CODECS[extension]
    if codec == "mov_text":
        shown = (replace(cue, text=cue.text.translate(_BRACES)) for cue in shown)
    form = FormatSpec.Subtitles.SRT if demuxer == "srt" else FormatSpec.Subtitles.VTT
    path.write_text(cues.render(shown, form), encoding="utf-8")


def cut_range(
    whole: Path, time_range: TimeRange, output: Path, *, video: bool, audio: bool, audio_track: int = 0
) -> None:
    """Copy *time_range* of *whole* into *output*, from the key frame before it. Raises FfmpegFailed."""
    extension = whole.suffix.lstrip(".")
    source = Input(whole, _DEMUXERS.get(extension, extension), _range_options(time_range))
    arguments = [*(["-map", "0:V:0"] if video else []), *(["-map", f"0:a:{audio_track}"] if audio else [])]
    arguments += ["-c", "copy", "-map_metadata", "-1", "-map_chapters", "-1", "-sn", "-dn"]
    arguments += _MUXER_OPTIONS.get(output.suffix.lstrip("."), ())
    ffmpeg.run([source], arguments, output)


def _range_options(time_range: TimeRange | None) -> tuple[str, ...]:
    if time_range is None:
        return ()
    start, end = time_range.start, time_range.end
    duration = () if math.isinf(end) else ("-t", f"{end - start:.6f}")
    return (*(("-ss", f"{start:.6f}") if start else ()), *duration)


def _with_range(source: Input, time_range: TimeRange | None, delay: float) -> Input:
    """Return *source*, which begins at *delay*, with the options to read *time_range* of the presentation."""
    if time_range is None and delay >= 0:
        return replace(source, options=("-itsoffset", f"{delay:.6f}") if delay else ())
    time_range = time_range or TimeRange(0.0, math.inf)
    margin = _MAX_KEY_FRAME_DISTANCE if source.demuxer in _UNINDEXED_DEMUXERS else 0.0
    seek = max(0.0, time_range.start - delay - margin)
    # Packets before 0 after the shift are dropped. Filters cut the exact end: depending on the input, ffmpeg
    # counts this length from 0 or from the first frame.
    length = () if math.isinf(time_range.end) else ("-t", f"{time_range.length + margin + 1:.6f}")
    offset = delay + seek - time_range.start
    shift = ("-itsoffset", f"{offset:.6f}") if offset else ()
    return replace(source, options=("-ss", f"{seek:.6f}", *length, *shift))


def _map_options(inputs: int, package: Package) -> list[str]:
    """Return the options for at most one range: the streams are mapped as they are."""
    command: list[str] = []
    if package.video:
        command += ["-map", "0:V:0", "-c:V", *package.video]
    if package.video_filter:
        command += ["-filter:v:0", package.video_filter]
    if package.audio:
        command += ["-map", f"{inputs - 1}:a:{package.audio_track}", "-c:a", *package.audio]
    if package.audio_filter:
        command += ["-filter:a:0", package.audio_filter]
    return command


def _cut_options(inputs: int, ranges: Sequence[TimeRange], package: Package) -> list[str]:
    """Return the options for *ranges*: they are decoded, cut, concatenated and encoded again."""
    filters, pads = [], ""
    for number, time_range in enumerate(ranges):
        end = "" if math.isinf(time_range.end) else f"=end={time_range.length:.6f}"
        if package.video:
            filters.append(f"[{number * inputs}:V:0]trim{end}[v{number}]")
            pads += f"[v{number}]"
        if package.audio:
            # Audio that begins later than the range is padded with silence.
            source = f"[{(number + 1) * inputs - 1}:a:{package.audio_track}]"
            filters.append(f"{source}aresample=async=1:first_pts=0,atrim{end}[a{number}]")
            pads += f"[a{number}]"
    concat = f"concat=n={len(ranges)}:v={int(bool(package.video))}:a={int(bool(package.audio))}"
    outputs = ("[joined_v]" if package.video else "") + ("[joined_a]" if package.audio else "")
    outputs += f";[joined_v]{package.video_filter or 'null'}[v]" if package.video else ""
    outputs += f";[joined_a]{package.audio_filter or 'anull'}[a]" if package.audio else ""
    command = ["-filter_complex", ";".join([*filters, f"{pads}{concat}{outputs}"])]
    if package.video:
        command += ["-map", "[v]", "-c:V", *package.video]
    if package.audio:
        command += ["-map", "[a]", "-c:a", *package.audio]
    return command


def _extras_options(
    extras: EmbeddedExtras, extension: str, input_count: int, *, has_video: bool
) -> tuple[list[Input], list[str]]:
    """Return the inputs and the output options for *extras*, whose inputs follow *input_count* others."""
    inputs: list[Input] = []
    options: list[str] = []
    for number, subtitles in enumerate(extras.subtitles):
        inputs.append(Input(subtitles.path, _SUBTITLE_CODECS[extension][0]))
        options += ["-map", f"{input_count}:s:0", f"-metadata:s:s:{number}", f"language={subtitles.language}"]
        if subtitles.title:
            # MP4 has no titles of streams.
            key = "handler_name" if extension == "mp4" else "title"
            options += [f"-metadata:s:s:{number}", f"{key}={subtitles.title}"]
        if disposition := _DISPOSITIONS.get(subtitles.role):
            options += [f"-disposition:s:{number}", disposition]
        input_count += 1
    if extras.subtitles:
        options += ["-c:s", _SUBTITLE_CODECS[extension][1]]
    options += ["-map_chapters", str(input_count if extras.chapters else -1)]
    if extras.chapters:
        inputs.append(Input(extras.chapters, "ffmetadata"))
        input_count += 1
    if extras.cover and extension == "mkv":
        options += ["-attach", f"file:{extras.cover}", "-metadata:s:t", "mimetype=image/jpeg"]
        options += ["-metadata:s:t", "filename=cover.jpg"]
    elif extras.cover:
        inputs.append(Input(extras.cover, "jpeg_pipe"))
        index = int(has_video)
        options += ["-map", f"{input_count}:v:0", f"-c:v:{index}", "copy"]
        options += [f"-disposition:v:{index}", "attached_pic"]
    return inputs, options
