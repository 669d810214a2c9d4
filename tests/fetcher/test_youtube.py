"""The engine against YouTube, as yt-dlp's unpatched extractor sees it: what people ask for, and get."""

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
async def test_quality_ladder(youtube_harness: Harness, youtube: YouTube, height: int) -> None:
    """Each height of the ladder is delivered as an mp4 of that height, nothing encoded anew."""
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
    """Of streams in several codecs those are taken that the container holds as they are."""
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
    """The codec asked for is the codec delivered."""
    spec = FormatSpec(max_height=360, video_codecs=[codec], container=FormatSpec.MKV)
    result = await youtube_harness.fetch(youtube.watch_url("plain2160"), spec)
    assert (result.delivered.video_codec, result.delivered.height) == (name, 360)


@pytest.mark.parametrize(("limit", "rate"), [(0, 60), (60, 60), (30, 25)])
async def test_frame_rate(youtube_harness: Harness, youtube: YouTube, limit: int, rate: int) -> None:
    """Smooth pictures are taken unless fewer frames are asked for."""
    spec = FormatSpec(max_height=720, max_frame_rate=limit)
    result = await youtube_harness.fetch(youtube.watch_url("fps60"), spec)
    assert round(result.delivered.frame_rate) == rate


@pytest.mark.parametrize(
    ("wish", "delivered"),
    [
        (FormatSpec.DYNAMIC_RANGE_UNSPECIFIED, ""),
        (FormatSpec.PREFER_HDR, "HDR10"),
        (FormatSpec.REQUIRE_HDR, "HDR10"),
    ],
)
async def test_high_dynamic_range(
    youtube_harness: Harness, youtube: YouTube, wish: FormatSpec.DynamicRange.ValueType, delivered: str
) -> None:
    """HDR comes where it is asked for, SDR where not."""
    spec = FormatSpec(max_height=1080, dynamic_range=wish)
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
    """Sound alone comes in each format, and no picture is fetched for it."""
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=form))
    result = await youtube_harness.fetch(youtube.watch_url("plain1080"), spec)
    assert (result.delivered.audio_codec, result.delivered.video_codec) == (codec, "")
    assert result.products[0].info.kind == ArtifactInfo.AUDIO
    assert set(result.delivered.format_ids) <= {"140", "251"}


async def test_audio_is_taken_as_it_is(youtube_harness: Harness, youtube: YouTube) -> None:
    """M4A is YouTube's own sound, packet for packet."""
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
    """A dubbed video is heard in its original language, not in what it plays unasked, or in the one asked."""
    spec = FormatSpec(max_height=360, container=FormatSpec.MP4, audio=Audio(languages=languages))
    result = await youtube_harness.fetch(youtube.watch_url("dubbed"), spec)
    assert (result.delivered.audio_language_code, result.delivered.original_audio) == (spoken, original)
    sound = tools.stream_digests(youtube.file("dubbed", 140, spoken))["audio"]
    assert tools.stream_digests(result.products[0].path)["audio"] == sound


async def test_audio_language_that_is_not_offered(youtube_harness: Harness, youtube: YouTube) -> None:
    """A language that is not there is told, and the original comes instead."""
    spec = FormatSpec(max_height=360, audio=Audio(languages=["ja"]))
    result = await youtube_harness.fetch(youtube.watch_url("dubbed"), spec)
    assert result.delivered.audio_language_code == "de"
    assert [w.reason for w in result.warnings] == [media_pb2.Warning.AUDIO_LANGUAGE_DIFFERS]


async def test_signed_urls(youtube_harness: Harness, youtube: YouTube) -> None:
    """URLs whose riddles only the player's JavaScript solves are solved, inside the fetch's own limits."""
    result = await youtube_harness.fetch(youtube.watch_url("signed"), FormatSpec(max_height=360))
    assert result.delivered.height == 360


async def test_more_than_one_chunk(youtube_harness: Harness, youtube: YouTube) -> None:
    """A big file arrives whole, and progress over picture and sound never falls."""
    listener = FetchListener()
    result = await youtube_harness.fetch(youtube.watch_url("heavy1080"), None, listener)
    picture = tools.stream_digests(youtube.file("heavy1080", 137))["video"]
    assert tools.stream_digests(result.products[0].path)["video"] == picture
    percents = [p.percent for p in listener.progress_updates if p.HasField("percent")]
    assert percents == sorted(percents)


async def test_mishaps_that_pass(youtube_harness: Harness, youtube: YouTube) -> None:
    """Resets and errors of the media server are survived, and the file is whole."""
    for name in ("flaky503", "reset", "flaky-api"):
        result = await youtube_harness.fetch(youtube.watch_url(name, copy=2), FormatSpec(max_height=360))
        assert result.delivered.height == 360


async def test_advertisement_is_waited_for(youtube_harness: Harness, youtube: YouTube) -> None:
    """A video behind an advertisement is fetched once its URLs are good."""
    result = await youtube_harness.fetch(youtube.watch_url("preroll"), FormatSpec(max_height=360))
    assert result.delivered.height == 360


@pytest.mark.parametrize("name", ["t-slashes", "t-shell", "t-rtl", "t-long", "t-html", "t-ext"])
async def test_hostile_titles(youtube_harness: Harness, youtube: YouTube, name: str) -> None:
    """A title is told as it is, and becomes a safe file name; nothing lies outside the work folder."""
    listener = FetchListener()
    result = await youtube_harness.fetch(youtube.watch_url(name), FormatSpec(max_height=360), listener)
    safe = result.products[0].info.file_name
    assert not set(safe) & set("/\\\0\n\u202e\u2066")
    assert safe.endswith(".mp4")
    assert len(safe.encode()) <= 255
    assert result.products[0].path.parent.parent == youtube_harness.workdir
    assert result.media.title == listener.media_updates[0].title != ""


async def test_nothing_leaked(youtube_harness: Harness, youtube: YouTube) -> None:
    """All of the above asked for YouTube's hosts and for nothing else."""
    assert youtube.refused == []


async def test_stages(youtube_harness: Harness, youtube: YouTube) -> None:
    """A fetch with everything goes through its stages in order."""
    listener = FetchListener()
    spec = FormatSpec(max_height=360, subtitles=Subtitles(languages=["en"]), thumbnail=True)
    await youtube_harness.fetch(youtube.watch_url("plain1080"), spec, listener)
    assert list(dict.fromkeys(p.stage for p in listener.progress_updates)) == [
        Progress.PROBING,
        Progress.FETCHING_EXTRAS,
        Progress.DOWNLOADING,
        Progress.POSTPROCESSING,
        Progress.VERIFYING,
    ]
