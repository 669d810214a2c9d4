"""Saving a file: received into a hidden part file, verified, then moved to its name in one step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reelhaul import file_names
from reelhaul._core.errors import SaveFailed

#: Called with the number of bytes received so far.
OnProgress = Callable[[int], object]

#: A damaged part file of an earlier call is discarded once; then the file is received again.
ATTEMPTS = 2


def ignore_progress(_: int) -> None:
    """Do nothing: the default OnProgress."""


class PartFile:
    """The part file of *destination*, of which *size* bytes with digest *sha256* are expected.

    An interrupted download resumes from it, also in a later call: the digest in its name tells that
    it is a part of the same content. An empty *sha256* is not verified.
    """

    def __init__(self, destination: Path, size: int, sha256: str) -> None:
        self.destination = destination
        self.path = destination.with_name(f".{sha256[:16] or 'unknown'}.{destination.name[-60:]}.part")
        self._size = size
        self._sha256 = sha256

    def received(self) -> int:
        """Return the number of bytes received so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def is_complete(self) -> bool:
        """Return whether no bytes are missing."""
        return self.path.exists() and self.received() >= self._size

    def check_received(self, received: int) -> None:
        """Raise SaveFailed if *received* is more than the whole file."""
        if received > self._size:
            raise SaveFailed(f"{self.destination.name}: the server sends more than {self._size} bytes")

    def discard_if_damaged(self) -> str:
        """Return what is wrong with the received file, which is then deleted; empty if it is intact."""
        problem = find_problem(self.path, self._size, self._sha256)
        if problem:
            self.path.unlink()
        return problem

    def publish(self, *, overwrite: bool) -> Path:
        """Move the file to its destination atomically; return its path.

        Without *overwrite*, an existing file is kept and the new name is numbered.
        """
        if overwrite:
            return self.path.replace(self.destination)
        for path in file_names.numbered(self.destination):
            try:
                os.link(self.path, path)
            except FileExistsError:
                continue
            except OSError:
                # A file system without hard links: reserve the name, then replace it.
                try:
                    path.touch(exist_ok=False)
                except FileExistsError:
                    continue
                return self.path.replace(path)
            self.path.unlink()
            return path
        raise SaveFailed(f"{self.destination}: too many files with this name")


def find_problem(path: Path, size: int, sha256: str) -> str:
    """Return why *path* is not a file of *size* bytes with digest *sha256*; empty if it is."""
    received = path.stat().st_size
    if received != size:
        return f"{received} bytes were received, not {size}"
    with path.open("rb") as content:
        if sha256 and hashlib.file_digest(content, "sha256").hexdigest() != sha256:
            return "its SHA-256 differs from the announced one"
    return ""


@contextmanager
def os_errors_as_save_failed(path: Path) -> Iterator[None]:
    """Raise SaveFailed for an OSError while *path* is saved."""
    try:
        yield
    except OSError as error:
        raise SaveFailed(f"{error.filename or path}: {error.strerror or error}") from error
