"""DASH manifests: completes what yt-dlp does not read, and joins the streams of several periods.

yt-dlp parses the manifest. It joins only streams whose attributes are equal in all periods, gives a period
without a duration that of the presentation, and ignores byte ranges and open-ended repetitions.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urljoin
from xml.etree.ElementTree import Element

from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.utils import parse_duration

from reelhaul_fetcher.model import codecs, site_limits
from reelhaul_fetcher.model.hls_playlist import Bounds
from reelhaul_fetcher.model.tracks.subtitle_tracks import PERIOD, ROLE

_Info = dict[str, Any]

#: Key of a stream that must not be downloaded: the reason, for people.
REFUSAL = "dash_refusal"
#: Key of the play time of a stream that the manifest declares, in seconds; 0: unknown.
DECLARED_SECONDS = "dash_declared_seconds"

#: Key of the timestamp, in seconds, at which the presentation begins in a stream, or in a period of it.
PRESENTATION_START = "dash_presentation_start"
#: Key of whether segments may be added to the manifest: the media is live.
IS_OPEN = "dash_is_open"

# Limit of the segments of an open-ended repetition.
_MAX_REPETITIONS = 100_000
# Limit of comparisons between the streams of one period and those of the others.
_MAX_COMPARISONS = 500_000
# Characters of a duration.
_MAX_DURATION_LENGTH = 64
_SEGMENT_ELEMENTS = ("SegmentTemplate", "SegmentList")
# Elements that may be a range of a file, with the attributes of the URL and the range.
_RANGED_ELEMENTS = (("Initialization", "sourceURL", "range"), ("SegmentURL", "media", "mediaRange"))
# Appended to URLs, because yt-dlp keeps their fragments.
_RANGE_MARK = "#reelhaul-bytes="
_RANGE = re.compile(rf"{_RANGE_MARK}([0-9]{{1,18}})-([0-9]{{1,18}})$", re.ASCII)


def patch_dash_parser() -> None:
    """Make yt-dlp read manifests through this module, in this process."""
    parse = InfoExtractor._parse_mpd_periods

    @functools.wraps(parse)
    def parse_completed(
        self: Any, mpd_doc: Element, mpd_id: str | None = None, *args: Any, **kwargs: Any
    ) -> Iterator[_Info]:
        starts = [_read_starts(period) for period in mpd_doc.findall("{*}Period")]
        seconds = complete(mpd_doc)
        presentation = _seconds(mpd_doc.get("mediaPresentationDuration"))
        missing = presentation - sum(seconds) if all(seconds) else 0.0
        is_open = mpd_doc.get("type") == "dynamic" and not presentation
        periods = parse(self, mpd_doc, mpd_id, *args, **kwargs)
        for period, period_seconds, by_id in zip(periods, seconds, starts, strict=True):
            for stream in period["formats"]:
                stream[PRESENTATION_START] = by_id.get(stream["format_id"].removeprefix(f"{mpd_id}-"), 0.0)
            more = {"seconds": period_seconds, "missing_seconds": max(0.0, missing), "is_open": is_open}
            yield {**period, **more}

    def merge(_: Any, periods: Iterable[_Info]) -> tuple[list[_Info], dict[str, list[_Info]]]:
        return join_periods(list(periods))

    InfoExtractor._parse_mpd_periods = parse_completed
    InfoExtractor._merge_mpd_periods = merge


def complete(manifest: Element) -> list[float]:
    """Write implied values into *manifest* in a form that yt-dlp reads.

    Returns the length of each period in seconds; 0: unknown.
    """
    namespace = manifest.tag.partition("}")[0] + "}" if manifest.tag.startswith("{") else ""
    periods = manifest.findall(f"{namespace}Period")
    seconds = _period_seconds(periods, _seconds(manifest.get("mediaPresentationDuration")))
    for period, length in zip(periods, seconds, strict=True):
        if length:
            period.set("duration", f"PT{length:.6f}S")
        for name in _SEGMENT_ELEMENTS:
            for segments in period.iter(f"{namespace}{name}"):
                _expand_repetitions(segments, namespace, length)
        for name, url, byte_range in _RANGED_ELEMENTS:
            for element in period.iter(f"{namespace}{name}"):
                bounds = element.get(byte_range)
                element.set(url, (element.get(url) or "") + (f"{_RANGE_MARK}{bounds}" if bounds else ""))
    return seconds


def join_periods(periods: list[_Info]) -> tuple[list[_Info], dict[str, list[_Info]]]:
    """Return the streams of all *periods*, and the subtitles.

    The streams are those of the longest period. A stream that another period does not have in the same codec
    and language has a REFUSAL.
    """
    subtitles = _join_subtitles(periods)
    # Periods of removed advertisements are empty.
    played = [period for period in periods if period["formats"] or period.get("seconds")]
    if not played:
        return [], subtitles
    lengths = [period.get("seconds") or 0.0 for period in played]
    declared = sum(lengths) + (played[0].get("missing_seconds") or 0.0) if all(lengths) else 0.0
    longest = max(played, key=lambda period: (period.get("seconds") or 0.0, len(period["formats"])))
    streams = longest["formats"]
    if len(played) > 1:
        count = len(streams) * sum(len(period["formats"]) for period in played)
        if count > _MAX_COMPARISONS:
            streams = [{**stream, REFUSAL: "the manifest has too many periods"} for stream in streams]
        else:
            streams = [_join_stream(stream, longest, played) for stream in streams]
    marks = {"is_dash_periods": True, DECLARED_SECONDS: declared, IS_OPEN: bool(longest.get("is_open"))}
    return [{**stream, **marks} for stream in streams], subtitles


def _join_subtitles(periods: list[_Info]) -> dict[str, list[_Info]]:
    """Return the subtitles of all *periods* by language; each has its PERIOD if there are several."""
    result: dict[str, list[_Info]] = {}
    start = 0.0
    for period in periods:
        length = period.get("seconds") or 0.0
        for language, tracks in period["subtitles"].items():
            own = {PERIOD: (start, length)} if len(periods) > 1 else {}
            result.setdefault(language, []).extend({**track, **own} for track in tracks)
        start += length
    return result


def split_range(url: str) -> tuple[str, Bounds | None]:
    """Return the *url* of a segment without its range, and the bounds of the range."""
    match = _RANGE.search(url)
    return (url[: match.start()], (int(match[1]), int(match[2]) + 1)) if match else (url, None)


def _read_starts(period: Element) -> dict[str, float]:
    """Return presentationTimeOffset (ISO 23009-1, 5.3.9.2) in seconds, by the id of the representation."""
    starts = {}
    for adaptation_set in period.findall("{*}AdaptationSet"):
        # Read once for all representations.
        outer = {
            attribute: _inherited(attribute, adaptation_set, period)
            for attribute in ("presentationTimeOffset", "timescale")
        }
        for representation in adaptation_set.findall("{*}Representation"):
            # The name that yt-dlp gives to a representation without an id.
            mime_type = representation.get("mimeType") or adaptation_set.get("mimeType") or ""
            kind = representation.get("contentType") or adaptation_set.get("contentType")
            name = representation.get("id") or kind or mime_type.partition("/")[0]
            offset, timescale = (
                _inherited(key, representation, default=value) for key, value in outer.items()
            )
            starts[name] = offset / (timescale or 1)
    return starts


def _inherited(name: str, *levels: Element, default: int = 0) -> int:
    """Return the attribute *name* of the innermost of *levels* whose segments have it; else *default*."""
    elements = (
        level.find(f"{{*}}{kind}") for level in levels for kind in ("SegmentBase", *_SEGMENT_ELEMENTS)
    )
    return next((_whole(e.get(name)) for e in elements if e is not None and e.get(name)), default)


def _period_seconds(periods: list[Element], presentation: float) -> list[float]:
    """Return the length of each period in seconds (ISO 23009-1, 5.3.2.1)."""
    result: list[float] = []
    start = 0.0
    for number, period in enumerate(periods):
        start = _seconds(period.get("start")) or start
        length = _seconds(period.get("duration"))
        if not length:
            is_last = number == len(periods) - 1
            end = presentation if is_last else _seconds(periods[number + 1].get("start"))
            length = max(0.0, end - start)
        result.append(length)
        start += length
    return result


def _expand_repetitions(segments: Element, namespace: str, period_seconds: float) -> None:
    """Replace each open-ended repetition (S@r below 0) in *segments* by its count."""
    timeline = segments.find(f"{namespace}SegmentTimeline")
    if timeline is None:
        return
    timescale = _whole(segments.get("timescale")) or 1
    offset = _whole(segments.get("presentationTimeOffset"))
    entries, time = timeline.findall(f"{namespace}S"), offset
    for number, entry in enumerate(entries):
        time = _whole(entry.get("t")) if entry.get("t") else time
        length = _whole(entry.get("d"))
        repetitions = _integer(entry.get("r"))
        if repetitions < 0:
            is_last = number == len(entries) - 1
            end = offset + period_seconds * timescale if is_last else _whole(entries[number + 1].get("t"))
            count = math.ceil((end - time) / length - 1e-3) if length else 0
            repetitions = min(max(count - 1, 0), _MAX_REPETITIONS)
            entry.set("r", str(repetitions))
        time += length * (repetitions + 1)


def _join_stream(stream: _Info, own_period: _Info, periods: list[_Info]) -> _Info:
    fragments: list[_Info] = []
    for number, period in enumerate(periods):
        match = stream if period is own_period else _find_match(stream, period["formats"])
        if match is None:
            text = f"period {number + 1} of the manifest has no stream like {stream['format_id']}"
            return {**stream, REFUSAL: text}
        start = {"period": number, PRESENTATION_START: match.get(PRESENTATION_START)}
        fragments += ({**fragment, **start} for fragment in _absolute_fragments(match, period))
    joined = {**stream, "fragments": fragments, "protocol": "http_dash_segments", "filesize": None}
    joined.pop("fragment_base_url", None)
    return joined | {"url": stream.get("manifest_url") or stream["url"]}


def _absolute_fragments(stream: _Info, period: _Info) -> Iterator[_Info]:
    if "fragments" not in stream:
        yield {"url": stream["url"], "duration": period.get("seconds"), "is_file": True}
        return
    base = stream.get("fragment_base_url") or ""
    for fragment in stream["fragments"]:
        yield {
            "url": fragment.get("url") or urljoin(base, fragment["path"]),
            "duration": fragment.get("duration"),
            "is_file": False,
        }


def _find_match(stream: _Info, candidates: Iterable[_Info]) -> _Info | None:
    """Return the one of *candidates* that continues *stream*; None if none does."""

    def distance(other: _Info) -> tuple[Any, ...]:
        height, rate = (abs((stream.get(key) or 0) - (other.get(key) or 0)) for key in ("height", "tbr"))
        differences = (other.get(key) != stream.get(key) for key in ("language", ROLE))
        return *differences, height, rate

    matches = [other for other in candidates if _is_same_kind(stream, other)]
    return min(matches, key=distance, default=None)


def _is_same_kind(stream: _Info, other: _Info) -> bool:
    languages = {code for code in (stream.get("language"), other.get("language")) if code}
    return (
        stream.get("ext") == other.get("ext")
        and _families(stream) == _families(other)
        and bool(stream.get("has_drm")) == bool(other.get("has_drm"))
        and len(languages) < 2
    )


def _families(stream: _Info) -> tuple[str, ...]:
    return tuple(codecs.family(str(stream.get(key) or "")) for key in ("vcodec", "acodec"))


def _seconds(text: str | None) -> float:
    valid = text if text and len(text) <= _MAX_DURATION_LENGTH else None
    return site_limits.number(parse_duration(valid), site_limits.MAX_SECONDS) or 0.0


def _whole(text: str | None) -> int:
    return site_limits.whole(text, site_limits.MAX_COUNT) or 0


def _integer(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0
