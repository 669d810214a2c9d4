"""YouTube's JSON format of captions. Unlike its WebVTT, it has no rolling lines."""

from __future__ import annotations

import json
import math
from typing import Any

from reelhaul_fetcher.model.site_limits import MAX_SECONDS, number
from reelhaul_fetcher.model.subtitle_formats.text import SubtitlesUnreadable
from reelhaul_fetcher.model.timing.cues import Cue


def parse(text: str, _: str) -> list[Cue]:
    """Return the cues of *text*. Raises SubtitlesUnreadable for other JSON."""
    try:
        events = list(json.loads(text).get("events", ()))
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise SubtitlesUnreadable("this is no json3 file") from error
    return [cue for event in events if (cue := _to_cue(event))]


def _to_cue(event: Any) -> Cue | None:
    try:
        text = "".join(segment.get("utf8", "") for segment in event.get("segs", ())).strip()
    except (AttributeError, TypeError):
        return None
    # Events that append a line break to the line before.
    if not text or event.get("aAppend"):
        return None
    start = number(event.get("tStartMs", 0), MAX_SECONDS * 1000)
    # Sounds such as [Music] may have no duration.
    length = number(event.get("dDurationMs") or 0, MAX_SECONDS * 1000)
    if start is None or length is None:
        return Cue(math.nan, math.nan, text)
    return Cue(start / 1000, (start + length) / 1000, text)
