"""Sealing: encryption of secrets that are kept on disk or in a database, with keys that can be rotated."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# cryptography is imported where it is used: settings import this module, and most processes seal nothing.

_KEY_BYTES = 32


def parse_keys(text: str) -> tuple[str, ...]:
    """Return the comma separated keys in *text*."""
    return tuple(key for part in text.split(",") if (key := part.strip()))


def check_keys(text: str) -> None:
    """Raise ValueError, which does not show it, if one of the keys in *text* is no key."""
    for key in parse_keys(text):
        try:
            length = len(base64.urlsafe_b64decode(key))
        except ValueError:
            length = 0
        if length != _KEY_BYTES:
            raise ValueError("each key must be 32 bytes in URL-safe base64")


def create_key() -> str:
    """Return a new random key."""
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


def load_or_create_key(path: Path) -> str:
    """Return the key in the file *path*, which is created with mode 0600 if it is missing.

    Processes that call this at once get the same key.
    """
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write(create_key())
            file.flush()
            os.fsync(descriptor)
        # Unlike a rename, a link fails if another process was faster.
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
    return path.read_text().strip()


class Sealer:
    """Encrypts with the first of *keys* and decrypts with any. Raises ValueError if one is invalid."""

    def __init__(self, keys: Sequence[str]) -> None:
        from cryptography.fernet import Fernet, MultiFernet

        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise ValueError("a key is 32 bytes in URL-safe base64") from None

    def seal(self, content: bytes) -> bytes:
        """Return *content* encrypted and authenticated."""
        return self._fernet.encrypt(content)

    def unseal(self, sealed: bytes) -> bytes | None:
        """Return the content of *sealed*; None if none of the keys sealed it."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            return None
