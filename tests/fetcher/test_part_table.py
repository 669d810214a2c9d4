"""The part table of a stream survives interruptions, and has a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.ytdlp.download import part_table, segments
from reelhaul_fetcher.ytdlp.download.part_table import MAX_PARTS, Part, PartTable
from reelhaul_fetcher.ytdlp.download.segments import SegmentList
from reelhaul_fetcher.ytdlp.downloader import Downloader, ResponseLog, downloader_options
from reelhaul_runtime.errors import ReelhaulError

_PARTS = [Part(0, (0, 20), "ab" * 32), Part(500), Part(900, (900, 930), "cd" * 32)]


def _fill(path: Path, parts: list[Part]) -> PartTable:
    table = PartTable(path)
    for part in parts:
        table.append(part)
    return table


def test_parts_are_restored(tmp_path: Path) -> None:
    """A later attempt reads what an earlier one appended, and appends to it."""
    _fill(tmp_path / "parts", _PARTS[:2])
    table = PartTable(tmp_path / "parts")
    assert table.restore()
    table.append(_PARTS[2])
    restored = PartTable(tmp_path / "parts")
    assert restored.restore()
    assert restored.parts == _PARTS


def test_each_part_is_one_line(tmp_path: Path) -> None:
    """A new part leaves the bytes of the others as they are."""
    path, before = tmp_path / "parts", b""
    table = PartTable(path)
    for number, part in enumerate(_PARTS, 1):
        table.append(part)
        assert path.read_bytes().startswith(before)
        before = path.read_bytes()
        assert before.count(b"\n") == number


def test_torn_last_line(tmp_path: Path) -> None:
    """A last line that was cut at any byte does not count, and the next part replaces it."""
    path = tmp_path / "parts"
    _fill(path, _PARTS[:2])
    size = path.stat().st_size
    _fill(path, _PARTS)
    whole = path.read_bytes()
    for length in range(size, len(whole)):
        path.write_bytes(whole[:length])
        table = PartTable(path)
        assert table.restore()
        assert table.parts == _PARTS[:2]
        table.append(_PARTS[2])
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[0, null", b"[0, null, ", b"[]\n", b"{}\n", b"no\n", b'["a", null, ""]\n'),
        *(b"[Infinity, 0, 0]\n", b'[0, {"a": 1}, ""]\n', b"[" * 100_000 + b"\n"),
        *(b'\xff\n[0, null, ""]\n', b'[0, null, ""]\n\n'),
    ],
    ids=range(12),
)
def test_damaged_table(tmp_path: Path, content: bytes) -> None:
    """A table that cannot be read has no parts, and is replaced by the next part."""
    path = tmp_path / "parts"
    path.write_bytes(content)
    table = PartTable(path)
    assert not table.restore()
    table.append(_PARTS[0])
    assert path.read_bytes().count(b"\n") == 1


@pytest.mark.parametrize(("position", "count"), [(0, 0), (1, 1), (500, 1), (501, 2), (900, 2), (901, 3)])
def test_remove_from(tmp_path: Path, position: int, count: int) -> None:
    """Parts from a position on are removed, also for later attempts."""
    table = _fill(tmp_path / "parts", _PARTS)
    table.remove_from(position)
    restored = PartTable(tmp_path / "parts")
    assert restored.restore() == bool(count)
    assert table.parts == restored.parts == _PARTS[:count]


def test_too_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part beyond the limit is an error of the format."""
    monkeypatch.setattr(part_table, "MAX_PARTS", 3)
    table = _fill(tmp_path / "parts", _PARTS)
    with pytest.raises(ReelhaulError) as failure:
        table.append(Part(1000))
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE


def test_too_many_parts_are_not_requested(tmp_path: Path) -> None:
    """A list of segments with too many restarts is rejected before anything is received."""
    fragments = [{"frag_index": n, "url": "http://127.0.0.1:9/", "restarts": n > 1} for n in range(1, 1002)]
    assert len(fragments) == MAX_PARTS + 1
    with (
        Downloader(ResponseLog(), downloader_options("")) as downloader,
        pytest.raises(ReelhaulError, match="999 times") as failure,
    ):
        segments.download_segments(
            downloader, {}, SegmentList(fragments), tmp_path / "file", tmp_path / "target", lambda _: None
        )
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE
