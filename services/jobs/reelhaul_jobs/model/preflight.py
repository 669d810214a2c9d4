"""Preflight: checks probed media against a job's request before any attempt."""

from __future__ import annotations

from datetime import UTC

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Estimate, FormatSpec, MediaInfo
from reelhaul_runtime.errors import ReelhaulError

_LIVE_STATUSES = (MediaInfo.LIVE, MediaInfo.POST_LIVE)
_RECORDING_MODES = (FormatSpec.Live.RECORD, FormatSpec.Live.WAIT)


def check(requested: FormatSpec, media: MediaInfo, estimate: Estimate) -> None:
    """Raise the error that a job with *requested* would certainly fail with.

    Raises MEDIA_IS_LIVE, MEDIA_NOT_LIVE_YET, MEDIA_TOO_LARGE. The duration is left to the fetcher: a clip of
    a long video is short.
    """
    if media.live_status == MediaInfo.UPCOMING and requested.live.mode != FormatSpec.Live.WAIT:
        start_time = ""
        if media.HasField("live_start_time"):
            start_time = media.live_start_time.ToDatetime(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        announced = f" (announced for {start_time})" if start_time else ""
        raise ReelhaulError(
            ErrorReason.MEDIA_NOT_LIVE_YET,
            f"the event has not started{announced}",
            metadata={"startTime": start_time},
        )
    if media.live_status in _LIVE_STATUSES and requested.live.mode not in _RECORDING_MODES:
        raise ReelhaulError(
            ErrorReason.MEDIA_IS_LIVE, "the media is live", metadata={"extractor": media.extractor}
        )
    limit = requested.max_size_bytes
    if limit and estimate.size_bytes > limit and not estimate.size_estimated:
        raise ReelhaulError(
            ErrorReason.MEDIA_TOO_LARGE,
            f"the media has {estimate.size_bytes} bytes; the limit is {limit}",
            metadata={"sizeBytes": str(estimate.size_bytes), "limitBytes": str(limit)},
        )
