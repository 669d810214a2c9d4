"""Prospects: what a site says of media, held against what was asked, before anything is begun."""

from __future__ import annotations

from datetime import UTC

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Estimate, FormatSpec, MediaInfo
from reelhaul_runtime.errors import ReelhaulError

_ON_AIR = (MediaInfo.LIVE, MediaInfo.POST_LIVE)
_RECORDED = (FormatSpec.Live.RECORD, FormatSpec.Live.WAIT)


def check(asked: FormatSpec, media: MediaInfo, estimate: Estimate) -> None:
    """Raise why a job of *asked* would fail, where that can be told now.

    MEDIA_IS_LIVE, MEDIA_NOT_LIVE_YET, MEDIA_TOO_LARGE. How long it may be is the fetcher's to
    say: a clip of a long film is short.
    """
    if media.live_status == MediaInfo.UPCOMING and asked.live.mode != FormatSpec.Live.WAIT:
        told = ""
        if media.HasField("live_start_time"):
            told = media.live_start_time.ToDatetime(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        raise ReelhaulError(
            ErrorReason.MEDIA_NOT_LIVE_YET, "the event has not begun", metadata={"startTime": told}
        )
    if media.live_status in _ON_AIR and asked.live.mode not in _RECORDED:
        raise ReelhaulError(
            ErrorReason.MEDIA_IS_LIVE, "the media is live", metadata={"extractor": media.extractor}
        )
    limit = asked.max_size_bytes
    if limit and estimate.size_bytes > limit and not estimate.size_estimated:
        raise ReelhaulError(
            ErrorReason.MEDIA_TOO_LARGE,
            f"the media has {estimate.size_bytes} bytes; at most {limit} are allowed",
            metadata={"sizeBytes": str(estimate.size_bytes), "limitBytes": str(limit)},
        )
