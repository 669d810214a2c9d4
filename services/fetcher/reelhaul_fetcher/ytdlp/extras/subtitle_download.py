"""Download of one subtitle track, from the first of its formats that can be read."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError

from reelhaul_fetcher.model import subtitle_formats
from reelhaul_fetcher.model.subtitle_formats import Track, charsets, mp4, webvtt
from reelhaul_fetcher.model.subtitle_formats.text import SubtitlesUnreadable
from reelhaul_fetcher.model.timing import cues
from reelhaul_fetcher.model.tracks.subtitle_tracks import PERIOD, SubtitleTrack
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info, read_response
from reelhaul_fetcher.ytdlp.extras.sidecar_timer import SidecarTimer, SidecarTooSlow

_MAX_BYTES = 16 * 1024 * 1024
# Best first: json3 has no rolling lines. Others are tried last, because names of formats are often wrong.
_PREFERRED = ("json3", "vtt", "srt", "ttml", "dfxp", "ass", "ssa", "smi", "sami")
# YouTube's older formats, which are always offered with newer ones.
_SKIPPED = frozenset(("srv1", "srv2", "srv3"))
_MAX_FORMS = 8
_SEGMENTS = "track.segments"
# Characters of an extension in a message.
_MAX_NAME = 20
_CHARSET = re.compile(r"charset\s{0,9}=\s{0,9}[\"']?([\w.:-]{1,40})", re.IGNORECASE)


def download_track(downloader: Downloader, source: SubtitleTrack, folder: Path, timer: SidecarTimer) -> Track:
    """Return the cues of *source*. Raises SubtitlesUnreadable if no format of it can be read in time."""
    forms = [
        form for form in source.formats or () if isinstance(form, dict) and _extension(form) not in _SKIPPED
    ]
    whole = [form for form in forms if PERIOD not in form]
    if whole or not forms:
        return _download_best(downloader, whole, source, folder, timer)
    periods = sorted({form[PERIOD] for form in forms})
    tracks = []
    for period in periods:
        own = [form for form in forms if form[PERIOD] == period]
        track = _download_best(downloader, own, source, folder, timer)
        tracks.append(replace(track, cues=cues.on_presentation_time(track.cues, *period)))
    return Track([cue for track in tracks for cue in track.cues], sum(track.wrong for track in tracks))


def _download_best(
    downloader: Downloader, forms: list[Info], source: SubtitleTrack, folder: Path, timer: SidecarTimer
) -> Track:
    """Return the cues of the best of *forms* that can be read. Raises SubtitlesUnreadable."""
    problems: list[str] = []
    for form in islice(sorted(forms, key=_rank), _MAX_FORMS):
        try:
            with timer.limit(lambda: _received(folder)):
                text, clock = _fetch_text(downloader, form, source, folder)
            track = subtitle_formats.parse(text, source.language)
        # No value of a site may fail the media: on any error, the track is missing.
        except Exception as error:
            problems.append(_describe(error, form))
            continue
        rolls = not source.manual and _extension(form) != "json3"
        lines = cues.remove_rolling_lines(track.cues) if rolls else track.cues
        return Track(lines, track.wrong, clock)
    raise SubtitlesUnreadable(problems[0] if problems else "the site offers no format that can be read")


def _extension(form: Info) -> str:
    return str(form.get("ext") or "").lower()


def _rank(form: Info) -> int:
    extension = _extension(form)
    return _PREFERRED.index(extension) if extension in _PREFERRED else len(_PREFERRED)


def _describe(error: Exception, form: Info) -> str:
    """Return the text of *error* of *form*, without addresses and paths."""
    if isinstance(error, SubtitlesUnreadable):
        return f"{error} ({_extension(form)[:_MAX_NAME]})"
    if isinstance(error, HTTPError):
        return f"the site responds with status {error.status}"
    if isinstance(error, SidecarTooSlow):
        return "the site takes too long to send the file"
    return "the file could not be downloaded"


def _fetch_text(
    downloader: Downloader, form: Info, source: SubtitleTrack, folder: Path
) -> tuple[str, float | None]:
    """Return the text of *form*, and for segments their clock as in Track."""
    if form.get("data") is not None:
        return str(form["data"])[:_MAX_BYTES], None
    is_segmented = str(form.get("protocol") or "").startswith("m3u8") or bool(form.get("fragments"))
    content, content_type = b"", ""
    if not is_segmented:
        request = Request(form["url"], headers=form.get("http_headers") or {})
        content, content_type = read_response(downloader, request, _MAX_BYTES)
        if content.startswith(b"#EXTM3U"):
            form, is_segmented, content_type = {**form, "protocol": "m3u8_native"}, True, ""
    if is_segmented:
        content = _fetch_segments(downloader, form, folder)
    declared = _CHARSET.search(content_type)
    text = charsets.decode(mp4.to_text(content), declared[1] if declared else "", source.language)
    if not is_segmented:
        return text, None
    return text, 0.0 if mp4.is_mp4(content) else webvtt.clock_offset(text)


def _received(folder: Path) -> int:
    """Return the bytes received of the segments of a track."""
    sizes = 0
    for path in folder.glob(f"{_SEGMENTS}*"):
        with suppress(OSError):
            sizes += path.stat().st_size
    return sizes


def _fetch_segments(downloader: Downloader, form: Info, folder: Path) -> bytes:
    """Return the segments of a track one after another, as yt-dlp's native downloaders receive them."""
    path = folder / _SEGMENTS
    # With an unknown extension, because yt-dlp would parse WebVTT segments and reject most errors.
    track = {"protocol": "m3u8_native", **form, "ext": "segments", "id": "track", "title": "track"}
    try:
        downloader.dl(str(path), track, subtitle=True)
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    finally:
        path.unlink(missing_ok=True)
