"""Archive: the format of backups, a tar file.

Its first member is ``manifest.json``; it has the digests of the members ``<service>/…`` that follow,
databases and small files. Then come the stored files, ``<service>/<folder>/<key>``, whose digests the
databases have. The last member is ``end.json``: without it the backup is incomplete.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from reelhaul_runtime import service
from reelhaul_runtime.service import ServiceData

FORMAT = 1
MANIFEST, END = "manifest.json", "end.json"
DATABASE = "database.db"
BUFFER = 1 << 20

# Who refers to what another one keeps is before it: jobs to artifacts.
_ORDER = ("fetcher", "jobs", "storage")
_MAX_JSON_BYTES = 16 << 20

#: Called with the bytes that are done, and with all.
Progress = Callable[[int, int], None]


class BackupError(Exception):
    """The backup or the restoration failed; the text states the cause and the remedy."""


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a member must contain."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredTotal:
    """How many stored files a folder of the archive has, and their bytes."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup contains."""

    format: int
    #: The version of Reelhaul that created it, and when, in UTC.
    version: str
    time: str
    #: The schema revision of the database of each service.
    revisions: Mapping[str, str]
    #: Databases and small files, by member.
    files: Mapping[str, FileDigest]
    #: Stored files, by folder in the archive; empty for a backup without artifacts.
    stored: Mapping[str, StoredTotal]

    def to_json(self) -> bytes:
        """Return the content of the first member."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """Parse the first member. Raises BackupError if it is damaged, or of a newer build."""
        fields = parse_json(content)
        try:
            if fields["format"] > FORMAT:
                version = fields["version"]
                raise BackupError(
                    f"the backup is of Reelhaul {version}, which writes another format: restore it with that"
                )
            files = {name: FileDigest(**digest) for name, digest in fields["files"].items()}
            stored = {name: StoredTotal(**total) for name, total in fields["stored"].items()}
            manifest = cls(**fields | {"files": files, "stored": stored})
        except (KeyError, TypeError, AttributeError) as error:
            raise BackupError("the backup is damaged: its manifest has unknown or missing fields") from error
        for name in files:
            check_name(name)
        return manifest


@dataclass(slots=True)
class Summary:
    """What was backed up or restored."""

    manifest: Manifest
    bytes: int = 0
    stored_files: int = 0
    #: The stored files that were damaged or missing when the backup was created.
    damaged: int = 0


class HashingReader(io.RawIOBase):
    """Reads a file that is *size* bytes long, and hashes it. A shorter or unreadable one ends in zeros."""

    def __init__(self, file: IO[bytes], size: int, on_read: Callable[[int], None]) -> None:
        self._file, self._rest, self._on_read = file, size, on_read
        self._hash = hashlib.sha256()
        self._broken = False

    def read(self, size: int = -1) -> bytes:
        """Return the next *size* bytes."""
        size = self._rest if size < 0 else min(size, self._rest)
        content = self._read_file(size)
        self._broken = self._broken or len(content) < size
        self._hash.update(content)
        self._rest -= size
        self._on_read(size)
        return content.ljust(size, b"\0")

    def _read_file(self, size: int) -> bytes:
        if self._broken:
            return b""
        try:
            return self._file.read(size)
        except OSError:
            return b""

    @property
    def sha256(self) -> str:
        """The digest of what was read; empty if the file was shorter or could not be read."""
        return "" if self._broken else self._hash.hexdigest()


def read_services(data_dir: Path) -> dict[str, ServiceData]:
    """Return what each installed service keeps with *data_dir*, in the order in which to save it."""
    installed = service.names()
    services = [service.load(name) for name in _ORDER if name in installed]
    return {each.name: each.describe_data(data_dir) for each in services if each.describe_data is not None}


def digest_of(path: Path) -> FileDigest:
    """Return size and SHA-256 of a file."""
    with path.open("rb") as file:
        return FileDigest(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def member(name: str, size: int) -> tarfile.TarInfo:
    """Return the header of a member."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info


def forget_members(tar: tarfile.TarFile) -> None:
    """Free the headers of the members so far: those of a million files take a gigabyte."""
    tar.members.clear()  # type: ignore[attr-defined]


def read_json_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    """Return the content of a member of JSON. Raises BackupError if it is too large to be one."""
    file = tar.extractfile(info)
    if file is None or info.size > _MAX_JSON_BYTES:
        raise BackupError(f"the backup is damaged: {info.name} is not a file of JSON")
    return file.read()


def parse_json(content: bytes) -> dict[str, Any]:
    """Return the object in *content*. Raises BackupError."""
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise BackupError("the backup is damaged: what should be JSON is not") from error
    if not isinstance(fields, dict):
        raise BackupError("the backup is damaged: its JSON is not an object")
    return fields


def check_name(name: str) -> str:
    """Return *name* if it is a relative path that stays below its folder. Raises BackupError."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name:
        raise BackupError("the backup is damaged: it names a file outside of its folder")
    return name
