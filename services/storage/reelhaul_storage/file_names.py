"""Names: what files are called outside, and where content rests inside."""

from __future__ import annotations

import re
import unicodedata

_MAX_FILE_NAME_BYTES = 200
# Separators, controls, what Windows refuses, and what turns text around on a screen.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u200e\u200f\u202a-\u202e\u2066-\u2069]')


def safe_file_name(wanted: str) -> str:
    """*wanted* as a name that every system can save: NFC, no separators, at most 200 bytes.

    The extension is kept where it can be. Empty where nothing is left.
    """
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", wanted)).strip(" .")
    if len(name.encode()) <= _MAX_FILE_NAME_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension) > 10:
        stem, dot, extension = name, "", ""
    room = _MAX_FILE_NAME_BYTES - len((dot + extension).encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(" .") + dot + extension


def new_key(sha256: str, nonce: str) -> str:
    """Where content rests that is stored anew; *nonce* is fresh at each call.

    So a key is never used twice: a slow deletion of bytes that were stored before under
    the same digest cannot take the new ones along.
    """
    return f"{sha256[:2]}/{sha256[2:4]}/{sha256}.{nonce}"
