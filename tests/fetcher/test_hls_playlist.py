"""Media playlists of HLS: what of a broadcast can be recorded."""

from __future__ import annotations

import pytest

from reelhaul_fetcher.model import hls_playlist


def test_a_playlist() -> None:
    """Segments have their numbers, addresses and seconds, and the end is known."""
    text = (
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-KEY:METHOD=NONE\n"
        '#EXT-X-MAP:URI="init.mp4"\n#EXTINF:4.0,\na.m4s\n#EXTINF:2.5,x\n/b.m4s\n#EXT-X-ENDLIST\n'
    )
    told = hls_playlist.parse(text, "https://cdn.example/live/index.m3u8")
    assert told.ended
    assert [(s.number, s.url, s.seconds) for s in told.segments] == [
        (7, "https://cdn.example/live/a.m4s", 4.0),
        (8, "https://cdn.example/b.m4s", 2.5),
    ]
    assert told.segments[0].init_url == "https://cdn.example/live/init.mp4"


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
def test_playlists_that_are_not_recorded(text: str) -> None:
    """Pages, masters, encrypted and partial segments are refused, not recorded as noise."""
    with pytest.raises(ValueError, match=r".+"):
        hls_playlist.parse(text, "https://cdn.example/")
