"""JSON-LD: repairs descriptions of media in pages (https://schema.org/VideoObject) before yt-dlp reads them.

yt-dlp fails to read a page if a value has the wrong type, or if chapters (Clip) are not in order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from yt_dlp.extractor.common import InfoExtractor

from reelhaul_fetcher.model.site_limits import MAX_CHAPTERS, MAX_SECONDS, number

_Info = dict[str, Any]

# Properties that yt-dlp reads as text.
_TEXTS = frozenset(
    (
        *("name", "headline", "description", "articleBody", "encodingFormat"),
        *("duration", "uploadDate", "dateCreated", "datePublished"),
    )
)
# Start of a chapter at 0: yt-dlp ignores a start of 0.
_MIN_START_SECONDS = 1e-9
# Errors that yt-dlp raises for unexpected values.
_PARSER_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


def patch_json_ld_parser() -> None:
    """Make yt-dlp read JSON-LD through this module, in this process."""
    read = InfoExtractor._json_ld

    @functools.wraps(read)
    def read_repaired(self: Any, json_ld: Any, *args: Any, **kwargs: Any) -> _Info:
        if isinstance(json_ld, list | dict):
            repair(json_ld)
        try:
            info: _Info = read(self, json_ld, *args, **kwargs)
        except _PARSER_ERRORS:
            return {}
        return info

    InfoExtractor._json_ld = read_repaired


def repair(document: Any) -> None:
    """Convert the values in *document* to the types that yt-dlp expects, and remove invalid ones."""
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
    """Return *value* as text; of a list the first value, of a value with a language its text."""
    if isinstance(value, list):
        value = next(iter(value), None)
    if isinstance(value, dict):
        value = value.get("@value")
    if isinstance(value, bool):
        return None
    return str(value) if isinstance(value, str | int | float) else None


def _repair_parts(parts: Any) -> list[_Info]:
    """Return the dicts among *parts*; clips (chapters) sorted by start, each with a name."""
    listed: Iterable[Any] = parts if isinstance(parts, list) else [parts]
    dicts = [part for part in listed if isinstance(part, dict)]
    others = [part for part in dicts if part.get("@type") != "Clip"]
    clips = []
    for part in dicts:
        start = number(part.get("startOffset"), MAX_SECONDS)
        if part.get("@type") == "Clip" and start is not None:
            end = number(part.get("endOffset"), MAX_SECONDS)
            name = _to_text(part.get("name")) or ""
            clips.append({**part, "name": name, "startOffset": start or _MIN_START_SECONDS, "endOffset": end})
    clips.sort(key=lambda clip: clip["startOffset"])
    return [*others, *clips[: MAX_CHAPTERS + 1]]
