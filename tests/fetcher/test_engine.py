"""The engine against a real site: each way in which sites show a video ends in a checked file."""

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
async def test_a_plain_file_arrives_untouched(harness: Harness, site: Site, path: str) -> None:
    """A page with a plain mp4, in every form, gives the site's very bytes."""
    report = await harness.fetch(site.url(path), FormatSpec(max_height=1080))
    media = report.products[0]
    assert site.digest("/media/1080.mp4") == sha256(media)
    assert (
        report.delivered.height,
        report.delivered.video_codec,
        report.delivered.audio_codec,
        report.delivered.container,
    ) == (1080, "h264", "aac", "mp4")


@pytest.mark.parametrize("path", ["/hls/master.m3u8", "/watch/hls", "/dash/manifest.mpd"])
async def test_streams_apart_are_merged(harness: Harness, site: Site, path: str) -> None:
    """HLS and DASH: picture and sound come apart and are merged without encoding."""
    report = await harness.fetch(site.url(path), FormatSpec(max_height=720))
    assert (
        report.delivered.height,
        report.delivered.video_codec,
        report.delivered.audio_codec,
        report.delivered.transcoded,
    ) == (720, "h264", "aac", False)
    assert [product.path.name for product in report.products] == ["result.mp4"]
    assert 7 < report.delivered.duration.ToTimedelta().total_seconds() < 9


async def test_encrypted_segments_are_decrypted(harness: Harness, site: Site) -> None:
    """HLS whose segments are encrypted with AES-128 arrives in the clear."""
    report = await harness.fetch(site.url("/hls-aes/360.m3u8"), FormatSpec())
    assert (report.delivered.height, report.delivered.video_codec, report.delivered.audio_codec) == (
        360,
        "h264",
        "aac",
    )
    assert 7 < report.delivered.duration.ToTimedelta().total_seconds() < 9


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
    """A container that takes the streams gets them as they are; one that does not, encoded anew."""
    report = await harness.fetch(site.url("/media/360.mp4"), FormatSpec(container=container))
    assert (extension, codec) == (report.delivered.container, report.delivered.video_codec)
    assert transcoded == report.delivered.transcoded
    assert ([media_pb2.Warning.TRANSCODED] if transcoded else []) == [w.reason for w in report.warnings]


@pytest.mark.parametrize(
    ("form", "extension", "codec"),
    [
        (Audio.MP3, "mp3", "mp3"),
        (Audio.M4A, "m4a", "aac"),
        (Audio.OPUS, "opus", "opus"),
        (Audio.FLAC, "flac", "flac"),
    ],
)
async def test_audio_alone(
    harness: Harness, site: Site, form: Audio.Format.ValueType, extension: str, codec: str
) -> None:
    """Audio comes in the format asked, and the smallest picture is fetched for it."""
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=Audio(format=form))
    report = await harness.fetch(site.url("/watch/video"), spec)
    assert (extension, codec, "") == (
        report.delivered.container,
        report.delivered.audio_codec,
        report.delivered.video_codec,
    )
    assert report.products[0].info.kind == ArtifactInfo.AUDIO
    assert list(report.delivered.format_ids) == ["360p"]


async def test_subtitles_thumbnail_and_metadata(harness: Harness, site: Site) -> None:
    """Each language and format of subtitles is a file of its own; a missing language is a warning."""
    asked = Subtitles(languages=["en", "de", "fr"], formats=[Subtitles.SRT, Subtitles.VTT, Subtitles.TXT])
    report = await harness.fetch(
        site.url("/watch/demo"), FormatSpec(max_height=360, subtitles=asked, thumbnail=True, info_json=True)
    )
    names = [product.info.file_name for product in report.products]
    assert names == [
        "A moving picture.mp4",
        *(f"A moving picture.{lang}.{form}" for lang in ("en", "de") for form in ("srt", "vtt", "txt")),
        "A moving picture.jpg",
        "A moving picture.info.json",
    ]
    assert "00:00:0" in report.products[1].path.read_text()
    assert report.products[2].path.read_text().startswith("WEBVTT")
    assert report.products[7].path.read_bytes().startswith(b"\xff\xd8")
    assert [(w.reason, w.language_code) for w in report.warnings] == [
        (media_pb2.Warning.SUBTITLES_MISSING, "fr")
    ]


async def test_subtitles_of_a_master_playlist(harness: Harness, site: Site) -> None:
    """Subtitles that come in segments are joined."""
    spec = FormatSpec(max_height=360, subtitles=Subtitles(languages=["de"]))
    report = await harness.fetch(site.url("/hls/master.m3u8"), spec)
    assert list(report.delivered.subtitle_language_codes) == ["de"]
    assert "-->" in report.products[1].path.read_text()


