"""DASH: where on its timestamps each stream's presentation begins, which yt-dlp does not read."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element

from yt_dlp.extractor.common import InfoExtractor

from reelhaul_fetcher.model.site_limits import MAX_COUNT, number
from reelhaul_fetcher.ytdlp.downloader import Info

_KEY = "presentation_start"
_SEGMENT_ELEMENTS = ("SegmentBase", "SegmentTemplate", "SegmentList")


def presentation_start(stream: Info) -> float:
    """Return the timestamp, in seconds, at which the presentation begins in *stream*; 0 if not told."""
    holder = _holder(stream)
    return float(holder.get(_KEY) or 0.0) if holder else 0.0


def add_presentation_starts() -> None:
    """Make yt-dlp keep presentationTimeOffset (ISO/IEC 23009-1, 5.3.9.2) of the streams in a manifest."""
    parse = InfoExtractor._parse_mpd_periods

    @functools.wraps(parse)
    def parse_with_starts(
        self: Any, mpd_doc: Element, mpd_id: str | None = None, *args: Any, **options: Any
    ) -> Iterator[Info]:
        starts = [_read_starts(period) for period in mpd_doc.findall("{*}Period")]
        for period, by_id in zip(parse(self, mpd_doc, mpd_id, *args, **options), starts, strict=False):
            for stream in period["formats"]:
                # Not in the stream itself, if it has fragments: yt-dlp joins periods by equal streams.
                if holder := _holder(stream):
                    holder[_KEY] = by_id.get(str(stream["format_id"]).removeprefix(f"{mpd_id}-"), 0.0)
            yield period

    InfoExtractor._parse_mpd_periods = parse_with_starts


def _holder(stream: Info) -> Info | None:
    fragments = stream.get("fragments", [stream])
    return fragments[0] if isinstance(fragments, list) and fragments else None


def _read_starts(period: Element) -> dict[str, float]:
    """Return the seconds by the ids of the representations in *period*."""
    starts = {}
    for adaptation_set in period.findall("{*}AdaptationSet"):
        for representation in adaptation_set.findall("{*}Representation"):
            # The name that yt-dlp gives to a representation without an id.
            mime_type = representation.get("mimeType") or adaptation_set.get("mimeType") or ""
            kind = representation.get("contentType") or adaptation_set.get("contentType")
            name = representation.get("id") or kind or mime_type.partition("/")[0]
            levels = (representation, adaptation_set, period)
            offset = _read_attribute("presentationTimeOffset", *levels)
            starts[name] = (offset or 0.0) / (_read_attribute("timescale", *levels) or 1.0)
    return starts


def _read_attribute(name: str, *levels: Element) -> float | None:
    """Return the attribute of the innermost of *levels* whose segments have it; None if none has."""
    for level in levels:
        for element in _SEGMENT_ELEMENTS:
            found = level.find(f"{{*}}{element}")
            value = None if found is None else number(found.get(name), MAX_COUNT)
            if value is not None:
                return value
    return None
