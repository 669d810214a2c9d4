"""Format selectors: which of yt-dlp's language is allowed, and what it selects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fetcher.conftest import Harness
from tests.fetcher.test_selection import OFFERED
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model.selection import choose_formats
from reelhaul_fetcher.ytdlp.format_selector import select_formats
from reelhaul_runtime.errors import ReelhaulError


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("best", ["18"]),
        ("b", ["18"]),
        ("bv+ba", ["313", "251-de"]),
        ("bestvideo+bestaudio", ["313", "251-de"]),
        ("bv*+ba/b", ["313", "251-de"]),
        ("ba+bv", ["313", "251-de"]),
        ("bv[height<=720]+ba[language=en]", ["298", "251"]),
        ("bv[height<=720][fps<=30]+140", ["136", "140"]),
        ("bv[vcodec^=avc]+ba[acodec^=mp4a]", ["137", "140"]),
        ("bv[vcodec!^=av01][height=1080]+ba", ["248", "251-de"]),
        ("bv[dynamic_range=HDR10]+ba", ["337", "251-de"]),
        ("bv[tbr<100]/18", ["18"]),
        ("(bv[height>4000]/bv[height=1080])+ba.2", ["399", "251"]),
        ("[height<=360]", ["18"]),
        ("wv+wa", ["136", "140"]),
        ("137+140", ["137", "140"]),
        ("bv+bv.2", ["313"]),
        ("18+ba", ["18"]),
        ("bv[filesize<?50M]+ba", ["313", "251-de"]),
    ],
)
def test_selection(selector: str, selected: list[str]) -> None:
    """Each word and operator means what it means to yt-dlp; video comes first."""
    streams, _ = choose_formats(OFFERED, FormatSpec(selector=selector, max_height=144), select_formats)
    assert selected == [stream.format_id for stream in streams]


@pytest.mark.parametrize(
    "selector",
    [
        "bv,ba",
        "all",
        "mergeall",
        "bv*+mergeall[vcodec=none]",
        "best[vcodec~='^(a+)+$']",
        "bv[height<=720",
        "(bv+ba",
        "bv+",
        "/b",
        "",
        "bv[title=x]",
        "bv[height=tall]",
        "b**",
        "bv{0}",
        "(" * 40 + "b" + ")" * 40,
        "/".join(["bv"] * 160),
        "bv)+ba",
        "bv[height^=7]+ba",
        "bv[ext<3]+ba",
        "bv[url*=x]+ba",
        "999",
        "ba",
    ],
)
def test_refused(selector: str) -> None:
    """A selector that is not allowed, or selects nothing, is FORMAT_UNAVAILABLE with the selector in it."""
    with pytest.raises(ReelhaulError) as failure:
        choose_formats(OFFERED, FormatSpec(selector=selector or " "), select_formats)
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE
    assert failure.value.metadata["selector"] == (selector or " ")


@given(st.text(alphabet="bvaw*+/()[]<=>!^$?.0123456789 height", max_size=60))
def test_any_text(selector: str) -> None:
    """Any text selects at most two formats or raises ValueError, nothing else."""
    try:
        selected = select_formats(selector, OFFERED)
    except ValueError:
        return
    assert len(selected) <= 2


def test_audio() -> None:
    """If audio is requested, the audio that the selector selects is taken."""
    streams, _ = choose_formats(
        OFFERED, FormatSpec(selector="ba[acodec^=mp4a]", media_kind=FormatSpec.AUDIO), select_formats
    )
    assert [stream.format_id for stream in streams] == ["140"]


@pytest.mark.asyncio(loop_scope="module")
async def test_youtube(youtube_harness: Harness, youtube: YouTube) -> None:
    """The formats selected are delivered, in the requested container."""
    spec = FormatSpec(selector="bv[height<=480][vcodec^=avc]+ba[ext=webm]", container=FormatSpec.MKV)
    result = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    assert list(result.delivered.format_ids) == ["135", "251"]
    assert (result.delivered.height, result.delivered.container, result.delivered.audio_codec) == (
        480,
        "mkv",
        "opus",
    )
