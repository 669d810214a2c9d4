"""JSON-LD: descriptions of media in pages (https://schema.org/VideoObject), with mistakes that sites make.

yt-dlp expects values of the right type, and chapters (Clip) in order; otherwise the whole page fails.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from yt_dlp.extractor.common import InfoExtractor

from reelhaul_fetcher.model.site_limits import MAX_CHAPTERS, MAX_SECONDS, number

_Info = dict[str, Any]

# Properties that yt-dlp takes for text.
_TEXTS = frozenset(
    (
        *("name", "headline", "description", "articleBody", "encodingFormat"),
        *("duration", "uploadDate", "dateCreated", "datePublished"),
    )
)
# yt-dlp takes a start at 0 for none.
_ALMOST_ZERO = 1e-9
# What yt-dlp raises for values that it does not expect.
_MISTAKES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


def tolerate_mistakes() -> None:
    """Make yt-dlp read JSON-LD through this module, in this process."""
    read = InfoExtractor._json_ld

    @functools.wraps(read)
    def read_repaired(self: Any, json_ld: Any, *args: Any, **kwargs: Any) -> _Info:
        if isinstance(json_ld, list | dict):
            repair(json_ld)
        try:
            info: _Info = read(self, json_ld, *args, **kwargs)
        except _MISTAKES:
            return {}
        return info

    InfoExtractor._json_ld = read_repaired


def repair(document: Any) -> None:
    """Give the values in *document* that yt-dlp reads the types that it expects, and leave out the others."""
    unvisited = [document]
    while unvisited:
        item = unvisited.pop()
        if isinstance(item, list):
            unvisited += item
        elif isinstance(item, dict):
            for name in _TEXTS & item.keys():
                item[name] = _to_text(item[name])
            if "hasPart" in item:
                item["hasPart"] = _repair_parts(item["hasPart"])
            unvisited += item.values()


def _to_text(value: Any) -> str | None:
    """Return *value* as text: also the first of a list, and the text of a value with a language."""
    if isinstance(value, list):
        value = next(iter(value), None)
    if isinstance(value, dict):
        value = value.get("@value")
    if isinstance(value, bool):
        return None
    return str(value) if isinstance(value, str | int | float) else None


def _repair_parts(parts: Any) -> list[_Info]:
    """Return the dicts among *parts*; clips, which are the chapters, by their start, and with a name."""
    listed: Iterable[Any] = parts if isinstance(parts, list) else [parts]
    dicts = [part for part in listed if isinstance(part, dict)]
    others = [part for part in dicts if part.get("@type") != "Clip"]
    clips = []
    for part in dicts:
        start = number(part.get("startOffset"), MAX_SECONDS)
        if part.get("@type") == "Clip" and start is not None:
            end = number(part.get("endOffset"), MAX_SECONDS)
            name = _to_text(part.get("name")) or ""
            clips.append({**part, "name": name, "startOffset": start or _ALMOST_ZERO, "endOffset": end})
    clips.sort(key=lambda clip: clip["startOffset"])
    return [*others, *clips[: MAX_CHAPTERS + 1]]
