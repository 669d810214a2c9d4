"""Zip layout: where each part of a zip file is, and its bytes. Files are stored, not compressed.

The layout depends on names, sizes and times only; checksums follow the content of each file. So the size
of the whole is known before any file is read, and any range can be written without the files before it.

Format: APPNOTE.TXT 6.3.10 by PKWARE; its sections are named below.
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath

# Sizes and offsets from here on are written as 64 bits (4.4.1.4).
_ZIP64 = 0xFFFFFFFF
# Flags (4.4.4): the checksum and the sizes follow the content; the name is UTF-8.
_FLAGS = 0x0008 | 0x0800
_STORED = 0
# Lowest version that can extract (4.4.3): 2.0, and 4.5 for 64 bits. Made by that version on Unix (4.4.2).
_VERSION, _VERSION_ZIP64, _UNIX = 20, 45, 3 << 8
# A regular file that its owner may write and everybody may read.
_ATTRIBUTES = 0o100644 << 16
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_DIRECTORY_HEADER = struct.Struct("<4s6H3I5H2I")
_ZIP64_END = struct.Struct("<4sQ2H2I4Q")
_ZIP64_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
# The time in UTC, which every reader since 1997 prefers to the local time of the header.
_UNIX_TIME = struct.Struct("<2sHBI")
_EARLIEST = datetime(1980, 1, 1, tzinfo=UTC)


class Part(Enum):
    """A part of a zip file."""

    #: Name and time of one file.
    HEADER = "header"
    #: The bytes of one file.
    CONTENT = "content"
    #: Checksum and size of one file.
    DESCRIPTOR = "descriptor"
    #: The table of all files, at the end.
    DIRECTORY = "directory"


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a zip file."""

    name: str
    size: int
    modify_time: datetime

    @property
    def is_zip64(self) -> bool:
        """Whether the size needs 64 bits."""
        return self.size >= _ZIP64


@dataclass(frozen=True, slots=True)
class Section:
    """Bytes *start* to *stop* of one part; *index* is that of the member, 0 for the directory."""

    part: Part
    index: int
    start: int
    stop: int


class ZipLayout:
    """The layout of a zip file of *members*, fewer than 65,535, whose names must be unique."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._offsets: list[int] = []
        end = 0
        for member in members:
            self._offsets.append(end)
            end += len(_local_header(member)) + member.size + len(_descriptor(member, 0))
        self._directory_offset = end
        #: Size of the zip file in bytes.
        self.size = end + len(self.directory([0] * len(members)))

    def sections(self, offset: int, length: int) -> Iterator[Section]:
        """Iterate over the sections that make up *length* bytes from *offset*, none of them empty."""
        for part, index, begin, size in self._parts():
            start, stop = max(offset - begin, 0), min(offset + length - begin, size)
            if start < stop:
                yield Section(part, index, start, stop)

    def header(self, index: int) -> bytes:
        """Return the part before the content of a file."""
        return _local_header(self._members[index])

    def descriptor(self, index: int, crc32: int) -> bytes:
        """Return the part after the content of a file."""
        return _descriptor(self._members[index], crc32)

    def directory(self, crc32s: Iterable[int]) -> bytes:
        """Return the last part; *crc32s* are those of all files, in order."""
        members = zip(self._members, self._offsets, crc32s, strict=True)
        entries = b"".join(_directory_entry(member, offset, crc32) for member, offset, crc32 in members)
        return entries + _end_of_directory(len(self._members), len(entries), self._directory_offset)

    def _parts(self) -> Iterator[tuple[Part, int, int, int]]:
        """Iterate over all parts: kind, index, offset and size."""
        for index, (member, begin) in enumerate(zip(self._members, self._offsets, strict=True)):
            content = begin + len(_local_header(member))
            end = content + member.size
            yield Part.HEADER, index, begin, content - begin
            yield Part.CONTENT, index, content, member.size
            yield Part.DESCRIPTOR, index, end, len(_descriptor(member, 0))
        yield Part.DIRECTORY, 0, self._directory_offset, self.size - self._directory_offset


def unique_names(names: Iterable[str]) -> list[str]:
    """Return *names* with `` (2)``, `` (3)`` … before the extension of those that were used before.

    Names are the same if they differ in case only: then many file systems cannot hold both.
    """
    used: set[str] = set()
    numbers: dict[str, int] = {}
    unique = []
    for name in names:
        candidate, path, key = name, PurePath(name), _fold(name)
        while _fold(candidate) in used:
            numbers[key] = numbers.get(key, 1) + 1
            candidate = f"{path.stem} ({numbers[key]}){path.suffix}"
        used.add(_fold(candidate))
        unique.append(candidate)
    return unique


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _local_header(member: Member) -> bytes:
    """Section 4.3.7. Checksum and sizes are zero, as 4.4.4 requires if they follow the content."""
    name, size = member.name.encode(), 0
    extra = _unix_time(member)
    version = _VERSION
    if member.is_zip64:
        version, size = _VERSION_ZIP64, _ZIP64
        extra += struct.pack("<2H2Q", 1, 16, 0, 0)
    fields = (version, _FLAGS, _STORED, *_dos_time(member), 0, size, size, len(name), len(extra))
    return _LOCAL_HEADER.pack(b"PK\3\4", *fields) + name + extra


def _descriptor(member: Member, crc32: int) -> bytes:
    """Section 4.3.9."""
    sizes = "<4sI2Q" if member.is_zip64 else "<4s3I"
    return struct.pack(sizes, b"PK\7\x08", crc32, member.size, member.size)


def _directory_entry(member: Member, offset: int, crc32: int) -> bytes:
    """Section 4.3.12; the 64-bit values are those of 4.5.3."""
    name, size = member.name.encode(), min(member.size, _ZIP64)
    large = [member.size, member.size] if member.is_zip64 else []
    large += [offset] if offset >= _ZIP64 else []
    extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    extra += _unix_time(member)
    version = _VERSION_ZIP64 if large else _VERSION
    fields = (_UNIX | version, version, _FLAGS, _STORED, *_dos_time(member), crc32, size, size, len(name))
    rest = (len(extra), 0, 0, 0, _ATTRIBUTES, min(offset, _ZIP64))
    return _DIRECTORY_HEADER.pack(b"PK\1\2", *fields, *rest) + name + extra


def _end_of_directory(count: int, size: int, offset: int) -> bytes:
    """Sections 4.3.14 to 4.3.16; the first two only if the directory starts after 4 GiB."""
    end = b""
    if offset >= _ZIP64:
        versions = (_UNIX | _VERSION_ZIP64, _VERSION_ZIP64)
        end += _ZIP64_END.pack(b"PK\6\6", _ZIP64_END.size - 12, *versions, 0, 0, count, count, size, offset)
        end += _ZIP64_LOCATOR.pack(b"PK\6\7", 0, offset + size, 1)
    return end + _END.pack(b"PK\5\6", 0, 0, count, count, size, min(offset, _ZIP64), 0)


def _dos_time(member: Member) -> tuple[int, int]:
    """Return time and date as in section 4.4.6, in UTC: an even second, not before 1980."""
    when = max(member.modify_time.astimezone(UTC), _EARLIEST)
    time = when.hour << 11 | when.minute << 5 | when.second // 2
    return time, (when.year - 1980) << 9 | when.month << 5 | when.day


def _unix_time(member: Member) -> bytes:
    """Return the extended timestamp of Info-ZIP: only the time of the last change."""
    seconds = int(max(member.modify_time, _EARLIEST).timestamp())
    return _UNIX_TIME.pack(b"UT", _UNIX_TIME.size - 4, 1, seconds)
