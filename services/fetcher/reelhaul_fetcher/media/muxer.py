"""One file out of many: streams cut and joined, with subtitles, chapters and a picture written into it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from reelhaul_fetcher.media import ffmpeg
from reelhaul_fetcher.media.ffmpeg import LOCAL_ONLY
from reelhaul_fetcher.model.cuts import Cut, TimeRange
from reelhaul_fetcher.model.packaging import Package

# What each container calls subtitles; one that is not here takes none.
_SUBTITLES = {"mp4": "mov_text", "mkv": "srt", "webm": "webvtt"}
_PICTURES = frozenset({"mp4", "mkv", "m4a", "mp3", "flac"})
_CHAPTERS = frozenset({"mp4", "mkv", "webm", "m4a", "mp3", "opus", "ogg"})
# ffmpeg's own choice for .m4a, "ipod", refuses what MPEG-4 takes.
_MUXER = {"mp4": ("-movflags", "+faststart"), "m4a": ("-movflags", "+faststart", "-f", "mp4")}


@dataclass(frozen=True, slots=True)
class SubtitleFile:
    """Subtitles to write into a container: SubRip, and their language in ISO 639-2."""

    path: Path
    language: str


@dataclass(frozen=True, slots=True)
class EmbeddedExtras:
    """What goes into a container beside the streams, as far as it takes it."""

    subtitles: tuple[SubtitleFile, ...] = ()
    #: A JPEG.
    picture: Path | None = None
    #: Chapters as ffmpeg's metadata.
    chapters: Path | None = None

    def supported_by(self, extension: str) -> EmbeddedExtras:
        """Those that a container of *extension* takes."""
        return EmbeddedExtras(
            self.subtitles if extension in _SUBTITLES else (),
            self.picture if extension in _PICTURES else None,
            self.chapters if extension in _CHAPTERS else None,
        )

    @property
    def any(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.subtitles or self.picture or self.chapters)


def mux(
    inputs: Sequence[Path],
    package: Package,
    output: Path,
    duration: float,
    on_progress: Callable[[float], None],
    *,
    cut: Cut | None = None,
    extras: EmbeddedExtras | None = None,
) -> None:
    """Make *output* of *inputs* (picture first), as far as *cut* keeps them. *tell* hears how far
    it is (0..1) where the *duration* of the result is known.

    Raises FfmpegFailed.
    """
    spans = cut.ranges if cut and cut.removes_something else ()
    extension = output.suffix.lstrip(".")
    fitting = (extras or EmbeddedExtras()).supported_by(extension)
    command = [*ffmpeg.QUIET, "-y", "-progress", "pipe:1", "-stats_period", "0.25"]
    # Copied sound is cut as it goes out: on its way in, it begins at whatever its file can seek to.
    late = spans[0] if len(spans) == 1 and not package.transcodes else None
    for span, path in product([None] if late or not spans else spans, inputs):
        command += [*_within(span), *LOCAL_ONLY, "-i", str(path)]
    opened = len(inputs) * max(1, len(spans))
    files, options = _dressed(fitting, extension, opened, pictures=bool(package.video))
    command += files
    # Not chapters' own: their titles are to be kept.
    command += ["-map_metadata:g", "-1", "-map_metadata:s", "-1", "-dn"]
    command += _joined(len(inputs), len(spans), package) if len(spans) > 1 else _mapped(len(inputs), package)
    options += _within(late)
    ffmpeg.run([*command, *options, *_MUXER.get(extension, ()), str(output)], duration, on_progress)


def cut_range(whole: Path, span: TimeRange, output: Path, *, video: bool, audio: bool) -> None:
    """Copy *span* of *whole* into *output*, from the key frame before it on. Raises FfmpegFailed."""
    maps = [*(["-map", "0:V:0"] if video else []), *(["-map", "0:a:0"] if audio else [])]
    command = [*ffmpeg.QUIET, "-y", *_within(span), *LOCAL_ONLY, "-i", str(whole), *maps, "-c", "copy"]
    plain = ["-map_metadata", "-1", "-map_chapters", "-1", "-sn", "-dn"]
    ffmpeg.run([*command, *plain, *_MUXER.get(output.suffix.lstrip("."), ()), str(output)])


def _within(span: TimeRange | None) -> list[str]:
    if span is None:
        return []
    length = [] if math.isinf(span.end) else ["-t", f"{span.end - span.start:.6f}"]
    return ["-ss", f"{span.start:.6f}", *length]


def _mapped(inputs: int, how: Package) -> list[str]:
    """One stretch: the streams as they come."""
    command: list[str] = []
    if how.video:
        command += ["-map", "0:V:0", "-c:V", *how.video]
    if how.audio:
        command += ["-map", f"{inputs - 1}:a:0", "-c:a", *how.audio]
    return command


def _joined(inputs: int, spans: int, how: Package) -> list[str]:
    """Several stretches: decoded, one after the other, and encoded anew."""
    pads = ""
    for number in range(spans):
        pads += f"[{number * inputs}:V:0]" if how.video else ""
        pads += f"[{(number + 1) * inputs - 1}:a:0]" if how.audio else ""
    shape = f"concat=n={spans}:v={int(bool(how.video))}:a={int(bool(how.audio))}"
    names = ("[v]" if how.video else "") + ("[a]" if how.audio else "")
    command = ["-filter_complex", f"{pads}{shape}{names}"]
    if how.video:
        command += ["-map", "[v]", "-c:V", *how.video]
    if how.audio:
        command += ["-map", "[a]", "-c:a", *how.audio]
    return command


def _dressed(
    trimmings: EmbeddedExtras, extension: str, opened: int, *, pictures: bool
) -> tuple[list[str], list[str]]:
    """Input options and output options for *trimmings*, after *opened* inputs."""
    files: list[str] = []
    options: list[str] = []
    for number, words in enumerate(trimmings.subtitles):
        files += [*LOCAL_ONLY, "-i", str(words.path)]
        options += ["-map", f"{opened}:s:0", f"-metadata:s:s:{number}", f"language={words.language}"]
        opened += 1
    if trimmings.subtitles:
        options += ["-c:s", _SUBTITLES[extension]]
    options += ["-map_chapters", str(opened if trimmings.chapters else -1)]
    if trimmings.chapters:
        files += ["-f", "ffmetadata", *LOCAL_ONLY, "-i", str(trimmings.chapters)]
        opened += 1
    if trimmings.picture and extension == "mkv":
        options += ["-attach", str(trimmings.picture), "-metadata:s:t", "mimetype=image/jpeg"]
        options += ["-metadata:s:t", "filename=cover.jpg"]
    elif trimmings.picture:
        files += [*LOCAL_ONLY, "-i", str(trimmings.picture)]
        place = int(pictures)
        options += ["-map", f"{opened}:v:0", f"-c:v:{place}", "copy"]
        options += [f"-disposition:v:{place}", "attached_pic"]
    return files, options
