"""From files received to the file asked for: cut, packed, dressed, checked, split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from reelhaul import file_names
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, DeliveredMedia, Format, FormatSpec, MediaInfo, Progress
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.media import inspector_client, muxer, verify
from reelhaul_fetcher.media.inspect import Inspection, NotMedia
from reelhaul_fetcher.model import chapters
from reelhaul_fetcher.model.chapters import Chapter
from reelhaul_fetcher.model.cuts import Cut
from reelhaul_fetcher.model.engine_requests import FetchRequest, Product, product
from reelhaul_fetcher.model.packaging import Package, plan_cut_package, plan_package
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.ytdlp.edit_plan import too_long
from reelhaul_runtime.errors import ReelhaulError

# What libav calls a file that is the container already.
_AS_IT_IS = {"mp4": "mp4", "m4a": "m4a", "webm": "webm", "mkv": "matroska", "mp3": "mp3"}
# The last frame of a picture lasts a while, and so does the last of the sound.
_CUT_SLACK = 0.5
# A copied stretch begins at the key frame before it.
_KEY_FRAME_SLACK = 12.0
_MAX_CHAPTERS = 300


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made of the files received."""

    order: FetchRequest
    media: MediaInfo
    chosen: list[Format]
    cut: Cut = field(default_factory=Cut)
    words: tuple[muxer.SubtitleFile, ...] = ()
    picture: Path | None = None
    #: Sponsored stretches to be marked.
    marks: tuple[Chapter, ...] = ()
    #: Seconds promised, where the site's own figure does not hold; 0: it holds.
    seconds: float = 0.0

    @property
    def spec(self) -> FormatSpec:
        """What was asked."""
        return self.order.format


@dataclass(frozen=True, slots=True)
class Finished:
    """The file, the chapters it was split into, what was delivered and what was not."""

    products: list[Product]
    got: DeliveredMedia
    warnings: list[Warned]


def postprocess(
    files: list[Path], plan: Plan, gauge: ProgressTracker, ready: Callable[[Product], None]
) -> Finished:
    """What *plan* makes of *files*, checked; *ready* hears of the file before it is.

    Raises VERIFICATION_FAILED, FfmpegFailed.
    """
    gauge.begin_stage(Progress.POSTPROCESSING)
    seen = [_inspected(path) for path in files]
    real = max(s.duration for s in seen)
    fitted = how = plan_package(seen[0].video_codec, seen[-1].audio_codec, plan.spec)
    cut = plan.cut.limited_to(real)
    if cut.removes_something:
        transfer = seen[0].transfer
        how = plan_cut_package(fitted, transfer, joined=len(cut.ranges) > 1)
    length = cut.length if cut.removes_something else real
    marks, lacking = _marks(plan, cut, length)
    path = _packed(files, seen, how, plan, cut, marks, gauge)
    gauge.begin_stage(Progress.VERIFYING)
    kind = ArtifactInfo.AUDIO if plan.spec.media_kind == FormatSpec.AUDIO else ArtifactInfo.VIDEO
    whole = product(path, kind, file_names.from_title(plan.media.title, how.extension))
    ready(whole)
    got = _verified(path, seen[0] if path == files[0] else None, how, plan, real)
    warnings = [*lacking, *_transcoded(fitted, plan.spec)]
    return Finished([whole, *_split(path, how, plan, cut, length, gauge)], got, warnings)


def _verified(path: Path, seen: Inspection | None, how: Package, plan: Plan, real: float) -> DeliveredMedia:
    seconds = plan.seconds or plan.media.duration.ToTimedelta().total_seconds() or real
    # Of what was received too short, no cut makes what was promised.
    cut, slack = plan.cut.limited_to(seconds), 0.0
    if cut.removes_something:
        slack = _CUT_SLACK if plan.cut.ranges[-1].end <= seconds else 0.0
        seconds = cut.length
    promise = verify.Expected(seconds, bool(how.video), bool(how.audio), plan.spec.min_height, slack)
    got = verify.verify(path, promise, seen)
    sound = plan.chosen[-1]
    got.format_ids.extend(stream.format_id for stream in plan.chosen)
    got.transcoded = how.transcodes
    got.audio_language_code = sound.language_code
    if sound.HasField("original_audio"):
        got.original_audio = sound.original_audio
    seconds, limit = got.duration.ToTimedelta().total_seconds(), plan.order.max_seconds
    if limit and seconds > limit + 1:
        raise too_long(seconds, limit)
    return got


