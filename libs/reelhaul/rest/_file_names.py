"""File names that a server gave, made safe for this machine whatever the server did."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

_MAX_BYTES = 200
_MOST = 10_000
# Windows takes these for devices, with any extension.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}


def safe(name: str) -> str:
    """*name* as one plain file name: no separators, controls or leading dots, at most 200 bytes."""
    printable = (c if _is_plain(c) else "_" for c in unicodedata.normalize("NFC", name))
    plain = "".join(printable).strip().lstrip(".").rstrip(". ") or "download"
    if plain.partition(".")[0].lower() in _DEVICES:
        plain = f"_{plain}"
    stem, dot, extension = plain.rpartition(".")
    if not stem or len(extension.encode()) > 16:
        stem, dot, extension = plain, "", ""
    room = _MAX_BYTES - len(f"{dot}{extension}".encode())
    return stem.encode()[:room].decode(errors="ignore") + dot + extension


def numbered(path: Path) -> Iterator[Path]:
    """*path*, then its name with (2), (3) … before the extension."""
    yield path
    for number in range(2, _MOST):
        yield path.with_name(f"{path.stem} ({number}){path.suffix}")


def _is_plain(letter: str) -> bool:
    # Cf holds the marks that turn the reading direction round: a name must not lie about its end.
    return letter not in '/\\:*?"<>|' and unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
