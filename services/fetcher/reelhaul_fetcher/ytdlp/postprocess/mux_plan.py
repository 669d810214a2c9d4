"""Mux plan: container, codecs, cut and extras of the media file, chosen for the streams received."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, Format, FormatSpec, TrackRole
from reelhaul_fetcher.model.packaging import Package, plan_cut_package, plan_encoded_package, plan_package
from reelhaul_fetcher.model.timing.chapters import Chapter
from reelhaul_fetcher.model.timing.cuts import Cut, clip_range
from reelhaul_fetcher.model.tracks import audio_selection, audio_tracks, languages
from reelhaul_fetcher.ytdlp.edit_plan import clip_out_of_range
from reelhaul_fetcher.ytdlp.extras.captions import CaptionTrack
from reelhaul_fetcher.ytdlp.postprocess.joined_media import JoinedMedia
from reelhaul_fetcher.ytdlp.postprocess.plan import OutputPlan
from reelhaul_runtime.errors import ReelhaulError


@dataclass(frozen=True, slots=True)
class MuxPlan:
    """How to mux the media file in *folder*."""

    media: JoinedMedia
    folder: Path
    package: Package
    #: Within the duration of the media.
    cut: Cut
    #: To embed, before the cut.
    subtitles: tuple[CaptionTrack, ...] = ()
    thumbnail: Path | None = None
    #: To embed, after the cut.
    chapters: tuple[Chapter, ...] = ()
    #: Whether streams are encoded because the container does not support them, not only for the cut.
    encodes_to_fit: bool = False

    @property
    def length(self) -> float:
        """The play time after the cut, in seconds."""
        return self.cut.kept_seconds(self.media.duration)

    @property
    def has_extras(self) -> bool:
        """Whether there is anything to embed."""
        return bool(self.subtitles or self.thumbnail or self.chapters)

    @property
    def kind(self) -> ArtifactInfo.Kind.ValueType:
        """Whether the file is a video or audio alone."""
        return ArtifactInfo.VIDEO if self.package.video else ArtifactInfo.AUDIO

    def without_extras(self) -> MuxPlan:
        """Return this plan with nothing to embed."""
        return replace(self, subtitles=(), thumbnail=None, chapters=())

    def encoded(self) -> MuxPlan:
        """Return this plan with every stream encoded."""
        package = plan_encoded_package(self.package, self.media.video.transfer)
        return replace(self, package=package, encodes_to_fit=True)


def choose_package(plan: OutputPlan, media: JoinedMedia) -> tuple[OutputPlan, Package]:
    """Return *plan* with the audio track chosen from the file, and the package of *media* without a cut.

    Raises FORMAT_UNAVAILABLE if audio is required, and there is none.
    """
    video, audio = media.video, media.audio
    if not audio.audio_codec and (plan.spec.media_kind == FormatSpec.AUDIO or not video.video_codec):
        raise ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, "this media has no sound")
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


def limit_cut(plan: OutputPlan, duration: float) -> Cut:
    """Return the cut of *plan* for media of *duration* seconds. Raises CLIP_OUT_OF_RANGE."""
    cut = plan.cut.limited_to(duration)
    if cut.ranges:
        return cut
    if clip := clip_range(plan.spec):
        raise clip_out_of_range(clip.start, duration)
    return Cut()


def plan_mux(
    plan: OutputPlan, media: JoinedMedia, package: Package, cut: Cut, chapters: list[Chapter]
) -> MuxPlan:
    """Return the mux plan for *plan* with *chapters*, packaged as *package* unless something is cut."""
    encodes_to_fit = package.transcodes
    if cut.removes_something:
        package = plan_cut_package(package, media.video.transfer, joined=len(cut.ranges) > 1)
    elif package.extension == "flac" and not media.audio.has_duration:
        # A copy would keep the FLAC header without a duration.
        package = plan_encoded_package(package, media.audio.transfer)
    return MuxPlan(
        media,
        plan.request.folder,
        package,
        cut,
        plan.embedded_subtitles,
        plan.thumbnail,
        tuple(chapters),
        encodes_to_fit,
    )


def _language_and_role(stream: Format) -> tuple[str, TrackRole.ValueType]:
    return stream.language_code, stream.role