def _marks(plan: Plan, cut: Cut, length: float) -> tuple[list[Chapter], list[Warned]]:
    """Chapters to be written into the result, and a warning where there should be some."""
    warnings = []
    own = (
        chapters.from_media(plan.media) if plan.spec.chapters in (FormatSpec.EMBED, FormatSpec.SPLIT) else []
    )
    if plan.spec.chapters in (FormatSpec.EMBED, FormatSpec.SPLIT) and not own:
        text = "this media has no chapters"
        warnings.append(Warned(reason=Warned.CHAPTERS_MISSING, message=text))
    if plan.marks:
        base = own or [chapters.whole(plan.media.title)]
        own = chapters.overlay(base, plan.marks)
    return chapters.apply_cut(own, cut, length), warnings


def _packed(
    files: list[Path],
    seen: list[Inspection],
    how: Package,
    plan: Plan,
    cut: Cut,
    marks: list[Chapter],
    gauge: ProgressTracker,
) -> Path:
    """The file in its container; the one received where it is that already, untouched."""
    described = _described(plan.order.folder, marks) if marks else None
    trimmings = muxer.EmbeddedExtras(plan.words, plan.picture, described).supported_by(how.extension)
    alone = len(files) == 1 and not how.transcodes and files[0].suffix == f".{how.extension}"
    ready = alone and _AS_IT_IS.get(how.extension) in seen[0].containers
    if (
        ready
        and bool(seen[0].video_codec) == bool(how.video)
        and not trimmings.has_content
        and not cut.removes_something
    ):
        return files[0]
    output = plan.order.folder / f"result.{how.extension}"
    length = cut.length if cut.removes_something else max(s.duration for s in seen)
    muxer.mux(files, how, output, length, gauge.update_stage, cut=cut, extras=trimmings)
    for path in files:
        path.unlink()
    return output


def _described(folder: Path, marks: list[Chapter]) -> Path:
    path = folder / "chapters.txt"
    path.write_text(chapters.to_ffmetadata(marks), encoding="utf-8")
    return path


def _split(
    path: Path, how: Package, plan: Plan, cut: Cut, length: float, gauge: ProgressTracker
) -> list[Product]:
    """One more file for each chapter, where that is asked."""
    if plan.spec.chapters != FormatSpec.SPLIT:
        return []
    products = []
    for number, mark in enumerate(
        chapters.apply_cut(chapters.from_media(plan.media), cut, length)[:_MAX_CHAPTERS], 1
    ):
        gauge.begin_stage(Progress.POSTPROCESSING, f"chapter {number}")
        output = plan.order.folder / f"chapter{number}.{how.extension}"
        muxer.cut_range(path, mark.time_range, output, video=bool(how.video), audio=bool(how.audio))
        seconds = mark.time_range.end - mark.time_range.start
        promise = verify.Expected(seconds, bool(how.video), bool(how.audio), tolerance=_KEY_FRAME_SLACK)
        verify.verify(output, promise)
        name = file_names.from_title(f"{number:02} {mark.title} - {plan.media.title}", how.extension)
        products.append(product(output, ArtifactInfo.CHAPTER, name))
    return products


def _inspected(path: Path) -> Inspection:
    try:
        return inspector_client.inspect(path)
    except NotMedia as error:
        raise ReelhaulError(
            ErrorReason.VERIFICATION_FAILED,
            f"what was received is not media: {error}",
            metadata={"check": "container"},
        ) from error


def _transcoded(how: Package, spec: FormatSpec) -> list[Warned]:
    if not how.transcodes or spec.media_kind == FormatSpec.AUDIO:
        return []
    text = f"the streams do not fit {how.extension} and were encoded anew"
    return [Warned(reason=Warned.TRANSCODED, message=text)]
