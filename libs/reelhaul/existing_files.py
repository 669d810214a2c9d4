"""Existing files: where the files of a job are saved if their names are taken already.

One rule for the client libraries and the command line. The files of a job, a video with its subtitles,
thumbnail and metadata for example, are placed together: all under their names, or all with one number.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, get_args

from reelhaul import file_names

#: What happens if a name is taken by another content. A file with the very content is never saved again.
#: ``number``: all files of the job get the same number, "Title (2).mp4" and "Title (2).en.srt".
#: ``skip``: no file of the job is saved.
#: ``replace``: the files replace what is there.
OnExists = Literal["number", "skip", "replace"]
ON_EXISTS: tuple[OnExists, ...] = get_args(OnExists)

_MAX_NUMBER = 10_000
# A name that was free is taken by another program at the very moment: chosen again so often.
_TRIES = 10


class SaveFailed(Exception):
    """A file that could not be saved, or whose content is not what the server announced."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file to be saved: its name, which the server sent, its size in bytes, and its SHA-256 in hex.

    An empty *sha256* is unknown: then no existing file is taken for this one.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where a file is saved."""

    path: Path
    #: Whether this very content is there already.
    exists: bool


class Placement:
    """Chooses the paths of the files of one job in *folder*, and moves received files there.

    Every method may raise SaveFailed.
    """

    def __init__(self, folder: Path, files: Sequence[Content], on_exists: OnExists = "number") -> None:
        if on_exists not in ON_EXISTS:
            raise ValueError(f"on_exists is one of {', '.join(ON_EXISTS)}, not {on_exists!r}")
        self._folder, self._files, self._on_exists = folder, list(files), on_exists
        self._names = _distinct([file_names.sanitize_untrusted(file.name) for file in files])
        # The digest of an existing file by its path, size and time: large files are read once.
        self._digests: dict[tuple[Path, int, int], str] = {}

    @property
    def names(self) -> list[str]:
        """The names of the files without a number: safe on this machine, and each once."""
        return list(self._names)

    def choose(self) -> list[Target]:
        """Return where each file is saved as things are now; empty if the files are to be skipped."""
        with os_errors_as_save_failed(self._folder):
            for number in range(1, _MAX_NUMBER):
                targets = [
                    Target(path, self._has_content(path, file))
                    for path, file in zip(self._paths(number), self._files, strict=True)
                ]
                taken = any(os.path.lexists(target.path) and not target.exists for target in targets)
                if self._on_exists == "replace" or not taken:
                    return targets
                if self._on_exists == "skip":
                    return []
        raise SaveFailed(f"{self._folder / self._names[0]}: too many files with this name")

    def publish(self, received: Mapping[int, Path]) -> list[Target]:
        """Move the *received* files, by their index, to their paths; return the paths of all files.

        Returns nothing, and leaves the received files, if the files are to be skipped. A file appears under
        its name complete, or not at all.
        """
        for _ in range(_TRIES):
            targets = self.choose()
            moves = {
                received[n]: each.path for n, each in enumerate(targets) if not each.exists and n in received
            }
            missing = [t.path.name for n, t in enumerate(targets) if not t.exists and n not in received]
            if missing:
                raise SaveFailed(
                    f"{', '.join(missing)}: was there a moment ago, and has been changed or deleted"
                )
            with os_errors_as_save_failed(self._folder):
                if self._on_exists == "replace":
                    for source, target in moves.items():
                        source.replace(target)
                elif not _link_all(moves):
                    continue
                for source in received.values():
                    source.unlink(missing_ok=True)
            return targets
        raise SaveFailed(f"{self._folder / self._names[0]}: another program takes each name that is free")

    def _paths(self, number: int) -> list[Path]:
        stem = PurePath(self._names[0]).stem
        return [self._folder / (name if number == 1 else _number(name, stem, number)) for name in self._names]

    def _has_content(self, path: Path, file: Content) -> bool:
        """Return whether *path* is a file with the content of *file*."""
        if not file.sha256 or not path.is_file():
            return False
        status = path.stat()
        if status.st_size != file.size:
            return False
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            with path.open("rb") as content:
                self._digests[key] = hashlib.file_digest(content, "sha256").hexdigest()
        return self._digests[key] == file.sha256.lower()


def prepare_folder(folder: Path) -> None:
    """Create *folder* if it is missing. Raises SaveFailed if files cannot be created in it."""
    with os_errors_as_save_failed(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextmanager
def os_errors_as_save_failed(path: Path) -> Iterator[None]:
    """Raise SaveFailed for an OSError while *path* is saved."""
    try:
        yield
    except OSError as error:
        raise SaveFailed(f"{error.filename or path}: {error.strerror or error}") from error


def _distinct(names: Sequence[str]) -> list[str]:
    """Return *names*, of which each that came before, in whatever case, has a number."""
    seen = set[str]()
    distinct = []
    for name in names:
        free = next(str(path) for path in file_names.numbered(Path(name)) if str(path).casefold() not in seen)
        seen.add(free.casefold())
        distinct.append(free)
    return distinct


def _number(name: str, stem: str, number: int) -> str:
    """Return *name* with *number* after *stem*, that of the job's first file, or before its suffix."""
    if name.startswith(f"{stem}."):
        return f"{stem} ({number}){name[len(stem) :]}"
    path = PurePath(name)
    return f"{path.stem} ({number}){path.suffix}"


def _link_all(moves: Mapping[Path, Path]) -> bool:
    """Give each source its target's name as well; return False, and undo all, if a target exists."""
    linked: list[Path] = []
    for source, target in moves.items():
        try:
            _link(source, target)
        except BaseException as error:
            for path in linked:
                path.unlink(missing_ok=True)
            if isinstance(error, FileExistsError):
                return False
            raise
        linked.append(target)
    return True


def _link(source: Path, target: Path) -> None:
    """Give *source* the name *target* as well. Raises FileExistsError."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: reserve the name, then replace it.
        target.touch(exist_ok=False)
        os.replace(source, target)
