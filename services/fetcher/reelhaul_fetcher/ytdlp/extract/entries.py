"""Entries of playlists, channels, feeds and pages: their URLs, and which of them can be fetched."""

from __future__ import annotations

import re
from urllib.parse import urljoin

from yt_dlp.utils import sanitize_url, unsmuggle_url

from reelhaul.type.v1.media_pb2 import PlaylistEntry
from reelhaul_fetcher.media.verify import to_duration
from reelhaul_fetcher.model import site_limits
from reelhaul_fetcher.model.site_limits import SiteValues, clean
from reelhaul_fetcher.ytdlp.downloader import Info
from reelhaul_fetcher.ytdlp.extract.info import playable_formats

_MAX_URL_LENGTH = 2048
# Titles of entries that are placeholders; a video may have one too, but not in brackets.
_UNAVAILABLE = re.compile(r"(\[)?(?:private|deleted|unavailable|removed) video(?(1)\])", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def to_entry(entry: Info, info: Info, values: SiteValues, position: int = 0) -> PlaylistEntry | None:
    """Return *entry* of *info*, yt-dlp's info dict of a list, with the URL for its job.

    Returns None for an entry that is private, deleted, or has no usable URL.
    """
    try:
        url = clean(_find_url(entry, info))
    except (LookupError, TypeError, ValueError):
        # A site can send invalid data in the place where extractors pass theirs.
        return None
    if not url.startswith(("http://", "https://")) or len(url) > _MAX_URL_LENGTH:
        return None
    if _is_unavailable(entry):
        return None
    result = PlaylistEntry(
        url=url,
        title=values.text("titles of entries", entry.get("title"), site_limits.MAX_TITLE),
        # Not shortened: entries with a common prefix would be equal.
        media_id=values.reference("ids of entries", entry.get("id"), site_limits.MAX_ID),
        position=position,
    )
    if seconds := site_limits.number(entry.get("duration"), site_limits.MAX_SECONDS):
        result.duration.CopyFrom(to_duration(seconds))
    return result


class EntryIndex:
    """The entries of one list, indexed by URL, and by extractor and id as in yt-dlp's download archive."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()

    def add(self, entry: Info, result: PlaylistEntry) -> bool:
        """Add *entry*, converted to *result*; return whether it was present already."""
        keys = {("", result.url)}
        extractor = clean(entry.get("ie_key"))
        # Ids of feeds and pages are not unique: only their URLs identify entries.
        if extractor and extractor != "Generic" and result.media_id:
            keys.add((extractor, result.media_id))
        is_known = not keys.isdisjoint(self._keys)
        self._keys |= keys
        return is_known


def _is_unavailable(entry: Info) -> bool:
    title, _ = site_limits.shorten(entry.get("title"), 100)
    placeholder = _UNAVAILABLE.fullmatch(title.strip())
    if placeholder and not placeholder[1]:
        # Titles without brackets are placeholders at YouTube only, and only without a duration.
        return clean(entry.get("ie_key")).startswith("Youtube") and not entry.get("duration")
    return bool(placeholder) or entry.get("availability") == "private"


def _find_url(entry: Info, info: Info) -> str:
    if entry.get("_type") in ("url", "url_transparent"):
        url = unsmuggle_url(str(entry["url"]))[0]
        # Some extractors give the bare id of a YouTube video.
        is_bare_id = entry.get("ie_key") == "Youtube" and "/" not in url
        if is_bare_id:
            return f"https://www.youtube.com/watch?v={url}"
        if not _SCHEME.match(url) and entry.get("ie_key") in (None, "Generic"):
            # Feeds have URLs relative to their own.
            url = urljoin(str(info.get("webpage_url") or ""), url)
        return str(sanitize_url(url))
    page = str(entry.get("webpage_url") or "")
    if page and page != info.get("webpage_url"):
        return page
    # Videos on one page share its URL: only the URLs of their media differ.
    formats = playable_formats(entry)
    return str(formats[-1].get("manifest_url") or formats[-1].get("url") or "") if formats else ""
