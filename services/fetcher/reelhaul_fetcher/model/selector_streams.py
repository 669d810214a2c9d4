"""Streams as an expert's selector takes them."""

from __future__ import annotations

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Format, FormatSpec
from reelhaul_fetcher.model import selectors
from reelhaul_runtime.errors import ReelhaulError


def taken(offered: list[Format], spec: FormatSpec) -> list[Format]:
    """What the selector of *spec* takes, which overrides all wishes but what kind of file it is.

    Raises FORMAT_UNAVAILABLE.
    """
    wants_sound = spec.media_kind == FormatSpec.AUDIO
    try:
        chosen = selectors.parsed(spec.selector)(offered)
    except selectors.NotUnderstood as error:
        raise _unselected(spec.selector, f"the selector is not served: {error}") from None
    if not chosen:
        raise _unselected(spec.selector, "the selector takes none of the streams offered")
    kind = "sound" if wants_sound else "picture"
    if not any(s.audio_codec if wants_sound else s.video_codec for s in chosen):
        raise _unselected(spec.selector, f"the selector takes no {kind}")
    return [s for s in chosen if s.audio_codec] if wants_sound else chosen


def _unselected(selector: str, text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, text, metadata={"selector": selector})
