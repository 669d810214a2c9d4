"""The media file: muxed as planned, or with less if ffmpeg fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reelhaul import file_names
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media import muxer
from reelhaul_fetcher.media.ffmpeg import FfmpegFailed
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.model.timing import chapters, cues
from reelhaul_fetcher.model.tracks import audio_tracks
from reelhaul_fetcher.ytdlp.postprocess.mux_plan import MuxPlan

# libav's name of the container, by extension, for files that are usable as received.
_CONTAINERS = {"mp4": "mp4", "m4a": "m4a", "webm": "webm", "mkv": "matroska", "mp3": "mp3"}


@dataclass(frozen=True, slots=True)
class MediaFile:
    """The file at *path*, and the plan by which it was muxed."""

    path: Path
    plan: MuxPlan

    @property
    def is_as_received(self) -> bool:
        """Whether the file is the unchanged file received from the site."""
        return self.path == self.plan.media.files[0]

    @property
    def audio_track(self) -> int:
        """Index of the chosen audio track; 0 in a muxed file, which has no other."""
        return self.plan.package.audio_track if self.is_as_received else 0

    def to_product(self, title: str) -> Product:
        """Return the file as a product that is named after *title*."""
        name = file_names.from_title(title, self.plan.package.extension)
        return Product.from_file(self.path, self.plan.kind, name)


def mux_media_file(plan: MuxPlan, on_progress: Callable[[float], None]) -> MediaFile:
    """Mux the file of *plan* and delete the files received. A file that already fits is used unchanged.

    If ffmpeg fails, it is repeated without extras, and then with copied streams encoded, because some streams
    cannot be copied into the container, e.g. without timestamps. Raises FfmpegFailed.
    """
    variants = [plan]
    if plan.has_extras:
        variants.append(plan.without_extras())
    if plan.package.copies:
        variants += [variant.encoded() for variant in variants]
    for variant in variants[:-1]:
        with suppress(FfmpegFailed):
            return _mux(variant, on_progress)
    return _mux(variants[-1], on_progress)


def find_missing_extras(planned: MuxPlan, muxed: MuxPlan) -> list[MediaWarning]:
    """Return a warning for each extra of *planned* that is missing in *muxed*."""
    extras = [
        (planned.subtitles, muxed.subtitles, MediaWarning.SUBTITLES_MISSING, "subtitles"),
        (planned.thumbnail, muxed.thumbnail, MediaWarning.THUMBNAIL_MISSING, "thumbnail"),
        (planned.chapters, muxed.chapters, MediaWarning.CHAPTERS_MISSING, "chapters"),
    ]
    return [
        MediaWarning(reason=reason, message=f"the {name} could not be embedded")
        for before, after, reason, name in extras
        if before and not after
    ]


def _mux(plan: MuxPlan, on_progress: Callable[[float], None]) -> MediaFile:
    """Mux the file of exactly *plan*. Raises FfmpegFailed."""
    extras = _write_extras(plan).supported_by(plan.package.extension)
    media = plan.media
    if _is_usable_as_received(plan) and not extras.has_content and not plan.cut.removes_something:
        return MediaFile(media.files[0], plan)
    output = plan.folder / f"result.{plan.package.extension}"
    muxer.mux(
        media.inputs,
        plan.package,
        output,
        plan.length,
        on_progress,
        cut=plan.cut,
        extras=extras,
        timeline=media.timeline,
    )
    for path in media.files:
        path.unlink()
    return MediaFile(output, plan)


def _is_usable_as_received(plan: MuxPlan) -> bool:
    """Return whether a single file was received that is already packaged as in *plan*."""
    files, package, read = plan.media.files, plan.package, plan.media.video
    return (
        len(files) == 1
        and not package.transcodes
        and files[0].suffix == f".{package.extension}"
        and read.has_duration
        and _CONTAINERS.get(package.extension) in read.containers
        and bool(read.video_codec) == bool(package.video)
        and package.audio_track == audio_tracks.played_by_default(read.audio_tracks)
    )


def _write_extras(plan: MuxPlan) -> muxer.EmbeddedExtras:
    """Write the files that *plan* embeds."""
    chapters_file = None
    if plan.chapters:
        chapters_file = plan.folder / "chapters.txt"
        chapters_file.write_text(chapters.to_ffmetadata(plan.chapters), encoding="utf-8")
    return muxer.EmbeddedExtras(_write_subtitles(plan), plan.thumbnail, chapters_file)


def _write_subtitles(plan: MuxPlan) -> tuple[muxer.SubtitleFile, ...]:
    """Write the subtitles to embed, limited to the length of the media file."""
    extension = plan.package.extension
    if not muxer.EmbeddedExtras.supports_subtitles(extension):
        return ()
    files: list[muxer.SubtitleFile] = []
    for number, track in enumerate(plan.subtitles):
        shown, _ = cues.limit(cues.apply_cut(track.cues, plan.cut), plan.length)
        if shown:
            path = plan.folder / f"embedded{number}.txt"
            muxer.write_subtitles(path, shown, extension)
            files.append(muxer.SubtitleFile(path, track.iso_639_2, track.title, track.source.role))
    return tuple(files)
