"""How numbers, times and foreign text are written for people."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """*text* without what could steer a terminal; titles come from strangers."""
    return "".join(" " if c in "\t\n" else c for c in text if not _steers(c))


def format_bytes(count: float) -> str:
    """A number of bytes, e.g. "3.4 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_duration(seconds: float) -> str:
    """A length of time, e.g. "1:02:03" or "0:07"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def word(name: str) -> str:
    """An enum value's name as a word, e.g. "fetching extras"."""
    return name.lower().replace("_", " ")


def _steers(letter: str) -> bool:
    return letter not in "\t\n" and unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
