"""Zip layout: the bytes of zip files, checked with Python's own reader."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelhaul_storage.zip_layout import Member, Part, ZipLayout, unique_names

NOW = datetime(2026, 7, 14, 15, 16, 18, tzinfo=UTC)
GIB = 1 << 30


class ZipFileOfLayout(io.RawIOBase):
    """A zip file that is written while it is read; unless *contents* are given, files consist of zeros."""

    def __init__(self, members: Sequence[Member], contents: Sequence[bytes] = ()) -> None:
        self.layout = ZipLayout(members)
        self.contents = contents
        # Those of the files of zeros that tests read to the end; the large ones would take seconds.
        zeros = [bytes(member.size if member.size < GIB else 0) for member in members]
        self._crc32s = [zlib.crc32(content) for content in contents or zeros]
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.layout.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        size = self.layout.size if size < 0 else size
        content = self.read_range(self._position, size)
        self._position += len(content)
        return content

    def read_range(self, offset: int, length: int) -> bytes:
        return b"".join(
            self._part(section.part, section.index, section.start, section.stop)
            for section in self.layout.sections(offset, length)
        )

    def _part(self, part: Part, index: int, start: int, stop: int) -> bytes:
        match part:
            case Part.HEADER:
                return self.layout.header(index)[start:stop]
            case Part.CONTENT:
                return self.contents[index][start:stop] if self.contents else bytes(stop - start)
            case Part.DESCRIPTOR:
                return self.layout.descriptor(index, self._crc32s[index])[start:stop]
            case Part.DIRECTORY:
                return self.layout.directory(self._crc32s)[start:stop]


def build(contents: dict[str, bytes], when: datetime = NOW) -> ZipFileOfLayout:
    members = [Member(name, len(content), when) for name, content in contents.items()]
    return ZipFileOfLayout(members, list(contents.values()))


def test_names_contents_and_times():
    """Python reads every file, with its name in UTF-8 and its time in UTC."""
    contents = {"Größe ✓.mp4": b"video", "🎬.srt": b"1\n", "empty": b""}
    when = NOW.astimezone(timezone(timedelta(hours=9)))
    with zipfile.ZipFile(build(contents, when)) as opened:
        assert opened.testzip() is None
        assert {name: opened.read(name) for name in opened.namelist()} == contents
        assert {info.date_time for info in opened.infolist()} == {(2026, 7, 14, 15, 16, 18)}
        assert {info.compress_type for info in opened.infolist()} == {zipfile.ZIP_STORED}


def test_wrong_checksum_is_detected():
    """The checksum of a file is the one that is written after its content."""
    built = build({"a": b"good"})
    built.contents = [b"evil"]
    with zipfile.ZipFile(built) as opened:
        assert opened.testzip() == "a"


def test_earliest_time():
    """A machine whose clock stands at 1970 writes the earliest time that the format knows."""
    with zipfile.ZipFile(build({"a": b""}, datetime(1970, 1, 1, tzinfo=UTC))) as opened:
        assert opened.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


@pytest.mark.parametrize("size", [0xFFFFFFFE, 0xFFFFFFFF, 0x100000000, 5 * GIB])
def test_large_files(size: int):
    """Files, offsets and archives around and above 4 GiB."""
    names = ("before.srt", "large.mp4", "after.srt", "second.mp4", "last.srt")
    sizes = (10, size, 20, size, 30)
    members = [Member(name, size, NOW) for name, size in zip(names, sizes, strict=True)]
    built = ZipFileOfLayout(members)
    assert built.layout.size > 2 * size
    with zipfile.ZipFile(built) as opened:
        assert tuple(info.file_size for info in opened.infolist()) == sizes
        for name in names:
            # Finds the local header at its offset, and compares its name with that of the directory.
            with opened.open(name) as file:
                assert file.read1(8) == bytes(8)
        offsets = [info.header_offset for info in opened.infolist()]
    for offset in offsets:
        assert built.read_range(offset, 4) == b"PK\3\4"
    # Each descriptor ends where the next header begins; its sizes have 8 bytes if the file is large.
    for begin, member in zip([*offsets[1:], built.layout.size], members, strict=False):
        length = 24 if member.is_zip64 else 16
        if begin < built.layout.size:
            descriptor = built.read_range(begin - length, length)
            assert descriptor[:4] == b"PK\7\x08"
            assert int.from_bytes(descriptor[-4 - 4 * member.is_zip64 :], "little") == member.size


@given(
    contents=st.dictionaries(st.text("aé🎬.", min_size=1, max_size=5), st.binary(max_size=40), max_size=5),
    data=st.data(),
)
def test_every_range_is_a_slice(contents: dict[str, bytes], data: st.DataObject):
    """Any range of a zip file equals that slice of the whole."""
    built = build(contents)
    whole = built.read()
    assert len(whole) == built.layout.size
    offset = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) + 10))
    assert built.read_range(offset, length) == whole[offset : offset + length]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.mp4", "b.mp4"], ["a.mp4", "b.mp4"]),
        (["a.mp4", "a.mp4", "a.mp4"], ["a.mp4", "a (2).mp4", "a (3).mp4"]),
        (["a.mp4", "A.MP4"], ["a.mp4", "A (2).MP4"]),
        (["é.srt", "e\u0301.srt"], ["é.srt", "e\u0301 (2).srt"]),
        (["STRASSE", "straße"], ["STRASSE", "straße (2)"]),
        (["a (2).mp4", "a.mp4", "a.mp4"], ["a (2).mp4", "a.mp4", "a (3).mp4"]),
        (["a.mp4", "a.mp4", "a (2).mp4"], ["a.mp4", "a (2).mp4", "a (2) (2).mp4"]),
        ([".hidden", ".hidden"], [".hidden", ".hidden (2)"]),
    ],
)
def test_unique_names(names: list[str], expected: list[str]):
    """Equal names are numbered before the extension, also those that differ in case only."""
    assert unique_names(names) == expected


@given(st.lists(st.sampled_from(["a", "A", "a (2)", "a (3)", "b.c"]), max_size=30))
def test_names_are_unique(names: list[str]):
    """No two names are the same for a file system that ignores case."""
    assert len({name.casefold() for name in unique_names(names)}) == len(names)
