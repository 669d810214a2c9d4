"""File names: titles, callers' names and servers' names made safe to save under.

All rules share NFC normalisation, the limit of 200 bytes with the extension kept, and no path
separators or control characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from reelhaul.normalization import normalize

#: Most bytes of a file name, extension included (ArtifactInfo.file_name).
MAX_BYTES = 200

_MAX_EXTENSION_BYTES = 16
_MAX_NUMBER = 10_000

# Path separators and what Windows refuses.
_RESERVED_CHARACTERS = r'<>:"/\\|?*'
_RESERVED_RUN = re.compile(f"[{_RESERVED_CHARACTERS}]+")
# With control characters and those that change the reading direction; joiners stay, emoji need them.
_UNSAFE = re.compile(f"[{_RESERVED_CHARACTERS}\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_WHITESPACE_RUN = re.compile(r"\s+")
# Windows takes these for devices, with any extension.
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


def from_title(title: str, extension: str, *, infix: str = "") -> str:
    """Return a file name for a video called *title*: safe on every system, never empty.

    *infix* comes before *extension*, e.g. a language: ``Title.en.srt``.
    """
    suffix = f".{infix}.{extension}" if infix else f".{extension}"
    printable = "".join(
        " " if letter.isspace() else letter
        for letter in normalize(title)
        if letter.isspace() or unicodedata.category(letter)[0] != "C"
    )
    stem = _WHITESPACE_RUN.sub(" ", _RESERVED_RUN.sub("_", printable)).strip(" .")
    stem = _truncate(stem, MAX_BYTES - len(suffix.encode()))
    if not stem or _DEVICE_NAME.fullmatch(stem):
        stem = f"video{'_' + stem if stem else ''}"
    return stem + suffix


def sanitize(name: str) -> str:
    """Return *name*, which a caller gave a stored file, safe on every system; empty if nothing is left."""
    return _shorten(_UNSAFE.sub("_", normalize(name)).strip(" ."))


def sanitize_untrusted(name: str) -> str:
    """Return *name*, which a server sent, safe to create on this machine, whatever the server sent.

    Stricter than ``sanitize``: no hidden files, no device names, no invisible characters, never empty.
    """
    letters = (letter if _is_visible(letter) else "_" for letter in normalize(name))
    plain = _UNSAFE.sub("_", "".join(letters)).strip().lstrip(".").rstrip(". ") or "download"
    if _DEVICE_NAME.fullmatch(plain.partition(".")[0]):
        plain = f"_{plain}"
    return _shorten(plain)


def numbered(path: Path) -> Iterator[Path]:
    """Yield *path*, then its name with (2), (3) … before the extension."""
    yield path
    for number in range(2, _MAX_NUMBER):
        yield path.with_name(f"{path.stem} ({number}){path.suffix}")


def _shorten(name: str) -> str:
    """Return *name* within MAX_BYTES, its extension kept if it is one."""
    if len(name.encode()) <= MAX_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > _MAX_EXTENSION_BYTES:
        return _truncate(name, MAX_BYTES)
    return _truncate(stem, MAX_BYTES - len((dot + extension).encode())) + dot + extension


def _truncate(text: str, size: int) -> str:
    """Return the beginning of *text*: at most *size* bytes, whole characters, no space or dot at the end."""
    return text.encode()[:size].decode(errors="ignore").rstrip(" .")


def _is_visible(letter: str) -> bool:
    # Cf holds the marks that change the reading direction: a name must not hide its extension.
    return unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
