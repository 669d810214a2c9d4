"""What is cut out of media and marked in it, known before they are fetched."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.media import ffmpeg
from reelhaul_fetcher.model import cuts
from reelhaul_fetcher.model.chapters import Chapter
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.ytdlp.downloader import Downloader
from reelhaul_fetcher.ytdlp.sponsorblock import stretches
from reelhaul_runtime.errors import ReelhaulError


@dataclass(frozen=True, slots=True)
class Edit:
    """What stays of the media, sponsored stretches to be marked, and what is not known of them."""

    cut: cuts.Cut
    marks: tuple[Chapter, ...] = ()
    warnings: tuple[Warned, ...] = ()

    @property
    def barred(self) -> frozenset[str]:
        """Codecs in which that cannot be done here."""
        return frozenset({"av1"}) if self.cut.removes_something and not ffmpeg.decodes("av1") else frozenset()


def edit(downloader: Downloader, media: MediaInfo, order: FetchRequest, access: EngineOptions) -> Edit:
    """What *order* asks for. Raises FORMAT_UNAVAILABLE, MEDIA_TOO_LONG."""
    # Some sites tell of a broadcast how long it has been on air: that limits nothing.
    on_air = media.live_status == MediaInfo.LIVE
    seconds = 0.0 if on_air else media.duration.ToTimedelta().total_seconds()
    clip = cuts.clip_range(order.format)
    if clip and seconds and clip.start >= seconds:
        raise ReelhaulError(
            ErrorReason.FORMAT_UNAVAILABLE, f"the clip begins at {clip.start:g} s; the media ends before that"
        )
    made = Edit(cuts.make_cut(clip, ()))
    if order.format.HasField("sponsorblock"):
        found = stretches(downloader, media, order.format.sponsorblock, access.sponsorblock_url)
        if order.format.sponsorblock.mode == FormatSpec.SponsorBlock.REMOVE:
            made = Edit(cuts.make_cut(clip, [mark.time_range for mark in found.marks]), (), found.warnings)
        else:
            made = Edit(made.cut, found.marks, found.warnings)
    length = made.cut.limited_to(seconds).length if seconds else 0.0
    length = seconds if math.isinf(length) else length
    if order.max_seconds and length > order.max_seconds:
        raise too_long(length, order.max_seconds)
    return made


def too_long(seconds: float, limit: float) -> ReelhaulError:
    """The play time passes the job's limit."""
    return ReelhaulError(
        ErrorReason.MEDIA_TOO_LONG,
        f"the media plays {seconds:.0f} s; at most {limit:.0f} s are allowed",
        metadata={"durationSeconds": f"{seconds:.0f}", "limitSeconds": f"{limit:.0f}"},
    )
