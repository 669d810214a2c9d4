"""Chapters of the media and of sponsored segments: embedded, or split into separate files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reelhaul import file_names
from reelhaul.type.v1.media_pb2 import ArtifactInfo, FormatSpec, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media import muxer, verify
from reelhaul_fetcher.media.ffmpeg import FfmpegFailed
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.timing import chapters
from reelhaul_fetcher.model.timing.chapters import Chapter
from reelhaul_fetcher.model.timing.cuts import Cut
from reelhaul_fetcher.ytdlp.postprocess.media_file import MediaFile
from reelhaul_fetcher.ytdlp.postprocess.plan import OutputPlan
from reelhaul_runtime.errors import ReelhaulError

_MAX_CHAPTERS = 300
# Seconds by which a chapter's file may be longer: a copied range starts at the key frame before it.
_KEY_FRAME_TOLERANCE = 12.0


@dataclass(frozen=True, slots=True)
class ChapterPlan:
    """The chapters of the media and those to embed, both after the cut, and warnings about them."""

    media: list[Chapter]
    embedded: list[Chapter]
    warnings: list[MediaWarning] = field(default_factory=list)


def plan_chapters(plan: OutputPlan, cut: Cut, duration: float) -> ChapterPlan:
    """Return the chapters of media of *duration* seconds, after *cut*."""
    warnings: list[MediaWarning] = []
    media: list[Chapter] = []
    if plan.spec.chapters in (FormatSpec.EMBED, FormatSpec.SPLIT):
        media, misfits = chapters.from_media(plan.media, duration)
        if misfits:
            text = f"chapters that overlap or are beyond the end were shortened or left out: {misfits}"
            warnings.append(MediaWarning(reason=MediaWarning.TIMES_CORRECTED, message=text))
        if not media:
            warnings.append(_missing("this media has no chapters"))
    embedded = media
    if plan.sponsor_chapters:
        embedded = chapters.overlay(media or [chapters.whole(plan.media.title)], plan.sponsor_chapters)
    length = cut.kept_seconds(duration)
    return ChapterPlan(
        chapters.apply_cut(media, cut, length), chapters.apply_cut(embedded, cut, length), warnings
    )


def split_chapters(
    media_file: MediaFile, media_chapters: list[Chapter], plan: OutputPlan, tracker: ProgressTracker
) -> tuple[list[Product], list[MediaWarning]]:
    """Return one file per chapter if that is requested, and a warning for each chapter that fails."""
    extension = media_file.plan.package.extension
    if plan.spec.chapters != FormatSpec.SPLIT:
        is_lost = media_chapters and not muxer.EmbeddedExtras.supports_chapters(extension)
        return [], [_missing(f"{extension} files have no chapters")] if is_lost else []
    products: list[Product] = []
    warnings: list[MediaWarning] = []
    if len(media_chapters) > _MAX_CHAPTERS:
        warnings.append(
            _missing(f"the first {_MAX_CHAPTERS} of {len(media_chapters)} chapters are split off")
        )
    for number, chapter in enumerate(media_chapters[:_MAX_CHAPTERS], 1):
        tracker.begin_stage(Progress.POSTPROCESSING, f"chapter {number}")
        output = plan.request.folder / f"chapter{number}.{extension}"
        try:
            _copy_chapter(media_file, chapter, output)
        except (FfmpegFailed, ReelhaulError):
            output.unlink(missing_ok=True)
            warnings.append(_missing(f"chapter {number} could not be split off"))
            continue
        name = file_names.from_title(f"{number:02} {chapter.title} - {plan.media.title}", extension)
        products.append(Product.from_file(output, ArtifactInfo.CHAPTER, name))
    return products, warnings


def _copy_chapter(media_file: MediaFile, chapter: Chapter, output: Path) -> None:
    """Copy *chapter* to *output*, and verify it. Raises FfmpegFailed, VERIFICATION_FAILED."""
    package, time_range = media_file.plan.package, chapter.time_range
    has_video, has_audio = bool(package.video), bool(package.audio)
    muxer.cut_range(
        media_file.path,
        time_range,
        output,
        video=has_video,
        audio=has_audio,
        audio_track=media_file.audio_track,
    )
    expected = verify.Expected(time_range.length, has_video, has_audio, tolerance=_KEY_FRAME_TOLERANCE)
    verify.verify(output, expected)


def _missing(text: str) -> MediaWarning:
    return MediaWarning(reason=MediaWarning.CHAPTERS_MISSING, message=text)
