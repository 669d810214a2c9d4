"""Quality "worst": the smallest stream there is, for a preview or a slow line."""

from __future__ import annotations

from reelhaul.type.v1.media_pb2 import Format, FormatSpec
from reelhaul_fetcher.model.selection import choose_formats
from reelhaul_fetcher.ytdlp.format_selector import select_formats

OFFERED = [
    Format(format_id="low", width=640, height=360, video_codec="avc1", bitrate_bps=300),
    Format(format_id="lower", width=640, height=360, video_codec="avc1", bitrate_bps=200),
    Format(format_id="tall", width=1920, height=1080, video_codec="avc1", bitrate_bps=900),
    Format(format_id="untold", video_codec="avc1", bitrate_bps=100),
    Format(format_id="thin", audio_codec="mp4a", bitrate_bps=48),
    Format(format_id="rich", audio_codec="mp4a", bitrate_bps=128),
]


def taken(**asked: object) -> list[str]:
    streams, _ = choose_formats(OFFERED, FormatSpec(**asked), select_formats)  # type: ignore[arg-type]
    return [stream.format_id for stream in streams]


def test_smallest_takes_the_lowest_picture_and_sound():
    """Of equal heights the lower bitrate; a height that is not told is no small one."""
    assert taken(smallest=True) == ["lower", "thin"]
    assert taken() == ["tall", "rich"]


def test_smallest_stays_within_its_contract():
    """A least height still holds."""
    assert taken(smallest=True, min_height=720)[0] == "tall"


def test_smallest_audio():
    """With audio alone it is the lowest bitrate."""
    assert taken(smallest=True, media_kind=FormatSpec.AUDIO) == ["thin"]
