"""File names for people: titles are data, so they are made safe before they become names."""

from __future__ import annotations

import re
import unicodedata

#: Most bytes of a file name, extension included (ArtifactInfo.file_name).
MAX_BYTES = 200

_FORBIDDEN = re.compile(r'[<>:"/\\|?*]+')
_SPACES = re.compile(r"\s+")
_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)$", re.IGNORECASE)

#: IANA media types of what we make, by extension: also the list of extensions that we make.
MEDIA_TYPES = {
    "mp4": "video/mp4",
    "webm": "video/webm",
    "mkv": "video/x-matroska",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "opus": "audio/ogg",
    "ogg": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "txt": "text/plain",
    "json": "application/json",
    "jpg": "image/jpeg",
}


def file_name(title: str, extension: str, *, infix: str = "") -> str:
    """A name for a file of *title*: NFC, safe on every system, at most 200 bytes.

    *infix* stands before *extension*, e.g. a language: ``Title.en.srt``.
    """
    tail = f".{infix}.{extension}" if infix else f".{extension}"
    stem = _FORBIDDEN.sub("_", _printable(unicodedata.normalize("NFC", title)))
    stem = _SPACES.sub(" ", stem).strip(" .")
    room = MAX_BYTES - len(tail.encode())
    stem = stem.encode()[:room].decode(errors="ignore").rstrip(" .")
    if not stem or _RESERVED.match(stem):
        stem = f"video{'_' + stem if stem else ''}"
    return stem + tail


def _printable(text: str) -> str:
    """*text* without control, format (e.g. right-to-left marks) and private characters."""
    return "".join(
        " " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C"
    )
