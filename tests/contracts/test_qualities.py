"""Quality words: listing, selection, the minimum and the delivered file agree about each of them."""

from __future__ import annotations

import pytest

from reelhaul import qualities
from reelhaul.fetcher.v1.fetcher_service_pb2 import ProbeMediaResponse
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import DeliveredMedia, Format, FormatSpec, MediaInfo
from reelhaul_fetcher.model.selection import choose_formats, picture_warnings
from reelhaul_fetcher.ytdlp.format_selector import select_formats
from reelhaul_jobs.api.downloads.info import info_response
from reelhaul_runtime.errors import ReelhaulError

LADDERS: dict[str, tuple[list[tuple[int, int]], list[str]]] = {
    "16:9": ([(256, 144), (640, 360), (1280, 720), (1920, 1080)], ["1080p", "720p", "360p", "144p"]),
    "film": ([(480, 200), (1280, 534), (1920, 816)], ["1080p", "720p", "240p"]),
    "4:3": ([(720, 540), (1440, 1072)], ["1080p", "480p"]),
    "portrait": ([(202, 360), (404, 720), (606, 1080)], ["480p", "360p", "144p"]),
    "square": ([(480, 480), (1080, 1080)], ["1080p", "480p"]),
    "21:9": ([(1720, 720), (2560, 1080), (3440, 1440)], ["1440p", "720p"]),
    "rounded": ([(480, 272), (848, 464), (1920, 1088)], ["1080p", "480p", "240p"]),
    "tiny": ([(64, 36), (128, 96)], ["144p"]),
    "two of a class": ([(1440, 1080), (1920, 800)], ["1080p"]),
    "mixed": ([(1080, 1920), (1920, 1080), (3840, 1600)], ["2160p", "1080p"]),
}


@pytest.mark.parametrize("name", LADDERS)
def test_listed_quality_is_delivered(name: str) -> None:
    """A request for a listed quality delivers a picture of this quality, also as a minimum, unwarned."""
    sizes, words = LADDERS[name]
    offered = [
        Format(format_id=f"{w}x{h}", width=w, height=h, video_codec="avc1", audio_codec="mp4a")
        for w, h in sizes
    ]
    info = info_response(ProbeMediaResponse(media=MediaInfo(formats=offered)), FormatSpec())
    assert list(info.qualities) == words
    assert {each.quality for each in info.formats} == set(words)
    delivered = set()
    for word in words:
        number = int(word.removesuffix("p"))
        formats, warnings = choose_formats(offered, FormatSpec(max_height=number), select_formats)
        picture = formats[0]
        assert qualities.classify(picture.width, picture.height) in (number, 0)
        if qualities.classify(picture.width, picture.height):
            spec = FormatSpec(max_height=number, min_height=number)
            assert choose_formats(offered, spec, select_formats) == (formats, [])
            got = DeliveredMedia(width=picture.width, height=picture.height)
            assert (warnings, picture_warnings(got, spec)) == ([], [])
        delivered.add(picture.format_id)
    assert len(delivered) == len(words)
    assert f"{sizes[-1][0]}x{sizes[-1][1]}" in delivered


def test_unlisted_quality() -> None:
    """A word between two listed ones delivers the lower, with a warning; as a minimum it is unavailable."""
    offered = [Format(format_id=str(w), width=w, height=h, video_codec="avc1") for w, h in LADDERS["film"][0]]
    formats, warnings = choose_formats(offered, FormatSpec(max_height=480), select_formats)
    assert formats[0].height == 200
    assert [warning.reason for warning in warnings] == [media_pb2.Warning.HEIGHT_BELOW_ASKED]
    assert "480x200" in warnings[0].message
    assert "480p" in warnings[0].message
    with pytest.raises(ReelhaulError) as failure:
        choose_formats(offered, FormatSpec(min_height=1440), select_formats)
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE


def test_protected_formats_are_not_listed() -> None:
    """A quality that only a DRM-protected format has is not offered: a request for it would deliver less."""
    formats = [
        Format(width=640, height=360, video_codec="avc1"),
        Format(width=1920, height=1080, video_codec="avc1", drm=True),
    ]
    info = info_response(ProbeMediaResponse(media=MediaInfo(formats=formats)), FormatSpec())
    assert list(info.qualities) == ["360p"]