async def test_subtitles_only(harness: Harness, site: Site) -> None:
    """Subtitles can be asked for without the media, of which nothing is fetched."""
    before = site.count("/media/1080.mp4")
    spec = FormatSpec(media_kind=FormatSpec.SUBTITLES_ONLY, subtitles=Subtitles(languages=["en"]))
    report = await harness.fetch(site.url("/watch/demo"), spec)
    assert [product.info.kind for product in report.products] == [ArtifactInfo.SUBTITLE]
    assert before == site.count("/media/1080.mp4")


async def test_required_subtitles_end_the_job_before_the_media(harness: Harness, site: Site) -> None:
    """A required language that is missing fails, and costs no media."""
    before = site.count("/media/1080.mp4")
    spec = FormatSpec(subtitles=Subtitles(languages=["fr"], required=True))
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/watch/demo"), spec)
    assert failure.value.reason == ErrorReason.SUBTITLES_UNAVAILABLE
    assert before == site.count("/media/1080.mp4")


@pytest.mark.parametrize("path", ["/watch/video?media.rate=6000000", "/hls/master.m3u8?media.rate=700000"])
async def test_progress_is_monotonic_and_honest(harness: Harness, site: Site, path: str) -> None:
    """Percent never falls, begins with the plan, passes through the middle, and is never 100."""
    listener = FetchListener()
    await harness.fetch(site.url(path), FormatSpec(max_height=1080), listener)
    percents = [p.percent for p in listener.progress_updates if p.HasField("percent")]
    assert percents == sorted(percents)
    assert any(10 < percent < 80 for percent in percents)
    assert max(percents) < 100
    stages = list(dict.fromkeys(p.stage for p in listener.progress_updates))
    assert stages == [Progress.PROBING, Progress.DOWNLOADING, Progress.POSTPROCESSING, Progress.VERIFYING]
    assert len(listener.media_updates) == 1


async def test_reset_with_range_is_resumed(harness: Harness, site: Site) -> None:
    """A connection cut in mid-file is taken up where it broke, and the file is whole."""
    report = await harness.fetch(site.url("/media/1080.mp4?token=resume&reset=3000000&times=2"))
    assert site.digest("/media/1080.mp4") == sha256(report.products[0])


async def test_ready_before_it_is_tried(harness: Harness, site: Site) -> None:
    """The file is told of once, as soon as it is whole, as it will be in the report."""
    listener = FetchListener()
    report = await harness.fetch(site.url("/media/1080.mp4"), None, listener)
    assert listener.ready_products == [report.products[0]]


async def test_min_height_is_a_contract(harness: Harness, site: Site) -> None:
    """Less than min_height is no success, told before the download or by ffprobe after it."""
    for path in ("/watch/video", "/media/720.mp4"):
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(site.url(path), FormatSpec(min_height=2160))
        assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE


async def test_size_limit_is_checked_before(harness: Harness, site: Site) -> None:
    """A file whose length passes the limit is refused by its length."""
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/watch/jsonld"), size_limit=1_000_000)
    assert failure.value.reason == ErrorReason.MEDIA_TOO_LARGE
    assert failure.value.metadata["limitBytes"] == "1000000"


async def test_size_limit_is_enforced_during(harness: Harness, site: Site) -> None:
    """A file that does not tell its length is cut off at the limit."""
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url("/media/1080.mp4?chunked=1"), size_limit=1_000_000)
    assert failure.value.reason == ErrorReason.MEDIA_TOO_LARGE


async def test_duration_limit(harness: Harness, site: Site) -> None:
    """Media longer than allowed are refused, by what the page says or by what came; a clip counts alone."""
    for path in ("/watch/jsonld", "/media/360.mp4"):
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(site.url(path), max_seconds=5)
        assert failure.value.reason == ErrorReason.MEDIA_TOO_LONG
    spec = FormatSpec()
    spec.clip.end.seconds = 2
    report = await harness.fetch(site.url("/media/360.mp4"), spec, max_seconds=5)
    assert report.delivered.duration.seconds == 2


async def test_progress_of_an_encoding(harness: Harness, site: Site) -> None:
    """While a file is encoded anew, percent moves on, step by step and never back."""
    listener = FetchListener()
    await harness.fetch(site.url("/media/720.mp4"), FormatSpec(container=FormatSpec.WEBM), listener)
    percents = [p.percent for p in listener.progress_updates if p.stage == Progress.POSTPROCESSING]
    assert percents == sorted(percents)
    assert len({percent for percent in percents if 85 < percent < 92}) >= 3
