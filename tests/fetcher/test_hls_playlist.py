"""HLS media playlists: what a segment needs to be read, and what can be recorded of a live stream."""

from __future__ import annotations

import pytest

from reelhaul_fetcher.model import hls_playlist


def test_parse() -> None:
    """Segments have numbers, URLs, play times and an initialization section, and the end is recognised."""
    text = (
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-KEY:METHOD=NONE\n"
        '#EXT-X-MAP:URI="init.mp4"\n#EXTINF:4.0,\na.m4s\n#EXTINF:2.5,x\n/b.m4s\n#EXT-X-ENDLIST\n'
    )
    playlist = hls_playlist.parse(text, "https://cdn.example/live/index.m3u8")
    assert playlist.ended
    assert [(s.number, s.url, s.seconds) for s in playlist.segments] == [
        (7, "https://cdn.example/live/a.m4s", 4.0),
        (8, "https://cdn.example/b.m4s", 2.5),
    ]
    assert playlist.segments[0].init_url == "https://cdn.example/live/init.mp4"


@pytest.mark.parametrize(
    "text",
    [
        "<html>",
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n",
        '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="k"\n#EXTINF:1,\na.ts\n',
        "#EXTM3U\n#EXT-X-BYTERANGE:10@0\n#EXTINF:1,\na.ts\n",
        "#EXTM3U\n#EXTINF:long,\na.ts\n",
        "#EXTM3U\n#EXTINF:1,\n//[\n",
        '#EXTM3U\n#EXT-X-MAP:URI="http://[::1"\n#EXTINF:1,\na.ts\n',
    ],
)
def test_unsupported(text: str) -> None:
    """Web pages, master playlists, encrypted and partial segments, wrong numbers and URLs are refused."""
    with pytest.raises(hls_playlist.PlaylistUnsupported, match=r".+"):
        hls_playlist.parse_live(text, "https://cdn.example/")


_BASE = "https://cdn.example/vod/"


@pytest.mark.parametrize(
    ("lines", "bounds"),
    [
        ("#EXT-X-BYTERANGE:10@5\na\n", [(5, 15)]),
        ("#EXT-X-BYTERANGE:10@0\na\n#EXT-X-BYTERANGE:7\na\n", [(0, 10), (10, 17)]),
        ("#EXT-X-BYTERANGE:10@90\na\n#EXT-X-BYTERANGE:7\nb\n", [(90, 100), (0, 7)]),
        ("#EXT-X-BYTERANGE:10@0\na\na\n#EXT-X-BYTERANGE:7\na\n", [(0, 10), None, (0, 7)]),
        (
            "#EXT-X-BYTERANGE:10@0\na\n#EXT-X-BYTERANGE:5@50\na\n#EXT-X-BYTERANGE:5\na\n",
            [(0, 10), (50, 55), (55, 60)],
        ),
        ("a\n", [None]),
    ],
)
def test_byte_ranges(lines: str, bounds: list[tuple[int, int] | None]) -> None:
    """A range without a position follows the one before it in the same file."""
    playlist = hls_playlist.parse(f"#EXTM3U\n{lines}", _BASE)
    assert [segment.bounds for segment in playlist.segments] == bounds


@pytest.mark.parametrize(
    ("lines", "sections"),
    [
        ('#EXT-X-MAP:URI="i.mp4"\na\nb\n', [("i.mp4", None)] * 2),
        ('#EXT-X-MAP:URI="i.mp4",BYTERANGE="800@0"\na\n', [("i.mp4", (0, 800))]),
        ('#EXT-X-MAP:BYTERANGE="800@64",URI="i.mp4"\na\n', [("i.mp4", (64, 864))]),
        ('#EXT-X-MAP:URI="i.mp4",BYTERANGE="800"\na\n', [("i.mp4", (0, 800))]),
        (
            'a\n#EXT-X-MAP:URI="i.mp4"\nb\n#EXT-X-MAP:URI="j.mp4"\nc\n',
            [None, ("i.mp4", None), ("j.mp4", None)],
        ),
        ("#EXT-X-MAP:\na\n", [None]),
    ],
)
def test_initialization_sections(lines: str, sections: list[tuple[str, object] | None]) -> None:
    """Each segment has the initialization section that comes last before it."""
    playlist = hls_playlist.parse(f"#EXTM3U\n{lines}", _BASE)
    found = [s.init and (s.init.url.removeprefix(_BASE), s.init.bounds) for s in playlist.segments]
    assert found == sections


