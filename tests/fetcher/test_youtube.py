"""Downloads from the stand-in for YouTube, through yt-dlp's unpatched extractor."""

from __future__ import annotations

import pytest
from tests.fetcher.conftest import FetchListener, Harness
from tests.sites import tools
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.media_pb2 import ArtifactInfo, FormatSpec, Progress

pytestmark = pytest.mark.asyncio(loop_scope="module")

Audio = FormatSpec.Audio
Subtitles = FormatSpec.Subtitles


@pytest.mark.parametrize("height", [144, 240, 360, 480, 720, 1080, 1440, 2160])
async def test_heights(youtube_harness: Harness, youtube: YouTube, height: int) -> None:
    """Each height is delivered as an mp4 of that height, without transcoding."""
    spec = FormatSpec(max_height=height, container=FormatSpec.MP4)
    result = await youtube_harness.fetch(youtube.watch_url("plain2160"), spec)
    assert (result.delivered.height, result.delivered.container) == (height, "mp4")
    assert not result.delivered.transcoded
    assert list(result.warnings) == []


@pytest.mark.parametrize(
    ("container", "extension", "video", "audio"),
    [
        (FormatSpec.MP4, "mp4", {"av1", "h264"}, "aac"),
        (FormatSpec.WEBM, "webm", {"vp9", "av1"}, "opus"),
        (FormatSpec.MKV, "mkv", {"vp9", "av1", "h264"}, "opus"),
    ],
)
async def test_containers(
    youtube_harness: Harness,
    youtube: YouTube,
    container: FormatSpec.Container.ValueType,
    extension: str,
    video: set[str],
    audio: str,
) -> None:
    """Of several codecs, those that the container supports are chosen."""
    spec = FormatSpec(max_height=1080, container=container)
    result = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    assert (result.delivered.height, result.delivered.container) == (1080, extension)
    assert result.delivered.video_codec in video
    assert (result.delivered.audio_codec, result.delivered.transcoded) == (audio, False)


@pytest.mark.parametrize(
    ("codec", "name"), [(FormatSpec.H264, "h264"), (FormatSpec.VP9, "vp9"), (FormatSpec.AV1, "av1")]
)
async def test_codec_preference(
    youtube_harness: Harness, youtube: YouTube, codec: FormatSpec.VideoCodec.ValueType, name: str
) -> None:
    """The requested codec is delivered."""
    spec = FormatSpec(max_height=360, video_codecs=[codec], container=FormatSpec.MKV)
    result = await youtube_harness.fetch(youtube.watch_url("plain2160"), spec)
    assert (result.delivered.video_codec, result.delivered.height) == (name, 360)


@pytest.mark.parametrize(("limit", "rate"), [(0, 60), (60, 60), (30, 25)])
async def test_frame_rate(youtube_harness: Harness, youtube: YouTube, limit: int, rate: int) -> None:
    """The higher frame rate is chosen unless the request limits it."""
    spec = FormatSpec(max_height=720, max_frame_rate=limit)
    result = await youtube_harness.fetch(youtube.watch_url("fps60"), spec)
    assert round(result.delivered.frame_rate) == rate


@pytest.mark.parametrize(
    ("requested", "delivered"),
    [
        (FormatSpec.DYNAMIC_RANGE_UNSPECIFIED, ""),
        (FormatSpec.PREFER_HDR, "HDR10"),
        (FormatSpec.REQUIRE_HDR, "HDR10"),
    ],
)
async def test_high_dynamic_range(
    youtube_harness: Harness, youtube: YouTube, requested: FormatSpec.DynamicRange.ValueType, delivered: str
) -> None:
    """HDR is delivered if it is requested, else SDR."""
    spec = FormatSpec(max_height=1080, dynamic_range=requested)
    result = await youtube_harness.fetch(youtube.watch_url("hdr1080"), spec)
    assert (result.delivered.dynamic_range, result.delivered.height) == (delivered, 1080)


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        (Audio.MP3, "mp3"),
        (Audio.M4A, "aac"),
        (Audio.OPUS, "opus"),
        (Audio.FLAC, "flac"),
        (Audio.WAV, "pcm_s16le"),
    ],
)
async def test_audio_formats(
    youtube_harness: Harness, youtube: YouTube, form: Audio.Format.ValueType, codec: str
) -> None:
    """Audio is delivered in each format, and no video is downloaded for it."""
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=form))
    result = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    assert (result.delivered.audio_codec, result.delivered.video_codec) == (codec, "")
    assert result.products[0].info.kind == ArtifactInfo.AUDIO
    assert set(result.delivered.format_ids) <= {"140", "251"}


