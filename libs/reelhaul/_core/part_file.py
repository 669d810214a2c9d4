"""Part files: a file while it is received, hidden, and resumed by a later call."""

from __future__ import annotations

import hashlib
from pathlib import Path

from reelhaul.existing_files import Content, SaveFailed

#: A damaged part file of an earlier call is discarded once; then the file is received again.
ATTEMPTS = 2

# Characters of the name in that of the part file, which must stay shorter than 255 bytes.
_NAME_LENGTH = 50


class PartFile:
    """The part file in *folder* of *content*, which is saved as *name*.

    An interrupted download resumes from it, also in a later call: the digest in its name tells that
    it is a part of the same content. An empty digest is not verified.
    """

    def __init__(self, folder: Path, name: str, content: Content) -> None:
        self.name = name
        self.path = folder / f".{content.sha256[:16] or 'unknown'}.{name[-_NAME_LENGTH:]}.part"
        self._content = content

    def received(self) -> int:
        """Return the number of bytes received so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def is_complete(self) -> bool:
        """Return whether no bytes are missing."""
        return self.path.exists() and self.received() >= self._content.size

    def check_received(self, received: int) -> None:
        """Raise SaveFailed if *received* is more than the whole file."""
        if received > self._content.size:
            raise SaveFailed(f"{self.name}: the server sends more than {self._content.size} bytes")

    def discard_if_damaged(self) -> str:
        """Return what is wrong with the received file, which is then deleted; empty if it is intact."""
        problem = self._find_problem()
        if problem:
            self.path.unlink()
        return problem

    def _find_problem(self) -> str:
        if (received := self.received()) != self._content.size:
            return f"{received} bytes were received, not {self._content.size}"
        with self.path.open("rb") as file:
            sha256 = self._content.sha256.lower()
            if sha256 and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return "its SHA-256 differs from the announced one"
        return ""
