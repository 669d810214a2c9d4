"""HLS media playlists: what can be recorded of a live stream."""

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
    ],
)
def test_unsupported(text: str) -> None:
    """Web pages, master playlists, encrypted and partial segments, and wrong numbers are refused."""
    with pytest.raises(ValueError, match=r".+"):
        hls_playlist.parse(text, "https://cdn.example/")
