"""Edit plan: what is cut out of the media and which sponsored segments are marked, before the download."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media import ffmpeg
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.timing import cuts
from reelhaul_fetcher.model.timing.chapters import Chapter
from reelhaul_fetcher.ytdlp.downloader import Downloader
from reelhaul_fetcher.ytdlp.extras.sponsorblock import fetch_segments
from reelhaul_runtime.errors import ReelhaulError

# A clip that starts after this multiple of the duration stated by the page is certainly after the end.
_CERTAINTY = 2.0


@dataclass(frozen=True, slots=True)
class EditPlan:
    """What stays of the media, the sponsored segments to mark, and a warning if they are unknown."""

    cut: cuts.Cut
    sponsor_chapters: tuple[Chapter, ...] = ()
    warnings: tuple[MediaWarning, ...] = ()

    @property
    def excluded_codecs(self) -> frozenset[str]:
        """Video codecs that this ffmpeg cannot decode, if that is needed to cut."""
        return frozenset({"av1"}) if self.cut.removes_something and not ffmpeg.decodes("av1") else frozenset()


def plan_edit(
    downloader: Downloader, media: MediaInfo, request: FetchRequest, options: EngineOptions
) -> EditPlan:
    """Return the edits that *request* defines. Raises CLIP_OUT_OF_RANGE, MEDIA_TOO_LONG."""
    # Of a live stream some sites tell how long it has been running: that is no duration.
    is_live = media.live_status == MediaInfo.LIVE
    duration = 0.0 if is_live else media.duration.ToTimedelta().total_seconds()
    spec = request.format
    clip = cuts.clip_range(spec)
    # A smaller difference may be an error of the page, and is checked in the media.
    if clip and duration and clip.start >= _CERTAINTY * duration:
        raise clip_out_of_range(clip.start, duration)
    plan = EditPlan(cuts.make_cut(clip, ()))
    if spec.HasField("sponsorblock"):
        segments = fetch_segments(downloader, media, spec.sponsorblock, options.sponsorblock_url)
        if spec.sponsorblock.mode == FormatSpec.SponsorBlock.REMOVE:
            removed = [chapter.time_range for chapter in segments.chapters]
            plan = EditPlan(cuts.make_cut(clip, removed), (), segments.warnings)
        else:
            plan = EditPlan(plan.cut, segments.chapters, segments.warnings)
    length = plan.cut.limited_to(duration).length if duration else 0.0
    length = duration if math.isinf(length) else length
    if request.max_seconds and length > request.max_seconds:
        raise media_too_long(length, request.max_seconds)
    return plan


def clip_out_of_range(start: float, duration: float) -> ReelhaulError:
    """Return CLIP_OUT_OF_RANGE: the clip starts at second *start* of media of *duration* seconds."""
    return ReelhaulError(
        ErrorReason.CLIP_OUT_OF_RANGE,
        f"the clip starts at {start:g} s, and the media ends at {duration:.1f} s",
        metadata={"startSeconds": f"{start:g}", "durationSeconds": f"{duration:.1f}"},
    )


def media_too_long(seconds: float, limit: float) -> ReelhaulError:
    """Return MEDIA_TOO_LONG: the play time exceeds the job's limit."""
    return ReelhaulError(
        ErrorReason.MEDIA_TOO_LONG,
        f"the media plays {seconds:.0f} s; at most {limit:.0f} s are allowed",
        metadata={"durationSeconds": f"{seconds:.0f}", "limitSeconds": f"{limit:.0f}"},
    )