async def test_audio_is_not_transcoded(youtube_harness: Harness, youtube: YouTube) -> None:
    """M4A is YouTube's own audio, packet for packet."""
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=Audio.M4A))
    result = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    original = youtube.file("plain1080", 140)
    assert tools.stream_digests(result.products[0].path) == tools.stream_digests(original)


@pytest.mark.parametrize(
    ("languages", "spoken", "original"), [([], "de", True), (["original"], "de", True), (["fr"], "fr", False)]
)
async def test_audio_language(
    youtube_harness: Harness, youtube: YouTube, languages: list[str], spoken: str, original: bool
) -> None:
    """Of a dubbed video the original language is chosen, not YouTube's default, or the one requested."""
    spec = FormatSpec(max_height=360, container=FormatSpec.MP4, audio=Audio(languages=languages))
    result = await youtube_harness.fetch(youtube.watch_url("dubbed"), spec)
    assert (result.delivered.audio_language_code, result.delivered.original_audio) == (spoken, original)
    audio = tools.stream_digests(youtube.file("dubbed", 140, spoken))["audio"]
    assert tools.stream_digests(result.products[0].path)["audio"] == audio


async def test_missing_audio_language(youtube_harness: Harness, youtube: YouTube) -> None:
    """If the requested language is missing, the original is delivered with a warning."""
    spec = FormatSpec(max_height=360, audio=Audio(languages=["ja"]))
    result = await youtube_harness.fetch(youtube.watch_url("dubbed"), spec)
    assert result.delivered.audio_language_code == "de"
    assert [w.reason for w in result.warnings] == [media_pb2.Warning.AUDIO_LANGUAGE_DIFFERS]


async def test_signed_urls(youtube_harness: Harness, youtube: YouTube) -> None:
    """URLs that need the player's JavaScript are solved by deno, within the sandbox's limits."""
    result = await youtube_harness.fetch(youtube.watch_url("signed"), FormatSpec(max_height=360))
    assert result.delivered.height == 360


async def test_large_file(youtube_harness: Harness, youtube: YouTube) -> None:
    """A file of several chunks is complete, and progress over video and audio never falls."""
    listener = FetchListener()
    result = await youtube_harness.fetch(youtube.watch_url("heavy1080"), None, listener)
    video = tools.stream_digests(youtube.file("heavy1080", 137))["video"]
    assert tools.stream_digests(result.products[0].path)["video"] == video
    assert listener.percentages == sorted(listener.percentages)


async def test_transient_failures(youtube_harness: Harness, youtube: YouTube) -> None:
    """The download survives resets and errors of the media server."""
    for name in ("flaky503", "reset", "flaky-api"):
        result = await youtube_harness.fetch(youtube.watch_url(name, copy=2), FormatSpec(max_height=360))
        assert result.delivered.height == 360


async def test_advertisement(youtube_harness: Harness, youtube: YouTube) -> None:
    """A video behind an advertisement is downloaded when its URLs become valid."""
    result = await youtube_harness.fetch(youtube.watch_url("preroll"), FormatSpec(max_height=360))
    assert result.delivered.height == 360


@pytest.mark.parametrize("name", ["t-slashes", "t-shell", "t-rtl", "t-long", "t-html", "t-ext"])
async def test_hostile_titles(youtube_harness: Harness, youtube: YouTube, name: str) -> None:
    """A title is returned unchanged and becomes a safe file name; no file is outside of the work folder."""
    listener = FetchListener()
    result = await youtube_harness.fetch(youtube.watch_url(name), FormatSpec(max_height=360), listener)
    safe = result.products[0].info.file_name
    assert not set(safe) & set("/\\\0\n\u202e\u2066")
    assert safe.endswith(".mp4")
    assert len(safe.encode()) <= 255
    assert result.products[0].path.parent.parent == youtube_harness.workdir
    assert result.media.title == listener.media_updates[0].title != ""


async def test_no_other_hosts(youtube_harness: Harness, youtube: YouTube) -> None:
    """The tests above contacted hosts of YouTube only."""
    assert youtube.refused == []


async def test_stages(youtube_harness: Harness, youtube: YouTube) -> None:
    """A download with sidecars goes through its stages in order."""
    listener = FetchListener()
    spec = FormatSpec(max_height=360, subtitles=Subtitles(languages=["en"]), thumbnail=True)
    await youtube_harness.fetch(youtube.watch_url("plain1080"), spec, listener)
    assert listener.stages == [
        Progress.PROBING,
        Progress.FETCHING_EXTRAS,
        Progress.DOWNLOADING,
        Progress.POSTPROCESSING,
        Progress.VERIFYING,
    ]