def test_keys() -> None:
    """A key applies to what follows, sections included, until another; it may come without a vector."""
    text = (
        '#EXTM3U\na\n#EXT-X-KEY:METHOD=AES-128,URI="k?a=1,2",IV=0xAB\n#EXT-X-MAP:URI="i"\nb\n'
        '#EXT-X-KEY:METHOD=AES-128,URI="l"\nc\n#EXT-X-KEY:METHOD=NONE\nd\n'
    )
    first, second, third, fourth = hls_playlist.parse(text, _BASE).segments
    key = hls_playlist.Key("AES-128", f"{_BASE}k?a=1,2", "ab".zfill(32))
    assert (first.key, second.key, fourth.key) == (None, key, None)
    assert second.init is not None
    assert second.init.key == key
    assert third.key == hls_playlist.Key("AES-128", f"{_BASE}l")


def test_discontinuities_of_a_playlist() -> None:
    """Discontinuities are counted; advertisements, gaps and rounded play times are marked."""
    text = (
        "#EXTM3U\n#EXT-X-DISCONTINUITY-SEQUENCE:7\n#EXTINF:4,\na\n#EXT-X-DISCONTINUITY\n#EXTINF:4.5,\nb\n"
        "#ANVATO-SEGMENT-INFO: type=ad\nc\n#ANVATO-SEGMENT-INFO: type=master\n#EXT-X-GAP\nd\n"
        "#UPLYNK-SEGMENT:1,0,ad\ne\n#UPLYNK-SEGMENT:1,0,segment\nf\n"
    )
    segments = hls_playlist.parse(text, _BASE).segments
    assert [segment.discontinuities for segment in segments] == [0, 1, 1, 1, 1, 1]
    assert [segment.is_advertisement for segment in segments] == [False, False, True, False, True, False]
    assert [segment.is_gap for segment in segments] == [False, False, False, True, False, False]
    assert [segment.is_rounded for segment in segments[:2]] == [True, False]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x47" + bytes(187) + b"\x47" + bytes(187), "ts"),
        (b"\x47" + bytes(187), "ts"),
        (b"\x47" + bytes(400), ""),
        (b"\0\0\0\x18styp" + bytes(16), "mp4"),
        (b"\0\0\0\x18moof" + bytes(16), "mp4"),
        (b"\x1f\x43\xb6\x75" + bytes(16), "webm"),
        (b"ID3\x04" + bytes(100), ""),
        (b"<!doctype html>", ""),
        (b"", ""),
    ],
)
def test_segment_kind(content: bytes, kind: str) -> None:
    """The container of a segment is recognised by its first bytes."""
    assert hls_playlist.segment_kind(content) == kind


@pytest.mark.parametrize(
    ("line", "ended", "fixed"),
    [
        ("", False, False),
        ("#EXT-X-ENDLIST", True, False),
        ("#EXT-X-PLAYLIST-TYPE:VOD", False, True),
        ("#EXT-X-PLAYLIST-TYPE: VOD", False, True),
        ("#EXT-X-PLAYLIST-TYPE:EVENT", False, False),
        ("#EXT-X-ENDLIST-LATER", False, False),
    ],
)
def test_end(line: str, ended: bool, fixed: bool) -> None:
    """A playlist is complete if its end is marked, or if it says that it does not change."""
    playlist = hls_playlist.parse(f"#EXTM3U\n{line}\na\n", _BASE)
    assert (playlist.ended, playlist.fixed) == (ended, fixed)
