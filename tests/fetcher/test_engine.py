"""Downloads from the local site: every way in which sites offer a video ends in a verified file."""

from __future__ import annotations

import pytest
from tests.fetcher.conftest import FetchListener, Harness, sha256
from tests.sites.site import Site

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, FormatSpec, Progress
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

Audio = FormatSpec.Audio
Subtitles = FormatSpec.Subtitles


@pytest.mark.parametrize("path", ["/watch/jsonld", "/watch/og", "/watch/video", "/media/1080.mp4"])
async def test_plain_file_is_unchanged(harness: Harness, site: Site, path: str) -> None:
    """A plain mp4, however a page refers to it, is delivered byte for byte."""
    result = await harness.fetch(site.url(path), FormatSpec(max_height=1080))
    media = result.products[0]
    assert site.digest("/media/1080.mp4") == sha256(media)
    assert (
        result.delivered.height,
        result.delivered.video_codec,
        result.delivered.audio_codec,
        result.delivered.container,
    ) == (1080, "h264", "aac", "mp4")


@pytest.mark.parametrize("path", ["/hls/master.m3u8", "/watch/hls", "/dash/manifest.mpd"])
async def test_separate_streams_are_merged(harness: Harness, site: Site, path: str) -> None:
    """HLS and DASH offer video and audio separately; they are merged without transcoding."""
    result = await harness.fetch(site.url(path), FormatSpec(max_height=720))
    assert (
        result.delivered.height,
        result.delivered.video_codec,
        result.delivered.audio_codec,
        result.delivered.transcoded,
    ) == (720, "h264", "aac", False)
    assert [product.path.name for product in result.products] == ["result.mp4"]
    assert 7 < result.delivered.duration.ToTimedelta().total_seconds() < 9


async def test_encrypted_segments_are_decrypted(harness: Harness, site: Site) -> None:
    """HLS segments encrypted with AES-128 are decrypted."""
    result = await harness.fetch(site.url("/hls-aes/360.m3u8"), FormatSpec())
    assert (result.delivered.height, result.delivered.video_codec, result.delivered.audio_codec) == (
        360,
        "h264",
        "aac",
    )
    assert 7 < result.delivered.duration.ToTimedelta().total_seconds() < 9


@pytest.mark.parametrize(
    ("container", "extension", "codec", "transcoded"),
    [
        (FormatSpec.MKV, "mkv", "h264", False),
        (FormatSpec.WEBM, "webm", "vp9", True),
        (FormatSpec.CONTAINER_UNSPECIFIED, "mp4", "h264", False),
    ],
)
async def test_containers(
    harness: Harness,
    site: Site,
    container: FormatSpec.Container.ValueType,
    extension: str,
    codec: str,
    transcoded: bool,
) -> None:
    """Streams are copied into a container that supports them, and transcoded for one that does not."""
    result = await harness.fetch(site.url("/media/360.mp4"), FormatSpec(container=container))
    assert (extension, codec) == (result.delivered.container, result.delivered.video_codec)
    assert transcoded == result.delivered.transcoded
    assert ([media_pb2.Warning.TRANSCODED] if transcoded else []) == [w.reason for w in result.warnings]


@pytest.mark.parametrize(
    ("form", "extension", "codec"),
    [
        (Audio.MP3, "mp3", "mp3"),
        (Audio.M4A, "m4a", "aac"),
        (Audio.OPUS, "opus", "opus"),
        (Audio.FLAC, "flac", "flac"),
    ],
)
async def test_audio_only(
    harness: Harness, site: Site, form: Audio.Format.ValueType, extension: str, codec: str
) -> None:
    """Audio is delivered in the requested format, and the smallest video is downloaded for it."""
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=form))
    result = await harness.fetch(site.url("/watch/video"), spec)
    assert (extension, codec, "") == (
        result.delivered.container,
        result.delivered.audio_codec,
        result.delivered.video_codec,
    )
    assert result.products[0].info.kind == ArtifactInfo.AUDIO
    assert list(result.delivered.format_ids) == ["360p"]


async def test_subtitles_thumbnail_and_metadata(harness: Harness, site: Site) -> None:
    """Each language and format of subtitles is a file; a missing language is a warning."""
    subtitles = Subtitles(languages=["en", "de", "fr"], formats=[Subtitles.SRT, Subtitles.VTT, Subtitles.TXT])
    result = await harness.fetch(
        site.url("/watch/demo"),
        FormatSpec(max_height=360, subtitles=subtitles, thumbnail=True, info_json=True),
    )
    names = [product.info.file_name for product in result.products]
    assert names == [
        "A moving picture.mp4",
        *(f"A moving picture.{lang}.{form}" for lang in ("en", "de") for form in ("srt", "vtt", "txt")),
        "A moving picture.jpg",
        "A moving picture.info.json",
    ]
    assert "00:00:0" in result.products[1].path.read_text()
    assert result.products[2].path.read_text().startswith("WEBVTT")
    assert result.products[7].path.read_bytes().startswith(b"\xff\xd8")
    assert [(w.reason, w.language_code) for w in result.warnings] == [
        (media_pb2.Warning.SUBTITLES_MISSING, "fr")
    ]


async def test_subtitles_of_a_master_playlist(harness: Harness, site: Site) -> None:
    """Segmented subtitles are joined."""
    spec = FormatSpec(max_height=360, subtitles=Subtitles(languages=["de"]))
    result = await harness.fetch(site.url("/hls/master.m3u8"), spec)
    assert list(result.delivered.subtitle_language_codes) == ["de"]
    assert "-->" in result.products[1].path.read_text()


async def test_subtitles_only(harness: Harness, site: Site) -> None:
    """Subtitles can be requested without the media, of which nothing is downloaded."""
    before = site.count("/media/1080.mp4")
    spec = FormatSpec(media_kind=FormatSpec.SUBTITLES_ONLY, subtitles=Subtitles(languages=["en"]))
    result = await harness.fetch(site.url("/watch/demo"), spec)
    assert [product.info.kind for product in result.products] == [ArtifactInfo.SUBTITLE]
    assert before == site.count("/media/1080.mp4")


async def test_missing_required_subtitles(harness: Harness, site: Site) -> None:
    """A required language that is missing fails before the media is downloaded."""
    before = site.count("/media/1080.mp4")
    spec = FormatSpec(subtitles=Subtitles(languages=["fr"], required=True))
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/watch/demo"), spec)
    assert failure.value.reason == ErrorReason.SUBTITLES_UNAVAILABLE
    assert before == site.count("/media/1080.mp4")


@pytest.mark.parametrize("path", ["/watch/video?media.rate=6000000", "/hls/master.m3u8?media.rate=700000"])
async def test_progress(harness: Harness, site: Site, path: str) -> None:
    """The percentage never falls, takes values in between, and never reaches 100."""
    listener = FetchListener()
    await harness.fetch(site.url(path), FormatSpec(max_height=1080), listener)
    assert listener.percentages == sorted(listener.percentages)
    assert any(10 < percent < 80 for percent in listener.percentages)
    assert max(listener.percentages) < 100
    assert listener.stages == [
        Progress.PROBING,
        Progress.DOWNLOADING,
        Progress.POSTPROCESSING,
        Progress.VERIFYING,
    ]
    assert len(listener.media_updates) == 1


async def test_resume_after_reset(harness: Harness, site: Site) -> None:
    """After a connection reset the download resumes where it stopped, and the file is complete."""
    result = await harness.fetch(site.url("/media/1080.mp4?token=resume&reset=3000000&times=2"))
    assert site.digest("/media/1080.mp4") == sha256(result.products[0])


async def test_media_file_is_announced(harness: Harness, site: Site) -> None:
    """The media file is announced once, before it is verified, as it is in the result."""
    listener = FetchListener()
    result = await harness.fetch(site.url("/media/1080.mp4"), None, listener)
    assert listener.ready_products == [result.products[0]]


async def test_min_height(harness: Harness, site: Site) -> None:
    """A video below min_height fails, before the download if the site tells its height, else after it."""
    for path in ("/watch/video", "/media/720.mp4"):
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(site.url(path), FormatSpec(min_height=2160))
        assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE


async def test_size_limit_of_known_length(harness: Harness, site: Site) -> None:
    """A file that the site says exceeds the limit is refused."""
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/watch/jsonld"), size_limit=1_000_000)
    assert failure.value.reason == ErrorReason.MEDIA_TOO_LARGE
    assert failure.value.metadata["limitBytes"] == "1000000"


async def test_size_limit_of_unknown_length(harness: Harness, site: Site) -> None:
    """The download of a file of unknown length is stopped at the limit."""
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/media/1080.mp4?chunked=1"), size_limit=1_000_000)
    assert failure.value.reason == ErrorReason.MEDIA_TOO_LARGE


async def test_duration_limit(harness: Harness, site: Site) -> None:
    """Media that plays too long is refused before or after the download; of a clip its own length counts."""
    for path in ("/watch/jsonld", "/media/360.mp4"):
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(site.url(path), max_seconds=5)
        assert failure.value.reason == ErrorReason.MEDIA_TOO_LONG
    spec = FormatSpec()
    spec.clip.end.seconds = 2
    result = await harness.fetch(site.url("/media/360.mp4"), spec, max_seconds=5)
    assert result.delivered.duration.seconds == 2


async def test_progress_of_transcoding(harness: Harness, site: Site) -> None:
    """While a file is transcoded, the percentage grows in steps."""
    listener = FetchListener()
    await harness.fetch(site.url("/media/720.mp4"), FormatSpec(container=FormatSpec.WEBM), listener)
    percents = [p.percent for p in listener.progress_updates if p.stage == Progress.POSTPROCESSING]
    assert percents == sorted(percents)
    assert len({percent for percent in percents if 85 < percent < 92}) >= 3
